"""Synthetic noise of labels (ours): what propagation gets wrong, made where the truth is known.

Randomness comes from torch's global generator, on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.warp import warp_labels

# Distance between the nodes of a smooth displacement, in pixels.
WAVELENGTH = 32


def displace(labels: Tensor, amplitude: float) -> Tensor:
    """Each map moved along a smooth random flow of its own, as by a flow that is somewhat wrong.

    Args:
        labels: (S, H, W) uint8.
        amplitude: Standard deviation of the displacement at its nodes, in pixels.

    Returns:
        (S, H, W) uint8; 255 where the flow leaves the frame.
    """
    count, height, width = labels.shape
    nodes = torch.randn(count, 2, height // WAVELENGTH + 2, width // WAVELENGTH + 2) * amplitude
    flow = functional.interpolate(nodes, (height, width), mode="bicubic", align_corners=True).to(labels.device)
    return warp_labels(labels, flow)
