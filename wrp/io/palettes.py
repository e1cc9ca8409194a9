"""Colours and sizes that all pictures of a run share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wrp.structures import IGNORE_INDEX, LabelMap

CAPTION_HEIGHT = 18
"""Height in pixels of the line of text above a picture."""

CONFIDENCE = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""RGB colours of confidence from 0 (dark) to 1 (bright), as the grey of the files in ``confidence/``."""

PROVENANCE_PALETTE = [255 * (source >> bit & 1) for source in range(8) for bit in range(3)]
"""Palette of the files in ``provenance/``: red is the earlier keyframe, green the later one, blue the teacher.

Where several of them agree with a label, their colours are mixed.
"""

CHECK, GREYS = 8, (200, 230)
"""Side in pixels and grey levels of the checks that show where there is no label, as on the page of a report."""


def is_blended(color: Sequence[int]) -> bool:
    """Tell whether a class is blended over the frame: black, as of a background, would only darken what it covers.

    Example:
        >>> is_blended((0, 0, 0)), is_blended((0, 0, 142))
        (False, True)
    """
    return any(color)


def draw_labels(labels: np.ndarray, label_map: LabelMap) -> np.ndarray:
    """Show labels in the colours of their classes, and grey checks where there is no label: a class may be black.

    Args:
        labels: (H, W) uint8, class indices and 255.
        label_map: The classes with their colours.

    Returns:
        (H, W, 3) uint8 RGB.

    Example:
        >>> classes = LabelMap(ids=(0,), names=("background",), colors=((0, 0, 0),))
        >>> draw_labels(np.array([[0, 255]], np.uint8), classes).tolist()
        [[[0, 0, 0], [200, 200, 200]]]
    """
    y, x = np.indices(labels.shape) // CHECK
    checks = np.array(GREYS, np.uint8)[(y + x) % 2]
    return np.where((labels == IGNORE_INDEX)[..., None], checks[..., None], label_map.colorize(labels))
