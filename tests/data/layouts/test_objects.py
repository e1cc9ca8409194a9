"""Layouts whose classes are the objects of a video: DAVIS 2017 and YouTube-VOS; and VSPW, whose classes have names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.clips import picture, save
from tests.layouts import ids, make_davis2017, make_vspw, make_youtubevos, save_mask
from wrp.cli.main import main
from wrp.data.index import ClipIndex
from wrp.data.layouts.davis2017 import COLORS, object_map
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.io.images import read_label


def values_of(index: ClipIndex, frame: int, clip: int = 0) -> list[int]:
    label = index.clips[clip].frames[frame].label
    assert label is not None
    return read_label(label, index.label_map).unique().tolist()


@pytest.mark.parametrize(
    "masks",
    [
        [(1,), (1, 2), (1, 2)],
        [(2,), None, (1,)],
        [(), (), (2, 1)],
        [None, (1,), (2,)],
        [(1, 255), (2,), (255,)],
    ],
)
def test_objects_that_come_later_count(
    masks: list[tuple[int, ...] | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_davis2017(tmp_path, {"bear": [()], "dogs": masks})
    assert open_index(tmp_path).label_map.names == ("background", "object 1", "object 2")
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "object 2" in capsys.readouterr().out


def test_the_objects_are_those_of_the_split(tmp_path: Path) -> None:
    make_davis2017(tmp_path, {"bear": [(1,)] * 2, "dogs": [(1,), (1, 2)]})
    (tmp_path / "ImageSets" / "2017" / "mine.txt").write_text("bear\n")
    assert open_index(tmp_path, split="mine").label_map.num_classes == 2


def test_numbers_that_no_object_has_are_no_classes(tmp_path: Path) -> None:
    make_davis2017(tmp_path, {"dogs": [(3,), (40,)]})
    index = open_index(tmp_path)
    assert index.label_map.ids == (0, 3, 40)
    assert index.label_map.colors[1:] == (COLORS[3], COLORS[40])
    assert values_of(index, 1) == [0, 2]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_masks_in_the_colours_of_the_palette_are_read(mode: str, tmp_path: Path) -> None:
    make_davis2017(tmp_path, {"dogs": [None, None]})
    for i, objects in enumerate([(1,), (1, 2)]):
        colors = np.array(COLORS, np.uint8)[ids(0, *objects)]
        save(tmp_path / "Annotations" / "480p" / "dogs" / f"{i:05d}.png", colors, mode)
    index = open_index(tmp_path)
    assert index.label_map.names == ("background", "object 1", "object 2")
    assert values_of(index, 1) == [0, 1, 2]


def test_another_palette_gives_the_colours(tmp_path: Path) -> None:
    make_davis2017(tmp_path, {"dogs": [None, None]})
    for i, objects in enumerate([(1,), (1, 2)]):
        palette = (0, 0, 0, 0, 128, 0, 128, 0, 0)
        save_mask(tmp_path / "Annotations" / "480p" / "dogs" / f"{i:05d}.png", ids(0, *objects), palette)
    index = open_index(tmp_path)
    assert index.label_map.colors == ((0, 0, 0), (0, 128, 0), (128, 0, 0))
    assert values_of(index, 1) == [0, 1, 2]


def test_masks_of_davis_2016_are_not_taken_for_unlabelled(tmp_path: Path) -> None:
    make_davis2017(tmp_path, {"bear": [(255,)] * 2, "dogs": [(1,)]})
    with pytest.raises(DataError, match=r"bear.*hold 255.*choose the layout davis"):
        open_index(tmp_path)
    assert values_of(open_index(tmp_path, "davis"), 0) == [0, 1]


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (np.arange(960, dtype=np.uint16).reshape(24, 40).astype(np.uint8), "so many objects cannot be"),
        (picture(0), "no object's in the palette"),
    ],
)
def test_masks_that_show_no_objects_are_refused(mask: np.ndarray, match: str, tmp_path: Path) -> None:
    make_davis2017(tmp_path, {"dogs": [None]})
    save(tmp_path / "Annotations" / "480p" / "dogs" / "00000.png", mask)
    with pytest.raises(DataError, match=match):
        open_index(tmp_path)


def test_colours_differ() -> None:
    assert len(set(object_map(range(40)).colors)) == 40


def test_youtubevos_train_is_labelled_throughout(tmp_path: Path) -> None:
    make_youtubevos(tmp_path)
    index = open_index(tmp_path)
    assert [(clip.name, clip.keyframes) for clip in index.clips] == [("003234408d", (0, 1, 2))]
    assert [frame.stem for frame in index.clips[0].frames] == ["00000", "00005", "00010"]
    assert index.label_map.names == ("background", "object 1", "object 3")
    assert values_of(index, 0) == [0, 1, 2]
    assert index.notes == ()


@pytest.mark.parametrize("meta", [True, False])
def test_youtubevos_objects_that_appear_later_are_classes(meta: bool, tmp_path: Path) -> None:
    index = open_index(make_youtubevos(tmp_path, meta), split="valid")
    assert index.clips[0].keyframes == (0, 2)
    assert index.label_map.names == ("background", "object 1", "object 2")
    (note,) = index.notes
    assert "1 masks lack objects" in note
    assert "00025.png" in note


@pytest.mark.parametrize("base", [".", "all_frames"])
def test_youtubevos_all_frames_have_the_masks_of_every_fifth(base: str, tmp_path: Path) -> None:
    make_youtubevos(tmp_path)
    if base != ".":
        (tmp_path / base).mkdir()
        shutil.move(tmp_path / "valid_all_frames", tmp_path / base)
    (clip,) = open_index(tmp_path, split="valid_all_frames").clips
    assert (len(clip.frames), clip.keyframes) == (11, (0, 10))


def test_youtubevos_may_be_one_split(tmp_path: Path) -> None:
    make_youtubevos(tmp_path)
    index = open_index(tmp_path / "train")
    assert (index.layout, len(index.clips)) == ("youtubevos", 1)
    with pytest.raises(DataError, match="no split 'valid' here; there is train"):
        open_index(tmp_path / "train", split="valid")


def test_youtubevos_videos_that_meta_does_not_name_are_looked_at(tmp_path: Path) -> None:
    make_youtubevos(tmp_path)
    save(tmp_path / "train" / "JPEGImages" / "mine" / "00000.jpg", picture(0))
    save_mask(tmp_path / "train" / "Annotations" / "mine" / "00000.png", ids(0, 7))
    assert open_index(tmp_path).label_map.ids == (0, 1, 3, 7)


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"videos": []}', '{"videos": {"a": {}}}', '{"videos": {"a": 1}}'])
def test_youtubevos_damaged_meta_is_told(text: str, tmp_path: Path) -> None:
    make_youtubevos(tmp_path)
    (tmp_path / "train" / "meta.json").write_text(text)
    with pytest.raises(DataError, match=r"meta\.json .*download it again, or remove it"):
        open_index(tmp_path)


def test_folders_that_only_look_like_youtubevos_are_no_such(tmp_path: Path) -> None:
    save(tmp_path / "voc" / "JPEGImages" / "2007_000032.jpg", picture(0))
    (tmp_path / "voc" / "Annotations").mkdir()
    save(tmp_path / "vis" / "train" / "JPEGImages" / "00f88c4f0a" / "00000.jpg", picture(0))
    for root in (tmp_path / "voc", tmp_path / "vis"):
        with pytest.raises(DataError, match="has no layout that is known"):
            open_index(root)


def test_vspw(tmp_path: Path) -> None:
    make_vspw(tmp_path)
    index = open_index(tmp_path)
    assert [(clip.name, clip.keyframes) for clip in index.clips] == [
        ("0_wHszmJBqTKU", (0, 1, 2)),
        ("127_x2RbqYKJQGo", (0, 1, 2)),
    ]
    assert index.notes == ("1 videos without masks are left out, the first is 5_MYE",)
    assert [clip.name for clip in open_index(tmp_path, split="test").clips] == ["5_MYE"]
    assert (index.layout, index.label_map.num_classes) == ("vspw", 124)
    assert index.label_map.names[::123] == ("class 1", "class 124")
    assert values_of(index, 0) == [0, 123, 255]
    assert len(set(index.label_map.colors)) == 124
    assert [clip.name for clip in open_index(tmp_path, split="train").clips] == ["0_wHszmJBqTKU"]


def test_vspw_names_its_classes(tmp_path: Path) -> None:
    make_vspw(tmp_path)
    names = tmp_path / "label_num_dic_final.json"
    names.write_text(json.dumps({"others": "0", "wall": "1", "train": 124}))
    assert open_index(tmp_path).label_map.names[:2] == ("wall", "class 2")
    assert open_index(tmp_path).label_map.names[-1] == "train"
    names.write_text('{"wall": "one"}')
    with pytest.raises(DataError, match=r"label_num_dic_final\.json does not name the classes"):
        open_index(tmp_path)


def test_vspw_lists_may_name_videos_that_are_not_there(tmp_path: Path) -> None:
    make_vspw(tmp_path)
    (tmp_path / "val.txt").write_text("127_x2RbqYKJQGo\nelsewhere\n")
    index = open_index(tmp_path, split="val")
    assert [clip.name for clip in index.clips] == ["127_x2RbqYKJQGo"]
    assert "names 1 videos that are not in" in index.notes[0]
    (tmp_path / "val.txt").write_text("elsewhere\n")
    with pytest.raises(DataError, match="no frames of split 'val'"):
        open_index(tmp_path, split="val")
