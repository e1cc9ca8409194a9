"""What stands behind the end of an image, and what is missing in front of it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import picture
from wrp.errors import DataError
from wrp.io.images import read_image
from wrp.io.integrity import refuse_cut, refuse_cut_video

# What a phone writes behind a picture: the beginning of an MP4, and bytes of any value.
RANDOM = np.random.default_rng(0)
MOTION = b"\0\0\0\x18ftypmp42" + RANDOM.integers(0, 256, 100_000, np.uint8).tobytes()

KINDS: list[dict[str, object]] = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"restart_marker_blocks": 2},
    {"mode": "L"},
    {"mode": "CMYK"},
    {"mode": "CMYK", "subsampling": 2},
]


def jpeg(**options: object) -> bytes:
    file = BytesIO()
    mode = str(options.pop("mode", "RGB"))
    Image.fromarray(picture(0, 64, 96)).convert(mode).save(file, "JPEG", **{"quality": 95, **options})
    return file.getvalue()


BEHIND = {
    "a motion photo": MOTION,
    "another picture": jpeg(),
    "another picture of several scans": jpeg(progressive=True),
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "a line break": b"\r\n",
    "half a marker": b"\xff",
    "beginnings of scans": b"\xff\xda" * 100,
    "ends": b"\xff\xd9" * 100,
    "a broken header": b"\xff\xc9\xff\xff" + bytes(100),
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("behind", BEHIND)
def test_behind_the_end_of_a_jpeg_there_may_be_anything(tmp_path: Path, behind: str, kind: dict[str, object]) -> None:
    path = tmp_path / "frame.jpg"
    path.write_bytes(jpeg(**kind))
    whole = read_image(path)
    path.write_bytes(path.read_bytes() + BEHIND[behind])
    assert read_image(path).equal(whole)


def test_of_a_file_with_several_pictures_the_first_is_read(tmp_path: Path) -> None:
    path = tmp_path / "frame.jpg"
    first, second = (Image.fromarray(picture(number, 64, 96)) for number in range(2))
    first.save(path, quality=95)
    alone = read_image(path)
    first.save(path, "MPO", save_all=True, append_images=[second], quality=95)
    content = path.read_bytes()
    with Image.open(path) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
    assert read_image(path).equal(alone)
    path.write_bytes(content[:1000] + content[content.index(b"\xff\xd9") :])
    with pytest.raises(DataError, match=r"frame\.jpg"):
        read_image(path)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_jpeg_that_is_cut_in_its_picture_is_refused_whatever_follows(kind: dict[str, object]) -> None:
    """A decoder takes what follows for pixels, until it has enough, and does not need the rest up to a marker."""
    content = jpeg(**kind)
    draw = np.random.default_rng(1)
    begin = content.rindex(b"\xff\xda") + 14
    for at in draw.integers(begin, len(content) - 60, 40):
        noise = draw.integers(0, 255, 6000, np.uint8).tobytes()  # holds no marker
        for behind in (
            MOTION[draw.integers(1000) :],
            noise + b"\xff\xd9",
            noise + b"\xff\xd9" + MOTION,
            b"\xff\xda" + MOTION,
            b"\xff\xd8" + content[2:],
            bytes(6000) + b"\xff\xd9",
            content[begin:-2] + noise + b"\xff\xd9",
        ):
            with pytest.raises((ValueError, OSError)):
                refuse_cut(content[:at] + behind, "JPEG")


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("padding", [b"", b"\0", b"ab", bytes(1000), b"\x55" * 100, b"\xff" * 100], ids=len)
def test_padding_in_front_of_the_end_is_no_loss(padding: bytes, kind: dict[str, object]) -> None:
    content = jpeg(**kind)
    refuse_cut(content[:-2] + padding + content[-2:], "JPEG")


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (b"RIFF\x10\0\0\0AVI " + bytes(12), 0),
        (b"RIFF\x10\0\0\0AVI " + bytes(11), 1),
        (b"RIFF\x10\0\0\0AVI " + bytes(12) + b"RIFF\x20\0\0\0AVIX", 28),  # OpenDML
        (b"RIFF\0\0\0\0AVI " + bytes(12), 0),  # it was never closed
        (b"RIFF\xff\xff\xff\xffAVI " + bytes(12), 0),
        (b"RIFF\x10\0\0\0WAVE", 0),  # something else
        (b"\0\0\0\x10ftypisom" + bytes(4) + b"\0\0\0\x10mdat" + bytes(8), 0),
        (b"\0\0\0\x10ftypisom" + bytes(4) + b"\0\0\0\x10mdat" + bytes(5), 3),
        (b"\0\0\0\x10ftypisom" + bytes(4) + b"\0\0\0\0mdat" + bytes(5), 0),  # up to the end
        (b"\0\0\0\x10ftypisom" + bytes(4) + b"\0\0\0\1mdat" + (26).to_bytes(8, "big") + bytes(9), 1),
        (b"\0\0\0\x10ftypisom" + bytes(4) + b"trailing bytes of a phone", 0),
        (b"\x1a\x45\xdf\xa3\x81\0\x18\x53\x80\x67\x84" + bytes(4), 0),
        (b"\x1a\x45\xdf\xa3\x81\0\x18\x53\x80\x67\x40\x0c" + bytes(10), 2),
        (b"\x1a\x45\xdf\xa3\x81\0\x18\x53\x80\x67\xff" + bytes(2), 0),  # unknown: it was written in one go
        (b"\x1a\x45\xdf\xa3\x81\0\x18\x53\x80\x67\x01" + b"\xff" * 7, 0),
        (b"\x1a\x45\xdf\xa3", 0),
        (b"", 0),
    ],
)
def test_parts_of_a_video_that_are_larger_than_the_file_are_cut(tmp_path: Path, content: bytes, missing: int) -> None:
    path = tmp_path / "clip"
    path.write_bytes(content)
    if not missing:
        refuse_cut_video(path)
        return
    with pytest.raises(ValueError, match=f"a part of it is cut short: {missing} bytes are missing"):
        refuse_cut_video(path)


@pytest.mark.parametrize(
    ("begin", "end"), [(b"GIF89a", b";"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"), (b"\xff\xd8", b"\xff\xd9")]
)
def test_files_with_a_mark_at_their_end_have_one(tmp_path: Path, begin: bytes, end: bytes) -> None:
    path = tmp_path / "clip"
    for behind in (b"", bytes(100)):
        path.write_bytes(begin + bytes(200_000) + end + behind)
        refuse_cut_video(path)
    path.write_bytes(begin + b"abc" + end[:-1])
    with pytest.raises(ValueError, match="its end is missing"):
        refuse_cut_video(path)
