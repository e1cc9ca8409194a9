"""Generated street scenes written in the package's folder layout."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from wrp.data.datasets.synthetic import CLASSES, render_clip
from wrp.data.labelmaps import write_label_map
from wrp.types import LabelMap
from wrp.writing import write_image, write_label

CACHE = Path("~/.cache/wrp/generated")


def label_map(num_classes: int) -> LabelMap:
    """The first classes of the generated scenes."""
    names, colors = zip(*CLASSES[:num_classes], strict=True)
    return LabelMap(tuple(range(num_classes)), names, colors)


def generate_folder(
    folder: Path,
    num_classes: int = 10,
    seed: int = 0,
    num_frames: int = 49,
    height: int = 256,
    width: int = 448,
    clips: int = 1,
) -> Path:
    """Write clips with the labels of all their frames, unless the folder is there already.

    Args:
        folder: Root of the new data set.
        num_classes: Number of classes, at least 8.
        seed: Seed of the first scene; each further one has the next.
        num_frames: Length of each clip.
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.
        clips: How many.

    Returns:
        ``folder``, which appears complete or not at all.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        classes = label_map(num_classes)
        for scene in tqdm(range(seed, seed + clips), desc="Generating", unit="clip", disable=clips == 1):
            clip = render_clip(num_frames, height, width, num_classes, scene)
            for index, (frame, label) in enumerate(zip(clip.frames, clip.labels, strict=True)):
                name = Path(f"street{scene}", f"{index:05d}.png")
                write_image(building / "frames" / name, Image.fromarray(frame))
                write_label(building / "labels" / name, label.astype(np.uint8), classes)
        write_label_map(classes, building / "classes.yaml")
        building.chmod(0o755)
        building.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster: its folder is the same
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def cached_folder(num_classes: int, seed: int) -> Path:
    """The default generated clip of this seed, made at its first use."""
    return generate_folder(CACHE.expanduser() / f"{num_classes}-classes-seed-{seed}", num_classes, seed)
