"""The layouts of the paper's data sets, on tiny trees of the real shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import picture, save
from tests.layouts import ids, make_cityscapes, make_kitti, make_nyuv2
from wrp.data.index import ClipIndex
from wrp.data.layouts.camvid32 import COLORS
from wrp.data.layouts.registry import LAYOUTS, open_index
from wrp.errors import DataError
from wrp.io.images import read_label
from wrp.structures import Frame


def labels_of(frame: Frame, index: ClipIndex) -> list[int]:
    assert frame.label is not None
    return read_label(frame.label, index.label_map).unique().tolist()


def test_cityscapes(tmp_path: Path) -> None:
    make_cityscapes(tmp_path)
    index = open_index(tmp_path)
    assert (index.layout, index.label_map.num_classes) == ("cityscapes", 19)
    assert [clip.name for clip in index.clips] == [
        "hamburg_000000_000119",
        "hamburg_000000_000149",
        "ulm_000003_000019",
    ]
    for clip in index.clips:
        assert len(clip.frames) == 30
        assert clip.keyframes == (19,)
        assert clip.frames[19].stem == clip.name
    assert labels_of(index.clips[0].frames[19], index) == [0, 13, 18, 255]
    assert [frame.stem for frame in index.images] == ["bochum_000000_000019"]
    assert open_index(tmp_path, split="train").images == ()
    (unlabelled,) = open_index(tmp_path, split="test").clips
    assert (len(unlabelled.frames), unlabelled.keyframes) == (30, ())
    written = index.label_map.decode(np.array([[0, 18, 255]], np.uint8))
    assert written.tolist() == [[7, 33, 255]]


def test_kitti(tmp_path: Path) -> None:
    make_kitti(tmp_path)
    index = open_index(tmp_path)
    assert (index.layout, index.label_map.num_classes) == ("kitti", 19)
    assert [(clip.name, len(clip.frames), clip.keyframes) for clip in index.clips] == [
        ("000000", 21, (10,)),
        ("000001", 21, (10,)),
    ]
    assert labels_of(index.clips[0].frames[10], index) == [0, 10]
    assert all(clip.keyframes == () for clip in open_index(tmp_path, split="testing").clips)


def test_apolloscape(tmp_path: Path) -> None:
    for road in ("road01_ins", "road02_ins"):
        for stem in ("170908_061502408_Camera_5", "170908_061502547_Camera_5"):
            save(tmp_path / road / "ColorImage" / "Record001" / "Camera 5" / f"{stem}.jpg", picture(0))
        save(tmp_path / road / "Label" / "Record001" / "Camera 5" / f"{stem}_bin.png", ids(17, 161, 33, 99, 255))
    index = open_index(tmp_path)
    assert (index.layout, index.label_map.num_classes) == ("apolloscape", 22)
    assert [clip.name for clip in index.clips] == ["road01_ins_Record001_Camera5", "road02_ins_Record001_Camera5"]
    assert index.clips[0].keyframes == (1,)
    # A crowd of cars is cars; an overpass is no class.
    label = read_label(index.clips[0].frames[1].label or Path(), index.label_map)
    assert label[0].unique_consecutive().tolist() == [0, 1, 255]
    (one,) = open_index(tmp_path / "road01_ins").clips
    assert one.name == "Record001_Camera5"


def test_nyuv2(tmp_path: Path) -> None:
    make_nyuv2(tmp_path)
    index = open_index(tmp_path)
    assert (index.layout, index.label_map.num_classes) == ("nyuv2", 40)
    assert [(clip.name, len(clip.frames), clip.keyframes) for clip in index.clips] == [
        ("bathroom_0001", 4, (2,)),
        ("den_0002", 4, (2,)),
    ]
    assert labels_of(index.clips[0].frames[2], index) == [0, 39, 255]
    assert [clip.name for clip in open_index(tmp_path, split="train").clips] == ["bathroom_0001"]
    assert len(set(index.label_map.colors)) == 40


def test_davis_2017_has_a_class_for_each_object(tmp_path: Path) -> None:
    for name, objects in (("bear", 1), ("dogs", 3)):
        for i in range(3):
            save(tmp_path / "JPEGImages" / "480p" / name / f"{i:05d}.jpg", picture(i))
            mask = Image.fromarray(ids(*range(objects + 1)))
            mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
            path = tmp_path / "Annotations" / "480p" / name / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            mask.save(path)
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("bear\n")
    index = open_index(tmp_path)
    assert (index.layout, index.label_map.names) == ("davis2017", ("background", "object 1", "object 2", "object 3"))
    assert not index.binary
    assert index.label_map.colors[2] == (0, 128, 0)
    assert labels_of(index.clips[1].frames[0], index) == [0, 1, 2, 3]
    alone = open_index(tmp_path, split="val")
    assert [clip.name for clip in alone.clips] == ["bear"]
    assert alone.label_map.num_classes == 2


def test_camvid_in_its_own_colours(tmp_path: Path) -> None:
    colors = [*COLORS["sky"], *COLORS["building"], *COLORS["bicyclist"], (0, 0, 0)]
    label = np.repeat(np.repeat(np.array(colors, np.uint8)[None], 24, 0), 4, 1)
    for i in range(3):
        stem = f"0016E5_{7959 + 30 * i:05d}"
        save(tmp_path / "701_StillsRaw_full" / f"{stem}.png", picture(i, 24, label.shape[1]))
        if i != 1:
            save(tmp_path / "LabeledApproved_full" / f"{stem}_L.png", label)
    index = open_index(tmp_path)
    assert (index.layout, index.label_map.num_classes) == ("camvid32", 11)
    (clip,) = index.clips
    assert clip.keyframes == (0, 2)
    read = read_label(clip.frames[0].label or Path(), index.label_map)
    assert read[0].unique_consecutive().tolist() == [0, 1, 10, 255]
    assert sum(len(colors) for colors in COLORS.values()) == 31


def test_every_layout_says_what_it_is_where_nothing_matches(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        open_index(tmp_path)
    assert all(f"\n  {name}: " in str(error.value) for name in LAYOUTS)
    assert "`" not in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_another_layout_is_told_how_it_must_look_and_where_data_are_to_be_had(
    tmp_path: Path, layout: str
) -> None:
    with pytest.raises(DataError, match=rf"does not have the layout '{layout}'\. ") as error:
        open_index(tmp_path, layout)
    told = [str(error.value)]
    with pytest.raises(DataError, match=r"there is no file or folder .*/nowhere") as error:
        open_index(tmp_path / "nowhere", layout)
    for message in (*told, str(error.value)):
        assert layout in ("folder", "clip") or "http" in message
        assert "\n" not in message
        assert "`" not in message


@pytest.mark.parametrize(
    ("layout", "path", "match"),
    [
        ("cityscapes", "leftImg8bit_sequence/val/ulm/ulm_1_2_leftImg8bit.png", "is no file of Cityscapes"),
        ("kitti", "training/image_2/10.png", "is no frame of KITTI"),
        ("camvid32", "701_StillsRaw_full/a.png", "is no frame of CamVid"),
    ],
)
def test_names_of_another_data_set_are_refused(tmp_path: Path, layout: str, path: str, match: str) -> None:
    save(tmp_path / path, picture(0))
    with pytest.raises(DataError, match=match):
        open_index(tmp_path, layout)
