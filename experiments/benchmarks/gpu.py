"""What labelling costs on a GPU: frames per second, and the share of each part of the work.

    python experiments/benchmarks/gpu.py
    python experiments/benchmarks/gpu.py --device cpu --size 64 96 --frames 4     to see that it runs

Teacher and refiner are those of `wrp autolabel`, for 19 classes, and RAFT is torchvision's small one, all of them
untrained: time does not depend on the weights. Frames per second are those of `refine` as it runs. For the shares each
part waits for the one before, in one thread, and for the GPU: parts that otherwise overlap add up to the whole.
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
    """How the work is done."""

    flow: str
    amp: bool
    compiled: bool


ROUTES = [Route(flow, amp, compiled) for flow in ("DIS", "RAFT") for amp in (False, True) for compiled in (False, True)]


class Parts:
    """Networks and flow of one route.

    Args:
        route: The route.
        device: Where they work.
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
        """Seconds of labelling an interval by ``refine``; no flow is kept from one call to the next."""
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
        """Seconds of each part, filled within the block, in which nothing is done side by side."""
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
                stack.enter_context(patch(f"{module}.ahead", iter))
            for name, part in parts.items():
                for handle in (part.register_forward_pre_hook(begin(name)), part.register_forward_hook(end(name))):
                    stack.callback(handle.remove)
            yield seconds


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(device: torch.device, size: tuple[int, int], frames: int, routes: Sequence[Route] = ROUTES) -> Rows:
    """A row for each route.

    Args:
        device: Where to work.
        size: Height and width of the frames.
        frames: Frames of the interval.
        routes: How.
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
        shares = {f"{name}, %": 100 * one / whole for name, one in seconds.items()}
        rows.append(
            {"flow": route.flow, "AMP": _yes(route.amp), "compiled": _yes(route.compiled), "frames/s": speed}
            | {"peak, MB": peak}
            | shares
            | {"own code, %": 100 - sum(shares.values())}
        )
    return rows


def _yes(given: bool) -> str:
    return "yes" if given else "no"


def title(device: torch.device, size: tuple[int, int]) -> str:
    """What the table is of; that of a CPU says that it is none of a GPU."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"a CPU, {NOT_YET}"
    return f"`refine` of {size[1]}×{size[0]} on {where}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 2048], help="height and width of the frames")
    parser.add_argument("--frames", type=int, default=12, help="of an interval")
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"there is no GPU here ({NOT_YET}); --device cpu with a small --size shows that it runs")
    print(f"{title(options.device, options.size)}\n\n{table(measure(options.device, options.size, options.frames))}")


if __name__ == "__main__":
    main()
