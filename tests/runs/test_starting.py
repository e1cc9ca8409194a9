"""`wrp init`: from a video to a folder in which labels are all that is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import CLASSES_YAML, id_picture, make_video, picture, save
from wrp.cli.main import main
from wrp.data.keyframes import Looks, pick_keyframes
from wrp.data.layouts.registry import open_index
from wrp.io.label_map import read_label_map
from wrp.runs import starting


def show(number: int) -> np.ndarray:
    """A clip of two scenes: the second one begins with frame 6."""
    return picture(number) if number < 6 else 255 - np.abs(picture(number)[:, ::-1].astype(int) - 200).astype(np.uint8)


@pytest.fixture
def video() -> Path:
    return make_video(Path("in", "walk.mp4"), [show(i) for i in range(9)])


def test_a_video_becomes_a_folder_that_lacks_only_labels(
    video: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["init", "mine", str(video), "-n", "3"]) == 0
    printed = capsys.readouterr().out
    assert "frames to label: 000000, 000005, 000007" in printed
    assert "wrp autolabel mine --out mine-labelled" in printed
    assert "walk has 2 scenes, new ones begin at 000006" in caplog.text
    for number in (0, 5, 7):
        shown = np.array(Image.open(f"mine/to-label/walk/{number:06d}.png"))
        assert np.array_equal(shown, show(number))
    # What is not filled in is refused, with an example.
    assert main(["data", "check", "mine"]) == 2
    assert "mine/classes.yaml is no list of classes" in capsys.readouterr().err
    Path("mine/classes.yaml").write_text(CLASSES_YAML)
    for drawn in Path("mine/to-label/walk").iterdir():
        save(Path("mine/labels/walk", drawn.name), id_picture(int(drawn.stem)))
    index = open_index("mine")
    # Results may lie beside the video that is linked to, but not in its place.
    assert {Path("mine/frames").resolve(), video.resolve()} <= index.reads
    assert not {video.parent.resolve(), Path.cwd()} & index.reads
    [clip] = index.clips
    assert (clip.name, len(clip.frames), clip.keyframes) == ("walk", 9, (0, 5, 7))
    # A clip that is there, with its labels, is left alone; another one is added.
    assert main(["init", "mine", str(video)]) == 2
    assert "mine has a clip walk already" in capsys.readouterr().err
    save(Path("in", "park", "a7.png"), picture(0))
    assert main(["init", "mine", "in/park", "--copy"]) == 0
    assert [clip.name for clip in open_index("mine").clips] == ["park", "walk"]
    assert Path("mine/classes.yaml").read_text() == CLASSES_YAML
    assert not Path("mine/frames/park").is_symlink()


def test_frames_and_classes_can_be_given(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "mine", str(video), "-n", "2", "--frames", ":5:2", "--classes", "road, person"]) == 0
    printed = capsys.readouterr().out
    assert "frames to label: 000000, 000004" in printed
    assert "wrp autolabel mine --frames :5:2 --out mine-labelled" in printed
    save(Path("mine/labels/walk/000000.png"), id_picture(0, (0, 1)))
    assert open_index("mine").label_map.names == ("road", "person")
    save(Path("in", "park", "a7.png"), picture(0))
    assert main(["init", "mine", "in/park", "--classes", "road, sky"]) == 2
    assert "mine/classes.yaml lists the classes road, person, not road, sky" in capsys.readouterr().err
    assert main(["init", "mine", "in/park", "--classes", "road, person"]) == 0


def test_a_clip_that_cannot_be_linked_to_or_copied_is_not_there(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def link(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    def copy(_: Path, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(starting.os, "symlink", link)
        patch.setattr(starting.shutil, "copyfile", copy)
        assert main(["init", "mine", str(video), "-n", "1", "--classes", "a\\b"]) == 2
        assert "use --copy" in capsys.readouterr().err
        assert main(["init", "mine", str(video), "-n", "1", "--copy"]) != 0
        assert list(Path("mine/frames").iterdir()) == []
    assert main(["init", "mine", str(video), "-n", "1", "--copy"]) == 0
    assert Path("mine/frames/walk.mp4").read_bytes() == video.read_bytes()
    assert read_label_map(Path("mine/classes.yaml")).names == ("a\\b",)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["mine", "in/walk.mp4", "-n", "0"], "-n, must be at least 1, got 0"),
        (["in", "in/walk.mp4"], "in holds other files: choose a new folder"),
        (["mine", "in"], "in holds no images; expected a video, or the folder of the frames of one clip"),
        (["mine", "in/none.mp4"], "there is no file or folder in/none.mp4"),
        (["mine", "in/walk.mp4", "--frames", "9:"], "--frames 9: leaves none of the 9 frames of clip walk"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(
    video: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *args]) == 2
    assert message in capsys.readouterr().err


def test_nothing_is_left_of_a_video_that_cannot_be_read(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # not installed
    assert main(["init", "new", str(video)]) == 2
    assert "reading video needs PyAV: pip install 'wrp[video]'" in capsys.readouterr().err
    assert not Path("new").exists()


def test_each_scene_gets_a_frame_first() -> None:
    looks = Looks(np.zeros((20, 3), np.float32), cuts=(1, 9))
    assert pick_keyframes(looks, 1) == [14]
    assert pick_keyframes(looks, 3) == [0, 5, 14]
    assert pick_keyframes(looks, 5) == [0, 2, 9, 10, 19]
    assert pick_keyframes(looks, 99) == list(range(20))


def test_frames_that_look_different_are_picked() -> None:
    small = np.zeros((20, 3), np.float32)
    small[[3, 17]] = [[1, 0, 0], [0, 1, 1]]
    assert pick_keyframes(Looks(small, cuts=()), 3, by="diverse") == [3, 9, 17]
    assert sorted(pick_keyframes(Looks(small, cuts=()), 99, by="diverse")) == list(range(20))
