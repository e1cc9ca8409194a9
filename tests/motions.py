"""Analytic motions of a whole picture: their flow between any two frames is known without estimation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wrp.geometry.composed import ComposedFlow, NeighbourFlow, append_flow, identity_flow, prepend_flow

HEIGHT, WIDTH = 40, 56

Pose = Callable[[int], tuple[float, float, float, float]]
"""Frame number to magnification, angle in radians, and shift (x, y) in pixels, all about the middle of the frame."""

MOTIONS: dict[str, Pose] = {
    "shift": lambda t: (1.0, 0.0, 1.28 * t, -0.72 * t),
    "rotation": lambda t: (1.0, 0.03 * t, 0.0, 0.0),
    "zoom in": lambda t: (1.03**t, 0.0, 0.0, 0.0),
    "zoom out": lambda t: (0.97**t, 0.0, 0.0, 0.0),
    "all at once, faster and faster": lambda t: (1.02**t, -0.01 * t, 0.1 * t * t, 0.6 * t),
}


def analytic_flow(pose: Pose, source: int, target: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """F_{s→t}, (1, 2, H, W), exact."""
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64).view(2, 1, 1)
    points = torch.stack((x, y))
    scale, angle, *shift = pose(source)
    world = points - middle - torch.tensor(shift, dtype=torch.float64).view(2, 1, 1)
    world = _turned(world, -angle) / scale
    scale, angle, *shift = pose(target)
    moved = scale * _turned(world, angle) + torch.tensor(shift, dtype=torch.float64).view(2, 1, 1) + middle
    return (moved - points)[None].float()


def _turned(points: Tensor, angle: float) -> Tensor:
    x, y = points
    return torch.stack((math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y))


def neighbours(pose: Pose, count: int) -> list[NeighbourFlow]:
    """The flows between ``count`` frames."""
    return [NeighbourFlow(analytic_flow(pose, t, t + 1), analytic_flow(pose, t + 1, t)) for t in range(count - 1)]


def composed_near(flows: list[NeighbourFlow], source: int, target: int, height: int, width: int) -> ComposedFlow:
    """The chain source → target, built from the target on: its near end walks away."""
    composed = identity_flow(torch.zeros(height, width, dtype=torch.uint8))
    step = 1 if source > target else -1
    for i in range(target, source, step):
        onward, homeward = flows[min(i, i + step)].towards(step)
        composed = prepend_flow(composed, homeward, onward)
    return composed


def composed_far(flows: list[NeighbourFlow], source: int, target: int, height: int, width: int) -> ComposedFlow:
    """The chain source → target, built from the source on: its far end walks away."""
    composed = identity_flow(torch.zeros(height, width, dtype=torch.uint8))
    step = 1 if target > source else -1
    for i in range(source, target, step):
        onward, homeward = flows[min(i, i + step)].towards(step)
        composed = append_flow(composed, onward, homeward)
    return composed


COMPOSED = {"prepend_flow": composed_near, "append_flow": composed_far}
