"""The average of a network's weights where several processes train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

from tests.forked import START
from wrp.selftraining.average import update_average


def average(rank: int, folder: str, buffers: bool) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    student, kept = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    for _ in range(2):  # each process has seen other images
        student(torch.full((2, 2, 4, 4), float(rank)) + torch.arange(2.0).view(2, 1, 1, 1))
    fresh = nn.BatchNorm2d(2).state_dict()
    update_average(kept, student, 0.5, buffers)
    torch.save((student.state_dict(), kept.state_dict(), fresh), Path(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("buffers", [False, True])
def test_all_processes_have_the_average_with_the_statistics_of_all(buffers: bool, tmp_path: Path) -> None:
    multiprocessing.start_processes(average, (str(tmp_path), buffers), nprocs=2, start_method=START)
    (one, kept, fresh), (other, also, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert not torch.equal(one["running_mean"], other["running_mean"])
    for name in ("running_mean", "running_var"):
        of_all = (one[name] + other[name]) / 2
        torch.testing.assert_close(kept[name], (fresh[name] + of_all) / 2 if buffers else of_all)
        assert torch.equal(kept[name], also[name])
    assert kept["num_batches_tracked"] == one["num_batches_tracked"]
