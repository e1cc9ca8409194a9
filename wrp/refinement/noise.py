"""Synthetic label noise (ours): errors like those of propagation, made where the truth is known.

Random numbers come from torch's global generator on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.warp import warp_labels

# Distance between the nodes of a smooth displacement, in pixels.
WAVELENGTH = 32


def displace(labels: Tensor, amplitude: float) -> Tensor:
    """Move each label map along its own smooth random flow, as an inaccurate flow would.

    Args:
        labels: (S, H, W) uint8.
        amplitude: Standard deviation of the displacement at its nodes, in pixels.

    Returns:
        (S, H, W) uint8; 255 where the flow leaves the frame.

    Example:
        >>> labels = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
        >>> bool((displace(labels, amplitude=0.0) == labels).all())
        True
        >>> displace(labels, amplitude=2.0).shape
        torch.Size([1, 8, 8])
    """
    count, height, width = labels.shape
    nodes = torch.randn(count, 2, height // WAVELENGTH + 2, width // WAVELENGTH + 2) * amplitude
    flow = functional.interpolate(nodes, (height, width), mode="bicubic", align_corners=True).to(labels.device)
    return warp_labels(labels, flow)
