"""Small clips whose labels and motion are known, without any file."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from wrp.data.synthetic.scene import SyntheticClip, render_clip
from wrp.flow.exact import Exact
from wrp.structures import IGNORE_INDEX, ClipBatch


def texture(height: int, width: int, x: float = 0.0, y: float = 0.0) -> Tensor:
    """Return a smooth random texture, moved to the right by ``x`` and down by ``y`` pixels.

    Args:
        height: H.
        width: W.
        x: Displacement to the right, in pixels; at most 40 either way.
        y: Displacement down, likewise.

    Returns:
        (3, H, W) uint8, the same values in every call with the same arguments.

    Example:
        >>> frame = texture(24, 32)
        >>> frame.shape, frame.dtype
        (torch.Size([3, 24, 32]), torch.uint8)
    """
    noise = np.random.default_rng(0).uniform(0, 255, (height + 80, width + 80, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 255
    moved = cv2.warpAffine(smooth, np.array([[1, 0, x - 40.0], [0, 1, y - 40.0]]), (width, height))
    return torch.from_numpy(moved.round().astype(np.uint8)).permute(2, 0, 1).contiguous()


def textured_interval(
    keyframes: Sequence[int], frames: range, queries: range, size: tuple[int, int] = (40, 56), num_classes: int = 5
) -> ClipBatch:
    """Return an interval of a texture that slides by 1.5 pixels a frame to the right and half a pixel up.

    Args:
        keyframes: Indices in the clip of the frames that have a label.
        frames: Indices in the clip of all frames.
        queries: Indices of the frames to label.
        size: Height and width.
        num_classes: Number of classes in the labels, which are vertical stripes that slide along. The three rows at the
            top have no label.

    Example:
        >>> interval = textured_interval([4, 10], frames=range(4, 11), queries=range(4, 10))
        >>> len(interval.frames), sorted(interval.labels), interval.queries
        (7, [4, 10], (4, 10))
    """
    images = [texture(*size, 1.5 * i, -0.5 * i) for i in frames]
    x = torch.arange(size[1]).expand(size)
    labels = {keyframe: ((x - 1.5 * keyframe) // 9 % num_classes).to(torch.uint8) for keyframe in keyframes}
    for label in labels.values():
        label[:3] = IGNORE_INDEX
    stems = [str(i) for i in frames]
    return ClipBatch("clip", stems, frames.start, images, labels, (queries.start, queries.stop))


def generated_interval(
    num_frames: int = 7, size: tuple[int, int] = (96, 128), seed: int = 0
) -> tuple[ClipBatch, Exact, SyntheticClip]:
    """Return a generated street scene as one interval between two keyframes, with its exact flow and its truth.

    Args:
        num_frames: Number of frames; the first and the last are keyframes.
        size: Height and width.
        seed: Seed of the scene.

    Returns:
        The interval, a flow estimator that knows the exact flow between its neighbouring frames, and the scene, whose
        ``labels`` (N, H, W) uint8 are the truth of every frame.

    Example:
        >>> interval, flow, scene = generated_interval(3, (48, 64))
        >>> flow.between(interval, [0])[0].flow_fw.shape, scene.labels.shape
        (torch.Size([1, 2, 48, 64]), (3, 48, 64))
    """
    scene = render_clip(num_frames, *size, seed=seed)
    frames = [torch.from_numpy(frame).permute(2, 0, 1).contiguous() for frame in scene.frames]
    labels = {i: torch.from_numpy(scene.labels[i]) for i in (0, num_frames - 1)}
    stems = [f"{i:05d}" for i in range(num_frames)]
    interval = ClipBatch("scene", stems, 0, frames, labels, (0, num_frames))
    return interval, Exact(scene.frames, scene.flow_fw, scene.flow_bw), scene
