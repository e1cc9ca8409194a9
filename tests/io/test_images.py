import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import LABEL_MAP, id_picture, picture, save
from wrp.errors import DataError
from wrp.io import opening
from wrp.io.images import read_image, read_label
from wrp.io.pixels import read_size
from wrp.structures import LabelMap

INDICES = torch.from_numpy(id_picture(0, (0, 1, 2)))


def refused(path: Path, *, label: bool) -> str:
    """The message with which a file is refused; it names the file."""
    with pytest.raises(DataError, match=re.escape(str(path))) as error:
        read_label(path, LABEL_MAP) if label else read_image(path)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".png", ".PNG"])
def test_a_frame_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    frame = read_image(save(tmp_path / f"a{suffix}", picture(3)))
    assert frame.dtype == torch.uint8
    assert torch.equal(frame, torch.from_numpy(picture(3)).permute(2, 0, 1))


def test_a_jpeg_is_read_as_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[..., 0] = 200
    frame = read_image(save(tmp_path / "a.jpg", pixels)).float().mean((1, 2))
    assert frame.tolist() == pytest.approx([200, 0, 0], abs=3)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp", ".ppm"])
def test_the_size_in_the_header_is_that_of_the_frame(tmp_path: Path, suffix: str, orientation: int) -> None:
    path, exif = tmp_path / f"a{suffix}", Image.Exif()
    exif[opening.ORIENTATION] = orientation
    how = {} if suffix in (".bmp", ".ppm") else {"exif": exif}
    Image.fromarray(picture(0)).save(path, **how)
    size = read_size(path)
    assert size == tuple(read_image(path).shape[1:])
    assert size == ((40, 24) if how and orientation > 4 else (24, 40))
    path.write_bytes(path.read_bytes()[:8])
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_size(path)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK"])
def test_frames_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = ".jpg" if mode == "CMYK" else ".png"
    frame = read_image(save(tmp_path / f"a{suffix}", np.full((8, 9, 3), 100, np.uint8), mode))
    assert frame.shape == (3, 8, 9)
    assert (frame.float() - 100).abs().max() <= 3


