"""Videos: frames of one kind of array, or DataError; H.264 has no checksums, so other pixels may come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import damaged
from tests.io.videos import encode, index_first, write_plainly, write_video
from wrp.errors import DataError
from wrp.io.video import Video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def read(path: Path) -> list[np.ndarray] | None:
    try:
        video = Video(path)
        return [video.read(number) for number in range(len(video))]
    except DataError:
        return None


MAKE = {
    ".avi": lambda path: write_plainly(path, 8),
    ".mpg": lambda path: encode(path, 8, "mpeg2video"),
    ".gif": lambda path: encode(path, 8, "gif", "rgb8", codec_options={}),
}
"""How a video of eight frames is made whose suffix is none of those for H.264."""


def make(path: Path) -> Path:
    return MAKE.get(path.suffix, lambda path: write_video(path, 8))(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".mpg", ".gif", ".flv"])
@given(data=st.data())
def test_a_damaged_video_is_a_video_or_refused(folder: Path, suffix: str, data: st.DataObject) -> None:
    whole, path = folder / f"whole{suffix}", folder / f"video{suffix}"
    if not whole.is_file():
        make(whole)
        assert len(read(whole) or []) == 8
    path.write_bytes(data.draw(damaged(whole.read_bytes()) | st.binary(max_size=100)))
    frames = read(path)
    for frame in frames or []:
        assert frame.dtype == np.uint8
        assert frame.ndim == 3
        assert frame.shape[2] == 3
        assert frame.size > 0


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "mpeg4.avi", "cut.gif"])
@given(data=st.data())
def test_a_video_that_is_cut_short_is_the_same_or_refused(folder: Path, name: str, data: st.DataObject) -> None:
    whole, path = folder / name, folder / f"cut-{name}"
    if not whole.is_file():
        index_first(make(whole)) if whole.suffix == ".mp4" else make(whole)
    content = whole.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    frames = read(path)
    if frames is not None:  # nothing but an index behind the frames is missing
        assert np.array_equal(frames, read(whole) or [])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".mpg", ".gif"])
@given(data=st.data())
def test_frames_of_any_video_are_the_same_in_any_order(folder: Path, suffix: str, data: st.DataObject) -> None:
    """Also in one that is damaged, as far as they are read at all."""
    whole, path = folder / f"whole{suffix}", folder / f"order{suffix}"
    if not whole.is_file():
        make(whole)
    path.write_bytes(data.draw(st.just(whole.read_bytes()) | damaged(whole.read_bytes())))
    try:
        first, second = Video(path), Video(path)
    except DataError:
        return
    in_order = [read_one(first, number) for number in range(len(first))]
    assert len(second) == len(first)
    for number in data.draw(st.permutations(range(len(first)))):
        frame, expected = read_one(second, number), in_order[number]
        assert frame is None or expected is None or np.array_equal(frame, expected)


def read_one(video: Video, number: int) -> np.ndarray | None:
    try:
        return video.read(number)
    except DataError:
        return None


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mkv\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.mkv\n#EXT-X-ENDLIST\n",
    ],
)
def test_lists_of_other_videos_are_refused(folder: Path, text: str) -> None:
    """FFmpeg would read the files and addresses that such a list names."""
    write_video(folder / "other.mkv", 3)
    (folder / "list.mkv").write_text(text)
    with pytest.raises(DataError, match=r"list\.mkv"):
        Video(folder / "list.mkv")
