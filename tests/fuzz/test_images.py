"""Frames, labels and confidence: the very pixels, or DataError.

PNGs have checksums over every byte that matters, so a damaged one may never be read as another picture. JPEG and PPM
have none: there, damage that leaves a valid file is another picture, and what is cut short has to be found.
"""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tests.clips import LABEL_MAP, id_picture, picture, save
from tests.fuzz.damage import chunk, damaged, png
from wrp.errors import DataError
from wrp.io.images import read_confidence, read_image, read_label
from wrp.io.label_map import map_from_palettes, read_ids
from wrp.structures import LabelMap

HEIGHT, WIDTH = 12, 20
PALETTE = [value % 256 for value in range(768)]


def content(pixels: np.ndarray, name: str, folder: Path, **options: object) -> bytes:
    """The file of a picture."""
    image = Image.fromarray(pixels)
    if options.pop("indexed", False):
        image.putpalette(PALETTE)
    image.save(folder / name, **options)
    return (folder / name).read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.mark.parametrize("indexed", [False, True])
@given(data=st.data())
def test_a_damaged_label_is_the_same_or_refused(folder: Path, indexed: bool, data: st.DataObject) -> None:
    whole = content(id_picture(0, height=HEIGHT, width=WIDTH), "whole.png", folder, indexed=indexed)
    path = folder / "label.png"
    path.write_bytes(data.draw(damaged(whole)))
    try:
        found = read_label(path, LABEL_MAP)
    except DataError:
        return
    assert torch.equal(found, read_label(folder / "whole.png", LABEL_MAP))


@given(data=st.data())
def test_classes_of_damaged_labels_are_the_same_or_refused(folder: Path, data: st.DataObject) -> None:
    whole = content(id_picture(0, height=HEIGHT, width=WIDTH), "whole.png", folder, indexed=True)
    path = folder / "palette.png"
    path.write_bytes(data.draw(damaged(whole)))
    try:
        found = map_from_palettes([path])
    except DataError:
        return
    assert found == map_from_palettes([folder / "whole.png"])


@given(data=st.data())
def test_a_damaged_png_frame_is_the_same_or_refused(folder: Path, data: st.DataObject) -> None:
    whole = content(picture(0, HEIGHT, WIDTH), "whole.png", folder)
    path = folder / "frame.png"
    path.write_bytes(data.draw(damaged(whole)))
    try:
        found = read_image(path)
    except DataError:
        return
    assert torch.equal(found, read_image(folder / "whole.png"))


@given(data=st.data())
def test_damaged_confidence_is_the_same_or_refused(folder: Path, data: st.DataObject) -> None:
    whole = content(picture(0, HEIGHT, WIDTH)[..., 0].copy(), "whole.png", folder)
    path = folder / "confidence.png"
    path.write_bytes(data.draw(damaged(whole)))
    try:
        found = read_confidence(path, (HEIGHT, WIDTH))
    except DataError:
        return
    assert torch.equal(found, read_confidence(folder / "whole.png"))


def check_frame(frame: Tensor) -> None:
    assert frame.dtype == torch.uint8
    assert frame.ndim == 3
    assert frame.shape[0] == 3
    assert frame.numel() > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.jpg", {}), ("a.jpg", {"progressive": True}), ("a.jpg", {"subsampling": 2, "optimize": True}), ("a.ppm", {})],
)
@given(data=st.data())
def test_a_damaged_frame_without_checksums_is_a_frame_or_refused(
    folder: Path, name: str, options: dict[str, object], data: st.DataObject
) -> None:
    whole = content(picture(0, HEIGHT, WIDTH), name, folder, **options)
    path = folder / f"frame{name}"
    path.write_bytes(data.draw(damaged(whole)))
    try:
        found = read_image(path)
    except DataError:
        return
    check_frame(found)


KINDS_OF_JPEG: list[dict[str, object]] = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"optimize": True, "quality": 100},
    {"restart_marker_blocks": 3},
    {"restart_marker_rows": 1, "progressive": True},
    {"mode": "L"},
    {"mode": "L", "progressive": True},
    {"mode": "CMYK"},
    {"keep_rgb": True},
]


