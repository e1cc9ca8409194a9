"""Calibration: turn a confidence into the probability that the label is right (ours)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Confidence is clamped to [MARGIN, 1 - MARGIN], as its log-odds would be infinite at 0 and 1.
MARGIN = 1e-3

# Weight of the identity in the fit, in pixels: the pixels of a frame are far from independent of each other.
PRIOR_PIXELS = 1000.0


@dataclass(frozen=True)
class Calibration:
    """A linear calibration of the log-odds of a confidence, which grows with the distance from the keyframe.

    Log-odds z become z + w(d) · (shift + (slope - 1) · z), with w(d) = log(1 + d) / log(1 + ``distance``), at most 1:
    nothing changes at distance 0, and the calibration is complete at the distance of the fit and beyond.

    Attributes:
        shift: Added to the log-odds.
        slope: Factor on the log-odds; 1 / slope is known as the temperature.
        distance: Distance to the keyframes, in frames, at which shift and slope were fitted.

    Example:
        >>> calibration = Calibration(shift=-1.0, slope=1.0, distance=5)
        >>> confidence = torch.tensor([0.0, 0.5, 0.9])
        >>> calibration(confidence, 0), calibration(confidence, 5)
        (tensor([0.0000, 0.5000, 0.9000]), tensor([0.0000, 0.2689, 0.7680]))
    """

    shift: float
    slope: float
    distance: float

    def __call__(self, confidence: Tensor, distance: float) -> Tensor:
        """Calibrate the confidence (…) in [0, 1] of labels at a distance in frames; 0 (unlabelled) stays 0."""
        share = min(1.0, math.log1p(distance) / math.log1p(self.distance))
        odds = confidence.clamp(MARGIN, 1 - MARGIN).logit()
        calibrated = (odds + share * (self.shift + (self.slope - 1) * odds)).sigmoid()
        return torch.where(confidence > 0, calibrated, 0.0)


def fit_calibration(confidence: Tensor, right: Tensor, counts: Tensor, distance: float) -> Calibration:
    """Fit a calibration by maximum likelihood, with a prior for the identity.

    Args:
        confidence: Mean confidence in each of B bins, (B,), in [0, 1].
        right: Number of pixels of each bin whose label is right, (B,).
        counts: Number of pixels of each bin, (B,).
        distance: Distance of the pixels to the keyframes, in frames.

    Returns:
        The calibration; its slope is at least 0.05.

    Example:
        >>> confidence, counts = torch.tensor([0.6, 0.9]), torch.tensor([50000, 50000])
        >>> calibration = fit_calibration(confidence, torch.tensor([25000, 40000]), counts, distance=5)
        >>> calibration(confidence, 5)  # 50 % and 80 % of these pixels are right
        tensor([0.5046, 0.8013])
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
            step = step / 2  # Newton's step may be too long, but never has the wrong direction
        line = line - step
    shift, slope = line.tolist()
    # With a negative slope, more confident labels would become less probable.
    return Calibration(shift, max(slope, 0.05), distance)
