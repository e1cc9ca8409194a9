"""Region similarity J and boundary accuracy F of object masks, as in the DAVIS protocol.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016, section 5.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

# Ratio of the image diagonal within which two boundary points match (Perazzi et al.).
TOLERANCE = 0.008


def region_similarity(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Compute J: the intersection over union of two masks (H, W) bool, in [0, 1]; 1 if both are empty.

    Example:
        >>> region_similarity(np.array([[True, True, False]]), np.array([[False, True, False]]))
        0.5
    """
    union = np.logical_or(prediction, truth).sum()
    return float(np.logical_and(prediction, truth).sum() / union) if union else 1.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W) bool of a mask (H, W) bool that differ from their right, lower or lower right neighbour.

    Example:
        >>> boundary(np.array([[False, True, True, False]])).tolist()
        [[True, False, True, False]]
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask != right) | (mask != below) | (mask != diagonal)


def boundary_accuracy(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Compute F: the harmonic mean of boundary precision and recall of two masks (H, W) bool, in [0, 1].

    Points match within 0.8 % of the image diagonal. 1 if neither mask has a boundary, 0 if only one has.

    Example:
        >>> mask = np.eye(4, dtype=bool)
        >>> boundary_accuracy(mask, mask), boundary_accuracy(mask, np.zeros_like(mask))
        (1.0, 0.0)
    """
    radius = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets[None] ** 2 <= radius**2).astype(np.uint8)
    found, wanted = boundary(prediction).astype(np.uint8), boundary(truth).astype(np.uint8)
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precision = cv2.dilate(wanted, disk)[found > 0].mean()
    recall = cv2.dilate(found, disk)[wanted > 0].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
