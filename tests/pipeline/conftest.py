"""A run to report on, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reports import make_run


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run; to be copied before it is changed."""
    return make_run(tmp_path_factory.mktemp("reported"))
