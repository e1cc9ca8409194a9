import os
from pathlib import Path

import pytest

from tests.clips import make_camvid, picture, save
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.io.images import read_label


def test_val_is_one_clip_with_the_labelled_frames_of_train_beside_it(tmp_path: Path) -> None:
    index = open_index(make_camvid(tmp_path, val=6, train=4))
    assert index.layout == "camvid"
    assert not index.binary
    assert index.label_map.num_classes == 11
    (clip,) = index.clips
    assert clip.name == "0016E5_07959"
    assert [frame.stem for frame in clip.frames] == [f"0016E5_{7959 + 2 * i:05d}" for i in range(6)]
    assert clip.keyframes == tuple(range(6))
    assert len(index.images) == 4
    assert {frame.image.parent.name for frame in index.images} == {"train"}
    assert {frame.label.parent.name for frame in index.images if frame.label} == {"trainannot"}


def test_void_is_unlabelled(tmp_path: Path) -> None:
    index = open_index(make_camvid(tmp_path, val=1))
    label_path = index.clips[0].frames[0].label
    assert label_path is not None
    label = read_label(label_path, index.label_map)
    assert 255 in label
    assert 11 not in label


def test_the_clips_of_train_have_no_teacher_frames_of_their_own_split(tmp_path: Path) -> None:
    index = open_index(make_camvid(tmp_path, val=2, train=9), split="train")
    assert index.images == ()
    assert sum(len(clip.frames) for clip in index.clips) == 9
    # Three sequences, each every 90 source frames.
    assert [clip.name for clip in index.clips] == ["0001TP_006690", "0006R0_f06720", "0016E5_06750"]


def test_another_spacing_begins_another_clip(tmp_path: Path) -> None:
    make_camvid(tmp_path, val=4)
    for number in (7980, 7981, 7982):
        save(tmp_path / "val" / f"0016E5_{number:05d}.png", picture(0))
    names = [clip.name for clip in open_index(tmp_path).clips]
    assert names == ["0016E5_07959", "0016E5_07980"]


def test_numbers_decide_the_order_and_not_names(tmp_path: Path) -> None:
    make_camvid(tmp_path, val=0)
    (tmp_path / "valannot").mkdir()
    for stem in ("0016E5_10001", "0016E5_9999", "0016E5_10003"):
        save(tmp_path / "val" / f"{stem}.png", picture(0))
    (clip,) = open_index(tmp_path).clips
    assert [frame.stem for frame in clip.frames] == ["0016E5_9999", "0016E5_10001", "0016E5_10003"]


def test_a_lone_frame_does_not_take_the_first_frame_of_the_run_after_it(tmp_path: Path) -> None:
    make_camvid(tmp_path, val=1)
    for number in (8501, 8503, 8505):
        save(tmp_path / "val" / f"0016E5_{number:05d}.png", picture(0))
    assert [len(clip.frames) for clip in open_index(tmp_path).clips] == [1, 3]


def test_frames_of_val_without_a_label_are_targets(tmp_path: Path) -> None:
    make_camvid(tmp_path, val=4)
    (tmp_path / "valannot" / "0016E5_07961.png").unlink()
    assert open_index(tmp_path).clips[0].keyframes == (0, 2, 3)


def test_train_frames_without_a_label_teach_nothing(tmp_path: Path) -> None:
    make_camvid(tmp_path, val=1, train=3)
    next((tmp_path / "trainannot").iterdir()).unlink()
    assert len(open_index(tmp_path).images) == 2


def test_a_name_of_another_shape_is_refused(tmp_path: Path) -> None:
    stray = save(make_camvid(tmp_path, val=1) / "val" / "holiday.png", picture(0))
    with pytest.raises(DataError, match=f"{stray} is no frame of CamVid: expected a name such as 0016E5_07959.png"):
        open_index(tmp_path)


def test_splits_are_checked(tmp_path: Path) -> None:
    make_camvid(tmp_path)
    with pytest.raises(DataError, match=r"splits train, val, test, got 'validation'"):
        open_index(tmp_path, split="validation")
    with pytest.raises(DataError, match=f"there is no folder {tmp_path / 'test'}"):
        open_index(tmp_path, split="test")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path / 'test'} holds no images"):
        open_index(tmp_path, split="test")


@pytest.mark.data
@pytest.mark.skipif("WRP_DATA" not in os.environ, reason="WRP_DATA is not set")
def test_the_real_val_split_is_one_clip() -> None:
    index = open_index(Path(os.environ["WRP_DATA"], "camvid"))
    (clip,) = index.clips
    assert (clip.name, len(clip.frames), len(clip.keyframes), len(index.images)) == ("0016E5_07959", 51, 51, 367)
    label_path = clip.frames[0].label
    assert label_path is not None
    label = read_label(label_path, index.label_map, (360, 480))
    assert set(label.unique().tolist()) <= {*range(11), 255}
