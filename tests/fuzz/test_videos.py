"""Videos: frames of one kind of array, or DataError; H.264 has no checksums, so other pixels may come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import damaged
from tests.io.videos import index_first, write_plainly, write_video
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


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@given(data=st.data())
def test_a_damaged_video_is_a_video_or_refused(folder: Path, suffix: str, data: st.DataObject) -> None:
    whole, path = folder / f"whole{suffix}", folder / f"video{suffix}"
    if not whole.is_file():
        write_plainly(whole, 8) if suffix == ".avi" else write_video(whole, 8)
        assert len(read(whole) or []) == 8
    path.write_bytes(data.draw(damaged(whole.read_bytes()) | st.binary(max_size=100)))
    frames = read(path)
    for frame in frames or []:
        assert frame.dtype == np.uint8
        assert frame.ndim == 3
        assert frame.shape[2] == 3
        assert frame.size > 0


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi"])
@given(data=st.data())
def test_a_video_that_is_cut_short_is_the_same_or_refused(folder: Path, name: str, data: st.DataObject) -> None:
    whole, path = folder / name, folder / f"cut-{name}"
    if not whole.is_file():
        write_plainly(whole, 8) if whole.suffix == ".avi" else index_first(write_video(whole, 8))
    content = whole.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    frames = read(path)
    if frames is not None:  # nothing but an index behind the frames is missing
        assert np.array_equal(frames, read(whole) or [])


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
