"""Intervals for the benchmarks: generated ones, real ones, and ones that take almost no memory."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from wrp.data.index import select_clips
from wrp.data.items import WindowItems
from wrp.data.layouts.registry import open_index
from wrp.data.synthetic.scene import render_clip
from wrp.flow.estimator import FlowEstimator
from wrp.geometry.composed import NeighbourFlow
from wrp.geometry.labels import resize_labels
from wrp.options import SelectArgs
from wrp.structures import ClipBatch

CLASSES = 11
CITYSCAPES = 19
SIZES = ((360, 480), (720, 1280))


def interval(height: int, width: int, count: int) -> ClipBatch:
    """Make an interval of ``count`` generated frames with a keyframe at both ends, in memory."""
    clip = render_clip(count, height, width, CLASSES)
    frames = [torch.from_numpy(frame).permute(2, 0, 1).contiguous() for frame in clip.frames]
    labels = {i: torch.from_numpy(clip.labels[i]) for i in (0, count - 1)}
    return ClipBatch("generated", [f"{i:05d}" for i in range(count)], 0, frames, labels, (0, count))


def real_interval(root: str, count: int, size: tuple[int, int] | None = None) -> ClipBatch:
    """Read the first ``count`` frames of a data set's first clip, its ends as keyframes; scaled to ``size`` if set."""
    index = select_clips(open_index(root), SelectArgs(label_every=count - 1))
    batch = WindowItems(index.clips, index.label_map)[0]
    batch.queries = (0, count)
    if size is not None:
        shape = (size[1], size[0])
        batch.frames = [
            torch.from_numpy(cv2.resize(f.permute(1, 2, 0).numpy(), shape)).permute(2, 0, 1).contiguous()
            for f in batch.frames
        ]
        batch.labels = {i: resize_labels(y[None], size)[0] for i, y in batch.labels.items()}
    return batch


class Rolling:
    """Frames that are made when they are read: a sliding texture."""

    def __init__(self, count: int, height: int, width: int) -> None:
        self.count = count
        noise = np.random.default_rng(0).uniform(0, 255, (height, width, 3)).astype(np.float32)
        texture = (cv2.GaussianBlur(noise, (0, 0), 3) * 6 % 256).astype(np.uint8)
        self.texture = torch.from_numpy(texture).permute(2, 0, 1).contiguous()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return self.texture.roll(index, 2)


def rolling_interval(count: int, height: int, width: int, num_classes: int) -> ClipBatch:
    """Make an interval of any length that takes the memory of one frame; its labels are blocks of all classes."""
    y, x = np.indices((height, width)) // 24
    label = torch.from_numpy(((y * (width // 24 + 1) + x) % num_classes).astype(np.uint8))
    stems = [f"{i:05d}" for i in range(count)]
    frames = Rolling(count, height, width)
    return ClipBatch("rolling", stems, 0, frames, {0: label, count - 1: label}, (0, count))


class Given(FlowEstimator):
    """A flow estimator that returns flows computed before."""

    any_frames = False

    def __init__(self, flows: Sequence[NeighbourFlow]) -> None:
        super().__init__()
        self.flows = flows

    @property
    def signature(self) -> str:
        return "given"

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: object) -> Tensor:
        raise NotImplementedError

    def between(self, batch: ClipBatch, indices: Sequence[int]) -> list[NeighbourFlow]:
        return [self.flows[i] for i in indices]
