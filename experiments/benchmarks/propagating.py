"""Compare motion-only propagation with the time of its flow alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from clips import CLASSES
from measuring import Rows, least, size_name
from torch import Tensor

from wrp import PropagationModule
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS, create_dis, grey_image
from wrp.structures import ClipBatch


class Recorded(DIS):
    """DIS that records the inputs of its OpenCV calls."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []

    def _estimate_one(self, frame_s: Tensor, frame_t: Tensor, guess: np.ndarray | None, flow: Tensor) -> None:
        kept = None if guess is None else guess.copy()
        self.calls.append((grey_image(frame_s), grey_image(frame_t), kept))
        super()._estimate_one(frame_s, frame_t, guess, flow)


def propagation(
    make: Callable[[int, tuple[int, int]], ClipBatch], sizes: Sequence[tuple[int, int]], count: int
) -> Rows:
    """Compare motion-only propagation from both keyframes with its DIS calls alone, made one after the other.

    Args:
        make: Makes an interval with this many frames of this size.
        sizes: Heights and widths.
        count: Number of frames of the interval.
    """
    rows = []
    for size in sizes:
        batch = make(count, size)
        for setting, arguments, direct in (("medium, composed", ("medium", 1.0), False), ("default", (), True)):
            recorded = FlowCache(Recorded(*arguments))
            recorded.any_frames = direct
            propagate(batch, recorded)
            calls, preset = recorded.estimator.calls, recorded.estimator.preset

            def dis_alone(calls: list = calls, preset: str = preset) -> None:
                plain, guided = create_dis(preset), create_dis(preset, guided=True)
                for source, target, guess in calls:
                    if guess is None:
                        plain.calc(source, target, None)
                    else:
                        guided.calc(source, target, guess.copy())

            def everything(batch: ClipBatch = batch, arguments: tuple = arguments, direct: bool = direct) -> None:
                cache = FlowCache(DIS(*arguments))
                cache.any_frames = direct
                propagate(batch, cache)

            alone, whole = least(2 if direct else 5, dis_alone, everything)
            frames = len(batch.frames) - 2
            rows.append(
                {
                    "frames": size_name(size),
                    "DIS": setting,
                    "calls": len(calls),
                    "DIS alone, ms a frame": 1e3 * alone / frames,
                    "motion, ms a frame": 1e3 * whole / frames,
                    "ratio": whole / alone,
                }
            )
    return rows


def propagate(batch: ClipBatch, flow: FlowCache) -> None:
    for _ in PropagationModule(CLASSES, ["motion"], flow=flow).session(batch):
        pass
