"""Whether labels have any pixel with a class: there is nothing to learn from labels without one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from wrp.errors import DataError
from wrp.io.images import read_frame_label
from wrp.structures import IGNORE_INDEX, Frame, LabelMap


def has_class(label: Tensor) -> bool:
    """Tell whether a label (H, W) uint8 has a pixel with a class."""
    return bool((label != IGNORE_INDEX).any())


def require_classes(frames: Iterable[Frame], label_map: LabelMap) -> None:
    """Raise DataError if no label has a pixel with a class; stop reading at the first label that has one."""
    labels = [frame for frame in frames if frame.label is not None]
    if not labels:
        raise DataError("no labelled frame is left to train on: hold fewer of them back, or label some")
    for frame in labels:
        if has_class(read_frame_label(frame, label_map)):
            return
    raise nothing_to_learn(len(labels), labels[0].label)


def nothing_to_learn(labels: int, first: Path | None, which: str = "") -> DataError:
    """Make the error for labels none of which has a pixel with a class.

    Args:
        labels: Number of the labels.
        first: Path of the first of them.
        which: Text that follows the word "labels" in the message.
    """
    return DataError(
        f"none of the {labels} labels{which} to learn from has a pixel with a class, the first is {first}: label "
        "something, or correct `ignore` in classes.yaml"
    )
