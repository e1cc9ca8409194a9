"""Video files of every kind, whose frames tell their number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

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
