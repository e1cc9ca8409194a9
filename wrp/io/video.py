"""Frames of video files, decoded on use, by number (PyAV; extra ``video``)."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wrp.errors import DataError
from wrp.io.opening import check_size
from wrp.structures import VideoFrame

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg")

# FFmpeg recognises formats by their content, and some are lists of other files and addresses: these are not read.
FORMATS = {"format_whitelist": "mov,matroska,avi,mpeg,mpegvideo", "protocol_whitelist": "file"}

# Files that one process keeps open.
OPEN_VIDEOS = 4

# A frame at most this many frames later is reached by decoding on rather than by seeking.
DECODE_ON = 16


class Video:
    """The frames of a video file by their number, in the order in which they are shown.

    Frames are found by their time stamps, all of which are read at once, without decoding: so numbers are exact at
    variable frame rates as well, and wherever reading begins. Rotation that the file specifies is applied.

    Args:
        path: The file.

    Raises:
        DataError: If the file is not a video or holds fewer frames than it declares, or PyAV is missing.

    Example:
        >>> import tempfile, cv2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = cv2.VideoWriter(f"{folder}/a.avi", cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 16))
        ...     for grey in (0, 128):
        ...         _ = writer.write(np.full((16, 32, 3), grey, np.uint8))
        ...     writer.release()
        ...     video = Video(Path(folder, "a.avi"))
        ...     len(video), video.read(1).shape
        (2, (16, 32, 3))
    """

    def __init__(self, path: Path) -> None:
        try:
            import av
        except ImportError as error:
            raise DataError(f"{path}: reading video needs PyAV: pip install 'wrp[video]'") from error
        self.path = path
        self._av = av
        self._lock = threading.Lock()
        av.logging.set_level(av.logging.ERROR)
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        try:
            with av.logging.Capture(local=False) as log:
                self._container: Any = av.open(str(path), options=dict(FORMATS))
                if not self._container.streams.video:
                    raise DataError(f"{path} holds no video")
                self._stream: Any = self._container.streams.video[0]
                # No threads: they would be missing in a process that is forked from this one.
                self._stream.thread_type = "NONE"
                check_size(path, self._stream.width, self._stream.height)
                times, whole = [], True
                for packet in self._container.demux(self._stream):
                    whole = whole and not packet.is_corrupt
                    if packet.pts is not None and packet.size:
                        times.append(packet.pts)
        except DataError:
            raise
        except Exception as error:  # FFmpegError, and what PyAV makes of values that are out of range
            raise DataError(f"{path} cannot be read as a video: {error}") from error
        self._refuse(log, "cannot be read as a video")
        if not whole:
            raise DataError(f"{path} cannot be read as a video: a part of it is cut short")
        self.times = sorted(times)
        if not times or len(set(times)) < len(times):
            raise DataError(f"{path} has {len(times)} frames with {len(set(times))} time stamps, expected one for each")
        if self._stream.frames and self._stream.frames != len(times):
            raise DataError(f"{path} declares {self._stream.frames} frames, but holds {len(times)}: is it whole?")
        self._frames: Iterator[Any] | None = None
        self._next = 0

    def __len__(self) -> int:
        return len(self.times)

    def read(self, number: int) -> np.ndarray:
        """Read the frame with this number, (H, W, 3) uint8 RGB; raise DataError if it is damaged or there is none."""
        if not 0 <= number < len(self):
            raise DataError(f"{self.path} has the frames 0 … {len(self) - 1}, got {number}")
        with self._lock, self._av.logging.Capture(local=False) as log:
            try:
                frame = self._decode(number)
            except Exception as error:  # FFmpegError, and what PyAV makes of values that are out of range
                self._frames = None
                raise DataError(f"{self.path}: frame {number} cannot be decoded: {error}") from error
        self._refuse(log, f"frame {number} cannot be decoded")
        if frame is None or frame.is_corrupt:
            raise DataError(f"{self.path}: frame {number} cannot be decoded: it is damaged or missing")
        check_size(self.path, frame.width, frame.height)
        pixels = frame.to_ndarray(format="rgb24")
        # The angle is counter-clockwise, as numpy's quarter turns are.
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))

    def _decode(self, number: int) -> Any:
        if self._frames is None or not 0 <= number - self._next <= DECODE_ON:
            self._container.seek(self.times[number], stream=self._stream, backward=True, any_frame=False)
            self._frames = self._container.decode(self._stream)
        wanted = self.times[number]
        for frame in self._frames:
            if frame.pts is not None and frame.pts >= wanted:
                self._next = number + 1
                return frame if frame.pts == wanted else None
        self._frames = None
        return None

    def _refuse(self, log: list[tuple[int, str, str]], what: str) -> None:
        """Raise errors that the decoder only wrote to its log, as it goes on with damaged frames."""
        if errors := [message.strip() for level, _, message in log if level <= self._av.logging.ERROR]:
            self._frames = None
            raise DataError(f"{self.path}: {what}: {errors[0]}")


class _OpenVideos:
    """The videos that this process has open."""

    def __init__(self) -> None:
        self.videos: OrderedDict[Path, Video] = OrderedDict()
        self.lock = threading.Lock()
        # Videos of the process that this one was forked from: their decoders' threads do not exist here, so that even
        # freeing them would crash.
        self.inherited: list[Video] = []

    def get(self, path: Path) -> Video:
        with self.lock:
            if path not in self.videos:
                self.videos[path] = Video(path)
            self.videos.move_to_end(path)
            while len(self.videos) > OPEN_VIDEOS:
                self.videos.popitem(last=False)
            return self.videos[path]

    def after_fork(self) -> None:
        self.inherited += self.videos.values()
        self.videos, self.lock = OrderedDict(), threading.Lock()


_open = _OpenVideos()
os.register_at_fork(after_in_child=_open.after_fork)


def open_video(path: Path) -> Video:
    """Return the video of a file, kept open for the next call; a forked process opens its own."""
    return _open.get(path)


def read_video_frame(frame: VideoFrame) -> np.ndarray:
    """Read a frame of a video, (H, W, 3) uint8 RGB; raise DataError as :meth:`Video.read`."""
    return open_video(frame.path).read(frame.number)
