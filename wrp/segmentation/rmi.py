"""Region mutual information: a loss that compares the labels of neighbouring pixels jointly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Pixels are averaged over squares with sides of this length before regions are compared.
POOL = 4

# Side of a region, in averaged pixels.
SIDE = 3

# Added to the diagonal of every covariance, so that it can be inverted.
EPSILON = 5e-4


def region_mutual_information(logits: Tensor, truth: Tensor, pixels: Tensor) -> Tensor:
    """Compute the lower bound of mutual information of Zhao et al. (NeurIPS 2019) as a loss.

    For each class, with Y and P the truth and the sigmoid probability of the 3×3 averaged pixels of a region, it is
    ½ log det(Σ_Y - Σ_YP Σ_P⁻¹ Σ_PY + εI) / 9, averaged over the images and summed over the classes, in float64.

    Args:
        logits: (B, C, H, W).
        truth: (B, C, H, W) float32, 1 at the class of each pixel.
        pixels: How much each pixel counts, (B, H, W) float32.

    Returns:
        Scalar float32; a zero that is connected to the graph if the images are too small for a region (12 pixels) or no
        pixel counts.

    Example:
        >>> truth = torch.zeros(1, 2, 16, 16)
        >>> truth[:, 0, :8], truth[:, 1, 8:] = 1, 1
        >>> right, pixels = 8 * truth - 4, torch.ones(1, 16, 16)
        >>> bool(region_mutual_information(right, truth, pixels) < region_mutual_information(0 * right, truth, pixels))
        True
    """
    if min(logits.shape[-2:]) < POOL * SIDE:
        return 0.0 * logits.float().sum()
    counts = pixels[:, None]
    labels = _regions(truth * counts)
    probs = _regions(logits.float().sigmoid() * counts + 1e-6)
    unit = torch.eye(SIDE * SIDE, dtype=torch.float64, device=logits.device)
    of_probs = probs @ probs.mT + EPSILON * unit
    both = labels @ probs.mT
    left = labels @ labels.mT - both @ torch.linalg.solve(of_probs, both.mT)
    # Rounding leaves the difference of two symmetric matrices a little unsymmetric.
    factor = torch.linalg.cholesky((left + left.mT) / 2 + EPSILON * unit)
    half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    per_class = half_log_det.mean(0) / SIDE**2
    return (per_class.sum() * (pixels.sum() > 0)).float()


def _regions(values: Tensor) -> Tensor:
    """Return the regions of (B, C, H, W) as (B, C, 9, N) float64; the mean of each of the 9 places is subtracted."""
    pooled = functional.avg_pool2d(values, POOL).double()
    patches = functional.unfold(pooled.flatten(0, 1)[:, None], SIDE)
    patches = patches.view(*pooled.shape[:2], SIDE * SIDE, -1)
    return patches - patches.mean(-1, keepdim=True)
