"""Measure labelling on a GPU: frames per second, and the percentage of the time that each part takes.

    python experiments/benchmarks/gpu.py
    python experiments/benchmarks/gpu.py --device cpu --size 64 96 --frames 4     to check that it works

Teacher and refiner are those of `wrp autolabel`, for 19 classes, and RAFT is torchvision's small one, all of them
untrained: time does not depend on the weights. Frames per second are those of `refine` as it normally runs. For the
percentages, each part waits for the one before it, in one thread, and for the GPU, so that parts which otherwise
overlap add up to the whole.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from clips import CITYSCAPES, interval
from growth import networks
from measuring import Rows, table
from torch import nn

from wrp import PropagationModule
from wrp.flow.dis import DIS
from wrp.flow.estimator import FlowEstimator
from wrp.flow.raft import RAFT
from wrp.structures import ClipBatch

BACKEND = "inductor"  # of torch.compile
NOT_YET = "not yet run on a GPU"


@dataclass(frozen=True)
class Route:
    """One way to do the work: flow estimator, precision, compilation."""

    flow: str
    amp: bool
    compiled: bool


ROUTES = [Route(flow, amp, compiled) for flow in ("DIS", "RAFT") for amp in (False, True) for compiled in (False, True)]


class Parts:
    """Networks and flow of one route.

    Args:
        route: The route.
        device: Device they run on.
    """

    def __init__(self, route: Route, device: torch.device) -> None:
        self.device = device
        self.half = torch.float16 if device.type == "cuda" else torch.bfloat16
        self.amp = route.amp
        precision = {torch.float16: "16", torch.bfloat16: "bf16"}[self.half] if route.amp else "32"
        self.flow: FlowEstimator = DIS() if route.flow == "DIS" else RAFT(weights=None, precision=precision)
        self.teacher, self.refiner = networks(CITYSCAPES)
        if route.compiled:
            self.teacher.net.compile(backend=BACKEND)
            self.refiner.net.compile(backend=BACKEND)

    def label(self, batch: ClipBatch) -> float:
        """Seconds to label an interval with ``refine``; no flow is kept from one call to the next."""
        module = PropagationModule(CITYSCAPES, ["refine"], self.teacher, self.refiner, self.flow).to(self.device).eval()
        wait(self.device)
        started = time.perf_counter()
        with torch.inference_mode(), torch.autocast(self.device.type, self.half, enabled=self.amp):
            for _ in module.session(batch):
                pass
        wait(self.device)
        return time.perf_counter() - started

    @contextmanager
    def clocked(self) -> Iterator[dict[str, float]]:
        """Seconds of each part, filled within the block, in which nothing runs in parallel."""
        parts: dict[str, nn.Module] = {"flow": self.flow, "teacher": self.teacher, "refiner": self.refiner}
        seconds = dict.fromkeys(parts, 0.0)

        def begin(name: str) -> Any:
            def hook(*_: object) -> None:
                wait(self.device)
                seconds[name] -= time.perf_counter()

            return hook

        def end(name: str) -> Any:
            def hook(*_: object) -> None:
                wait(self.device)
                seconds[name] += time.perf_counter()

            return hook

        with ExitStack() as stack:
            for module in ("wrp.propagation.warping", "wrp.flow.estimator"):
                stack.enter_context(patch(f"{module}.prefetch", iter))
            for name, part in parts.items():
                for handle in (part.register_forward_pre_hook(begin(name)), part.register_forward_hook(end(name))):
                    stack.callback(handle.remove)
            yield seconds


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(device: torch.device, size: tuple[int, int], frames: int, routes: Sequence[Route] = ROUTES) -> Rows:
    """Measure a row for each route.

    Args:
        device: Device to run on.
        size: Height and width of the frames.
        frames: Number of frames of the interval.
        routes: The routes.
    """
    batch = interval(*size, frames)
    batch = replace(
        batch,
        frames=[frame.to(device) for frame in batch.frames],
        labels={i: label.to(device) for i, label in batch.labels.items()},
    )
    rows = []
    for route in routes:
        parts = Parts(route, device)
        parts.label(batch)  # compiles, and finds the fastest kernels
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        speed = (frames - 2) / parts.label(batch)
        peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
        with parts.clocked() as seconds:
            whole = parts.label(batch)
        percentages = {f"{name}, %": 100 * one / whole for name, one in seconds.items()}
        rows.append(
            {"flow": route.flow, "AMP": _yes(route.amp), "compiled": _yes(route.compiled), "frames/s": speed}
            | {"peak, MB": peak}
            | percentages
            | {"own code, %": 100 - sum(percentages.values())}
        )
    return rows


def _yes(given: bool) -> str:
    return "yes" if given else "no"


def title(device: torch.device, size: tuple[int, int]) -> str:
    """Title of the table; for a CPU it says that nothing was measured on a GPU."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"a CPU, {NOT_YET}"
    return f"`refine` of {size[1]}×{size[0]} on {where}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 2048], help="height and width of the frames")
    parser.add_argument("--frames", type=int, default=12, help="number of frames of the interval")
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"there is no GPU here ({NOT_YET}); --device cpu with a small --size shows that it works")
    print(f"{title(options.device, options.size)}\n\n{table(measure(options.device, options.size, options.frames))}")


if __name__ == "__main__":
    main()
