"""Real video files, made and read with PyAV."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.clips import CLASSES_YAML, id_picture, save
from tests.io.videos import HEIGHT, WIDTH, index_first, number_of, rotate_metadata, shade, write_plainly, write_video
from wrp.data.items import FrameItems, IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.io.images import read_image
from wrp.io.video import Video
from wrp.structures import VideoFrame


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_frames_come_back_under_their_numbers_in_any_order(tmp_path: Path, suffix: str) -> None:
    video = Video(write_video(tmp_path / f"clip{suffix}", 60))
    assert len(video) == 60
    order = [*range(60), 59, 0, 31, 30, 32, 12, 11, 47, 3]
    assert [number_of(video.read(number)) for number in order] == order


def test_frames_at_uneven_times_keep_their_numbers(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).integers(5, 90, 40)).tolist()
    video = Video(write_video(tmp_path / "clip.mkv", 40, times))
    order = [39, 0, 20, 21, 5, 38]
    assert [number_of(video.read(number)) for number in order] == order


@pytest.mark.parametrize("size", [(47, 63), (49, 80), (17, 33)])
def test_odd_sizes_are_read_as_they_are(tmp_path: Path, size: tuple[int, int]) -> None:
    video = Video(write_video(tmp_path / "clip.mkv", 3, size=size))
    assert video.read(2).shape == (*size, 3)


@pytest.mark.parametrize(("quarter", "matrix"), [(1, (0, -1, 1, 0)), (2, (-1, 0, 0, -1)), (3, (0, 1, -1, 0))])
def test_rotation_that_the_file_asks_for_is_applied_as_opencv_does(
    tmp_path: Path, quarter: int, matrix: tuple[int, int, int, int]
) -> None:
    path = write_video(tmp_path / "clip.mp4", 3)
    plain = Video(path).read(1)
    one, (a, b, c, d) = 1 << 16, matrix
    rotate_metadata(path, (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30))
    turned = Video(path).read(1)
    assert turned.shape == ((WIDTH, HEIGHT, 3) if quarter % 2 else (HEIGHT, WIDTH, 3))
    cv2 = pytest.importorskip("cv2")
    reader = cv2.VideoCapture(str(path))
    reader.read()
    done, reference = reader.read()
    assert done
    assert np.abs(turned.astype(int) - reference[..., ::-1].astype(int)).mean() < 6
    assert sorted([np.array_equal(turned, np.rot90(plain, k)) for k in range(4)]) == [False] * 3 + [True]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = index_first(write_video(tmp_path / "clip.mp4", 60))
    content = path.read_bytes()
    for missing in (1, 20, 100, len(content) // 3, len(content) - 50):
        path.write_bytes(content[:-missing])
        with pytest.raises(DataError, match="cannot be read as a video|is it whole|holds no video"):
            Video(path)


@pytest.mark.parametrize("missing", [1, 3, 50])
def test_a_last_frame_that_is_cut_short_is_refused(tmp_path: Path, missing: int) -> None:
    """Decoders of some codecs make pixels up, without a word."""
    path = index_first(write_plainly(tmp_path / "clip.mp4", 5, "mjpeg"))
    assert len(Video(path)) == 5
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(DataError, match="a part of it is cut short"):
        Video(path)


def test_damaged_frames_are_refused_and_never_guessed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", 60)
    content = bytearray(path.read_bytes())
    draw = np.random.default_rng(0)
    for at in draw.integers(len(content) // 3, len(content) * 2 // 3, 200):
        content[at] = draw.integers(256)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"clip\.mkv"):  # noqa: PT012
        video = Video(path)
        for number in range(len(video)):
            assert number_of(video.read(number)) == number


@pytest.mark.parametrize("content", [b"", b"no video at all", bytes(range(256)) * 50])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"clip\.mp4"):
        Video(path)


def test_numbers_beyond_the_end_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 3)
    with pytest.raises(DataError, match=r"has the frames 0 … 2, got 3"):
        read_image(VideoFrame(path, 3))


def test_a_video_with_labels_named_by_frame_number_is_a_clip(tmp_path: Path) -> None:
    write_video(tmp_path / "frames" / "drive.mp4", 20)
    for name in ("0", "7", "000019"):
        save(tmp_path / "labels" / "drive" / f"{name}.png", id_picture(0, height=HEIGHT, width=WIDTH))
    (tmp_path / "classes.yaml").write_text(CLASSES_YAML)
    index = open_index(tmp_path)
    (clip,) = index.clips
    assert (clip.name, len(clip.frames), clip.keyframes) == ("drive", 20, (0, 7, 19))
    items = IntervalItems(index.clips, index.label_map)
    for i in range(len(items)):
        batch = items[i]
        numbers = [number_of(frame.permute(1, 2, 0).numpy()) for frame in batch.frames]
        assert numbers == list(range(batch.first, batch.first + len(numbers)))
        assert all(isinstance(frame, torch.Tensor) for frame in batch.frames)


def test_labels_of_a_video_have_the_number_of_a_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "frames" / "drive.mp4", 5)
    (tmp_path / "classes.yaml").write_text(CLASSES_YAML)
    wrong = save(tmp_path / "labels" / "drive" / "first.png", id_picture(0))
    with pytest.raises(DataError, match=r"expected the frame's number"):
        open_index(tmp_path)
    wrong.rename(wrong.with_name("5.png"))
    with pytest.raises(DataError, match=r"5\.png is the label of no frame"):
        open_index(tmp_path)


def test_a_clip_is_a_folder_or_a_video_and_not_both(tmp_path: Path) -> None:
    write_video(tmp_path / "frames" / "drive.mp4", 2)
    save(tmp_path / "frames" / "drive" / "0.png", shade(0))
    with pytest.raises(DataError, match="two clips named 'drive'"):
        open_index(tmp_path)


def test_workers_read_videos_that_the_main_process_has_open(tmp_path: Path) -> None:
    """A forked process may neither use nor free the decoders of its parent, more of them than it keeps open."""
    for number in range(6):
        write_video(tmp_path / "frames" / f"clip{number}.mp4", 4)
        save(tmp_path / "labels" / f"clip{number}" / "0.png", id_picture(0, height=HEIGHT, width=WIDTH))
    (tmp_path / "classes.yaml").write_text(CLASSES_YAML)
    index = open_index(tmp_path)
    frames = [(clip.name, i, frame) for clip in index.clips for i, frame in enumerate(clip.frames)]
    for _, _, frame in frames:
        read_image(frame.image)
    gc.collect()  # encoders of these tests have threads, which a worker that frees them would wait for
    loader = DataLoader(FrameItems(frames, index.label_map), None, num_workers=2, timeout=60)
    numbers = [number_of(batch.images[0].permute(1, 2, 0).numpy()) for batch in loader]
    assert numbers == [0, 1, 2, 3] * 6
