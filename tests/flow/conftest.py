"""What is computed here is tested on both routes of the CPU."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _both_routes(route: str) -> None: ...
