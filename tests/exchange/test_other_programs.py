"""What other programs send back, as they really name and write it."""

from __future__ import annotations

import base64
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.clips import LABEL_MAP, picture, save
from tests.exports import (
    clips_to_label,
    coco_file,
    cvat_file,
    cvat_images,
    cvat_shape,
    ids,
    some_labels,
    voc_labels,
)
from wrp.cli.main import main
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.exchange.base import Export, RunFrame
from wrp.exchange.brush import decode_brush, encode_brush
from wrp.exchange.cvat import fill
from wrp.exchange.names import WrittenNames
from wrp.io.images import read_image
from wrp.structures import Frame

COLORS = LABEL_MAP.colorize


def bring(source: Path, format_name: str, root: Path, frames: list[str], *more: str) -> int:
    (root / "list.txt").write_text("\n".join(frames), encoding="utf-8")
    command = ["import", str(source), "--format", format_name, "--into", str(root)]
    return main([*command, "--frames", str(root / "list.txt"), *more])


def came(root: Path) -> dict[str, np.ndarray]:
    """The imported labels as class indices."""
    paths = sorted((root / "labels").rglob("*.png"))
    return {path.relative_to(root / "labels").as_posix(): LABEL_MAP.encode(ids(path)) for path in paths}


def same(root: Path, expected: dict[str, np.ndarray]) -> None:
    found = came(root)
    assert list(found) == list(expected)
    for name, labels in expected.items():
        assert np.array_equal(found[name], labels), name


# Names: slashes, folders, clips, numbers.


@pytest.mark.parametrize(
    "written",
    [
        "walk\\00001.png",
        ".\\walk\\00001.PNG",
        "./walk/00001",
        "images/walk/00001.jpg",
        "C:\\Users\\Ann\\scenes\\walk\\00001.png",
        "/home/ann/scenes/walk/00001.png",
        "walk/images/00001.jpeg",
        "walk/1.png",
        "frames\\1",
        "train/00001.webp",
        "00001",
    ],
)
def test_names_in_every_form(tmp_path: Path, written: str) -> None:
    for number, write in enumerate((cvat_images, coco_file)):
        root = clips_to_label(tmp_path / f"data{number}", {"walk": 3})
        path = tmp_path / f"{number}/labels.txt"
        if write is cvat_images:
            cvat_images(path, [(written, some_labels(1))])
        else:
            coco_file(path, {5: written}, {5: some_labels(1)})
        assert bring(path, ("cvat", "coco")[number], root, ["walk/00001"]) == 0
        same(root, {"walk/00001.png": some_labels(1)})


@pytest.mark.parametrize("written", ["walk\\..\\..\\00001.png", "..\\00001.png", "../walk/00001.png", "walk/../00001"])
def test_names_that_lead_out_are_refused(tmp_path: Path, written: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    assert bring(cvat_images(tmp_path / "a.xml", [(written, some_labels(1))]), "cvat", root, ["walk/00001"]) == 2
    assert "leads out of its folder" in capsys.readouterr().err


def test_a_name_that_fits_two_clips_needs_one_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3, "run": 2})
    source = voc_labels(tmp_path / "masks", {"00001.png": COLORS(some_labels(1))})
    assert bring(source, "voc", root, ["walk/00001"]) == 2
    error = capsys.readouterr().err
    assert "1 frame cannot be imported" in error
    assert "00001: it may be walk/00001 or run/00001; say which clip with --clip NAME" in error.replace(
        "run/00001 or walk/00001", "walk/00001 or run/00001"
    )
    assert bring(source, "voc", root, ["walk/00001"], "--clip", "walk") == 0
    same(root, {"walk/00001.png": some_labels(1)})
    assert bring(source, "voc", root, ["walk/00001"], "--clip", "wak") == 2
    assert "has no clip 'wak'; its clips are run, walk" in capsys.readouterr().err


def test_a_name_that_only_one_clip_has_needs_none(tmp_path: Path) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3, "run": 2})
    source = voc_labels(tmp_path / "masks", {"00002.png": COLORS(some_labels(1))})
    assert bring(source, "voc", root, ["walk/00002"]) == 0
    same(root, {"walk/00002.png": some_labels(1)})


def test_the_labels_of_another_clip_are_not_taken_for_this_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    source = voc_labels(tmp_path / "masks", {"stroll/00001.png": COLORS(some_labels(1))})
    assert bring(source, "voc", root, ["walk/00001"]) == 2
    error = capsys.readouterr().err
    assert "walk/00001: it has no label there; it has labels of 'stroll/00001'" in error
    assert "has no clip 'stroll'; if it is of 'walk', say so with --clip walk" in error
    assert bring(source, "voc", root, ["walk/00001"], "--clip", "walk") == 0
    same(root, {"walk/00001.png": some_labels(1)})


def test_two_labels_of_one_frame_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    images = [("walk/00001.png", some_labels(1)), ("1.jpg", some_labels(2))]
    assert bring(cvat_images(tmp_path / "a.xml", images), "cvat", root, ["walk/00001"]) == 2
    assert "walk/00001: its label comes twice" in capsys.readouterr().err


