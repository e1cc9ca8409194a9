"""Which keyframes and whether the teacher agree with a label."""

from __future__ import annotations

from functools import reduce
from operator import or_

import torch
from torch import Tensor

from wrp.geometry.backends.cpu import backend, tensor
from wrp.propagation.methods.base import PropagationMethod, QueryFrame
from wrp.structures import IGNORE_INDEX

TEACHER = 4
"""The teacher's bit; that of the earlier or only keyframe is 1, of the later one 2."""


def provenance(labels: Tensor, query: QueryFrame, method: PropagationMethod) -> Tensor | None:
    """Find which of what a method was given agrees with its labels.

    Args:
        labels: (H, W) uint8.
        query: The frame, as the method saw it.
        method: The method.

    Returns:
        (H, W) uint8, the sum of the bits of those that agree, 0 where unlabelled; None where the method uses neither
        warped labels nor the teacher.
    """
    given = []
    if method.needs.warped:
        warped = query.warped
        given = [(1 << int(k), theirs) for k, theirs in zip(warped.keyframe, warped.labels, strict=True)]
    if method.needs.teacher:
        given.append((TEACHER, query.teacher_labels.labels))
    if not given:
        return None
    bits = torch.tensor([bit for bit, _ in given], dtype=torch.uint8, device=labels.device)
    _, labels, bits, *maps = backend(labels, bits, *(theirs for _, theirs in given))
    agreeing = reduce(or_, (bit * (theirs == labels) for bit, theirs in zip(bits, maps, strict=True)))
    return tensor(agreeing * (labels != IGNORE_INDEX))
