"""Videos of a run."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.clips import make_folder, save
from wrp.cli.main import main
from wrp.errors import WrpError
from wrp.report.overlay import Encoding, blend
from wrp.structures import LabelMap

HEIGHT, WIDTH = 33, 49  # odd sides, which the encoders do not take


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a clip whose frames are of one grey and whose upper half is road, the lower car."""
    folder = tmp_path_factory.mktemp("run")
    root = make_folder(folder / "clips", {"walk": 7})
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[HEIGHT // 2 :] = 7
    for i in range(7):
        save(root / f"frames/walk/{i:05d}.png", np.full((HEIGHT, WIDTH, 3), 100 + 20 * i, np.uint8))
        save(root / f"labels/walk/{i:05d}.png", label)
    assert main(["autolabel", str(root), "--out", str(folder / "out"), "--label-every", "3", "--methods=copy"]) == 0
    return folder / "out"


def decode(path: Path) -> tuple[list[np.ndarray], Fraction, str]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)]
        assert stream.average_rate is not None
        return frames, stream.average_rate, stream.codec_context.name


def check(frames: list[np.ndarray]) -> None:
    assert [frame.shape for frame in frames] == [(HEIGHT + 1, 2 * WIDTH, 3)] * 7
    for i, frame in enumerate(frames):
        grey = 100 + 20 * i
        assert np.abs(frame[4:28, 4:45] - grey).max() < 12
        for rows, color in ((slice(4, 12), (10, 20, 30)), (slice(22, 28), (70, 80, 90))):
            blended = [(grey + channel) / 2 for channel in color]
            assert np.abs(frame[rows, WIDTH + 5 : 2 * WIDTH - 5] - blended).max() < 16


def test_a_video_shows_frames_beside_their_labels(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--video"]) == 0
    codec = "h264" if "libx264" in av.codecs_available else "vp9"
    path = run / "report" / ("walk.mp4" if codec == "h264" else "walk.webm")
    assert f"video: {path}" in capsys.readouterr().out
    frames, rate, name = decode(path)
    assert (rate, name) == (15, codec)
    check(frames)
    assert not list(run.rglob("*.tmp"))


def test_without_x264_it_is_vp9(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    assert main(["report", str(run), "--video", "--fps", "12.5"]) == 0
    frames, rate, name = decode(run / "report/walk.webm")
    assert (rate, name) == (Fraction(25, 2), "vp9")
    check(frames)
    monkeypatch.setattr(av, "codecs_available", set())
    with pytest.raises(WrpError, match="neither H.264 nor VP9"):
        Encoding.choose(15)


def test_unlabelled_pixels_stay_as_they_are() -> None:
    image = np.full((1, 2, 3), 200, np.uint8)
    mixed = blend(image, np.array([[0, 255]], np.uint8), LabelMap((0,), ("road",), ((100, 0, 50),)))
    assert mixed.tolist() == [[[150, 100, 125], [200, 200, 200]]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--video", "--fps", "0"], "--fps must be in 0.1 … 1000, got 0"),
        (["--video", "--fps", "nan"], "--fps must be in 0.1 … 1000, got nan"),
        (["--fps", "10"], "--fps 10 needs --video"),
    ],
)
def test_bad_rates_are_refused(run: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), *flags]) == 2
    assert message in capsys.readouterr().err


def test_without_pyav_the_extra_is_named_first(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    before = (run / "report.html").stat().st_mtime_ns
    assert main(["report", str(run), "--video"]) == 2
    assert "pip install 'wrp[video]'" in capsys.readouterr().err
    assert (run / "report.html").stat().st_mtime_ns == before


def test_a_label_of_another_size_leaves_no_video(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "labels/walk/00004.png"
    kept = path.read_bytes()
    (run / "report/walk.mp4").unlink(missing_ok=True)
    try:
        Image.open(path).resize((20, 20)).save(path)
        assert main(["report", str(run), "--video"]) == 2
    finally:
        path.write_bytes(kept)
    assert "00004.png: the label is 20×20 pixels" in capsys.readouterr().err
    assert not (run / "report/walk.mp4").exists()


def test_black_classes_do_not_darken_the_frame() -> None:
    masks = LabelMap(ids=(0, 1), names=("background", "chair"), colors=((0, 0, 0), (128, 0, 0)))
    shown = blend(np.full((1, 3, 3), 100, np.uint8), np.array([[0, 1, 255]], np.uint8), masks)
    assert shown.tolist() == [[[100, 100, 100], [114, 50, 50], [100, 100, 100]]]
