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