def test_umlauts_may_be_composed_or_not(tmp_path: Path) -> None:
    root = clips_to_label(tmp_path / "data", {"fu\u0308r": 2})
    (root / "labels" / "fu\u0308r").mkdir(parents=True)
    assert (
        bring(cvat_images(tmp_path / "a.xml", [("f\u00fcr/00001.png", some_labels(1))]), "cvat", root, ["für/1"]) == 0
    )
    assert [path.name for path in (root / "labels").iterdir()] == ["fu\u0308r"]


@pytest.mark.parametrize("lines", [["walk/1"], ["walk/00001.png"], ["./walk/00001"], ["walk\\00001"], ["frame_1"]])
def test_lists_in_every_form(tmp_path: Path, lines: list[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    images = [("walk/00001.png", some_labels(1)), ("walk/00002.png", some_labels(2))]
    assert bring(cvat_images(tmp_path / "a.xml", images), "cvat", root, lines) == 0
    same(root, {"walk/00001.png": some_labels(1)})


def test_a_list_with_a_byte_order_mark_of_a_name_that_is_no_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    source = cvat_images(tmp_path / "a.xml", [("walk/00001.png", some_labels(1))])
    assert bring(source, "cvat", root, ["\ufeffwalk/00001"]) == 0
    assert bring(source, "cvat", root, ["walk/00001", "walk/9"]) == 2
    assert "list.txt names 'walk/9': there is no such frame in" in capsys.readouterr().err


# Videos.


def test_the_frames_of_a_video_that_cvat_has_numbered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 4}, video=True)
    images = [(f"frame_{i:06d}", some_labels(i) if i in (0, 3) else None) for i in range(4)]
    source = cvat_images(tmp_path / "export/annotations.xml", images)
    assert bring(tmp_path / "export", "cvat", root, ["walk/0", "walk/000003"]) == 0
    same(root, {"walk/000000.png": some_labels(0), "walk/000003.png": some_labels(3)})
    assert capsys.readouterr().out == "walk/000000\nwalk/000003\n"
    # The same as masks, and in COCO, both with suffix.
    colors = {f"frame_{i:06d}.png": COLORS(some_labels(i)) for i in (0, 3)}
    assert bring(voc_labels(tmp_path / "masks", colors), "voc", root, ["walk/0", "walk/3"]) == 0
    assert capsys.readouterr().out == ""
    names = {1: "frame_000000.PNG", 2: "frame_000002.PNG"}
    source = coco_file(tmp_path / "coco.json", names, {1: some_labels(0), 2: some_labels(2)})
    assert bring(source, "coco", root, ["walk/2"]) == 0
    assert capsys.readouterr().out == "walk/000002\n"
    assert bring(source, "coco", root, ["walk/1"]) == 2
    error = capsys.readouterr().err
    assert "walk/000001: it has no label there; it has labels of 'frame_000000', 'frame_000002'" in error


def test_which_video_is_said_by_the_name_or_the_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3, "run": 3}, video=True)
    named = cvat_images(tmp_path / "a.xml", [("run.mp4/frame_000001", some_labels(1))])
    assert bring(named, "cvat", root, ["run/1"]) == 0
    same(root, {"run/000001.png": some_labels(1)})
    source = cvat_images(tmp_path / "b.xml", [("frame_000002.png", some_labels(2)), ("frame_000009", some_labels(2))])
    assert bring(source, "cvat", root, ["walk/2"]) == 2
    assert "say which clip with --clip NAME" in capsys.readouterr().err
    assert bring(source, "cvat", root, ["walk/2"], "--clip", "walk") == 0
    same(root, {"run/000001.png": some_labels(1), "walk/000002.png": some_labels(2)})
    assert main(["import", str(source), "--format", "cvat", "--into", str(root), "--changed-from", "x"]) == 2


@pytest.mark.parametrize(
    ("stems", "written", "frame"),
    [
        (["00000", "00001", "00002"], "frame_000001", "00001"),
        (["img_0", "img_1", "img_2"], "frame_000001.png", "img_1"),
        (["a", "b", "c"], "frame_000001", "b"),
        (["frame_000003", "frame_000004"], "frame_000003", "frame_000003"),
        (["00000", "00005", "00010"], "frame_000010", "00010"),
        (["00001", "00002", "00003"], "frame_000001", "counted from 0, it is walk/00002"),
        (["00001", "00002", "00003"], "frame_000000", "frame 0 of walk is missing"),
        (
            ["00000", "00002", "00004"],
            "frame_000002",
            "frame 2 of walk is walk/00002; counted from 0, it is walk/00004",
        ),
        (["00000", "00001"], "frame_000009", "no such frame"),
        (["00000", "00001"], "frame_" + "9" * 30, "no such frame"),
    ],
)
def test_numbers_of_frames_that_are_files(tmp_path: Path, stems: list[str], written: str, frame: str) -> None:
    for i, stem in enumerate(stems):
        save(tmp_path / "frames/walk" / f"{stem}.png", picture(i))
    clips_to_label(tmp_path, {})
    names = WrittenNames(open_index(tmp_path, "folder"))
    if " " not in frame:
        assert names.find(written) == f"walk/{frame}"
    else:
        with pytest.raises(DataError, match=frame):
            names.find(written)


