"""Boundary IoU against the reference implementation's rule, with OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from wrp.metrics.boundary import BoundaryIoU, inner_boundary


def reference(mask: np.ndarray, ratio: float = 0.02) -> np.ndarray:
    """The mask without what is left of it after eroding it, with a frame of zeros (Cheng et al., 2021)."""
    height, width = mask.shape
    reach = max(1, round(ratio * np.hypot(height, width)))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    left = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=reach)[1:-1, 1:-1]
    return mask & (left == 0)


def test_the_boundary_is_that_of_the_reference() -> None:
    generator = np.random.default_rng(0)
    for _ in range(6):
        mask = cv2.GaussianBlur(generator.random((90, 140)).astype(np.float32), (0, 0), 6) > 0.5
        assert np.array_equal(inner_boundary(torch.from_numpy(mask)[None])[0].numpy(), reference(mask))


def test_classes_and_ignored_pixels_are_counted_as_by_hand() -> None:
    generator = np.random.default_rng(1)
    noise = [cv2.GaussianBlur(generator.random((60, 80, 3)).astype(np.float32), (0, 0), 5).argmax(2) for _ in range(2)]
    truth, prediction = (values.astype(np.uint8) for values in noise)
    truth[:20, :30] = 255
    prediction[40:, 70:] = 255
    score = BoundaryIoU(4)  # of the fourth class there is nothing
    score.update(torch.from_numpy(prediction)[None], torch.from_numpy(truth)[None])
    expected = []
    for label in range(3):
        wanted, found = reference(truth == label), reference((prediction == label) & (truth != 255))
        expected.append((wanted & found).sum() / (wanted | found).sum())
    assert score.per_class()[:3].tolist() == expected
    assert score.per_class()[3].isnan()
    assert score.compute().item() == np.mean(expected)
