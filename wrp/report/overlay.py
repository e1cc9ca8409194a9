"""Videos of a run: each frame beside itself with its labels blended over it (PyAV; extra ``video``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from wrp.data.index import ClipIndex
from wrp.errors import WrpError
from wrp.io.images import read_image, read_label
from wrp.io.palettes import is_blended
from wrp.io.progress import progress
from wrp.io.writing import replacing
from wrp.structures import IGNORE_INDEX, Clip, LabelMap

# Weight of the labels' colours in the blend, 0 … 1.
BLEND = 0.5

# Encoder, container and options, the better one first: some builds of FFmpeg lack x264.
_ENCODERS = (("libx264", "mp4", {"crf": "20"}), ("libvpx-vp9", "webm", {"crf": "30", "b": "0"}))


@dataclass(frozen=True)
class Encoding:
    """How videos are written.

    Attributes:
        codec: Name of the encoder in FFmpeg.
        container: Format of the file, and its suffix.
        options: Options of the encoder.
        rate: Frames per second.

    Example:
        >>> Encoding("libx264", "mp4", {"crf": "20"}, Fraction(15)).rate
        Fraction(15, 1)
    """

    codec: str
    container: str
    options: dict[str, str]
    rate: Fraction

    @classmethod
    def choose(cls, fps: float) -> Encoding:
        """Choose H.264 in mp4 if PyAV has x264, otherwise VP9 in webm.

        Args:
            fps: Frames per second, 0.1 … 1000.

        Raises:
            WrpError: If PyAV is missing or has neither encoder, or ``fps`` is out of range.
        """
        if not 0.1 <= fps <= 1000:
            raise WrpError(f"--fps must be in 0.1 … 1000, got {fps:g}")
        try:
            import av
        except ImportError as error:
            raise WrpError("writing video needs PyAV: pip install 'wrp[video]'") from error
        found = [encoder for encoder in _ENCODERS if encoder[0] in av.codecs_available]
        if not found:
            raise WrpError("PyAV can encode neither H.264 nor VP9; install it from PyPI: pip install 'wrp[video]'")
        return cls(*found[0], Fraction(fps).limit_denominator(1001))


def write_video(index: ClipIndex, clip: Clip, out: Path, encoding: Encoding) -> Path:
    """Write ``report/<clip>.mp4``, or ``.webm``, frame by frame.

    Args:
        index: The clips of the run.
        clip: The clip to write.
        out: Folder of the run.
        encoding: How the video is written.

    Returns:
        Path of the video.

    Raises:
        DataError: If a frame or a label is missing or damaged, or they differ in size.
    """
    import av

    path = out / "report" / f"{clip.name}.{encoding.container}"
    pictures = _pictures(index, clip, out)
    first = next(pictures)
    with replacing(path) as temporary, av.open(str(temporary), "w", format=encoding.container) as container:
        stream = container.add_stream(encoding.codec, rate=encoding.rate, options=encoding.options)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in progress(
            chain([first], pictures), desc=f"Writing {path.name}", unit="frame", total=len(clip.frames)
        ):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def _pictures(index: ClipIndex, clip: Clip, out: Path) -> Iterator[np.ndarray]:
    """Yield the frames of the video, (H, W, 3) uint8 with even sides."""
    for frame in clip.frames:
        image = read_image(frame.image).permute(1, 2, 0).numpy()
        path = out / "labels" / clip.name / f"{frame.stem}.png"
        labels = read_label(path, index.label_map.written, (image.shape[0], image.shape[1]))
        yield even(np.hstack([image, blend(image, labels.numpy(), index.label_map)]))


def blend(image: np.ndarray, labels: np.ndarray, label_map: LabelMap) -> np.ndarray:
    """Blend the colours of labels over a frame; unlabelled pixels, and those of a black class, stay as they are.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8, class indices and 255.
        label_map: The classes with their colours.

    Returns:
        (H, W, 3) uint8 RGB.

    Example:
        >>> classes = LabelMap(ids=(0,), names=("road",), colors=((128, 64, 128),))
        >>> blend(np.full((1, 2, 3), 100, np.uint8), np.array([[0, 255]], np.uint8), classes).tolist()
        [[[114, 82, 114], [100, 100, 100]]]
    """
    colored = ((1 - BLEND) * image + BLEND * label_map.colorize(labels)).round().astype(np.uint8)
    stays = [index for index, color in enumerate(label_map.colors) if not is_blended(color)]
    return np.where(np.isin(labels, [IGNORE_INDEX, *stays])[..., None], image, colored)


def even(picture: np.ndarray) -> np.ndarray:
    """Pad a picture (H, W, 3) with a black row or column where a side is odd: chroma is stored at half the size.

    Example:
        >>> even(np.zeros((3, 4, 3), np.uint8)).shape
        (4, 4, 3)
    """
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)))
