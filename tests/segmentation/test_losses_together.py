"""Losses of two processes that train together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

from wrp.segmentation.losses import LOSSES, SegmentationLoss

# The others see the batch of one process.
WHOLE = {"cross_entropy": 1.0, "dice": 1.0, "focal": 0.2, "relaxation": 0.5}
BALANCED = {"balance": 0.5, "boundary": 2.0}


def halves() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two images of which one has far fewer labels than the other."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 24, 32, generator=generator)
    labels = torch.randint(0, 4, (2, 6, 8), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[1, 8:] = 255
    return logits, labels, torch.rand(labels.shape, generator=generator)


def learn(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    calls, reduce = [], distributed.all_reduce

    def counted(*given: Any, **more: Any) -> Any:
        calls.append(1)
        return reduce(*given, **more)

    distributed.all_reduce = counted
    logits, labels, weights = (part[rank : rank + 1] for part in halves())
    logits.requires_grad_()
    SegmentationLoss(dict.fromkeys(LOSSES, 1.0), BALANCED)(logits, labels, weights)
    of_all = len(calls)
    SegmentationLoss({"lovasz": 1.0})(logits, labels)
    with torch.no_grad():  # as in a validation, of which this process has more batches than the other
        for _ in range(1 + rank):
            SegmentationLoss(WHOLE)(logits, labels)
    loss = SegmentationLoss(WHOLE, BALANCED)(logits, labels, weights)
    loss.backward()
    found = {"loss": loss.detach(), "gradient": logits.grad, "calls": of_all}
    torch.save(found, Path(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_all_losses_of_a_step_share_one_collective_and_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(learn, (str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert one["calls"] == other["calls"] == 1
    logits, labels, weights = halves()
    logits.requires_grad_()
    loss = SegmentationLoss(WHOLE, BALANCED)(logits, labels, weights)
    loss.backward()
    torch.testing.assert_close((one["loss"] + other["loss"]) / 2, loss.detach())
    # DDP averages the gradients of the processes.
    torch.testing.assert_close(torch.cat((one["gradient"], other["gradient"])) / 2, logits.grad)