@pytest.mark.parametrize("options", KINDS_OF_JPEG, ids=str)
@pytest.mark.parametrize("end", [b"", b"\xff\xd9", bytes(500)], ids=["cut", "cut and closed", "cut and zeros"])
def test_a_jpeg_that_is_cut_anywhere_is_the_same_or_refused(
    folder: Path, end: bytes, options: dict[str, object]
) -> None:
    """Decoders fill in grey for blocks that are missing, and say nothing of passes that are."""
    options = dict(options)
    path = folder / "cut.jpg"
    Image.fromarray(picture(0, 40, 56)).convert(str(options.pop("mode", "RGB"))).save(path, **options)
    content, whole = path.read_bytes(), read_image(path)
    for at in range(len(content) - 2):
        for extra in (b"", b"ab") if end else (b"",):  # what decoders skip in front of a marker
            path.write_bytes(content[:at] + extra + end)
            try:
                found = read_image(path)
            except DataError:
                continue
            # Two bytes more may be those of a few last blocks.
            assert torch.equal(found, whole) or (extra and torch.equal(found[:, :24], whole[:, :24])), at
    for more in (b"a second picture", content, bytes(500)):  # motion photos, panoramas
        path.write_bytes(content + more)
        assert torch.equal(read_image(path), whole)


@pytest.mark.parametrize("options", KINDS_OF_JPEG, ids=str)
@given(data=st.data())
def test_a_jpeg_that_loses_a_part_is_a_frame_or_refused(
    folder: Path, options: dict[str, object], data: st.DataObject
) -> None:
    options = dict(options)
    path = folder / "part.jpg"
    Image.fromarray(picture(0, 40, 56)).convert(str(options.pop("mode", "RGB"))).save(path, **options)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    with contextlib.suppress(DataError):
        check_frame(read_image(path))


def test_jpegs_that_decoders_warn_of_without_a_loss_are_read(folder: Path) -> None:
    path = folder / "odd.jpg"
    Image.fromarray(picture(0)).save(path)
    content, whole = path.read_bytes(), read_image(path)
    scan = content.index(b"\xff\xda") + 5 + 2 * 3
    for odd in (
        content[:scan] + b"\0\x05\0" + content[scan + 3 :],  # some cameras: coefficients of a sequential scan
        content[:-2] + b"ab\xff\xd9",
        content[:-2] + b"\xff\xff\xff\xd9",
    ):
        path.write_bytes(odd)
        assert torch.equal(read_image(path), whole)


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column and the steps of the passes of interlaced PNGs."""


@pytest.mark.parametrize("marker", [0xC3, 0xC9, 0xCA])
def test_jpegs_of_which_cuts_cannot_be_found_are_refused(folder: Path, marker: int) -> None:
    path = save(folder / "coded.jpg", picture(0))
    content = bytearray(path.read_bytes())
    content[content.index(b"\xff\xc0") + 1] = marker
    path.write_bytes(content)
    with pytest.raises(DataError, match="coding is one of arithmetic or without loss|cannot be read"):
        read_image(path)


@pytest.mark.parametrize("end", [b"\xff\xd9", b""])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2"])
def test_a_jpeg_of_a_rare_sampling_is_read_and_its_cuts_are_found(folder: Path, subsampling: str, end: bytes) -> None:
    path = folder / "rare.jpg"
    Image.fromarray(picture(0, 40, 56)).convert("CMYK").save(path, subsampling=subsampling)
    content, whole = path.read_bytes(), read_image(path)
    for at in range(0, len(content) - 2, 3):
        path.write_bytes(content[:at] + end)
        try:
            found = read_image(path)
        except DataError:
            continue
        assert torch.equal(found[:, :24], whole[:, :24]), at
    Image.fromarray(picture(0)).convert("CMYK").save(path, subsampling=subsampling, restart_marker_blocks=2)
    with pytest.raises(DataError, match="rare sampling"):
        read_image(path)


def test_a_png_with_two_headers_is_refused(folder: Path) -> None:
    whole = png(56, 40, 8, 0, (b"\0" + bytes(56)) * 20)
    end = whole.index(b"IEND") - 4
    path = folder / "two.png"
    path.write_bytes(whole[:end] + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)) + whole[end:])
    with pytest.raises(DataError, match=r"two\.png"):
        read_image(path)


KINDS_OF_PNG = [
    (depth, color, interlace)
    for depth, color in [(8, 0), (8, 2), (8, 3), (8, 4), (8, 6), (4, 3), (1, 0), (2, 0)]
    for interlace in (0, 1)
]


@pytest.mark.parametrize(("depth", "color", "interlace"), KINDS_OF_PNG)
def test_a_png_whose_pixels_end_early_is_refused(folder: Path, depth: int, color: int, interlace: int) -> None:
    """The stream of its pixels ends where a row does, and all its checksums are right."""
    width, height = 13, 16
    bits = depth * COLORS[color]
    sizes = [1 + -(-width * bits // 8)] * height
    if interlace:
        sizes = [
            1 + -(-len(range(column, width, across)) * bits // 8)
            for row, column, down, across in ADAM7
            for _ in range(row, height, down)
            if column < width
        ]
    rows = [b"\0" + bytes([1]) * (size - 1) for size in sizes]
    palette, path = bytes(range(48)), folder / "rows.png"
    for kept in (*range(len(rows)), len(rows)):
        for lost in (0, 1):  # bytes of the last row
            content = b"".join(rows[:kept])[: -lost or None]
            path.write_bytes(png(width, height, depth, color, content, palette if color == 3 else b"", interlace))
            if kept == len(rows) and not lost:
                check_frame(read_image(path))
                continue
            for read in (read_image, read_confidence, read_ids):
                with pytest.raises(DataError, match=r"rows\.png"):
                    read(path)


@pytest.mark.parametrize("kind", ["P1", "P2", "P3", "P4", "P5", "P6"])
@pytest.mark.parametrize("most", [255, 100])
def test_a_ppm_that_is_cut_anywhere_is_refused(folder: Path, kind: str, most: int) -> None:
    values = picture(0, 5, 7)
    values = values if kind in ("P3", "P6") else values[..., 0]
    values = values // 128 if kind in ("P1", "P4") else np.minimum(values, most)
    header = f"{kind}\n7 5\n" + ("" if kind in ("P1", "P4") else f"{most}\n")
    digits = "".join(f"{value}\n" for value in values.ravel()).encode()
    pixels = np.packbits(values, axis=1).tobytes() if kind == "P4" else values.tobytes()
    path = folder / "cut.ppm"
    content = header.encode() + (digits if kind in ("P1", "P2", "P3") else pixels)
    path.write_bytes(content)
    check_frame(read_image(path))
    for at in range(len(content) - (kind == "P1")):  # single digits: nothing has to stand behind the last one
        path.write_bytes(content[:at])
        with pytest.raises(DataError, match=r"cut\.ppm"):
            read_image(path)


COLORS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels of a pixel by the colour type of a PNG."""


