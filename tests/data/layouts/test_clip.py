"""A single clip whose labels lie anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import CLASSES_YAML, LABEL_MAP, id_picture, make_folder, make_video, picture, save
from wrp.data.index import narrow
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.io.listing import frame_numbers
from wrp.io.writing import write_label
from wrp.options import SelectArgs
from wrp.structures import VideoFrame


def make_clip(folder: Path, labels: tuple[str, ...] = ("0.png", "000004.png")) -> tuple[Path, Path]:
    """A video of seven frames beside other files, and labels of some of them."""
    video = make_video(folder / "walk.mp4", [picture(i) for i in range(7)])
    for name in labels:
        save(folder / "drawn" / name, id_picture(int(Path(name).stem)))
    (folder / "drawn" / "classes.yaml").write_text(CLASSES_YAML)
    return video, folder / "drawn"


def test_a_video_and_labels_anywhere_are_a_clip(tmp_path: Path) -> None:
    video, labels = make_clip(tmp_path)
    index = open_index(video, labels=str(labels))
    [clip] = index.clips
    assert (index.layout, index.label_map, clip.name, clip.keyframes) == ("clip", LABEL_MAP, "walk", (0, 4))
    assert clip.frames[4].image == VideoFrame(video, 4)
    assert index.notes == index.problems == ()
    # A folder that holds the video or labels may well hold results besides.
    assert index.reads == {video, labels / "0.png", labels / "000004.png"}


def test_a_folder_of_frames_and_labels_anywhere_are_a_clip(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"walk": 4}, labelled=(0, 3))
    (root / "classes.yaml").rename(root / "labels" / "walk" / "classes.yaml")
    index = open_index(root / "frames" / "walk", labels=str(root / "labels" / "walk"))
    assert index.notes == index.problems == ()
    assert [(clip.name, clip.keyframes) for clip in index.clips] == [("walk", (0, 3))]


def test_classes_are_those_of_the_folder_of_the_labels(tmp_path: Path) -> None:
    video, labels = make_clip(tmp_path)
    (labels / "classes.yaml").rename(tmp_path / "classes.yaml")
    with pytest.raises(DataError, match=r"there is no .*drawn/classes\.yaml: .*0\.png is no indexed PNG") as error:
        open_index(video, labels=str(labels))
    assert f"{tmp_path / 'classes.yaml'} is not read: the classes of the labels in {labels} belong" in str(error.value)
    labels.rename(tmp_path / "labels")
    assert open_index(video).label_map == open_index(video, labels=str(tmp_path / "labels")).label_map == LABEL_MAP


def test_indexed_labels_have_no_names_and_it_is_said_where_they_go(tmp_path: Path) -> None:
    video, labels = make_clip(tmp_path, ("0.png",))
    (labels / "classes.yaml").unlink()
    write_label(labels / "0.png", id_picture(0, range(3)), LABEL_MAP)
    index = open_index(video, labels=str(labels))
    assert index.label_map.names == ("class 0", "class 3", "class 7")
    note = f"the classes have no names: list them in {labels / 'classes.yaml'}, in the form classes: "
    assert index.notes == (f"{note}{{0: NAME, 3: NAME, 7: NAME}}",)
    (labels / "classes.yaml").write_text("classes: {0: road, 3: sky, 7: car}")
    index = open_index(video, labels=str(labels))
    assert (index.notes, index.label_map.names, index.label_map.ids) == ((), LABEL_MAP.names, LABEL_MAP.ids)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("4.png", "are labels of one frame; remove one of them"),
        ("walk_04.png", "are labels of one frame; remove one of them"),
        ("frame_1_of_2.png", "it is not clear which frame of the video walk.mp4 this is the label of; expected the fr"),
        ("walk.png", "it is not clear which frame"),
        ("frame_7.png", "is the label of no frame in .*, and the video has the frames 0 … 6"),
        ("7.png", "is the label of no frame in .*, and the video has the frames 0 … 6"),
    ],
)
def test_labels_whose_frame_is_not_clear_are_refused(tmp_path: Path, name: str, message: str) -> None:
    video, labels = make_clip(tmp_path)
    save(labels / name, id_picture(0))
    with pytest.raises(DataError, match=message):
        open_index(video, labels=str(labels))


@pytest.mark.parametrize("layout", ["clip", "folder"])
@pytest.mark.parametrize("name", ["7.png", "04.png"])
def test_what_is_wrong_with_indexed_labels_asks_for_no_classes(tmp_path: Path, name: str, layout: str) -> None:
    video, labels = make_clip(tmp_path)
    (labels / "classes.yaml").unlink()
    indexed = Image.fromarray(np.zeros((24, 40), np.uint8))
    indexed.putpalette([128, 64, 128])
    for path in (*labels.glob("*.png"), labels / name):
        indexed.save(path)
    if layout == "folder":
        (tmp_path / "frames").mkdir()
        (tmp_path / "labels").mkdir()
        video.rename(tmp_path / "frames" / video.name)
        labels.rename(tmp_path / "labels" / video.stem)
    with pytest.raises(DataError, match=r"is the label of no frame|are labels of one frame") as refused:
        open_index(*((video, "auto", None, True, None, str(labels)) if layout == "clip" else (tmp_path,)))
    assert "classes" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["frame_000123", "walk2_0124", "000125_mask", "126"], [123, 124, 125, 126]),
        (["walk2.mp4-7", "walk-8"], [7, 8]),  # the file's name as a whole, and a part of it
        (["cam1_walk2_v3_10", "cam1_walk2_v3_11"], [10, 11]),  # what all names share is no number of a frame
        (["cam1_10", "cam2_11"], [None, None]),
        (["cam1_10"], [None]),  # one name shares nothing
        (["walk2", "walk21", "mask"], [None, 21, None]),
    ],
)
def test_the_only_number_in_a_name_is_that_of_the_frame(names: list[str], expected: list[int | None]) -> None:
    found = frame_numbers(names, "walk2.mp4")
    assert [found.get(name) for name in names] == expected


def test_labels_are_named_as_other_programs_do(tmp_path: Path) -> None:
    video, labels = make_clip(tmp_path, ("0.png",))
    for name in ("walk_frame_2.png", "000004_mask.png"):
        save(labels / name, id_picture(0))
    [clip] = open_index(video, labels=str(labels)).clips
    assert clip.keyframes == (0, 2, 4)
    save(labels / "frame_5.jpg", id_picture(0))
    with pytest.raises(DataError, match=r"frame_5\.jpg is not read, and frame 000005 has no other label"):
        open_index(video, labels=str(labels))


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    video, labels = make_clip(tmp_path)
    with pytest.raises(DataError, match="give the folder of its labels by --labels FOLDER"):
        open_index(video)
    with pytest.raises(DataError, match=rf"{tmp_path} holds no label \(.*\); {labels} does: is it meant?"):
        open_index(video, labels=str(tmp_path))
    with pytest.raises(DataError, match="there is no folder .*none, which --labels names"):
        open_index(video, labels=str(tmp_path / "none"))
    swapped = (
        rf"--labels {video} is a file, expected the folder of the labels: are the two swapped\? {labels} is a fold"
    )
    with pytest.raises(DataError, match=swapped):
        open_index(labels, labels=str(video))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"notes\.txt is no video that can be read"):
        open_index(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="--labels goes with a video or a folder of frames, but .* layout 'folder'"):
        open_index(make_folder(tmp_path / "set", {"walk": 2}), labels=str(labels))


def test_frames_are_chosen_as_in_python(tmp_path: Path) -> None:
    video, labels = make_clip(tmp_path, ("0.png", "2.png", "4.png", "5.png"))
    index = narrow(open_index(video, labels=str(labels)), SelectArgs(frames="1:6:2"))
    [clip] = index.clips
    assert ([frame.stem for frame in clip.frames], clip.keyframes) == (["000001", "000003", "000005"], (2,))
    assert index.notes == (
        "clip walk: the labels of frames 000000, 000002, 000004 are not used, as they are not in --frames 1:6:2",
    )
    with pytest.raises(DataError, match="--frames 7: leaves none of the 7 frames of clip walk"):
        narrow(open_index(video, labels=str(labels)), SelectArgs(frames="7:"))
