"""Files of strangers, one by one; tests/fuzz tries what nobody has thought of."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import picture, save
from tests.io.videos import write_video
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.io import opening
from wrp.io.images import read_image
from wrp.io.opening import parse_json, parse_yaml, read_json
from wrp.io.video import Video


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would hand it to Ghostscript, whatever the name of the file."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "frame.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as image:  # it is taken for a picture
        assert image.format == "EPS"
    with pytest.raises(DataError, match=r"\(PNG, JPEG, TIFF, WEBP, BMP, PPM\)"):
        read_image(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_whose_tail_is_zeros_is_cut_short(tmp_path: Path, progressive: bool) -> None:
    """As a copy that was interrupted leaves it, where room is made for a file before it is written."""
    path = tmp_path / "frame.jpg"
    Image.fromarray(picture(0, 240, 320)).save(path, quality=95, progressive=progressive)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2000] + bytes(2000))
    with pytest.raises(DataError, match=r"frame\.jpg cannot be read"):
        read_image(path)
    path.write_bytes(whole + bytes(2000))  # behind the end there may be anything
    assert read_image(path).shape == (3, 240, 320)


def test_videos_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4", 2)
    monkeypatch.setattr(opening, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(DataError, match=r"clip\.mp4: 64×48 pixels are more than the 3,071"):
        Video(path)


def test_a_damaged_mask_of_davis_2017_is_named(tmp_path: Path) -> None:
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    for number in range(2):
        save(tmp_path / f"JPEGImages/480p/bear/0000{number}.jpg", picture(number))
    mask = save(tmp_path / "Annotations/480p/bear/00000.png", np.ones((24, 40), np.uint8))
    assert open_index(tmp_path, "davis2017").label_map.num_classes == 2
    content = bytearray(mask.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 1
    mask.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(mask))):
        open_index(tmp_path, "davis2017")


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"null", b'{"a": ', b"\xff\xfe", b"[" * 5000, b'{"a":' * 5000])
def test_json_that_holds_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json is damaged \(.*; delete it"):
        read_json(path, "delete it")
    path.write_bytes(b'{"a": [1, 2]}')
    assert read_json(path, "delete it") == {"a": [1, 2]}


def test_nesting_and_aliases_are_value_errors() -> None:
    for parse in (parse_json, parse_yaml):
        with pytest.raises(ValueError, match=r"nested|recursion|."):
            parse("[" * 5000)
    with pytest.raises(ValueError, match="aliases"):
        parse_yaml("a: &a [1, 2]\nb: *a")
    with pytest.raises(ValueError, match=r"."):
        parse_yaml("a: !!timestamp x")
    assert parse_yaml("a: [1, no, x]") == {"a": [1, False, "x"]}
