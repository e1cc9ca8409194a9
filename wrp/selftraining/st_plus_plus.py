"""ST++ (Yang et al., CVPR 2022): re-training on the unlabelled images whose predictions were steady along training."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from wrp.metrics.segmentation import confusion, mean_iou

Name = TypeVar("Name", bound=Hashable)


def prediction_agreement(prediction: Tensor, last: Tensor, num_classes: int) -> float:
    """MIoU in [0, 1] of one prediction against another, over the classes that either of them shows.

    Args:
        prediction: (H, W) integer, 0 … C-1.
        last: The other one, of the same size; the truth of the two.
        num_classes: C.
    """
    return float(mean_iou(confusion(prediction, last, num_classes)))


def stability(predictions: Sequence[Tensor], num_classes: int) -> float:
    """How steady an image's prediction was: mean agreement of those of earlier checkpoints with the last one's.

    Args:
        predictions: Predictions (H, W) of two checkpoints or more, the last checkpoint's last.
        num_classes: C.
    """
    *earlier, last = predictions
    scores = [prediction_agreement(prediction, last, num_classes) for prediction in earlier]
    return sum(scores) / len(scores)


def video_reliability(steadiness: float, last: Tensor, propagated: Tensor, num_classes: int) -> float:
    """Score of a video's frame (ours): half stability, half agreement of the prediction with the propagated label.

    Args:
        steadiness: Its :func:`stability`.
        last: The last checkpoint's prediction, (H, W).
        propagated: The propagated label, (H, W), 255 where it says nothing.
        num_classes: C.
    """
    agreement = prediction_agreement(last, propagated, num_classes)
    # A frame about which propagation says nothing agrees with nothing.
    return (steadiness + (0.0 if math.isnan(agreement) else agreement)) / 2


def split_reliable(scores: Mapping[Name, float]) -> tuple[list[Name], list[Name]]:
    """The better half of the images and the others, each best first; of equals, the earlier one wins.

    The half is rounded down, but one image is reliable by itself.
    """
    ranked = sorted(scores, key=lambda name: -scores[name])
    half = max(1, len(ranked) // 2)
    return ranked[:half], ranked[half:]


def split_reliable_by_clip(scores: Mapping[tuple[str, Name], float]) -> tuple[list[tuple[str, Name]], ...]:
    """The same for frames (clip, name), in each clip by itself (ours): over all clips, only easy ones would be left."""
    clips: dict[str, dict[tuple[str, Name], float]] = {}
    for key, score in scores.items():
        clips.setdefault(key[0], {})[key] = score
    halves = [split_reliable(of_clip) for of_clip in clips.values()]
    return [key for reliable, _ in halves for key in reliable], [key for _, rest in halves for key in rest]


def checkpoint_epochs(epochs: int) -> tuple[int, int, int]:
    """After how many epochs, or steps, a checkpoint is kept: a third, two thirds, and the end."""
    return epochs // 3, 2 * epochs // 3, epochs


def repeat_labelled(labelled: int, unlabelled: int) -> int:
    """How often labelled images are repeated so that they are as many as the unlabelled ones."""
    return -(-unlabelled // labelled)
