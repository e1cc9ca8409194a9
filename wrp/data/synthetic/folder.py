"""Generated street scenes written in the package's folder layout."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from wrp.data.synthetic.scene import CLASSES, render_clip
from wrp.errors import WrpError
from wrp.io.label_map import write_label_map
from wrp.io.opening import check_size, read_json
from wrp.io.outputs import SCENE, check_output, owner_of
from wrp.io.progress import progress
from wrp.io.writing import MARKER, make_folder, take_place, write_image, write_json, write_label
from wrp.options import MAX_SEED, MAX_SIDE, check_range
from wrp.structures import LabelMap

CACHE = Path("~/.cache/wrp/scenes")


def label_map(num_classes: int) -> LabelMap:
    """Return the first ``num_classes`` classes of the generated scenes."""
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
    """Write clips with the labels of all their frames, unless they are there already.

    Args:
        folder: Root of the new data set.
        num_classes: Number of classes, at least 8.
        seed: Seed of the first scene; each further scene has the next one.
        num_frames: Number of frames of each clip.
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.
        clips: Number of clips.

    Returns:
        ``folder``, which appears complete or not at all.

    Raises:
        WrpError: If the folder holds anything else, or a number is out of range.
    """
    scene = {"classes": num_classes, "seed": seed, "frames": num_frames, "size": [height, width], "clips": clips}
    check_range("the number of clips", clips, 1, 100_000)
    check_range("the number of frames", num_frames, 1, 1_000_000)
    check_range("height and width in pixels", (height, width), 16, MAX_SIDE)
    check_size(folder, width, height)
    check_range("the seed", seed, 0, MAX_SEED)
    folder = check_output(folder, SCENE, option="the folder of generated clips")
    if owner_of(folder) is not None:
        if (there := read_json(folder / MARKER, f"delete {folder}").get("scene")) != scene:
            raise WrpError(f"{folder} holds other generated clips, {there}, than {scene}; choose another folder")
        return folder
    make_folder(folder.parent)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        classes = label_map(num_classes)
        for number in progress(range(seed, seed + clips), desc="Generating", unit="clip", disable=clips == 1):
            clip = render_clip(num_frames, height, width, num_classes, number)
            for index, (frame, label) in enumerate(zip(clip.frames, clip.labels, strict=True)):
                name = Path(f"street{number}", f"{index:05d}.png")
                write_image(building / "frames" / name, Image.fromarray(frame))
                write_label(building / "labels" / name, label.astype(np.uint8), classes)
        write_label_map(classes, building / "classes.yaml")
        write_json(building / MARKER, {"wrp": SCENE, "scene": scene})
        building.chmod(0o755)
        take_place(building, folder)
    except OSError:
        if owner_of(folder) is None:  # else another process was faster: its folder is the same
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def cached_folder(num_classes: int, seed: int) -> Path:
    """Return the folder of the default generated clip of this seed; generate it at first use."""
    return generate_folder(CACHE.expanduser() / f"{num_classes}-classes-seed-{seed}", num_classes, seed)
