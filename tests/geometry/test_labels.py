import pytest
import torch

from wrp.geometry.labels import argmax_with_confidence, resize_labels


def test_the_most_probable_class_wins_with_its_probability() -> None:
    probs = torch.rand(2, 5, 4, 6).softmax(1)
    labels, confidence = argmax_with_confidence(probs)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), probs.argmax(1))
    assert torch.equal(confidence, probs.amax(1))


def test_nothing_known_is_ignored_with_confidence_zero() -> None:
    probs = torch.tensor([[0.0, 0.2], [0.0, 0.8]]).view(1, 2, 1, 2)
    labels, confidence = argmax_with_confidence(probs)
    assert labels.tolist() == [[[255, 1]]]
    assert confidence.flatten().tolist() == pytest.approx([0.0, 0.8])
    assert argmax_with_confidence(probs, ignore_index=7)[0].tolist() == [[[7, 1]]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("channel", [0, 2])
def test_probabilities_that_are_not_finite_are_never_a_label(value: float, channel: int) -> None:
    probs = torch.full((1, 3, 1, 2), 1 / 3)
    probs[0, channel, 0, 0] = value
    labels, confidence = argmax_with_confidence(probs)
    assert labels[0, 0, 0] == 255
    assert labels[0, 0, 1] != 255
    assert confidence[0, 0, 0] == 0
    assert torch.isfinite(confidence).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32_confidence(dtype: torch.dtype) -> None:
    labels, confidence = argmax_with_confidence(torch.tensor([0.25, 0.75]).view(1, 2, 1, 1).to(dtype))
    assert confidence.dtype == torch.float32
    assert labels.item() == 1


def test_rounding_never_gives_more_than_certainty() -> None:
    assert argmax_with_confidence(torch.full((1, 1, 1, 1), 1.0001))[1].item() == 1


def test_labels_are_resized_by_nearest_neighbour() -> None:
    labels = torch.tensor([[[0, 0, 255, 255], [0, 0, 255, 255], [3, 3, 1, 1], [3, 3, 1, 1]]], dtype=torch.uint8)
    smaller = resize_labels(labels, (2, 2))
    assert smaller.tolist() == [[[0, 255], [3, 1]]]
    assert smaller.dtype == torch.uint8
    assert resize_labels(labels, (4, 4)) is labels
