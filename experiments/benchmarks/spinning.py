"""Measure how the waiting of OpenMP's threads changes the time of a training step, on idle cores and on busy ones.

A thread that waits for others spins for a while before it sleeps; where other programs want the core, it is in their
way, and so in its own. `wrp` sets GOMP_SPINCOUNT, which counts these rounds, unless the user has chosen.

    python experiments/benchmarks/spinning.py            # with nothing else at work
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from measuring import table

CHOICES: dict[str, dict[str, str]] = {
    "default of libgomp": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
BUSY = "import torch; torch.set_num_threads(1); a = torch.rand(800, 800)\nwhile True: a = (a @ a).clamp(0, 1)"


def step_time(steps: int, size: int) -> float:
    """Return the median time of a training step of the default teacher's network, in seconds."""
    import torch

    from wrp import SegmentationModule
    from wrp.options import NetworkArgs

    torch.manual_seed(0)
    net = SegmentationModule(11, NetworkArgs("FPN", "tu-tf_efficientnet_lite0")).net.train()
    optimizer, images = torch.optim.AdamW(net.parameters()), torch.rand(4, 3, size, size)
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="side of the crops in pixels")
    parser.add_argument("--one", action="store_true", help="measure this process alone, for the command itself")
    options = parser.parse_args()
    if options.one:
        print(step_time(options.steps, options.size))
        return
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--one", f"--steps={options.steps}", f"--size={options.size}"]
    rows = [{"waiting": name} for name in CHOICES]
    for kind, count in (("idle", 0), ("as many busy programs as cores", os.cpu_count() or 1)):
        busy = [
            subprocess.Popen([sys.executable, "-c", BUSY], env=clean | {"OMP_NUM_THREADS": "1"}) for _ in range(count)
        ]
        try:
            for row, given in zip(rows, CHOICES.values(), strict=True):
                done = subprocess.run(command, env=clean | given, capture_output=True, text=True, check=True)
                row[f"{kind}, s/step"] = float(done.stdout.splitlines()[-1])
        finally:
            for program in busy:
                program.kill()
    print(table(rows))


if __name__ == "__main__":
    main()