def track(index: int, shapes: str, more: str = "") -> str:
    return f'<track id="{index}" label="{LABEL_MAP.names[index]}" source="manual" {more}>{shapes}</track>'


def masks_of(index: int, frames: tuple[int, ...]) -> str:
    at = 'frame="{}" keyframe="1" outside="{}" occluded="0"'
    shapes = [cvat_shape(some_labels(i), index, at.format(i, 0)) for i in frames]
    shapes += [cvat_shape(some_labels(i), index, at.format(i + 1, 1)) for i in frames]
    return "".join(shapes)


SIZE = "<meta><task><original_size><width>{}</width><height>{}</height></original_size></task></meta>"


def test_tracks_of_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 6}, video=True)
    tracks = "".join(track(i, masks_of(i, (0, 4))) for i in range(3))
    source = cvat_file(tmp_path / "export/annotations.xml", SIZE.format(40, 24) + tracks)
    assert bring(source.parent, "cvat", root, ["walk/0", "walk/4"]) == 0
    same(root, {"walk/000000.png": some_labels(0), "walk/000004.png": some_labels(4)})
    assert bring(source.parent, "cvat", root, ["walk/1"]) == 2  # there, all of them are outside
    error = capsys.readouterr().err
    assert "walk/000001: it has no label there; it has labels of 'frame_000000', 'frame_000004'" in error
    cvat_file(source, SIZE.format(80, 48) + tracks)
    assert bring(source, "cvat", root, ["walk/0"]) == 2
    assert "the label is 80×48 pixels, its frame is 40×24" in capsys.readouterr().err