@given(
    size=st.tuples(st.integers(0, 5), st.integers(0, 5)) | st.tuples(st.integers(0, 2**31), st.integers(0, 2**31)),
    depth=st.sampled_from([1, 2, 4, 8, 16, 0, 3]),
    color=st.sampled_from([*COLORS, 1, 7]),
    palette=st.binary(max_size=12),
    values=st.binary(max_size=60),
    interlace=st.integers(0, 2),
    missing=st.integers(0, 3),
)
@example((3, 1), 2, 0, b"", b"\xc0", 0, 0)
@example((2, 1), 16, 4, b"", bytes([0, 3, 255, 255, 0, 7, 255, 255]), 0, 0)
@example((2, 2), 8, 0, b"", bytes([0, 3, 7, 0]), 0, 2)
def test_png_of_any_kind_is_read_as_it_stands_or_refused(
    folder: Path,
    size: tuple[int, int],
    depth: int,
    color: int,
    palette: bytes,
    values: bytes,
    interlace: int,
    missing: int,
) -> None:
    """The checksums are right here, whatever the file says."""
    width, height = size
    row = -(-width * COLORS.get(color, 1) * depth // 8) if width < 10 else 0
    rows = b"".join(b"\0" + values[i * row : (i + 1) * row].ljust(row, b"\0") for i in range(min(height, 5)))
    path = folder / "kind.png"
    path.write_bytes(png(width, height, depth, color, rows[: len(rows) - missing], palette, interlace))
    label_map = LabelMap(tuple(range(254)), tuple(map(str, range(254))), ((0, 0, 0),) * 254, (255, 254))
    try:
        found = read_label(path, label_map)
    except DataError:
        pass
    else:
        assert found.shape == (height, width)
        if depth == 8 and color in (0, 3) and not interlace:
            stored = np.frombuffer(rows, np.uint8).reshape(height, row + 1)[:, 1:]
            assert not missing
            assert np.array_equal(found, np.where(stored > 253, 255, stored))
        else:
            assert color in (3, 4) or interlace
    for read in (read_image, lambda path: read_confidence(path)[None].expand(3, -1, -1).mul(255).byte()):
        try:
            frame = read(path)
        except DataError:
            continue
        assert frame.shape == (3, height, width)
        check_frame(frame)


MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "HSV")


