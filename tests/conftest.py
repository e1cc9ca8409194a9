"""Every test runs in a folder of its own, away from the user's caches and data."""

from __future__ import annotations

import gc
import os
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# The tensors of the tests are small: threads cost more than they bring, above all beside other processes.
torch.set_num_threads(1)

# What tests/fuzz tries: some cases in every run of the tests, and for ten minutes with --hypothesis-profile=long.
_COMMON = settings(
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("short", _COMMON, max_examples=20, derandomize=True)
settings.register_profile("long", _COMMON, max_examples=500)
settings.load_profile("short")


def pytest_collection_finish() -> None:
    """Let the tests not do again and again what takes long and is the same each time.

    Every search for garbage would go through what is imported by now, half a million objects. Every Trainer asks for
    the callbacks of other packages, and would read the metadata of all that are installed to find none.
    """
    if registry := sys.modules.get("lightning_fabric.utilities.registry"):
        registry.entry_points = cache(registry.entry_points)  # type: ignore[attr-defined]
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder for the generated clips, made once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    # No power fails between a test's writing and its reading; that files are synced at all is tested in tests/runs.
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, made once; to be copied before it is changed."""
    from tests.reports import make_run  # not before HOME is the tests' own

    return make_run(tmp_path_factory.mktemp("reported"))