def test_tracks_of_polygons_and_boxes(tmp_path: Path) -> None:
    """Between its keyframes, a shape is where the file has it; the upper ones cover the lower ones."""
    root = clips_to_label(tmp_path / "data", {"walk": 6}, video=True)
    at = 'frame="{}" keyframe="{}" outside="0" occluded="0" z_order="{}"'
    road = "".join(
        f'<polygon {at.format(i, int(i in (0, 4)), 0)} points="0,0;40,0;40,24;0,24"></polygon>' for i in range(5)
    )
    car = f'<box {at.format(2, 1, 1)} xtl="10.0" ytl="4.0" xbr="20.0" ybr="8.0"></box>'
    turned = f'<box {at.format(3, 1, 1)} xtl="10.0" ytl="4.0" xbr="20.0" ybr="8.0" rotation="40.0"></box>'
    source = cvat_file(tmp_path / "annotations.xml", track(2, car + turned) + track(0, road))
    assert bring(tmp_path, "cvat", root, ["walk/1", "walk/2", "walk/3"]) == 0
    with_car, with_turned = np.zeros((2, 24, 40), np.uint8)
    with_car[4:8, 10:20] = 2
    y, x = np.mgrid[:24, :40] + 0.5 - np.array([6, 15])[:, None, None]  # about the centre of the box
    along, across = 0.7660 * x + 0.6428 * y, 0.7660 * y - 0.6428 * x  # clockwise: its right end goes down
    with_turned[(abs(along) < 5) & (abs(across) < 2)] = 2
    zeros = np.zeros((24, 40), np.uint8)
    same(root, {"walk/000001.png": zeros, "walk/000002.png": with_car, "walk/000003.png": with_turned})
    assert source.is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (track(0, '<polyline frame="0" outside="0" points="1,1;2,2"/>'), "shapes that are no masks (polyline)"),
        (track(0, '<polygon frame="0" outside="0" points=""/>'), "a polygon of 'road' has no pixels; draw it again"),
        (track(0, '<mask frame="0" outside="0"/>'), "a mask of 'road' has no pixels; draw it again"),
        (track(0, '<box frame="0" outside="0"/>'), "a box of 'road' has no pixels; draw it again"),
        (track(0, '<box frame="0" outside="0" xtl="1" ytl="1" xbr="nan" ybr="4"/>'), "is damaged"),
        (track(0, '<polygon frame="0" outside="0" points="1,1;2"/>'), "is damaged"),
        (track(0, '<polygon frame="x" outside="0" points="1,1;2,2"/>'), "is damaged"),
        (
            track(0, masks_of(0, (0,)), 'task_id="3"') + track(1, masks_of(1, (0,)), 'task_id="4"'),
            "holds the tracks of several tasks",
        ),
        (track(0, masks_of(0, (0,))).replace("road", "rood"), "unknown class 'rood'"),
    ],
)
def test_tracks_that_cannot_be_read(
    tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3}, video=True)
    source = cvat_file(tmp_path / "annotations.xml", content)
    assert bring(source, "cvat", root, ["walk/0"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (root / "labels").exists()


@pytest.mark.parametrize("seed", range(4))
def test_polygons_are_filled_where_the_centres_of_pixels_lie_in_them(seed: int) -> None:
    """By a test of each pixel by itself: how often a ray to the right meets the border."""
    corners = np.random.default_rng(seed).uniform(-4, 16, (7, 2))
    expected = np.zeros((12, 11), bool)
    for row, column in np.ndindex(*expected.shape):
        x, y = column + 0.5, row + 0.5
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
            if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) > x:
                expected[row, column] ^= True
    assert expected.any()
    assert np.array_equal(fill(corners, (12, 11)), expected)


# Folders and archives.


def test_archives_of_windows(tmp_path: Path) -> None:
    folder = voc_labels(tmp_path / "masks", {"walk/00001.png": COLORS(some_labels(1))})
    for number, above in enumerate(("", "my task\\", "a\\b\\")):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr(f"{above}SegmentationClass\\", b"")
            archive.writestr("__MACOSX/._labelmap.txt", b"")
            for path in folder.rglob("*.*"):
                archive.write(path, above + str(path.relative_to(folder)).replace("/", "\\"))
        root = clips_to_label(tmp_path / f"data{number}", {"walk": 3})
        assert bring(tmp_path / f"{number}.zip", "voc", root, ["walk/00001"]) == 0
        same(root, {"walk/00001.png": some_labels(1)})


def test_a_folder_that_was_unpacked_with_its_backslashes(tmp_path: Path) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    folder = voc_labels(tmp_path / "masks", {"00001.png": COLORS(some_labels(1))})
    (tmp_path / "flat").mkdir()
    for path in folder.rglob("*.*"):
        path.rename(tmp_path / "flat" / str(path.relative_to(folder)).replace("/", "\\"))
    assert bring(tmp_path / "flat", "voc", root, ["walk/00001"]) == 0
    same(root, {"walk/00001.png": some_labels(1)})


def test_two_files_of_one_name_in_an_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("SegmentationClass/a.png", b"")
        archive.writestr("SegmentationClass\\a.png", b"")
    assert bring(tmp_path / "a.zip", "voc", root, ["walk/00001"]) == 2
    assert "holds two files named 'SegmentationClass/a.png'" in capsys.readouterr().err


@pytest.mark.parametrize("format_name", ["cvat", "coco", "voc"])
def test_a_single_folder_is_entered(tmp_path: Path, format_name: str) -> None:
    inside = tmp_path / "export" / "task 7" / "files"
    if format_name == "cvat":
        cvat_images(inside / "annotations.xml", [("walk/00001.png", some_labels(1))])
    elif format_name == "coco":
        coco_file(inside / "annotations/instances_default.json", {1: "walk/00001.png"}, {1: some_labels(1)})
    else:
        voc_labels(inside, {"walk/00001.PNG": COLORS(some_labels(1)), "walk/._00001.png": COLORS(some_labels(2))})
    (tmp_path / "export/.DS_Store").touch()
    (tmp_path / "export/task 7/readme.txt").touch()
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    assert bring(tmp_path / "export", format_name, root, ["walk/00001"]) == 0
    same(root, {"walk/00001.png": some_labels(1)})


def test_of_two_folders_none_is_entered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        voc_labels(tmp_path / "export" / name, {"walk/00001.png": COLORS(some_labels(1))})
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    assert bring(tmp_path / "export", "voc", root, ["walk/00001"]) == 2
    assert "there is no folder" in (error := capsys.readouterr().err)
    assert "export holds a, b" in error
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle/again").symlink_to(tmp_path / "circle")
    assert bring(tmp_path / "circle", "voc", root, ["walk/00001"]) == 2


# COCO.


@pytest.mark.parametrize("second", ["walk/00002.png", "walk/00001.jpg", "run/00001.png", "walk/00001.png"])
def test_images_of_coco_that_share_an_id(tmp_path: Path, second: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    path = coco_file(tmp_path / "a.json", {7: "walk/00001.png"}, {7: some_labels(1)})
    content = json.loads(path.read_text())
    content["images"].append({"id": 7, "file_name": second})
    path.write_text(json.dumps(content), encoding="utf-16")
    assert bring(path, "coco", root, ["walk/00001"]) == 2
    assert f"a.json: two images have the id 7: walk/00001.png, {second}; give each its own" in capsys.readouterr().err


def test_polygons_and_crowds_of_coco(tmp_path: Path) -> None:
    """Polygons side by side, one of two parts, around a crowd; as pycocotools sees them."""
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    path = coco_file(tmp_path / "a.json", {1: "walk/00001.png"}, {})
    content = json.loads(path.read_text())
    sky, parts = (
        [[0, 0, 40, 0, 40, 7.5, 13.2, 9.7, 0, 7.5]],
        [[0, 7.5, 13.2, 9.7, 12, 24, 0, 24], [30, 12, 38, 13, 35, 20]],
    )
    runs = [24 * 20 + 15, 6, 18, 6, 24 * 40 - 24 * 20 - 45]
    shapes = [(2, 0, sky), (1, 0, parts), (3, 1, {"size": [24, 40], "counts": runs})]
    content["annotations"] = [
        {"id": i, "image_id": 1, "category_id": category, "iscrowd": crowd, "segmentation": shape}
        for i, (category, crowd, shape) in enumerate(shapes, 1)
    ]
    content["images"][0] |= {"width": 40, "height": 24}
    path.write_text(json.dumps(content))
    assert bring(path, "coco", root, ["walk/00001"]) == 0
    data, expected = COCO(str(path)), np.full((24, 40), 255, np.uint8)
    for annotation in data.anns.values():
        expected[data.annToMask(annotation) == 1] = annotation["category_id"] - 1
    assert np.unique(expected).tolist() == [0, 1, 2, 255]
    assert np.array_equal(expected[15:21, 20:22], np.full((6, 2), 2))
    same(root, {"walk/00001.png": expected})


# Colours.


def test_transparent_pixels_are_unlabelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 4})
    car = np.broadcast_to(np.array([70, 80, 90], np.uint8), (24, 40, 3))
    shape = np.where(some_labels(1) == 2, 255, 0).astype(np.uint8)
    expected = np.where(shape == 255, 2, 255).astype(np.uint8)
    source = voc_labels(tmp_path / "masks", {"walk/00000.png": np.dstack([car, shape])})
    # Whatever the colour of what is transparent is; and in a palette.
    strange = np.dstack([np.where(shape[..., None] == 255, car, 99), shape])
    save(source / "SegmentationClass/walk/00001.png", strange)
    indexed = Image.fromarray((shape == 255).astype(np.uint8))
    indexed.putpalette([9, 9, 9, 70, 80, 90])
    indexed.save(source / "SegmentationClass/walk/00002.png", transparency=0)
    assert bring(source, "voc", root, ["walk/0", "walk/1", "walk/2"]) == 0
    same(root, {f"walk/0000{i}.png": expected for i in range(3)})
    shape[9, 9] = 128
    save(source / "SegmentationClass/walk/00003.png", np.dstack([car, shape]))
    assert bring(source, "voc", root, ["walk/3"]) == 2
    assert "1 pixels of the label are half transparent" in capsys.readouterr().err


