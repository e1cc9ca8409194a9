"""Frames of video files, decoded on use, by number (PyAV; extra ``video``)."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wrp.errors import DataError
from wrp.io.integrity import refuse_cut_video
from wrp.io.opening import check_size
from wrp.structures import VideoFrame

# Names of files that are taken for videos without a look into them. Others are looked into: see is_video.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".insv", ".lrv"),  # MP4 and QuickTime
    *(".mkv", ".webm", ".mk3d", ".avi", ".divx", ".wmv", ".asf", ".flv", ".ogv", ".ogm", ".nut", ".ivf"),
    *(".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".mpv", ".m2p", ".vob", ".vro", ".mod", ".tod"),  # MPEG-1 and MPEG-2
    *(".ts", ".mts", ".m2ts", ".m2t", ".tp", ".trp"),  # transport streams
    *(".mxf", ".dv", ".gif", ".apng", ".y4m", ".mjpeg", ".mjpg"),
    *(".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".obu"),  # what an encoder writes, without a container
)

# FFmpeg recognises formats by their content, whatever a file is called, and some of them are lists of other files and
# addresses (concat, HLS, DASH, SDP), name devices, or take a pattern for the names of many pictures (image2): these
# would open what nobody has chosen. So only formats that hold all their frames themselves are read. "mov" may name
# other files as well, which FFmpeg does not open unless it is told to.
FORMATS = {
    "format_whitelist": ",".join(
        (
            *("mov", "matroska", "avi", "asf", "flv", "ogg", "mxf", "nut", "ivf"),  # containers
            *("mpeg", "mpegts", "mpegvideo", "m4v", "h264", "hevc", "obu", "av1", "dv", "mjpeg"),  # streams
            *("gif", "apng", "yuv4mpegpipe"),
        )
    ),
    "protocol_whitelist": "file",
}

# How streams begin that FFmpeg finds in the middle of other files as well, in a PDF with pictures, say.
_CODE = (b"\0\0\1", b"\0\0\0\1")
STREAM_BEGINS = {**dict.fromkeys(("mpegvideo", "m4v", "h264", "hevc"), _CODE), "mjpeg": (b"\xff\xd8",)}

# Brands of pictures that are stored as an MP4 is (HEIF, AVIF).
STILLS = (b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1")

# Formats in which a position is found by a time stamp as ill as by guessing: there, by the place in the file.
SEEK_BY_PLACE = ("mpeg", "mpegts")

# Files that one process keeps open.
OPEN_VIDEOS = 4

# A frame at most this many frames later is reached by decoding on rather than by seeking.
DECODE_ON = 16

# Packets in front of a key frame at which reading begins in a program stream: the first ones after a seek get time
# stamps that belong to others.
RUN_UP = 4

# Frames that are decoded when a video is opened, to see whether its packets tell what is shown.
TRIED = 8

# Bits of a stream's disposition: a cover, and pictures of chapters.
_STILLS = 0x400 | 0x800

# Bytes of a packet of MPEG-4 that may hold nothing but the word that there is no frame.
_TINY = 32

# Stands for the time stamp of a frame that has none.
NO_TIME = -(1 << 63)

# Where recordings were joined to one transport stream, time begins anew, and one of so many packets in front of that
# looks as if it were damaged.
JOINT = 3


class _Key(NamedTuple):
    """A key frame: its time stamp, the bytes of its packet, and the place in the file from which it is reached."""

    time: int
    size: int
    place: int


class _Packets:
    """What a file says of its frames: their time stamps, and at which of them decoding can begin.

    Args:
        codec: FFmpeg's name of the decoder.
        run_up: Packets between the place from which a key frame is reached and the key frame.
    """

    def __init__(self, codec: str, run_up: int = 0) -> None:
        self.codec = codec
        self.count = 0
        self.end = 0  # behind the last time stamp
        self.keys: list[_Key] = []
        self.known: set[tuple[int, int]] = set()  # their time stamps and bytes
        self.begin: int | None = None  # time stamp of the first key frame
        self.has_key = False
        self._times: list[int] = []
        self._leading = False  # what precedes the first key frame is being stored behind it
        self._places: deque[int] = deque([0], maxlen=run_up + 1)
        self._decoded_at: int | None = None
        self._telling = self._as_stored = True
        self._damaged_at: int | None = None

    def add(self, packet: Any) -> None:
        """Note the next packet."""
        self.count += 1
        if packet.pos is not None and packet.pos >= 0:
            self._places.append(packet.pos)
        if packet.is_keyframe:
            self._add_key(packet)
        self._note_damage(packet)
        if not packet.size or packet.is_discard or self._hidden(packet):
            return
        self._telling &= packet.pts is not None and not packet.is_corrupt
        if packet.pts is None:
            return
        self.end = max(self.end, packet.pts + 1)
        if packet.dts is not None:
            self._telling &= self._decoded_at is None or packet.dts >= self._decoded_at
            self._decoded_at = packet.dts
            self._as_stored &= packet.pts == packet.dts
        self._telling &= self.codec != "mpeg4" or packet.size > _TINY
        self._leading &= self.begin is not None and packet.pts < self.begin
        if not self._leading:
            self._times.append(packet.pts)

    def shown(self, reordered: bool) -> list[int]:
        """Return the time stamps of the frames that a decoder shows, in order; none if the packets do not tell.

        Args:
            reordered: Frames are stored in another order than that in which they are shown.
        """
        times = sorted(self._times)
        intra = len(self.keys) >= len(times)
        if not self._telling or len(set(times)) < len(times) or (reordered and self._as_stored and not intra):
            return []
        return times

    def _add_key(self, packet: Any) -> None:
        if not self.has_key:
            self.has_key = self._leading = True
            self.begin = packet.pts
            self._times.clear()
        if packet.pts is not None and not packet.is_discard:
            self.keys.append(_Key(packet.pts, packet.size, self._places[0]))
            self.known.add((packet.pts, packet.size))

    @property
    def corrupt(self) -> bool:
        """Whether a packet is cut short or damaged."""
        return self._damaged_at is not None

    def _note_damage(self, packet: Any) -> None:
        restarts = packet.dts is not None and self._decoded_at is not None and packet.dts < self._decoded_at
        if restarts and self._damaged_at is not None and self.count - self._damaged_at <= JOINT:
            self._damaged_at = None
        if packet.is_corrupt and self.has_key and self._damaged_at is None:
            self._damaged_at = self.count

    def _hidden(self, packet: Any) -> bool:
        """Tell whether a packet of VP8 holds a picture that others are predicted from, which is not shown itself."""
        return self.codec in ("vp8", "libvpx") and not memoryview(packet)[0] & 0x10


class _Lost(Exception):
    """The decoder yields another frame than the one that comes next."""


class Video:
    """The frames of a video file by their number: what a decoder yields from the start of the file, in that order.

    Frames that the file keeps from being shown, as an edit list does, have no number; nor have those that cannot be
    shown because the file begins between two key frames. The time stamps of all frames are read at once, without
    decoding. Where they do not tell which frames are shown, the video is decoded once when it is opened. Rotation that
    the file specifies is applied.

    Args:
        path: The file: of any format that holds its frames itself, whatever its suffix.

    Raises:
        DataError: If the file is not a video, is cut short or holds fewer frames than it declares, or PyAV is missing.

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
        self._log: list[tuple[int, str, str]] = []
        self._frames: Iterator[Any] | None = None
        self._next: int | None = 0  # number of the frame that comes next; None where a seek has still to show it
        self._lands = True  # seeking reaches the frames
        self._damage: tuple[int, str] | None = None  # the first frame that is known not to be reached, and why
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)  # else a message is not logged again when it comes from the next frame
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        try:
            refuse_cut_video(path)
            with self._logged():
                self._container, self._stream = self._open()
                self._packets = self._read_packets()
                self._times: list[int] = self._packets.shown(bool(self._stream.codec_context.has_b_frames))
                if not self._begins_as_told():
                    self._times = self._decode_times()
        except DataError:
            raise
        except Exception as error:  # FFmpegError, and what PyAV makes of values that are out of range
            raise DataError(f"{path} cannot be read as a video: {_reason(error)}") from error
        if not self._times:
            raise DataError(f"{path} cannot be read as a video: it holds no frame that can be shown")
        self._in_order = all(a < b for a, b in pairwise(self._times))

    def __len__(self) -> int:
        return len(self._times)

    def read(self, number: int) -> np.ndarray:
        """Read the frame with this number, (H, W, 3) uint8 RGB; raise DataError if it is damaged or there is none."""
        if not 0 <= number < len(self):
            raise DataError(f"{self.path} has the frames 0 … {len(self) - 1}, got {number}")
        with self._lock, self._logged():
            try:
                frame = self._find(number)
            except Exception as error:  # FFmpegError, and what PyAV makes of values that are out of range
                raise DataError(f"{self.path}: frame {number} cannot be decoded: {_reason(error)}") from error
        check_size(self.path, frame.width, frame.height)
        pixels = frame.to_ndarray(format="rgb24")
        # The angle is counter-clockwise, as numpy's quarter turns are.
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))

    def _open(self) -> tuple[Any, Any]:
        """Open the file at its start; return it with the stream that is read."""
        container = self._av.open(_address(self.path), options=dict(FORMATS))
        stream = _moving_pictures(container)
        if stream is None:
            raise DataError(f"{self.path} holds no video")
        # No threads: they would be missing in a process that is forked from this one.
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        if stream.width or stream.height:  # else the frames will tell
            check_size(self.path, stream.width, stream.height)
        return container, stream

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Collect within the block what FFmpeg logs: it goes on with damaged frames."""
        with self._av.logging.Capture(local=False) as self._log:
            yield

    def _refuse_errors(self) -> None:
        """Raise ValueError if an error was logged."""
        if errors := [message.strip() for level, _, message in self._log if level <= self._av.logging.ERROR]:
            raise ValueError(errors[0])

    def _read_packets(self) -> _Packets:
        """Read what the file says of its frames; raise DataError or ValueError if a part of it is missing."""
        codec, container = self._stream.codec_context.name, self._container.format.name
        packets = _Packets(codec, RUN_UP if container == "mpeg" else 0)
        for packet in self._container.demux(self._stream):
            if packet.size or packet.dts is not None:  # the last one is empty, and there to flush the decoder
                packets.add(packet)
        packets.keys.sort()
        # Decoders and parsers repeat their errors when frames are read, where those in front of the first do not count.
        self._log[:] = [entry for entry in self._log if entry[1] == container != codec]
        self._refuse_errors()
        if packets.corrupt:
            raise ValueError("a part of it is cut short")
        self._refuse_missing(packets)
        return packets

    def _refuse_missing(self, packets: _Packets) -> None:
        """Raise DataError if there are fewer packets than the index of an MP4 or the header of an AVI declares."""
        name, declared, count = self._container.format.name, self._stream.frames, packets.count
        if name == "avi":  # there, frames that are repeated are counted as well, and time stamps are numbers of frames
            count = max(count, packets.end)
        if count < declared and name.startswith("mov"):  # an edit list may leave some out
            with self._av.open(_address(self.path), options={**FORMATS, "ignore_editlist": "1"}) as container:
                again = container.demux(container.streams[self._stream.index])
                count = sum(bool(packet.size or packet.dts is not None) for packet in again)
        if count < declared and name.startswith(("mov", "avi")):
            raise DataError(f"{self.path} declares {declared} frames, but holds {count}: is it whole?")

    def _begins_as_told(self) -> bool:
        """Tell whether the first frames that are decoded are those that the packets tell of."""
        if not self._times:
            return False
        try:
            self._start()
            decoded = [_time(frame) for frame in islice(self._frames or (), TRIED)]
            self._refuse_errors()
        except (self._av.FFmpegError, ValueError):
            return False
        finally:
            self._frames = None
        return decoded == self._times[:TRIED]

    def _decode_times(self) -> list[int]:
        """Decode all frames to see which are shown; raise an error if one is damaged, as others may be missing then."""
        self._start()
        times = [_time(frame) for frame in self._frames or ()]
        self._frames = None
        self._refuse_errors()
        return times

    def _find(self, number: int) -> Any:
        """Return a frame by decoding on, after a seek, or from the start: the first of these that gets there."""
        ways = self._ways(number)
        reason: Exception = _Lost(self._damage[1] if self._damage else "it is missing")
        for way in ways:
            self._log.clear()
            try:
                way()
                frame = self._go_on(number)
            except Exception as error:  # FFmpegError, and what PyAV makes of values that are out of range
                self._frames, reason = None, error
                if way == self._start:
                    self._damage = number, _reason(error)
            else:
                if way == self._start and len(ways) > 1:
                    self._lands = False
                return frame
        raise reason

    def _ways(self, number: int) -> list[Callable[[], None]]:
        """Return what is tried to get in front of a frame."""
        key = self._key_of(number)
        ways: list[Callable[[], None]] = []
        ahead = number - self._next if self._frames is not None and self._next is not None else -1
        if ahead >= 0 and (key is None or ahead <= DECODE_ON or key.time <= self._times[number - ahead]):
            ways.append(_stay)
        if key is not None:
            ways.append(partial(self._seek, key))
        if self._damage is None or number < self._damage[0]:
            ways.append(self._start)
        return ways

    def _key_of(self, number: int) -> _Key | None:
        """Return the key frame from which a frame can be decoded; None: from the start."""
        if not self._in_order or not self._lands:
            return None
        keys = self._packets.keys
        at = bisect_right(keys, self._times[number], key=lambda key: key.time) - 1
        return keys[at] if at >= 0 and keys[at].time > self._times[0] else None

    def _start(self) -> None:
        """Go to the start of the file. It is opened anew: not all formats find back."""
        self._frames = None
        self._container.close()
        self._container, self._stream = self._open()
        self._log.clear()
        self._frames, self._next = self._decoded(None), 0

    def _seek(self, key: _Key) -> None:
        """Go to a key frame, or to one in front of it."""
        self._frames = None
        if self._container.format.name in SEEK_BY_PLACE:
            self._container.seek(key.place, unsupported_byte_offset=True)
        else:
            self._container.seek(key.time, stream=self._stream)
        self._frames, self._next = self._decoded(key), None

    def _decoded(self, key: _Key | None) -> Iterator[Any]:
        """Yield frames from the start or, after a seek, from the first key frame on; raise _Lost where it led astray.

        Errors in what needs frames in front of that key frame do not count.
        """
        before, leading, begin = self._packets.has_key, False, None
        settled = not before  # what is yielded from now on is shown
        for packet in self._container.demux(self._stream):
            if key is not None and before and not self._reaches(packet):
                continue
            first, before = before and packet.is_keyframe, before and not packet.is_keyframe
            if first:
                leading, begin = True, packet.pts
            elif leading:
                leading = begin is not None and packet.pts is not None and packet.pts < begin
            for frame in self._decode(packet, forgiving=before or (leading and not first)):
                settled = settled or not (before or (begin is not None and NO_TIME < _time(frame) < begin))
                if settled:
                    yield frame
                elif key is None:
                    raise DataError(
                        f"{self.path} begins between two key frames, so that its first frames cannot be shown as they "
                        "were: cut them off (ffmpeg -ss SECONDS -i … -c copy …)"
                    )

    def _reaches(self, packet: Any) -> bool:
        """Tell whether a packet after a seek is a key frame; raise _Lost if the file showed none like it before."""
        if packet.is_keyframe and (packet.pts, packet.size) not in self._packets.known:
            raise _Lost("seeking does not find it")
        return bool(packet.is_keyframe)

    def _decode(self, packet: Any, forgiving: bool) -> list[Any]:
        """Decode a packet; ``forgiving``: its errors do not count."""
        try:
            return list(packet.decode())
        except self._av.FFmpegError:
            if not forgiving:
                raise
            return []
        finally:
            if forgiving:
                self._log.clear()

    def _go_on(self, number: int) -> Any:
        """Decode on until a frame; raise _Lost if others come than should."""
        for frame in self._frames or ():
            if self._next is None:
                self._next = self._landed(frame, number)
            if _time(frame) != self._times[self._next]:
                break
            self._next += 1
            if self._next > number:
                self._refuse_errors()
                if frame.is_corrupt:
                    break
                return frame
        raise _Lost("it is damaged or missing")

    def _landed(self, frame: Any, number: int) -> int:
        """Return the number of the first frame after a seek; raise _Lost if a frame cannot be decoded from there."""
        at = bisect_left(self._times, _time(frame), hi=number)
        if not frame.key_frame or self._times[at] != _time(frame):
            raise _Lost("seeking does not find it")
        return at


def is_video(path: Path) -> bool:
    """Tell whether a file is a video: by its suffix or, where that tells nothing, by its content.

    Without PyAV, files of other suffixes are none.

    Example:
        >>> is_video(Path("drive.mp4")), is_video(Path("drive.txt"))
        (True, False)
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return True
    try:
        import av

        with av.logging.Capture(local=False), av.open(_address(path), options=dict(FORMATS)) as container:
            stream, begins = _moving_pictures(container), STREAM_BEGINS.get(container.format.name, (b"",))
            start = _start_of(path)
            still = start[4:8] == b"ftyp" and start[8:12] in STILLS
            return stream is not None and stream.width > 0 and start.startswith(begins) and not still
    except Exception:  # what is no video raises errors of every kind
        return False


