"""Folders as people really have them: what is read, what is refused by name, and what is noted."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import CLASSES_YAML, id_picture, make_folder, make_video, picture, save
from wrp.cli.main import main
from wrp.data.checking import note_on_masks
from wrp.data.index import ClipIndex, FrameNames, read_list
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.io.images import read_image, read_label
from wrp.io.label_map import read_label_map
from wrp.io.listing import gaps, in_order, list_images
from wrp.io.opening import ORIENTATION, read_text
from wrp.structures import IGNORE_INDEX, LabelMap

TWO = "classes:\n  - {id: 0, name: road, color: [128, 64, 128]}\n  - {id: 1, name: car, color: [0, 0, 142]}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", {"street": 6}, labelled=(0, 5))


def checked(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of `wrp data check`, and what it prints."""
    code = main(["data", "check", str(root)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def stems(index: ClipIndex) -> list[str]:
    return [frame.stem for frame in index.clips[0].frames]


# --------------------------------------------------------------------------------------------------- order of frames


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["frame_10", "frame_9", "frame_1"], ["frame_1", "frame_9", "frame_10"]),
        (["9999", "10000", "0998"], ["0998", "9999", "10000"]),
        (["1_10", "1_9", "2_1"], ["1_9", "1_10", "2_1"]),
        (["a-2-b", "a-10-b"], ["a-2-b", "a-10-b"]),
        (["r-10.500-2", "r-9.250-1"], ["r-9.250-1", "r-10.500-2"]),
        (["b", "a"], ["a", "b"]),
        (["0016E5_07959", "0016E5_07961"], ["0016E5_07959", "0016E5_07961"]),
    ],
)
def test_numbers_in_names_compare_as_numbers(names: list[str], expected: list[str]) -> None:
    assert in_order(names) == expected


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["1.9", "1.10"], "may be decimals or two numbers"),
        (["img2", "img10x"], "names are of different shapes"),
        (["cam_2", "cam_10", "cam"], "names are of different shapes"),
        (["1", "01"], "'01' and '1' have the same number"),
    ],
)
def test_an_order_that_is_not_clear_is_refused(names: list[str], match: str) -> None:
    with pytest.raises(DataError, match=match):
        in_order(names, "street")


def test_unpadded_numbers_are_one_clip_in_their_order(root: Path) -> None:
    for kind in ("frames", "labels"):
        for path in sorted((root / kind / "street").iterdir(), reverse=True):
            path.rename(path.with_name(f"frame_{int(path.stem) + 7}.png"))
    index = open_index(root)
    assert stems(index) == [f"frame_{i}" for i in range(7, 13)]
    assert index.clips[0].keyframes == (0, 5)


def test_gaps_in_numbers_are_noted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stem in ("00002", "00003"):
        (root / "frames/street" / f"{stem}.png").unlink()
    code, said = checked(root, capsys)
    assert code == 0
    assert "clip street: numbers go from 00001 to 00004" in said
    assert gaps(["f0", "f10", "f20", "f50"]) == [("f20", "f50")]
    assert gaps(["a", "b", "c"]) == gaps(["f0", "f9"]) == gaps(["f0", "f1", "f5", "f6", "f11", "f17"]) == []


# ------------------------------------------------------------------------------------------- what is read, what is not


def test_suffixes_are_read_in_either_case_and_other_formats_too(root: Path) -> None:
    street = root / "frames" / "street"
    (street / "00001.png").rename(street / "00001.PNG")
    Image.open(street / "00002.png").save(street / "00002.webp", lossless=True)
    Image.open(street / "00003.png").save(street / "00003.TIFF")
    Image.open(street / "00004.png").save(street / "00004.bmp")
    for stem in ("00002", "00003", "00004"):
        (street / f"{stem}.png").unlink()
    (root / "labels/street/00000.png").rename(root / "labels/street/00000.Png")
    Image.open(root / "labels/street/00005.png").save(root / "labels/street/00005.tif", compression="tiff_lzw")
    (root / "labels/street/00005.png").unlink()
    index = open_index(root)
    assert len(index.clips[0].frames) == 6
    assert index.clips[0].keyframes == (0, 5)
    for i, frame in enumerate(index.clips[0].frames):
        assert np.array_equal(read_image(frame.image).permute(1, 2, 0).numpy(), picture(i))
    assert np.array_equal(index.label_map.decode(read_label(index.clips[0].frames[5].label, index.label_map).numpy()),
                          id_picture(5))  # fmt: skip