def test_the_border_of_voc_is_unlabelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    colors = COLORS(some_labels(1))
    colors[:2] = (224, 224, 192)
    expected = some_labels(1)
    expected[:2] = 255
    source = voc_labels(tmp_path / "masks", {"walk/00001.png": colors})
    assert bring(source, "voc", root, ["walk/00001"]) == 0
    same(root, {"walk/00001.png": expected})
    # Where the list has it, it is what the list says; what no list has, is to be added to the list.
    listed = (source / "labelmap.txt").read_text()
    (source / "labelmap.txt").write_text(f"{listed}\nsky2:224,224,192::")
    assert bring(source, "voc", root, ["walk/00001"], "--force") == 2
    assert "unknown class 'sky2'" in capsys.readouterr().err
    (source / "labelmap.txt").write_bytes(f"{listed}\nVoid:224,224,192::".encode("utf-16"))
    assert bring(source, "voc", root, ["walk/00001"], "--force") == 0
    colors[0] = (9, 8, 7)
    save(source / "SegmentationClass/walk/00001.png", colors)
    assert bring(source, "voc", root, ["walk/00001"], "--force") == 2
    error = capsys.readouterr().err
    assert "without a class: (9, 8, 7) (40 pixels); expected those in labelmap.txt" in error
    assert "add the colour to labelmap.txt" in error


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("road:10,20,30::\ncar:10,20,30::", "labelmap.txt gives the colour (10, 20, 30) to road and to car"),
        ("road:0,0,0::\nbackground:0,0,0::", "gives the colour (0, 0, 0) to road and to background"),
        ("# nothing\n", "labelmap.txt lists no classes"),
        ("road", "is damaged"),
    ],
)
def test_lists_of_classes_that_are_not_clear(
    tmp_path: Path, listed: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    source = voc_labels(tmp_path / "masks", {"walk/00001.png": COLORS(some_labels(1))}, listed)
    assert bring(source, "voc", root, ["walk/00001"]) == 2
    assert message in capsys.readouterr().err


# Label Studio.


def brush(folder: Path, name: str, mask: np.ndarray) -> None:
    save(folder / name, np.where(mask, 255, 0).astype(np.uint8))


def task(number: int, image: str, labels: list[str], annotation: int = 21) -> dict[str, object]:
    """A line of JSON-MIN."""
    return {"id": number, "annotation_id": annotation, "image": image, "tag": [{"brushlabels": [n]} for n in labels]}


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/3/a1b2c3d4-00001.png",
        "/data/upload/a1b2c3d4-00001.JPG",
        "/data/local-files/?d=scenes/walk/00001.png",
        "/data/local-files/?d=scenes%5Cwalk%5C00001.png",
        "s3://bucket/walk/00001.jpg",
        "https://example.org/images/walk/00001.png?token=a/b.png",
        "C:\\scenes\\walk\\00001.png",
        "walk/00001.png",
    ],
)
def test_brush_labels_of_label_studio(tmp_path: Path, image: str) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    folder = tmp_path / "export"
    labels = some_labels(1)
    for i, name in enumerate(LABEL_MAP.names):
        brush(folder, f"task-11-annotation-21-by-1-tag-{name}-0.png", labels == i)
    brush(folder, "task-11-annotation-21-by-1-tag-car-1.png", np.zeros((24, 40), bool))
    (folder / "result.json").write_text(json.dumps([task(11, image, ["road", "sky", "car"]), task(12, "x.png", [])]))
    assert bring(folder, "label-studio", root, ["walk/00001"]) == 0
    same(root, {"walk/00001.png": labels})
    assert bring(folder / "result.json", "label-studio", root, ["walk/00001"]) == 0


