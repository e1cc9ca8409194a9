"""Formulas that work on arrays of numpy and tensors of torch alike."""

from __future__ import annotations

from typing import Any

# Flow of a point whose motion is not known, in pixels: far out of any frame, but finite.
LOST = 1e6


def inside(x: Any, y: Any, right: Any, bottom: Any) -> Any:
    """Tell whether coordinates in pixels are in the frame [-½, right) × [-½, bottom); right = W - ½, bottom = H - ½.

    Example:
        >>> inside(2.0, 1.0, right=2.5, bottom=1.5), inside(2.5, 1.0, right=2.5, bottom=1.5)
        (True, False)
    """
    return (x >= -0.5) & (x < right) & (y >= -0.5) & (y < bottom)


def agree(x: Any, y: Any, u: Any, v: Any, alpha: Any, beta: Any) -> Any:
    """Tell whether the flow (x, y) and the flow back (u, v) agree: ``|F + B|² <= α (|F|² + |B|²) + β``.

    They do not where the residual or the magnitude is not finite.

    Example:
        >>> agree(3.0, 0.0, -3.5, 0.0, alpha=0.01, beta=0.5), agree(3.0, 0.0, float("nan"), 0.0, alpha=0.01, beta=0.5)
        (True, False)
    """
    across, down = x + u, y + v
    residual = across * across + down * down
    magnitude = x * x + y * y + u * u + v * v
    return residual - alpha * magnitude <= beta
