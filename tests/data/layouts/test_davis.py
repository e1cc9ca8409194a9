import os
from pathlib import Path

import numpy as np
import pytest

from tests.clips import make_davis
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.io.images import read_image, read_label


def test_every_sequence_is_a_clip_with_masks(tmp_path: Path) -> None:
    index = open_index(make_davis(tmp_path, {"surf": 3, "bear": 5}))
    assert (index.layout, index.binary, index.images) == ("davis", True, ())
    assert [(clip.name, len(clip.frames)) for clip in index.clips] == [("bear", 5), ("surf", 3)]
    assert index.clips[0].keyframes == tuple(range(5))
    assert index.clips[0].frames[3].image == tmp_path / "JPEGImages" / "480p" / "bear" / "00003.jpg"
    assert index.clips[0].frames[3].label == tmp_path / "Annotations" / "480p" / "bear" / "00003.png"


def test_masks_are_two_classes_also_with_alpha_and_empty(tmp_path: Path) -> None:
    index = open_index(make_davis(tmp_path, {"bear": 4}))
    for i, frame in enumerate(index.clips[0].frames):
        assert frame.label is not None
        size = tuple(read_image(frame.image).shape[1:])
        mask = read_label(frame.label, index.label_map, size)
        assert set(mask.unique().tolist()) == ({0, 1} if i < 3 else {0})


def test_the_object_is_written_as_one_and_unlabelled_pixels_as_255(tmp_path: Path) -> None:
    label_map = open_index(make_davis(tmp_path, {"bear": 2})).label_map
    assert label_map.decode(np.array([0, 1, 255], np.uint8)).tolist() == [0, 1, 255]
    assert label_map.encode(np.array([[0, 1, 255]], np.uint8)).tolist() == [[0, 1, 1]]


def test_a_split_list_chooses_sequences(tmp_path: Path) -> None:
    make_davis(tmp_path, {"bear": 2, "surf": 2, "bus": 2})
    lists = tmp_path / "ImageSets" / "480p"
    (lists / "val.txt").write_text(
        "/JPEGImages/480p/bus/00000.jpg /Annotations/480p/bus/00000.png \n\n"
        "/JPEGImages/480p/surf/00000.jpg /Annotations/480p/surf/00000.png \n"
    )
    assert [clip.name for clip in open_index(tmp_path, split="val").clips] == ["bus", "surf"]
    assert [clip.name for clip in open_index(tmp_path, split="train").clips] == ["bear", "bus", "surf"]


def test_a_split_list_may_have_names_alone(tmp_path: Path) -> None:
    make_davis(tmp_path, {"bear": 2, "surf": 2})
    (tmp_path / "ImageSets" / "480p" / "val.txt").write_text("surf\n")
    (tmp_path / "ImageSets" / "480p" / "mine.txt").write_text("JPEGImages\\480p\\bear\\00000.jpg\n")
    assert [clip.name for clip in open_index(tmp_path, split="val").clips] == ["surf"]
    assert [clip.name for clip in open_index(tmp_path, split="mine").clips] == ["bear"]


def test_a_missing_or_empty_split_is_told(tmp_path: Path) -> None:
    make_davis(tmp_path, {"bear": 2})
    missing = tmp_path / "ImageSets" / "480p" / "val.txt"
    with pytest.raises(DataError, match=f"there is no split list {missing}; leave the split out"):
        open_index(tmp_path, split="val")
    missing.write_text("/JPEGImages/480p/elsewhere/00000.jpg\n")
    with pytest.raises(DataError, match="holds no sequences of split 'val'"):
        open_index(tmp_path, split="val")
    missing.write_bytes(b"\xff\x00\xfe")
    with pytest.raises(DataError, match=f"{missing} is no text"):
        open_index(tmp_path, split="val")


def test_frames_without_a_mask_are_targets(tmp_path: Path) -> None:
    make_davis(tmp_path, {"bear": 4})
    for i in (1, 2, 3):
        (tmp_path / "Annotations" / "480p" / "bear" / f"{i:05d}.png").unlink()
    assert open_index(tmp_path).clips[0].keyframes == (0,)


@pytest.mark.data
@pytest.mark.skipif("WRP_DATA" not in os.environ, reason="WRP_DATA is not set")
def test_the_real_sequences_can_be_read_with_their_oddities() -> None:
    index = open_index(Path(os.environ["WRP_DATA"], "davis2016"))
    clips = {clip.name: clip for clip in index.clips}
    lengths = {name: len(clip.frames) for name, clip in clips.items()}
    assert lengths == {"bear": 82, "bus": 80, "car-turn": 80, "surf": 55, "swing": 60}
    assert all(len(clip.keyframes) == len(clip.frames) for clip in index.clips)
    for name, i, classes in (("bear", 77, {0, 1}), ("surf", 54, {0}), ("bus", 0, {0, 1})):
        label = clips[name].frames[i].label
        assert label is not None
        assert set(read_label(label, index.label_map, (480, 854)).unique().tolist()) == classes
