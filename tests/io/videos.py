"""Video files of every kind, whose frames tell their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64


def shade(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame that says its number: a bar of 16 blocks of black and white in binary."""
    frame = np.full((height, width, 3), 90, np.uint8)
    for bit in range(16):
        frame[:16, bit * width // 16 : (bit + 1) * width // 16] = 230 * (number >> bit & 1)
    return frame


def number_of(frame: np.ndarray) -> int:
    width = frame.shape[1]
    blocks = [frame[4:12, bit * width // 16 + 1 : (bit + 1) * width // 16 - 1].mean() for bit in range(16)]
    return sum((block > 115) << bit for bit, block in enumerate(blocks))


def write_video(
    path: Path, count: int, times: list[int] | None = None, size: tuple[int, int] = (HEIGHT, WIDTH), **options: str
) -> Path:
    """A video with a key frame every 12 frames and B-frames between them, so that frames are not stored in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "12", "bf": "2", **options})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 600)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(shade(number, *size), format="rgb24")
            frame.pts = times[number] if times else 20 * number
            frame.time_base = Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_plainly(path: Path, count: int, codec: str = "mpeg4") -> Path:
    """A video at an even rate; the header of an AVI says how many frames there are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=15)
        stream.height, stream.width = HEIGHT, WIDTH
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def index_first(video: Path) -> Path:
    """Write an MP4 anew with its index before its frames, so that one that is cut short can be opened."""
    place = video.with_suffix(".new.mp4")
    with av.open(str(video)) as old, av.open(str(place), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return place.replace(video)


def rotate_metadata(path: Path, matrix: tuple[int, ...]) -> None:
    """Write a display matrix into the track header of an MP4."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 4 * 2  # version and flags, times and ids, reserved, layer …
    content[at : at + 36] = b"".join(int(value).to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(content)


def encode(
    path: Path,
    count: int = 30,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (HEIGHT, WIDTH),
    kind: str | None = None,
    times: Iterable[int] | None = None,
    codec_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A video of any codec and format.

    Args:
        kind: Name of the format; None: that of the suffix.
        times: Numbers of the frames by an even clock, for those that come at uneven times.
        codec_options: Of the encoder; None: B-frames and a key frame every 12 frames.
        options: Of the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = {"g": "12", "bf": "2"} if codec_options is None else codec_options
    with av.open(str(path), "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=25, options=wanted)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        for number, time in enumerate(range(count) if times is None else times):
            frame = av.VideoFrame.from_ndarray(shade(number, *size), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy_packets(source: Path, path: Path, kept: Callable[[int, Any], bool], shift: int = 0, **options: str) -> Path:
    """Copy a video without encoding it anew.

    Args:
        kept: Whether the packet with this number is copied.
        shift: What is taken from all time stamps, in units of the source.
        options: Of the format.
    """
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = (packet for packet in old.demux(video=0) if packet.dts is not None)
        for number, packet in enumerate(packets):
            if kept(number, packet):
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                new.mux(packet)
    return path


def edit(path: Path, edits: list[tuple[int, int]]) -> Path:
    """Give an MP4 with its index behind its frames an edit list: each time of play in ms, and where it begins."""
    content = bytearray(path.read_bytes())
    entries = b"".join(
        length.to_bytes(4, "big") + begin.to_bytes(4, "big", signed=True) + b"\0\1\0\0" for length, begin in edits
    )
    body = b"elst" + bytes(4) + len(edits).to_bytes(4, "big") + entries
    box = (len(body) + 4).to_bytes(4, "big") + body
    at = content.index(b"elst") - 4
    before = int.from_bytes(content[at : at + 4], "big")
    for outer in (b"moov", b"trak", b"edts"):
        begin = content.index(outer) - 4
        size = int.from_bytes(content[begin : begin + 4], "big") + len(box) - before
        content[begin : begin + 4] = size.to_bytes(4, "big")
    content[at : at + before] = box
    path.write_bytes(content)
    return path


def pack_frames(path: Path, count: int = 30) -> Path:
    """An AVI as DivX wrote it: a B-frame lies in the packet of the frame behind it, and an empty word in its place."""
    source = encode(path.with_suffix(".plain.avi"), count, "mpeg4", codec_options={"bf": "1", "b_strategy": "0"})
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    start, nothing, packed = b"\0\0\1\xb6", b"\0\0\1\xb6\x50\x7f", list[bytes]()
    for packet in packets:
        if packet[packet.index(start) + 4] >> 6 == 2:  # it is a B-frame
            packed[-1] += packet
            packed.append(nothing)
        else:
            packed.append(packet)
    at = packed[0].index(start)
    packed[0] = packed[0][:at] + b"\0\0\1\xb2DivX503b1393p" + packed[0][at:]
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, content in enumerate(packed):
            packet = av.Packet(content)
            packet.pts = packet.dts = number
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), number == 0
            new.mux(packet)
    source.unlink()
    return path


def write_with_cover(path: Path, count: int) -> Path:
    """An MP4 with a cover in front of its sound and its video, of which there may be none."""
    cover = BytesIO()
    Image.fromarray(shade(999)).save(cover, "JPEG")
    with av.open(str(path), "w", format="mp4") as container:
        still = container.add_stream("mjpeg", rate=25)
        still.height, still.width, still.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        still.disposition = av.stream.Disposition.attached_pic
        sound = container.add_stream("aac", rate=44100)
        video = container.add_stream("mpeg4", rate=25) if count else None
        if video is not None:
            video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = still, 0, 0, Fraction(1, 25)
        packet.is_keyframe = True
        container.mux(packet)
        for number in range(max(count, 5)):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 44100, 1024 * number
            container.mux(sound.encode(silence))
            if video is not None:
                container.mux(video.encode(av.VideoFrame.from_ndarray(shade(number), format="rgb24")))
        for stream in (sound, video):
            if stream is not None:
                container.mux(stream.encode())
    return path


def decoded(path: Path) -> list[np.ndarray]:
    """All frames that a decoder yields from the start, passing over what it cannot decode."""
    frames = []
    with av.logging.Capture(local=False), av.open(str(path)) as container:
        stream = next(s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            try:
                frames += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
            except av.FFmpegError:
                continue
    return frames
