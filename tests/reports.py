"""A run of autolabel on tiny clips, with markup for names, to test the report on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.clips import CLASSES_YAML, id_picture, make_folder, save
from wrp.cli.main import main

# No folder can be named </script>, but a class can.
CLIP = "<img src=x onerror=alert(1)>"
CLASS = "</script><script>alert(2)</script>"
COLORS = {0: (10, 20, 30), 3: (40, 50, 60), 7: (70, 80, 90)}
FRAMES = {"walk": 9, CLIP: 5}


def make_run(folder: Path) -> Path:
    """A run on two clips, of which every fourth label is a keyframe and the others are hidden.

    The truth of two held-out frames is another's, so that there are errors to show.
    """
    root, out = make_folder(folder / "clips", FRAMES), folder / "<b>out<b>"
    for wrong in (2, 3):
        save(root / f"labels/walk/{wrong:05d}.png", id_picture(3 * wrong))
    (root / "classes.yaml").write_text(CLASSES_YAML.replace("sky", json.dumps(CLASS)))
    assert main(["autolabel", str(root), "--out", str(out), "--label-every", "4", "--methods", "copy,motion"]) == 0
    return out


def ids(path: Path) -> np.ndarray:
    """The values of a picture as they are stored."""
    with Image.open(path) as image:
        return np.array(image)