def test_label_studio_in_full_and_soft_edges_and_overlaps(tmp_path: Path) -> None:
    """Of a whole project in JSON, with the names of classes that end in others, in a ZIP with a single folder."""
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    classes = (root / "classes.yaml").read_text().replace("name: sky", "name: police-car")
    (root / "classes.yaml").write_text(classes)
    grey = np.zeros((3, 24, 40), np.uint8)
    grey[0, :, :10], grey[0, :, 10], grey[0, :, 11] = 255, 128, 127
    grey[1, :, 9:20] = 200
    grey[2, :, 20:30] = 255
    regions = [{"from_name": "tag", "value": {"brushlabels": [name]}} for name in ("road", "police-car", "car")]
    content = [{"id": 1, "data": {"photo": "00002.png", "text": "a"}, "annotations": [{"id": 5, "result": regions}]}]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("project/all.json", json.dumps(content))
        for i, name in enumerate(("road", "police-car", "car")):
            path = save(tmp_path / "0.png", grey[i])
            archive.write(path, f"project/brush/task-1-annotation-5-by-ann@example.org-tag-{name}-0.png")
    assert bring(tmp_path / "a.zip", "label-studio", root, ["walk/00002"]) == 0
    expected = np.full((24, 40), 255, np.uint8)
    expected[:, :9], expected[:, 11:20], expected[:, 20:30] = 0, 1, 2  # 9 and 10 are of both
    same(root, {"walk/00002.png": expected})


