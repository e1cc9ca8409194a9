import math

import numpy as np
import pytest

from wrp.metrics.masks import boundary, boundary_accuracy, region_similarity


def box(top: int, left: int, height: int, width: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


EMPTY = box(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (box(10, 10, 20, 20), box(10, 10, 20, 20), 1.0),
        (box(10, 10, 20, 20), box(10, 20, 20, 20), 1 / 3),
        (box(10, 10, 20, 10), box(10, 10, 20, 20), 0.5),
        (box(0, 0, 5, 5), box(30, 30, 5, 5), 0.0),
        (EMPTY, EMPTY, 1.0),
        (EMPTY, box(0, 0, 5, 5), 0.0),
        (box(0, 0, 5, 5), EMPTY, 0.0),
    ],
)
def test_region_similarity_by_hand(prediction: np.ndarray, truth: np.ndarray, expected: float) -> None:
    assert region_similarity(prediction, truth) == pytest.approx(expected)
    assert region_similarity(truth, prediction) == pytest.approx(expected)


def reference_boundary(mask: np.ndarray) -> np.ndarray:
    """The rule of the DAVIS protocol (``seg2bmap``), pixel by pixel."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            neighbours = []
            if x + 1 < width:
                neighbours.append((y, x + 1))
            if y + 1 < height:
                neighbours.append((y + 1, x))
            if x + 1 < width and y + 1 < height:
                neighbours.append((y + 1, x + 1))
            found[y, x] = any(mask[n] != mask[y, x] for n in neighbours)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_boundary_follows_the_protocol(seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 13)) < 0.6
    np.testing.assert_array_equal(boundary(mask), reference_boundary(mask))


def test_boundary_of_a_box_by_hand() -> None:
    expected = np.zeros((5, 6), bool)
    expected[1:4, 1] = expected[1:4, 3] = True
    expected[1, 1:4] = expected[3, 1:4] = True
    np.testing.assert_array_equal(boundary(box(2, 2, 2, 2, (5, 6))), expected)


def test_a_mask_that_fills_the_frame_has_no_boundary() -> None:
    assert not boundary(np.ones((4, 5), bool)).any()
    assert not boundary(np.zeros((4, 5), bool)).any()


def reference_accuracy(prediction: np.ndarray, truth: np.ndarray) -> float:
    radius = math.ceil(0.008 * math.hypot(*truth.shape))
    found, wanted = (np.argwhere(reference_boundary(mask)) for mask in (prediction, truth))
    if not len(found) or not len(wanted):
        return float(len(found) == len(wanted))
    distance = np.linalg.norm(found[:, None] - wanted[None], axis=2)
    precision, recall = (distance.min(1) <= radius).mean(), (distance.min(0) <= radius).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("size", [(30, 40), (130, 170)])
@pytest.mark.parametrize("seed", range(3))
def test_boundary_accuracy_equals_distances_between_all_points(size: tuple[int, int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    first, second = (box(*draw.integers(2, 8, 2), *draw.integers(8, 20, 2), size) for _ in range(2))
    expected = reference_accuracy(first, second)
    assert 0 < expected < 1
    assert boundary_accuracy(first, second) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (box(10, 10, 20, 20), box(10, 10, 20, 20), 1.0),
        (box(10, 10, 20, 20), box(11, 10, 20, 20), 1.0),  # 0.8 % of 100 px is one pixel
        (box(0, 0, 5, 5), box(30, 30, 5, 5), 0.0),
        (EMPTY, EMPTY, 1.0),
        (EMPTY, box(3, 3, 5, 5), 0.0),
        (box(3, 3, 5, 5), EMPTY, 0.0),
    ],
)
def test_boundary_accuracy_by_hand(prediction: np.ndarray, truth: np.ndarray, expected: float) -> None:
    assert boundary_accuracy(prediction, truth) == pytest.approx(expected)


def test_points_match_within_the_tolerance_and_not_beyond() -> None:
    truth = box(10, 10, 20, 20)
    assert boundary_accuracy(box(10, 11, 20, 20), truth) == 1.0
    assert boundary_accuracy(box(10, 12, 20, 20), truth) < 1.0
