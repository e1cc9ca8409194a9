"""Provenance: which keyframes agree with a label, and whether the teacher does."""

from __future__ import annotations

from functools import reduce
from operator import or_

import torch
from torch import Tensor

from wrp.geometry.backends.cpu import backend, tensor
from wrp.propagation.methods.base import PropagationMethod, QueryFrame
from wrp.structures import IGNORE_INDEX

TEACHER = 4
"""Bit of the teacher; the bit of the earlier or only keyframe is 1, that of the later one 2."""


def provenance(labels: Tensor, query: QueryFrame, method: PropagationMethod) -> Tensor | None:
    """Find which inputs of a method agree with its labels.

    Args:
        labels: (H, W) uint8, class indices and 255.
        query: The frame with the inputs of the method.
        method: The method.

    Returns:
        (H, W) uint8, the sum of the bits of the keyframes and the teacher that agree, 0 where unlabelled; None if the
        method uses neither warped labels nor the teacher.
    """
    bits, maps = labels.new_empty(0), []
    if method.needs.warped:
        warped = query.warped
        bits, maps = (warped.keyframe + 1).to(torch.uint8), list(warped.labels)
    if method.needs.teacher:
        bits, maps = torch.cat((bits, bits.new_full((1,), TEACHER))), [*maps, query.teacher_labels.labels]
    if not maps:
        return None
    _, labels, bits, *maps = backend(labels, bits, *maps)
    agreeing = reduce(or_, (bit * (theirs == labels) for bit, theirs in zip(bits, maps, strict=True)))
    return tensor(agreeing * (labels != IGNORE_INDEX))
