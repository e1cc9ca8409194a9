"""From a confidence to the probability that a label is right (ours)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Confidence is kept this far from 0 and 1, where its log-odds would be infinite.
MARGIN = 1e-3

# Weight of the identity in the fit, in pixels: those of a frame are far from independent of each other.
PRIOR_PIXELS = 1000.0


@dataclass(frozen=True)
class Calibration:
    """A line through the log-odds of a confidence, in full at the distance where it was fitted and beyond.

    Log-odds z become z + w(d) · (shift + (slope - 1) · z), with w(d) = log(1 + d) / log(1 + ``distance``), at most 1: a
    label at no distance is as sure as it says.

    Attributes:
        shift: Added to the log-odds.
        slope: What they are multiplied with; 1 / slope is known as the temperature.
        distance: Frames to the keyframes at which both were fitted.
    """

    shift: float
    slope: float
    distance: float

    def __call__(self, confidence: Tensor, distance: float) -> Tensor:
        """Confidence (…) in [0, 1] of labels at a distance, calibrated; what is 0, unlabelled, stays 0."""
        share = min(1.0, math.log1p(distance) / math.log1p(self.distance))
        odds = confidence.clamp(MARGIN, 1 - MARGIN).logit()
        calibrated = (odds + share * (self.shift + (self.slope - 1) * odds)).sigmoid()
        return torch.where(confidence > 0, calibrated, 0.0)


def fit_calibration(confidence: Tensor, right: Tensor, counts: Tensor, distance: float) -> Calibration:
    """The line of greatest likelihood.

    Args:
        confidence: Mean confidence in each of B bins, (B,).
        right: Number of pixels of each bin whose label is right, (B,).
        counts: Number of pixels of each bin, (B,).
        distance: Frames to the keyframes.
    """
    odds = confidence.double().clamp(MARGIN, 1 - MARGIN).logit()
    features = torch.stack((torch.ones_like(odds), odds), 1)
    right, counts = right.double(), counts.double()
    identity = torch.tensor([0.0, 1.0], dtype=torch.double)

    def loss(line: Tensor) -> Tensor:
        z = features @ line
        return (counts * functional.softplus(z) - right * z).sum() + PRIOR_PIXELS / 2 * ((line - identity) ** 2).sum()

    line = identity.clone()
    for _ in range(50):
        p = (features @ line).sigmoid()
        gradient = features.T @ (counts * p - right) + PRIOR_PIXELS * (line - identity)
        hessian = (features * (counts * p * (1 - p))[:, None]).T @ features + PRIOR_PIXELS * torch.eye(2)
        step = torch.linalg.solve(hessian, gradient)
        while loss(line - step) > loss(line) and step.abs().max() > 1e-9:
            step = step / 2  # Newton's step may go too far, never in the wrong direction
        line = line - step
    shift, slope = line.tolist()
    # A confidence that says less the greater it is would be no confidence.
    return Calibration(shift, max(slope, 0.05), distance)
