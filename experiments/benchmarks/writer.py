"""Compare LabelWriter with raw PNG encoding of the same pictures, in memory and in one thread."""

from __future__ import annotations

import io
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from clips import CLASSES, interval
from measuring import Rows, size_name, timed
from PIL import Image

from wrp import PropagationModule
from wrp.callbacks.writer import LabelWriter
from wrp.data.synthetic.folder import label_map
from wrp.flow.dis import DIS
from wrp.io.palettes import PROVENANCE_PALETTE
from wrp.structures import Prediction


def encode(results: list[Prediction]) -> int:
    """Encode labels, confidence and provenance of each frame; returns the number of bytes."""
    palette, total = label_map(CLASSES).palette, 0
    for result in results:
        labels = Image.fromarray(result.labels.numpy())
        labels.putpalette(palette)
        pictures = [labels, Image.fromarray((result.confidence.numpy() * 255).round().astype(np.uint8))]
        if result.provenance is not None:
            pictures.append(Image.fromarray(result.provenance.numpy()))
            pictures[-1].putpalette(PROVENANCE_PALETTE)
        for picture in pictures:
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG", compress_level=4)
            total += buffer.tell()
    return total


def write(results: list[Prediction], out: Path) -> None:
    """Write the results as ``trainer.predict`` does: atomically, synchronised with the disk, with the manifest."""
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(label_map=label_map(CLASSES)))
    module: Any = SimpleNamespace(methods=["motion"])
    LabelWriter(str(out)).write_on_batch_end(trainer, module, results, None, None, 0, 0)
    shutil.rmtree(out)


def measure(sizes: Sequence[tuple[int, int]], frames: int, repeats: int, folder: Path) -> Rows:
    """Measure frames per second of both by frame size; the median of several runs.

    Args:
        sizes: Heights and widths.
        frames: Number of frames of an interval, propagated by motion.
        repeats: Number of runs.
        folder: Where to write.
    """
    rows = []
    for size in sizes:
        module = PropagationModule(CLASSES, ["motion"], flow=DIS("ultrafast", 1))
        results = list(module.session(interval(*size, frames)))
        out = folder / f"written-{size_name(size)}"
        times = timed(repeats, lambda r=results: encode(r), lambda r=results, o=out: write(r, o))
        raw, ours = (frames / statistics.median(runs) for runs in times)
        rows.append(
            {"frames": size_name(size), "encoded, frames/s": raw, "written, frames/s": ours, "ratio": ours / raw}
        )
    return rows
