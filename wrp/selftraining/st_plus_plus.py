"""ST++ (Yang et al., CVPR 2022): retraining on the unlabelled images whose predictions were stable during training."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from wrp.metrics.segmentation import confusion, mean_iou

Name = TypeVar("Name", bound=Hashable)


def prediction_agreement(prediction: Tensor, last: Tensor, num_classes: int) -> float:
    """Compute the mIoU, in [0, 1], of one prediction against another, over the classes that occur in either.

    Args:
        prediction: (H, W) integer, 0 … C-1.
        last: The other prediction, (H, W) integer, which serves as truth.
        num_classes: C.

    Returns:
        The mIoU; NaN if no pixel can be compared.

    Example:
        >>> import torch
        >>> prediction_agreement(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]), num_classes=2)
        0.25
    """
    return float(mean_iou(confusion(prediction, last, num_classes)))


def stability(predictions: Sequence[Tensor], num_classes: int) -> float:
    """Compute the stability of an image: the mean agreement of earlier checkpoints' predictions with the last one.

    Args:
        predictions: Predictions (H, W) integer of two or more checkpoints, in the order of training.
        num_classes: C.

    Returns:
        The mean mIoU, in [0, 1].

    Example:
        >>> import torch
        >>> last = torch.tensor([[0, 1]])
        >>> stability([torch.tensor([[1, 0]]), last, last], num_classes=2)
        0.5
    """
    *earlier, last = predictions
    scores = [prediction_agreement(prediction, last, num_classes) for prediction in earlier]
    return sum(scores) / len(scores)


def video_reliability(steadiness: float, last: Tensor, propagated: Tensor, num_classes: int) -> float:
    """Score a video frame (ours): half stability, half agreement of the prediction with the propagated label.

    Args:
        steadiness: The :func:`stability` of the frame, in [0, 1].
        last: The prediction of the last checkpoint, (H, W) integer.
        propagated: The propagated label, (H, W) integer, 255 where unlabelled.
        num_classes: C.

    Returns:
        The score, in [0, 1].

    Example:
        >>> import torch
        >>> label = torch.tensor([[0, 1]])
        >>> video_reliability(0.5, label, label, num_classes=2)
        0.75
    """
    agreement = prediction_agreement(last, propagated, num_classes)
    # A frame without any propagated label has no agreement.
    return (steadiness + (0.0 if math.isnan(agreement) else agreement)) / 2


def split_reliable(scores: Mapping[Name, float]) -> tuple[list[Name], list[Name]]:
    """Split images into the better half and the others, each best first; among equals, the earlier one first.

    The half is rounded down, but holds at least one image.

    Args:
        scores: Score of each image; larger is better.

    Example:
        >>> split_reliable({"a": 0.2, "b": 0.9, "c": 0.5})
        (['b'], ['c', 'a'])
    """
    ranked = sorted(scores, key=lambda name: -scores[name])
    half = max(1, len(ranked) // 2)
    return ranked[:half], ranked[half:]


def split_reliable_by_clip(scores: Mapping[tuple[str, Name], float]) -> tuple[list[tuple[str, Name]], ...]:
    """Split the frames (clip, name) of each clip by itself, see :func:`split_reliable` (ours).

    A split over all clips would select the frames of easy clips only.

    Example:
        >>> split_reliable_by_clip({("x", 0): 0.9, ("x", 1): 0.8, ("y", 0): 0.1, ("y", 1): 0.2})
        ([('x', 0), ('y', 1)], [('x', 1), ('y', 0)])
    """
    clips: dict[str, dict[tuple[str, Name], float]] = {}
    for key, score in scores.items():
        clips.setdefault(key[0], {})[key] = score
    halves = [split_reliable(of_clip) for of_clip in clips.values()]
    return [key for reliable, _ in halves for key in reliable], [key for _, rest in halves for key in rest]


def checkpoint_epochs(epochs: int) -> tuple[int, int, int]:
    """Return after how many epochs, or steps, a checkpoint is kept: a third, two thirds, and all of them.

    Example:
        >>> checkpoint_epochs(80)
        (26, 53, 80)
    """
    return epochs // 3, 2 * epochs // 3, epochs


def repeat_labelled(labelled: int, unlabelled: int) -> int:
    """Return how often labelled images are repeated, so that they are at least as many as the unlabelled ones.

    Example:
        >>> repeat_labelled(labelled=3, unlabelled=10)
        4
    """
    return -(-unlabelled // labelled)