def _moving_pictures(container: Any) -> Any:
    """Return the first stream of a file that is a video and no cover, or None."""
    return next((stream for stream in container.streams.video if not stream.disposition.value & _STILLS), None)


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(12)


def _address(path: Path) -> str:
    """Return how FFmpeg is told that this is a file, whatever it is called."""
    return f"file:{path}"


def _reason(error: Exception) -> str:
    """Return an error without its number and the address of the file."""
    return getattr(error, "strerror", None) or str(error)


def _time(frame: Any) -> int:
    """Return the time stamp of a frame, in units of its stream."""
    return NO_TIME if frame.pts is None else int(frame.pts)


def _stay() -> None:
    """Go nowhere: decode on."""


def _state(path: Path) -> tuple[int, int, int]:
    """Return by what a file is told from another one of its name; whoever opens it finds that it is missing."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


class _OpenVideos:
    """The videos that this process has open."""

    def __init__(self) -> None:
        # By the state of the file, too: another one may take its place.
        self.videos: OrderedDict[tuple[Path, tuple[int, int, int]], Video] = OrderedDict()
        self.lock = threading.Lock()
        # Videos of the process that this one was forked from: their decoders' threads do not exist here, so that even
        # freeing them would crash.
        self.inherited: list[Video] = []

    def get(self, path: Path) -> Video:
        key = path, _state(path)
        with self.lock:
            if key not in self.videos:
                self.videos[key] = Video(path)
            self.videos.move_to_end(key)
            while len(self.videos) > OPEN_VIDEOS:
                self.videos.popitem(last=False)
            return self.videos[key]

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
