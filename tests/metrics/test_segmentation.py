import math

import numpy as np
import pytest
import torch
from torch import Tensor

from wrp.metrics.segmentation import SegmentationScore, class_iou, confusion, mean_iou

IGNORE = 255


def random_labels(seed: int, num_classes: int, shape: tuple[int, ...], unlabelled: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, shape, generator=generator, dtype=torch.uint8)
    return labels.masked_fill(torch.rand(shape, generator=generator) < unlabelled, IGNORE)


def reference_iou(prediction: Tensor, truth: Tensor, num_classes: int) -> list[float]:
    """IoU of each class by going through the pixels one by one."""
    hits, predicted, wanted = (np.zeros(num_classes) for _ in range(3))
    for p, t in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if t == IGNORE:
            continue
        wanted[t] += 1
        if p != IGNORE:
            predicted[p] += 1
        if p == t:
            hits[t] += 1
    union = wanted + predicted - hits
    return [h / u if u else math.nan for h, u in zip(hits, union, strict=True)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("num_classes", "used"), [(2, 2), (5, 5), (11, 4)])
@pytest.mark.parametrize("unlabelled", [0.0, 0.3])
def test_iou_equals_a_loop_over_the_pixels(seed: int, num_classes: int, used: int, unlabelled: float) -> None:
    truth = random_labels(seed, used, (2, 9, 8), 0.2)
    prediction = random_labels(seed + 100, used, (2, 9, 8), unlabelled)
    expected = reference_iou(prediction, truth, num_classes)
    matrix = confusion(prediction, truth, num_classes)
    np.testing.assert_allclose(class_iou(matrix).numpy(), expected)
    np.testing.assert_allclose(mean_iou(matrix).item(), np.nanmean(expected))
    assert torch.isnan(class_iou(matrix)[used:]).all()


def test_confusion_by_hand() -> None:
    truth = torch.tensor([0, 0, 1, 1, IGNORE, IGNORE, 2])
    prediction = torch.tensor([0, 1, 1, IGNORE, 0, IGNORE, IGNORE])
    matrix = confusion(prediction, truth, 3)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]]


def test_an_unlabelled_prediction_counts_as_wrong() -> None:
    truth = torch.zeros(4, 4, dtype=torch.uint8)
    prediction = truth.clone()
    prediction[:, 3] = IGNORE
    assert mean_iou(confusion(prediction, truth, 2)).item() == 0.75


def test_pixels_without_truth_do_not_count_whatever_is_predicted() -> None:
    truth = torch.tensor([0, 1, IGNORE, IGNORE])
    assert mean_iou(confusion(torch.tensor([0, 1, 1, 0]), truth, 3)).item() == 1


def test_absent_classes_are_nan_and_left_out_of_the_mean_but_predicted_ones_count() -> None:
    truth = torch.tensor([0, 0, 0, 0])
    iou = class_iou(confusion(torch.tensor([0, 0, 0, 1]), truth, 3))
    assert iou[:2].tolist() == [0.75, 0]
    assert torch.isnan(iou[2])
    assert mean_iou(confusion(torch.tensor([0, 0, 0, 1]), truth, 3)).item() == 0.375


def test_nothing_labelled_has_no_score() -> None:
    nothing = torch.full((3, 3), IGNORE)
    assert torch.isnan(mean_iou(confusion(nothing, nothing, 4)))


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"prediction \(2, 3\) and truth \(3, 2\) differ in size"):
        confusion(torch.zeros(2, 3), torch.zeros(3, 2), 2)


@pytest.mark.parametrize("value", [3, 254])
@pytest.mark.parametrize("predicted", [0, 2, IGNORE])
def test_a_truth_beyond_the_classes_is_refused_and_not_left_out(value: int, predicted: int) -> None:
    truth = torch.full((2, 2), value, dtype=torch.uint8)
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        confusion(torch.full((2, 2), predicted, dtype=torch.uint8), truth, 3)


def test_the_score_is_one_confusion_matrix_over_all_frames() -> None:
    score = SegmentationScore(4)
    frames = [(random_labels(i, 4, (1, 5, 6), 0.1), random_labels(i + 50, 3, (1, 5, 6), 0.2)) for i in range(5)]
    for prediction, truth in frames:
        score.update(prediction, truth)
    prediction, truth = (torch.cat(parts) for parts in zip(*frames, strict=True))
    expected = reference_iou(prediction, truth, 4)
    assert score.compute().item() == pytest.approx(np.nanmean(expected))
    np.testing.assert_allclose(score.per_class().numpy(), expected)


def test_scores_of_processes_add_up_and_reset() -> None:
    together, halves = SegmentationScore(3), [SegmentationScore(3), SegmentationScore(3)]
    for i in range(6):
        prediction, truth = random_labels(i, 3, (1, 4, 4), 0), random_labels(i + 9, 3, (1, 4, 4), 0.2)
        together.update(prediction, truth)
        halves[i % 2].update(prediction, truth)
    halves[0].merge_state(halves[1])
    assert torch.equal(halves[0].matrix, together.matrix)
    assert halves[0].compute() == together.compute()
    together.reset()
    assert not together.matrix.any()
