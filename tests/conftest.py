"""Every test runs in a folder of its own, away from the user's caches and data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

# The tensors of the tests are small: threads cost more than they bring, above all beside other processes.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder for the generated clips, made once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