def test_what_systems_leave_behind_is_passed_over(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("frames/street", "labels/street", "frames", "labels"):
        for name in ("._00005.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (root / folder / name).write_bytes(b"junk")
        shutil.copytree(root / "frames/street", root / folder / ".ipynb_checkpoints", dirs_exist_ok=True)
    (root / "frames" / "__MACOSX" / "street").mkdir(parents=True)
    code, said = checked(root, capsys)
    assert (code, "Please look at" in said) == (0, False)
    assert [clip.name for clip in open_index(root).clips] == ["street"]


def remove(path: Path) -> Path:
    path.unlink()
    return path


LOST: dict[str, tuple[Callable[[Path], object], str]] = {
    "a frame of another suffix": (
        lambda root: (root / "frames/street/00003.png").rename(root / "frames/street/00003.heic"),
        "1 file named like frames cannot be read, the first is 00003.heic",
    ),
    "a label of another suffix": (
        lambda root: (root / "labels/street/00005.png").rename(root / "labels/street/00005.jpg"),
        "00005.jpg is not read, and frame 00005 has no other label",
    ),
    "a label that is a link to nothing": (
        lambda root: (root / "labels/street/00002.png").symlink_to(root / "gone.png"),
        "00002.png is a broken link: it points to .*gone.png",
    ),
    "a frame that is a link to nothing": (
        lambda root: remove(root / "frames/street/00002.png").symlink_to(root / "gone.png"),
        "00002.png is a broken link: it points to .*gone.png",
    ),
    "two labels of one frame": (
        lambda root: Image.fromarray(id_picture(0)).save(root / "labels/street/00000.tif"),
        "00000.png and .*00000.tif are labels of one frame",
    ),
    "labels without a clip folder": (
        lambda root: (root / "labels/street/00000.png").rename(root / "labels/00000.png"),
        "00000.png belongs to no clip: move it to its clip's folder, .*labels/street, or remove",
    ),
    "frames without a clip folder": (
        lambda root: (root / "frames/street/00000.png").rename(root / "frames/00000.png"),
        "00000.png belongs to no clip: frames lie in a folder of their clip",
    ),
    "classes.yml": (
        lambda root: (root / "classes.yaml").rename(root / "classes.yml"),
        "classes.yml is not read; rename it to classes.yaml",
    ),
    "a label of no frame": (
        lambda root: (root / "labels/street/00000.png").rename(root / "labels/street/00077.png"),
        "00077.png is the label of no frame",
    ),
    "a folder of labels without a clip": (
        lambda root: shutil.copytree(root / "labels/street", root / "labels/steet"),
        "steet holds labels of no clip",
    ),
}


@pytest.mark.parametrize(("change", "match"), LOST.values(), ids=LOST)
def test_what_would_be_left_out_is_refused_by_name(
    root: Path, change: Callable[[Path], object], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(root)
    with pytest.raises(DataError, match=match):
        open_index(root)
    code, said = checked(root, capsys)
    assert code == 2
    assert main(["autolabel", str(root), f"--out={root.parent / 'run'}", "--methods=copy"]) == 2
    assert not (root.parent / "run").exists()


def test_a_check_names_everything_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "data", {name: 6 for name in "abcdefg"}, labelled=(0, 5))
    (root / "frames/a/00003.png").rename(root / "frames/a/00003.heic")
    (root / "labels/b/00005.png").rename(root / "labels/b/00005.jpg")
    (root / "labels/c/00002.png").symlink_to("gone.png")
    shutil.copy(root / "labels/d/00000.png", root / "labels/d/00000.tif")
    shutil.copy(root / "labels/e/00000.png", root / "labels/00000.png")
    (root / "labels/e/00005.png").rename(root / "labels/e/00007.png")
    shutil.copytree(root / "labels/f", root / "labels/nothing")
    (root / "frames/f/00003.png").unlink()
    (root / "frames/g/notes.txt").write_text("seen from the left\n")
    (root / "frames/readme.md").write_text("mine\n")
    values = id_picture(0)
    values[:3] = 77
    save(root / "labels/g/00000.png", values)
    code, said = checked(root, capsys)
    assert code == 2
    for named in (
        "00003.heic", "00005.jpg", "gone.png", "00000.tif", "labels/00000.png", "00007.png", "labels/nothing",
        "numbers go from 00002 to 00004", "notes.txt is not read", "readme.md is not read", "77 (120 pixels)",
    ):  # fmt: skip
        assert named in said, named


def test_what_is_beside_the_frames_is_noted_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(6):  # the last three are of frames that were left out
        (root / "frames/street" / f"{i + 3:05d}.json").write_text("{}")
        (root / "labels/street" / f"note{i}.txt").write_text("")
    code, said = checked(root, capsys)
    assert code == 0
    assert "00003.json and 5 more of its suffix are not read" in said
    assert "note0.txt and 5 more of its suffix are not read" in said
    assert "Everything can be used." in said


# ---------------------------------------------------------------------------------------------------- values of labels


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A clip with a road and a car, whose labels are indexed in the classes' colours."""
    root = make_folder(tmp_path / "data", {"street": 4}, labelled=(0,))
    (root / "classes.yaml").write_text(TWO)
    return root


def indexed(values: np.ndarray, palette: list[int]) -> Image.Image:
    image = Image.fromarray(values, "L")
    image.putpalette(palette)
    return image


def test_a_palette_with_the_colours_of_other_classes_is_refused(two: Path) -> None:
    values = id_picture(0, (0, 1))
    label_map = read_label_map(two / "classes.yaml")
    path = two / "labels/street/00000.png"
    indexed(values, [0, 0, 142, 128, 64, 128]).save(path)
    with pytest.raises(DataError, match="the value 0 has the colour of 'car' in the palette, but is 'road'"):
        read_label(path, label_map)
    for harmless in (
        [128, 64, 128, 0, 0, 142],
        [i // 3 for i in range(768)],
        [0, 0, 0, 128, 0, 0],
        [1, 2, 3, 0, 0, 142],
    ):
        indexed(values, harmless).save(path)
        assert np.array_equal(read_label(path, label_map).numpy(), values)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_transparent_pixels_are_unlabelled(tmp_path: Path, mode: str, suffix: str) -> None:
    label_map = LabelMap((0, 1), ("road", "car"), ((128, 64, 128), (0, 0, 142)))
    values = id_picture(0, (0, 1))
    pixels = label_map.colorize(values) if mode == "RGBA" else values
    image, alpha = Image.fromarray(pixels), np.full(values.shape, 255, np.uint8)
    alpha[:5] = 0
    image.putalpha(Image.fromarray(alpha))
    if suffix == ".tif" and mode == "LA":
        return  # Pillow writes none
    image.save(tmp_path / f"0{suffix}")
    found = read_label(tmp_path / f"0{suffix}", label_map).numpy()
    assert (found[:5] == IGNORE_INDEX).all()
    assert np.array_equal(found[5:], values[5:])
    alpha[7, 3:6] = 100
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / f"0{suffix}")
    with pytest.raises(DataError, match="3 pixels of the label are half transparent"):
        read_label(tmp_path / f"0{suffix}", label_map)


def test_masks_of_0_and_255_are_noted_with_the_remedy(
    two: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    save(two / "labels/street/00000.png", id_picture(0, (0, 255)))
    code, said = checked(two, capsys)
    assert code == 0
    assert "never 'car': if 255 means 'car' in the files, write also: [255] beside its id" in said
    assert main(["autolabel", str(two), f"--out={two.parent / 'run'}", "--methods=copy"]) == 0
    assert "never 'car'" in caplog.text
    (two / "classes.yaml").write_text(TWO.replace("name: car,", "name: car, also: [255],"))
    assert "never" not in checked(two, capsys)[1]
    index = open_index(two)
    label = read_label(index.clips[0].frames[0].label or Path(), index.label_map)
    assert sorted(label.unique().tolist()) == [0, 1]


def test_labels_of_three_classes_are_not_taken_for_masks() -> None:
    three = LabelMap((0, 1, 2), ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    assert note_on_masks(three, np.array([90, 0, 0, 10])) is None
    two = LabelMap((0, 1), ("a", "b"), ((0, 0, 0), (1, 1, 1)))
    assert note_on_masks(two, np.array([90, 5, 10])) is None
    assert note_on_masks(two, np.array([90, 0, 0])) is None


@pytest.mark.parametrize(
    ("save_as", "match"),
    [
        (lambda path: Image.fromarray(id_picture(0)).save(path.with_suffix(".webp"), lossless=True), "is a WEBP"),
        (lambda path: Image.fromarray(id_picture(0)).convert("1").save(path.with_suffix(".tif")), "mode '1'"),
        (lambda path: Image.fromarray(id_picture(0).astype(np.uint16)).save(path.with_suffix(".tif")), "mode 'I;16'"),
    ],
)
def test_formats_that_change_values_are_no_labels(tmp_path: Path, save_as: Callable[[Path], None], match: str) -> None:
    save_as(tmp_path / "0.png")
    [path] = tmp_path.iterdir()
    with pytest.raises(DataError, match=match):
        read_label(path, LabelMap((0, 3, 7), ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2))))


# -------------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("suffix", [".tif", ".webp", ".bmp"])
@pytest.mark.parametrize("how", ["as it is", "compressed"])
def test_a_cut_file_of_these_formats_is_refused_wherever_it_is_cut(tmp_path: Path, suffix: str, how: str) -> None:
    path, more = tmp_path / f"0{suffix}", {}
    if how == "compressed":
        more = {".tif": {"compression": "tiff_deflate"}, ".webp": {"quality": 60}, ".bmp": {}}[suffix]
    elif suffix == ".webp":
        more = {"lossless": True}
    Image.fromarray(picture(0)).save(path, **more)
    content = path.read_bytes()
    whole = read_image(path)
    for end in range(0, len(content), max(1, len(content) // 150)):
        path.write_bytes(content[:end])
        try:
            assert torch.equal(read_image(path), whole), end  # only what says nothing about pixels is missing
        except DataError:
            continue


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_frames_stand_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:8, :20] = 255
    turns = {1: [], 2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"], 5: ["TRANSPOSE"],
             6: ["ROTATE_90"], 7: ["TRANSVERSE"], 8: ["ROTATE_270"]}[orientation]  # fmt: skip
    image = Image.fromarray(upright)
    for turn in turns:
        image = image.transpose(Image.Transpose[turn])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / f"0{suffix}", exif=exif, quality=100)
    found = read_image(tmp_path / f"0{suffix}").permute(1, 2, 0).numpy()
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() < 40


def test_labels_of_the_same_tool_stand_upright(tmp_path: Path) -> None:
    values, exif = id_picture(0), Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(values).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "0.png", exif=exif)
    label_map = LabelMap((0, 3, 7), ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    assert np.array_equal(label_map.decode(read_label(tmp_path / "0.png", label_map, (24, 40)).numpy()), values)


# --------------------------------------------------------------------------------------------------------- text files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_texts_are_read_by_their_mark(tmp_path: Path, encoding: str) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    (tmp_path / "list.txt").write_bytes(mark + "straße/000000\r\nstraße/000004\r\n".encode(encoding))
    assert read_list(tmp_path / "list.txt") == ["straße/000000", "straße/000004"]
    (tmp_path / "classes.yaml").write_bytes(mark + CLASSES_YAML.encode(encoding))
    assert read_label_map(tmp_path / "classes.yaml").names == ("road", "sky", "car")


def test_other_encodings_are_named(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_bytes("classes: [{id: 0, name: straße, color: [0, 0, 0]}]".encode("latin-1"))
    with pytest.raises(DataError, match="classes.yaml is no text in UTF-8 .*; save it as UTF-8"):
        read_label_map(tmp_path / "classes.yaml")
    with pytest.raises(DataError, match="save it as UTF-8"):
        read_text(tmp_path / "classes.yaml")


@pytest.mark.parametrize(
    ("text", "ids", "names", "colors"),
    [
        ("classes: [{id: 4, name: road, color: '#804080'}]", (4,), ("road",), ((128, 64, 128),)),
        ("names: [road, car]", (0, 1), ("road", "car"), ((0, 0, 0), (128, 0, 0))),
        ("names: {0: road, 2: car}", (0, 2), ("road", "car"), ((0, 0, 0), (0, 128, 0))),
        ("- road\n- car\n", (0, 1), ("road", "car"), ((0, 0, 0), (128, 0, 0))),
        ("classes: [road, car]", (0, 1), ("road", "car"), ((0, 0, 0), (128, 0, 0))),
        ("classes: {3: {name: road, color: 804080}}", None, None, None),
        ("classes: [{id: 0, name: road}]", (0,), ("road",), ((0, 0, 0),)),
    ],
)
def test_classes_in_the_forms_that_people_write(
    tmp_path: Path, text: str, ids: tuple[int, ...] | None, names: tuple[str, ...], colors: tuple[object, ...]
) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    if ids is None:
        with pytest.raises(DataError, match="the colour 804080 of 'road' is not"):
            read_label_map(tmp_path / "classes.yaml")
        return
    found = read_label_map(tmp_path / "classes.yaml")
    assert (found.ids, found.names, found.colors) == (ids, names, colors)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("classes: [{id: 0, name: road, color: mauve}]", "the colour 'mauve' of 'road' is not"),
        ("classes: [{id: 0, name: road, color: '#8040'}]", "the colour '#8040' of 'road' is not"),
        ("classes: [{name: road, color: [1, 2, 3]}]", "the entry 'road' has no id"),
        ("classes: [{id: 0, color: [1, 2, 3]}]", "has no name"),
        ("colours: [road]", "there is no list 'classes'"),
        ("classes: [{id: '0', name: road}]", "the id of 'road' is no whole number: '0'"),
        (
            "classes: [{id: 255, name: car}]",
            r"id 255 means 'unlabelled' and cannot be a class; give the class another id",
        ),
        ("ignore: 0\nclasses: [{id: 0, name: road}]", "every value must have one meaning, but 0 has two"),
        (
            "ignore: 255\nclasses: [{id: 0, name: road, also: [255]}]",
            "every value must have one meaning, but 255 has two",
        ),
    ],
)
def test_what_is_wrong_in_classes_is_named(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(DataError, match=match):
        read_label_map(tmp_path / "classes.yaml")


# ------------------------------------------------------------------------------------------------------ lists of frames


@pytest.mark.parametrize(
    "line", ["street/0", "street/00000.png", "./street/00000", r"street\00000", "street/000000.JPG"]
)
def test_lists_are_read_in_the_forms_that_people_write(root: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(f"# mine\n{line}\n")
    out = tmp_path / "run"
    assert main(["autolabel", str(root), f"--out={out}", "--methods=copy", f"--keyframes={tmp_path / 'list.txt'}"]) == 0


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ("street/1", "names street/1, which is no labelled frame of .*such as street/00000"),
        ("street/0\nstreet/00000.png", "names street/00000 twice"),
        (r"street\..\..\x", "leads out of the data set"),
    ],
)
def test_lines_that_fit_nothing_are_named(
    root: Path, tmp_path: Path, lines: str, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text(lines)
    command = ["autolabel", str(root), f"--out={tmp_path / 'run'}", "--methods=copy"]
    assert main([*command, f"--keyframes={tmp_path / 'list.txt'}"]) == 2
    import re

    assert re.search(match, capsys.readouterr().err)


def test_an_ambiguous_number_fits_nothing() -> None:
    frames = FrameNames(["a/01", "a/001", "b/7"])
    assert (frames.find("a/1"), frames.find("a/01"), frames.find("b/0007")) == (None, "a/01", "b/7")


def test_names_compare_in_one_unicode_form(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", {"Straße für": 3}, labelled=())
    decomposed = unicodedata.normalize("NFD", "Straße für")
    save(root / "labels" / decomposed / "00000.png", id_picture(0))
    (root / "splits").mkdir()
    (root / "splits/mine.txt").write_text(decomposed)
    for split in (None, "mine"):
        assert open_index(root, split=split).clips[0].keyframes == (0,)


# --------------------------------------------------------------------------------------------------- labels of a video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A video in which a square moves, with its labels at four frames."""
    pytest.importorskip("av")
    root, frames, labels = tmp_path / "data", [], []
    for i in range(20):
        label = np.zeros((96, 128), np.uint8)
        label[30:60, 5 + 5 * i : 25 + 5 * i] = 1
        frames.append(np.where(label[..., None] == 1, np.uint8([200, 30, 30]), np.uint8([60, 90, 60])))
        labels.append(label)
    make_video(root / "frames/street.mkv", frames)
    for i in (2, 7, 12, 17):
        save(root / "labels/street" / f"{i}.png", labels[i])
    (root / "classes.yaml").write_text(TWO)
    return root


def test_labels_counted_from_one_are_noticed(
    video: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert "if they are counted" not in checked(video, capsys)[1]
    for path in sorted((video / "labels/street").iterdir(), key=lambda path: -int(path.stem)):
        path.rename(path.with_name(f"{int(path.stem) + 1}.png"))
    code, said = checked(video, capsys)
    assert code == 0
    assert "clip street has the frames 0 … 19" in said
    assert "if they are counted from 1, rename them" in said
    (video / "classes.yaml").rename(video / "labels/street/classes.yaml")
    alone = [str(video / "frames/street.mkv"), f"--labels={video / 'labels/street'}", "--methods=copy", "--limit=0"]
    assert main(["autolabel", *alone, "--out=out"]) == 0
    assert "if they are counted from 1, rename them" in caplog.text


def test_a_number_behind_the_end_names_the_range(video: Path) -> None:
    (video / "labels/street/17.png").rename(video / "labels/street/20.png")
    with pytest.raises(DataError, match="20.png is the label of no frame .* 0 … 19; are the labels counted from 1"):
        open_index(video)
    (video / "labels/street/20.png").rename(video / "labels/street/31.png")
    with pytest.raises(DataError, match="31.png is the label of no frame .* 0 … 19$"):
        open_index(video)


def test_two_labels_of_one_frame_of_a_video_are_refused(video: Path) -> None:
    shutil.copy(video / "labels/street/2.png", video / "labels/street/000002.png")
    with pytest.raises(DataError, match="000002.png and .*/2.png are labels of one frame"):
        open_index(video)


def test_a_listing_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        list_images(tmp_path / "none")


def test_images_without_a_time_need_no_order(tmp_path: Path) -> None:
    names = ("1.png", "01.png", "1.10.png", "1.9.png", "img10x.png", "img2.png")
    for i, name in enumerate(names):
        save(tmp_path / name, picture(i))
    assert [path.name for path in list_images(tmp_path, temporal=False)] == sorted(names)
    with pytest.raises(DataError, match="is not clear"):
        list_images(tmp_path)
