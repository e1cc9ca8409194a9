"""Class probabilities of whole images by sliding windows and test-time augmentation (scales, mirror image)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from wrp.geometry.labels import argmax_with_confidence
from wrp.options import InferenceArgs

# Ratio of a tile that it shares with the next one: each pixel is labelled by the tile in whose middle it lies.
TILE_OVERLAP = 0.25


def tiled_probabilities(logits_of: Callable[[Tensor], Tensor], images: Tensor, inference: InferenceArgs) -> Tensor:
    """Average class probabilities over sliding windows, scales and mirror images.

    Args:
        logits_of: Maps images (B, 3, h, w) of any size to logits (B, C, h, w).
        images: (B, 3, H, W) floating point.
        inference: Window, scales and mirror image.

    Returns:
        Probabilities (B, C, H, W) float32 in [0, 1] that sum to 1 over the classes.

    Example:
        >>> logits_of = lambda images: torch.cat((images[:, :1], 1 - images[:, :1]), 1)
        >>> probs = tiled_probabilities(logits_of, torch.ones(1, 3, 6, 8), InferenceArgs(window=(4, 4), flip=True))
        >>> probs.shape, round(probs[0, 0, 0, 0].item(), 3)
        (torch.Size([1, 2, 6, 8]), 0.731)
    """
    size = images.shape[-2:]
    total: Tensor | None = None
    for scale in inference.scales:
        scaled = [max(1, round(side * scale)) for side in size]
        seen = images if scale == 1 else functional.interpolate(images, scaled, mode="bilinear", antialias=scale < 1)
        for mirrored in (False, True)[: 1 + inference.flip]:
            probs = _windows(logits_of, seen.flip(-1) if mirrored else seen, inference)
            probs = probs.flip(-1) if mirrored else probs
            probs = probs if probs.shape[-2:] == size else functional.interpolate(probs, size, mode="bilinear")
            total = probs if total is None else total + probs
    assert total is not None
    return total / (len(inference.scales) * (1 + inference.flip))


def labels_by_tiles(probabilities_of: Callable[[Tensor], Tensor], images: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Label images of any size in bounded memory: those with more pixels than a square tile, tile by tile.

    The probabilities of all classes are kept of one tile only. Tiles overlap by a quarter, and each pixel is labelled
    by the tile whose border is farthest away.

    Args:
        probabilities_of: Maps images (B, 3, h, w) of any size to probabilities (B, C, h, w).
        images: (B, 3, H, W).
        tile: Largest side of a tile in pixels.

    Returns:
        Labels (B, H, W) uint8, 255 where nothing is known, and confidence (B, H, W) float32 in [0, 1].

    Example:
        >>> probabilities_of = lambda images: torch.cat((images[:, :1], 1 - images[:, :1]), 1)
        >>> labels, confidence = labels_by_tiles(probabilities_of, torch.full((1, 3, 6, 40), 0.25), tile=8)
        >>> labels.shape, labels.unique().tolist(), confidence.unique().tolist()
        (torch.Size([1, 6, 40]), [1], [0.75])
    """
    height, width = images.shape[-2:]
    if height * width <= tile * tile:
        return argmax_with_confidence(probabilities_of(images))
    labels = torch.empty(len(images), height, width, dtype=torch.uint8, device=images.device)
    confidence = torch.empty_like(labels, dtype=torch.float32)
    for rows, kept_rows in _tiles(height, tile):
        for columns, kept_columns in _tiles(width, tile):
            found = argmax_with_confidence(probabilities_of(images[..., rows, columns]))
            within = _within(kept_rows, rows), _within(kept_columns, columns)
            labels[:, kept_rows, kept_columns], confidence[:, kept_rows, kept_columns] = (
                values[:, within[0], within[1]] for values in found
            )
    return labels, confidence


def _tiles(side: int, tile: int) -> list[tuple[slice, slice]]:
    """Return the tiles of a side, and of each the part that it labels: up to the middle of what two tiles share."""
    tile = min(tile, side)
    starts = list(_starts(side, tile, TILE_OVERLAP))
    cuts = [0, *((after + before + tile) // 2 for before, after in pairwise(starts)), side]
    return [(slice(start, start + tile), slice(*kept)) for start, kept in zip(starts, pairwise(cuts), strict=True)]


def _within(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def _windows(logits_of: Callable[[Tensor], Tensor], images: Tensor, inference: InferenceArgs) -> Tensor:
    if inference.window is None:
        return logits_of(images).float().softmax(1)
    height, width = (min(side, of) for side, of in zip(inference.window, images.shape[-2:], strict=True))
    total: Tensor | None = None
    count = images.new_zeros(1, 1, *images.shape[-2:], dtype=torch.float32)
    for top in _starts(images.shape[-2], height, inference.overlap):
        for left in _starts(images.shape[-1], width, inference.overlap):
            place = (..., slice(top, top + height), slice(left, left + width))
            probs = logits_of(images[place]).float().softmax(1)
            if total is None:
                total = probs.new_zeros(*probs.shape[:2], *images.shape[-2:])
            total[place] += probs
            count[place] += 1
    assert total is not None
    return total / count


def _starts(side: int, window: int, overlap: float) -> Iterator[int]:
    """Yield the first pixel of each of the windows that cover a side evenly."""
    step = max(1, int(window * (1 - overlap)))
    count = -(-(side - window) // step)
    for i in range(count + 1):
        yield round(i * (side - window) / max(count, 1))