@given(
    mode=st.sampled_from(MODES),
    kind=st.sampled_from(["PNG", "JPEG", "PPM", "GIF", "BMP", "TIFF", "WEBP", "TGA", "EPS", "PDF", "ICO", "PCX"]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_pictures_of_any_mode_and_format_are_read_as_they_stand_or_refused(
    folder: Path, mode: str, kind: str, size: tuple[int, int]
) -> None:
    ids = id_picture(0, height=size[0], width=size[1])
    grey = Image.fromarray(ids)
    image = Image.fromarray(ids.astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
    path = folder / "mode.png"
    try:
        image.save(path, kind)
    except (OSError, ValueError, KeyError):  # Pillow writes no such thing
        return
    try:
        label = read_label(path, LABEL_MAP)
    except DataError:
        pass
    else:
        assert mode in ("L", "P", "LA", "PA", "RGB", "RGBA")
        assert kind in ("PNG", "TIFF", "BMP")
        black = mode in ("RGB", "RGBA")  # which is no class, where a label is a picture of colours
        assert np.array_equal(LABEL_MAP.decode(label.numpy()), np.where(ids == 0, 255, ids) if black else ids)
    try:
        frame = read_image(path)
    except DataError:
        return
    assert kind in ("PNG", "JPEG", "PPM", "TIFF", "BMP", "WEBP")
    assert frame.shape == (3, *size)


@given(content=st.binary(max_size=200))
def test_what_is_no_image_is_refused(folder: Path, content: bytes) -> None:
    path = folder / "nothing.png"
    path.write_bytes(content)
    for read in (read_image, read_confidence, lambda path: read_label(path, LABEL_MAP)):
        with pytest.raises(DataError):
            read(path)


def test_whole_jpegs_with_grey_ends_are_read(folder: Path) -> None:
    """Their last pixel looks as if data were missing."""
    pixels = picture(0, 37, 53)
    pixels[20:] = 128
    for options in ({}, {"progressive": True}, {"subsampling": 2}, {"quality": 100}):
        path = save(folder / "grey.jpg", pixels)
        Image.fromarray(pixels).save(path, **options)
        assert read_image(path)[:, -1, -1].tolist() == pytest.approx([128] * 3, abs=1)


OTHERS = {
    "tiff": (".tif", {}),
    "deflated tiff": (".tif", {"compression": "tiff_deflate"}),
    "lzw tiff": (".tif", {"compression": "tiff_lzw"}),
    "bmp": (".bmp", {}),
    "webp": (".webp", {"quality": 70}),
    "lossless webp": (".webp", {"lossless": True}),
}


@pytest.mark.parametrize(("suffix", "options"), OTHERS.values(), ids=OTHERS)
@given(data=st.data())
def test_a_damaged_frame_of_another_format_is_a_picture_or_refused(
    folder: Path, suffix: str, options: dict[str, object], data: st.DataObject
) -> None:
    whole = content(picture(0, HEIGHT, WIDTH), f"whole{suffix}", folder, **options)
    path = folder / f"frame{suffix}"
    path.write_bytes(data.draw(damaged(whole)))
    try:
        found = read_image(path)
    except DataError:
        return
    assert found.dtype == torch.uint8
    assert found.ndim == 3


@pytest.mark.parametrize(("suffix", "options"), OTHERS.values(), ids=OTHERS)
@given(data=st.data())
def test_a_cut_frame_of_another_format_is_the_same_or_refused(
    folder: Path, suffix: str, options: dict[str, object], data: st.DataObject
) -> None:
    whole = content(picture(0, HEIGHT, WIDTH), f"whole{suffix}", folder, **options)
    path = folder / f"cut{suffix}"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        found = read_image(path)
    except DataError:
        return
    assert torch.equal(found, read_image(folder / f"whole{suffix}"))


@pytest.mark.parametrize(("suffix", "options"), [OTHERS[name] for name in ("tiff", "lzw tiff", "bmp")])
@given(data=st.data())
def test_a_damaged_label_of_another_format_is_a_label_or_refused(
    folder: Path, suffix: str, options: dict[str, object], data: st.DataObject
) -> None:
    whole = content(id_picture(0, height=HEIGHT, width=WIDTH), f"whole-label{suffix}", folder, **options)
    path = folder / f"label{suffix}"
    path.write_bytes(data.draw(damaged(whole)))
    try:
        found = read_label(path, LABEL_MAP)
    except DataError:
        return
    assert set(found.unique().tolist()) <= {0, 1, 2, 255}