@pytest.mark.parametrize(
    ("tasks", "names", "message"),
    [
        ([task(12, "00001.png", ["car"])], ["car-0"], "is of task 11, which a.json does not list"),
        ([task(11, "00001.png", ["truck"])], ["truck-0"], "unknown class 'truck'"),
        ([task(11, "00001.png", ["police-car"])], ["car-0"], "names none of the classes police-car"),
        ([task(11, "00001.png", ["car"])], [], "holds no files task-<id>-annotation-<id>-by-"),
        ([task(11, "00001.png", ["car"]), task(11, "00002.png", [])], ["car-0"], "two tasks have the id 11"),
        ([{"id": 11, "a": "1.png", "b": "2.png"}], ["car-0"], "task 11 names 2 images, expected one"),
        ([{"image": "1.png"}], ["car-0"], "is damaged"),
        ({"a": 1}, ["car-0"], "is damaged"),
        (None, ["car-0"], "holds 0 JSON files, expected one, which says which image a task has"),
    ],
)
def test_label_studio_that_cannot_be_read(
    tmp_path: Path, tasks: object, names: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    (tmp_path / "export").mkdir()
    for name in names:
        brush(tmp_path / "export", f"task-11-annotation-21-by-1-tag-{name}.png", some_labels(1) == 2)
    if tasks is not None:
        (tmp_path / "export/a.json").write_text(json.dumps(tasks))
    assert bring(tmp_path / "export", "label-studio", root, ["walk/00001"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


# A mask as label-studio-converter 0.0.59 encodes it.
MASK = np.array([[*"0000000"], [*"0011110"], [*"0010010"], [*"0010010"], [*"0011110"], [*"1000000"]]) == "1"
CODE = [0, 0, 0, 168, 57, 27, 254, 35, 0, 191, 255, 108, 2, 63, 249, 192, 35, 255, 182, 1, 31, 252, 224, 17, 255, 219]
CODE += [0, 191, 255, 24, 4, 127, 248, 92, 0]


def as_words(mask: np.ndarray) -> list[int]:
    """A mask in brush RLE without runs, each word by itself, in parts of the four sizes."""
    words = np.repeat(np.where(mask.ravel(), 255, 0), 4).tolist()
    bits = f"{len(words):032b}{7:05b}{0:04b}{1:04b}{4:04b}{7:04b}"
    for turn in range(len(words)):
        size = (1, 2, 5, 8)[turn % 4]
        part, words = words[: 1 << size], words[1 << size :]
        if not part:
            break
        bits += f"0{turn % 4:02b}{len(part) - 1:0{size}b}" + "".join(f"{word:08b}" for word in part)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_brush_masks_as_other_programs_encode_them() -> None:
    assert np.array_equal(decode_brush(CODE, *MASK.shape), MASK)
    assert encode_brush(MASK) == CODE
    assert np.array_equal(decode_brush(as_words(MASK), *MASK.shape), MASK)
    large = np.zeros((300, 400), bool)
    large[100:290] = True
    large[:, 7] = True
    assert np.array_equal(decode_brush(encode_brush(large), 300, 400), large)
    assert np.array_equal(decode_brush(as_words(large[90:110, :60]), 20, 60), large[90:110, :60])
    for bad in (CODE[:9], CODE[:-4], [0, 0, 0, 168, 0, 0, 0, *CODE[7:]], [*CODE[:7], 255, *CODE[8:]]):
        with pytest.raises((DataError, ValueError)):
            decode_brush(bad, *MASK.shape)
    with pytest.raises(DataError, match="holds 168 words of 8 bits; one of 6×6 pixels has 144 of 8"):
        decode_brush(CODE, 6, 6)


@pytest.mark.parametrize("package", ["label_studio_sdk.converter", "label_studio_converter"])
def test_label_studio_decodes_what_is_encoded(package: str) -> None:
    theirs = pytest.importorskip(f"{package}.brush", exc_type=ImportError)
    random = np.random.default_rng(0)
    for density in (0, 0.01, 0.5, 0.99, 1):
        mask = random.random((61, 47)) < density
        assert np.array_equal(theirs.decode_rle(encode_brush(mask)).reshape(61, 47, 4)[..., 3], mask * 255)
        assert np.array_equal(decode_brush(theirs.mask2rle(mask.astype(np.uint8) * 255), 61, 47), mask)


def region(labels: np.ndarray, index: int, **more: object) -> dict[str, object]:
    """A brush region as Label Studio exports it in JSON."""
    height, width = labels.shape
    value = {"format": "rle", "rle": encode_brush(labels == index), "brushlabels": [LABEL_MAP.names[index]]}
    place = {"original_width": width, "original_height": height, "image_rotation": 0}
    return {"id": f"r{index}", "type": "brushlabels", "from_name": "tag", **place, "value": value, **more}


def one_task(regions: list[dict[str, object]], **more: object) -> list[dict[str, object]]:
    annotations = [{"id": 5, "was_cancelled": False, "result": regions}]
    return [{"id": 1, "data": {"image": "/data/upload/3/a1b2c3d4-00001.png"}, "annotations": annotations, **more}]


def test_label_studio_as_json_and_json_min(tmp_path: Path) -> None:
    labels = some_labels(1)
    regions = [region(labels, i) for i in range(3)]
    other = [region(some_labels(2), 2)]
    full = one_task([*regions, {"type": "choices", "value": {"choices": ["good"]}}, {"type": "relation"}])
    full[0]["predictions"] = [{"result": other}]
    full[0]["annotations"] += [{"id": 6, "was_cancelled": True, "result": other}]  # type: ignore[operator]
    split = []
    for one in regions:  # the tags Brush and Labels give each region twice
        value = dict(one["value"])  # type: ignore[call-overload]
        names = value.pop("brushlabels")
        split += [one | {"type": "brush", "value": value}, one | {"type": "labels", "value": value | {"labels": names}}]
    flat = [{**one["value"], "original_width": 40, "original_height": 24} for one in regions]  # type: ignore[dict-item]
    small = [{"id": 1, "annotation_id": 5, "image": "walk/00001.png", "tag": flat}]
    predicted = [{"id": 1, "data": {"image": "walk/00001.png"}, "predictions": [{"result": regions}]}]
    for number, content in enumerate((full, one_task(split), small, predicted)):
        root = clips_to_label(tmp_path / f"data{number}", {"walk": 3})
        (tmp_path / "a.json").write_text(json.dumps(content))
        assert bring(tmp_path / "a.json", "label-studio", root, ["walk/00001"]) == 0
        same(root, {"walk/00001.png": labels})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_rotation": 90}, "the image is turned by 90°"),
        ({"original_width": 41}, "the label is 41×24 pixels, its frame is 40×24"),
        ({"type": "brush", "value": {"rle": CODE}}, "a brush mask without a class"),
        ({"value": {"rle": CODE, "brushlabels": ["car"]}}, "holds 168 words of 8 bits"),
        ({"value": {"rle": 7, "brushlabels": ["car"]}}, "is damaged"),
        ({"value": {"rle": [256], "brushlabels": ["car"]}}, "is damaged"),
        (
            {"value": {"rle": encode_brush(np.ones((24, 40), bool)), "brushlabels": ["truck"]}},
            "unknown class 'truck'",
        ),
        ({"value": {"points": [], "polygonlabels": ["car"]}}, "shapes that are no brush masks (polygonlabels)"),
    ],
)
def test_regions_of_label_studio_that_cannot_be_read(
    tmp_path: Path, change: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    labels = some_labels(1)
    changed = region(labels, 0, id="other")
    (tmp_path / "a.json").write_text(json.dumps(one_task([region(labels, 1), changed | change])))
    assert bring(tmp_path / "a.json", "label-studio", root, ["walk/00001"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_two_annotators_of_one_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    tasks = [task(11, "00001.png", ["car"], annotation) for annotation in (21, 22)]
    for annotation in (21, 22):
        brush(tmp_path / "a", f"task-11-annotation-{annotation}-by-1-tag-car-0.png", some_labels(annotation) == 2)
    (tmp_path / "a/a.json").write_text(json.dumps(tasks))
    assert bring(tmp_path / "a", "label-studio", root, ["walk/00001"]) == 2
    assert "walk/00001: its label comes twice" in capsys.readouterr().err


# labelme and YOLO.


def test_shapes_of_labelme(tmp_path: Path) -> None:
    """Polygons, rectangles by any two corners, and masks, the later ones on top; and what its examples call nothing."""
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    png = save(tmp_path / "mask.png", np.eye(3, dtype=np.uint8)).read_bytes()
    shapes = [
        {"label": "road", "shape_type": "polygon", "points": [[0, 0], [40, 0], [40, 24], [0, 24]]},
        {"label": "sky", "shape_type": "rectangle", "points": [[10, 6], [2, 1]]},
        {
            "label": "car",
            "shape_type": "mask",
            "points": [[5.0, 4.0], [7.0, 6.0]],
            "mask": base64.b64encode(png).decode(),
        },
        {"label": "__ignore__", "shape_type": "polygon", "points": [[30, 20], [40, 20], [40, 24], [30, 24]]},
    ]
    path = tmp_path / "scenes/walk/00001.json"
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps({"version": "5.2.1", "shapes": shapes, "imagePath": "..\\\\walk\\00001.jpg", "imageData": ""})
    )
    expected = np.zeros((24, 40), np.uint8)
    expected[1:6, 2:10] = 1
    expected[[4, 5, 6], [5, 6, 7]] = 2
    expected[20:, 30:] = 255
    assert bring(tmp_path / "scenes", "labelme", root, ["walk/00001"]) == 0
    same(root, {"walk/00001.png": expected})
    assert bring(path, "labelme", root, ["walk/00001"], "--clip", "walk") == 0


def test_yolo_as_others_write_it(tmp_path: Path) -> None:
    """Names in a list, in another order, in a file of another name; no clip; polygons that meet, and CRLF."""
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    folder = tmp_path / "export"
    (folder / "labels").mkdir(parents=True)
    (folder / "scenes.yml").write_text("nc: 3\nnames: [car, road, sky]\n")
    lines = ["1 0 0 0.5 0 0.5 1 0 1", "2 0.5 0 1 0 1 1 0.5 1", ""]
    (folder / "labels/00001.txt").write_text("\r\n".join(lines))
    expected = np.zeros((24, 40), np.uint8)
    expected[:, 20] = 255  # both
    expected[:, 21:] = 1
    assert bring(folder, "yolo-seg", root, ["walk/00001"]) == 0
    same(root, {"walk/00001.png": expected})


# Writing.


@pytest.mark.parametrize("locked", ["data", "data/labels", "data/labels/walk"])
def test_a_data_set_that_cannot_be_written_to(
    tmp_path: Path, locked: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a read-only mount; this is told before anything is read."""
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    if locked != "data":
        (tmp_path / locked).mkdir(parents=True)
    source = cvat_images(tmp_path / "a.xml", [("walk/00001.png", some_labels(1))])
    if not locked.endswith("walk"):
        source.write_text("damaged")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / locked)
    before = sorted(root.rglob("*"))
    assert bring(source, "cvat", root, ["walk/00001"]) == 2
    error = capsys.readouterr().err
    assert f"cannot be written: you may not write to {tmp_path / locked}" in error
    assert sorted(root.rglob("*")) == sorted([*before, root / "list.txt"])


def test_a_file_in_place_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    (root / "labels").touch()
    source = cvat_images(tmp_path / "a.xml", [("walk/00001.png", some_labels(1))])
    assert bring(source, "cvat", root, ["walk/00001"]) == 2
    assert "labels is a file, expected a folder" in capsys.readouterr().err


def test_a_label_of_another_format_is_replaced(tmp_path: Path) -> None:
    root = clips_to_label(tmp_path / "data", {"walk": 3})
    save(root / "labels/walk/00001.tif", LABEL_MAP.decode(some_labels(2)))
    source = cvat_images(tmp_path / "a.xml", [("walk/00001.png", some_labels(1))])
    assert bring(source, "cvat", root, ["walk/00001"], "--force") == 0
    assert [path.name for path in (root / "labels/walk").iterdir()] == ["00001.png"]
    same(root, {"walk/00001.png": some_labels(1)})


@pytest.mark.parametrize("orientation", range(1, 10))
def test_frames_go_out_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = tmp_path / "0.jpg"
    Image.fromarray(picture(0)).save(image, exif=exif, quality=95)
    frame = RunFrame("walk", "0", image, tmp_path, tmp_path)
    out = tmp_path / "out/0.jpg"
    Export(LABEL_MAP, (frame,)).copy_image(frame, out)
    expected = read_image(image)
    assert expected.shape[1:] == ((40, 24) if orientation in (5, 6, 7, 8) else (24, 40))
    with Image.open(out) as exported:
        assert exported.getexif().get(0x0112, 1) in (1, 9)
    assert (read_image(out).float() - expected.float()).abs().mean() < 4
    assert (out.read_bytes() == image.read_bytes()) == (orientation in (1, 9))
    assert Frame("0", image).image == image