@pytest.mark.parametrize("mode", ["L", "P", "LA", "PA"])
def test_labels_are_ids_whatever_8_bit_mode_stores_them(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(id_picture(0))
    if mode == "LA":
        image.putalpha(255)
    elif mode in ("P", "PA"):
        image.putpalette([255 - i // 3 for i in range(768)])
    path = tmp_path / "label.png"
    if mode == "PA":  # PNG holds no index with alpha: Pillow reads it as an index with transparency
        image.save(path, transparency=3)
    else:
        image.save(path)
    label = read_label(path, LABEL_MAP)
    assert label.dtype == torch.uint8
    assert torch.equal(label, INDICES)


def test_ignored_values_become_255(tmp_path: Path) -> None:
    label = read_label(save(tmp_path / "l.png", np.array([[0, 9, 255, 7]], np.uint8)), LABEL_MAP)
    assert label.tolist() == [[0, 255, 255, 2]]


def test_unknown_ids_are_counted_in_the_message(tmp_path: Path) -> None:
    values = id_picture(0)
    values[0, :5], values[1, :2] = 4, 200
    message = refused(save(tmp_path / "l.png", values), label=True)
    assert "4 (5 pixels), 200 (2 pixels)" in message
    assert "[0, 3, 7]" in message


def test_a_label_must_have_the_size_of_its_frame(tmp_path: Path) -> None:
    path = save(tmp_path / "l.png", id_picture(0, height=24, width=40))
    assert read_label(path, LABEL_MAP, (24, 40)).shape == (24, 40)
    with pytest.raises(DataError, match=f"{path}: the label is 40×24 pixels, its frame is 24×40"):
        read_label(path, LABEL_MAP, (40, 24))


@pytest.mark.parametrize("mode", ["1", "I;16"])
def test_labels_of_other_modes_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "label.png"
    if mode == "I;16":
        Image.fromarray(id_picture(0).astype(np.uint16)).save(path)
    else:
        Image.fromarray(id_picture(0)).convert(mode).save(path)
    message = refused(path, label=True)
    assert mode in message
    assert "expected 8-bit grey or indexed" in message


@pytest.mark.parametrize("bits", [2, 4])
def test_ids_in_fewer_than_8_bits_are_refused_or_read_as_they_stand(tmp_path: Path, bits: int) -> None:
    """Pillow stretches grey of 2 and 4 bits to 0 … 255: those are not the ids in the file."""
    path = tmp_path / "label.png"
    Image.fromarray(np.array([[0, 1, 2, 3]] * 4, np.uint8)).save(path, bits=bits)
    label_map = LabelMap((0, 1, 2, 3), tuple("abcd"), ((0, 0, 0),) * 4)
    try:
        label = read_label(path, label_map)
    except DataError:
        return
    assert label[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("label", [False, True])
def test_a_missing_file_is_named(tmp_path: Path, label: bool) -> None:
    assert "there is no file" in refused(tmp_path / "nothing.png", label=label)
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png", label=label)


@pytest.mark.parametrize("content", [b"", b"\x89PNG", b"no image at all" * 20, b"<svg></svg>"])
def test_files_that_are_no_images_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert "cannot be read as an image" in refused(path, label=True)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("label", [False, True])
def test_a_truncated_png_is_refused(tmp_path: Path, share: float, label: bool) -> None:
    noise = np.random.default_rng(0).choice(np.array([0, 3, 7], np.uint8), (64, 64))
    path = save(tmp_path / "a.png", noise if label else picture(0, 64, 64))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, label=label)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_truncated_jpeg_is_refused(tmp_path: Path, share: float) -> None:
    path = save(tmp_path / "a.jpg", picture(0, 64, 64))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, label=False)


def test_a_png_label_with_one_bit_flipped_is_refused_or_still_right(tmp_path: Path) -> None:
    """A PNG has checksums: a label that differs from what was written must never come back in silence."""
    values = np.random.default_rng(0).choice(np.array([0, 3, 7], np.uint8), (32, 32), p=[0.8, 0.1, 0.1])
    path = save(tmp_path / "label.png", values)
    expected, content = read_label(path, LABEL_MAP), path.read_bytes()
    wrong = []
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            label = read_label(path, LABEL_MAP, (32, 32))
        except DataError:
            continue
        if not torch.equal(label, expected):
            wrong.append(position)
    assert not wrong, f"{len(wrong)} of {len(content)} flips were read as another label, without a word"


@pytest.mark.parametrize(("name", "bound"), [("MAX_PIXELS", 100), ("_memory", lambda: 6400)])
def test_huge_images_are_refused_before_they_are_decoded(
    name: str, bound: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, name, bound)
    path = save(tmp_path / "a.png", picture(0, 11, 10))
    assert "10×11 pixels are more than the 100" in refused(path, label=False)
    assert read_image(save(tmp_path / "b.png", picture(0, 10, 10))).shape == (3, 10, 10)


def test_a_16_bit_grey_frame_is_refused_or_scaled(tmp_path: Path) -> None:
    """65535 is white and 32768 is middle grey, not white as well."""
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 32768, 65535]] * 3, np.uint16)).save(path)
    try:
        frame = read_image(path)
    except DataError:
        return
    assert frame[0, 0].tolist() == pytest.approx([0, 128, 255], abs=1)


def test_labels_in_the_colours_of_their_classes_are_read(tmp_path: Path) -> None:
    ids = id_picture(0)
    indices = read_label(save(tmp_path / "ids.png", ids), LABEL_MAP)
    colors = LABEL_MAP.colorize(indices.numpy())
    colors[0, :3] = 0  # black is no class
    found = read_label(save(tmp_path / "colours.png", colors), LABEL_MAP, (24, 40))
    assert (found[0, :3] == 255).all()
    assert torch.equal(found[1:], indices[1:])
    with pytest.raises(DataError, match="JPEG"):
        read_label(save(tmp_path / "colours.jpg", colors), LABEL_MAP)
