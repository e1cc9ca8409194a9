"""Formulas for arrays of numpy and tensors of torch alike."""

from __future__ import annotations

from typing import Any

# Flow of a point whose way is not known, in pixels: far out of any frame, but finite.
LOST = 1e6


def inside(x: Any, y: Any, right: Any, bottom: Any) -> Any:
    """Whether coordinates in pixels are in the frame [-½, right) × [-½, bottom); right = W - ½, bottom = H - ½."""
    return (x >= -0.5) & (x < right) & (y >= -0.5) & (y < bottom)


def agree(x: Any, y: Any, u: Any, v: Any, alpha: Any, beta: Any) -> Any:
    """Whether the flow (x, y) and the flow back (u, v) agree: ``|F + B|² <= α (|F|² + |B|²) + β``.

    Written so that a residual or magnitude that is not finite does not.
    """
    across, down = x + u, y + v
    residual = across * across + down * down
    magnitude = x * x + y * y + u * u + v * v
    return residual - alpha * magnitude <= beta
