"""Estimators by name: each makes what its line says, and what cannot be made is said in one line."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.flow.small import Counting
from wrp.errors import WrpError
from wrp.flow.dis import DIS
from wrp.flow.presets import PRESETS, make_flow
from wrp.flow.raft import RAFT
from wrp.flow.stored import Stored
from wrp.io import plugins


class Taking(Counting):
    """An estimator of another package, whose arguments have all kinds of types."""

    def __init__(self, size: tuple[int, int] = (1, 1), version: int = 1, *, soft: bool = False, **more: float) -> None:
        super().__init__(version)
        self.given = (size, soft, more)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points of an installed package, one of which is no estimator."""
    points = (EntryPoint("mine", f"{__name__}:Taking", "wrp.flow"), EntryPoint("path", "pathlib:Path", "wrp.flow"))
    monkeypatch.setattr(plugins, "_registered", lambda group: points if group == "wrp.flow" else ())


def test_names_load_no_framework() -> None:
    code = "import sys; from wrp.flow.presets import PRESETS, make_flow; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "torchvision", "numpy", "cv2", "jsonargparse"} & set(loaded)


def test_each_name_of_dis_is_a_trade_of_time_for_accuracy() -> None:
    fast, plain, best = (make_flow(name) for name in ("dis-fast", "dis", "dis-best"))
    assert isinstance(fast, DIS)
    assert fast.signature == DIS("medium", scale=1).signature
    assert plain.signature == DIS("fine", scale=1).signature
    assert best.signature == DIS().signature
    assert make_flow("dis", {"scale": 1, "threads": None}).signature == plain.signature


@pytest.mark.parametrize("variant", ["small", "large"])
def test_raft_estimates_several_pairs_in_one_call(variant: str) -> None:
    flow = make_flow(f"raft-{variant}", {"weights": None, "iterations": 3})
    assert isinstance(flow, RAFT)
    assert (flow.variant, flow.iterations, flow.pairs_per_call) == (variant, 3, 4)
    assert make_flow("raft-small", {"weights": None, "pairs_per_call": 1}).pairs_per_call == 1


def test_raft_reads_weights_from_a_file(tmp_path: Path) -> None:
    torch.save(RAFT("small", None).net.state_dict(), tmp_path / "raft.pth")
    assert make_flow("raft-small", {"weights": str(tmp_path / "raft.pth")}).signature.startswith("RAFT small")


def test_stored_flow_is_made_of_its_folder(tmp_path: Path) -> None:
    flow = make_flow("stored", {"root": str(tmp_path), "pattern": "{source}-{target}.npy"})
    assert isinstance(flow, Stored)
    assert flow.pattern == "{source}-{target}.npy"


def test_every_preset_is_told_in_a_line() -> None:
    assert list(PRESETS) == ["dis-fast", "dis", "dis-best", "raft-small", "raft-large", "stored"]
    assert all(line and "\n" not in line for line in PRESETS.values())


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", ["mine", f"{__name__}.Taking"])
def test_estimators_of_other_packages_are_made(name: str) -> None:
    flow = make_flow(name, {"size": [2, 3], "version": 2, "soft": True, "more": 0.5})
    assert isinstance(flow, Taking)
    assert (flow.version, flow.given) == (2, ([2, 3], True, {"more": 0.5}))


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("raft-smal", {}, "unknown flow 'raft-smal'; did you mean raft-small? Expected one of dis-fast, dis, dis-best, "
         "raft-small, raft-large, stored, mine, path, or the path of a class"),
        ("xyz", {}, "unknown flow 'xyz', expected one of dis-fast, "),
        ("path", {}, "the entry point 'path' in wrp.flow is <class 'pathlib.Path'>, expected a subclass of "
         "wrp.flow.FlowEstimator"),
        ("pathlib.Path", {}, "flow pathlib.Path is <class 'pathlib.Path'>, expected a subclass"),
        ("no_package.Flow", {}, "flow no_package.Flow cannot be imported: No module named 'no_package'"),
        ("wrp.flow.dis.Nothing", {}, "flow wrp.flow.dis.Nothing cannot be imported: module 'wrp.flow.dis' has no"),
        (".Flow", {}, "flow .Flow cannot be imported: "),
        ("wrp.flow.FlowEstimator", {}, "flow wrp.flow.FlowEstimator: Can't instantiate abstract class FlowEstimator"),
        ("dis", {"speed": 2}, "flow dis: got an unexpected keyword argument 'speed'; it takes preset, scale, "),
        ("dis", {"preset": "fastest"}, "flow dis: unknown DIS preset 'fastest'; did you mean fast?"),
        ("dis", {"scale": "big"}, "flow dis: the argument 'scale' must be of the type float | None, got 'big'"),
        ("dis", {"threads": 1.5}, "flow dis: the argument 'threads' must be of the type int | None, got 1.5"),
        ("dis", {"threads": True}, "flow dis: the argument 'threads' must be of the type int | None, got True"),
        ("raft-large", {"weights": 3}, "flow raft-large: the argument 'weights' must be of the type str | None, got 3"),
        ("raft-large", {"weights": None, "iterations": 0}, "flow raft-large: iterations must be at least 1, got 0"),
        ("stored", {}, "flow stored: missing a required argument: 'root'; it takes root, pattern"),
        ("stored", {"root": "/no/folder"}, "there is no folder /no/folder with stored flow"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_told_in_one_line(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(WrpError) as caught:
        make_flow(name, args)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_only_packages_that_are_trusted_are_imported_under_wrp_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "untrusted.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WRP_SAFE", "1")
    assert isinstance(make_flow("wrp.flow.DIS"), DIS)
    for path in ("untrusted.Flow", "wrpx.Flow", f"{__name__}.Taking"):
        with pytest.raises(WrpError, match="is not imported under WRP_SAFE, which allows wrp, .*: name its package"):
            make_flow(path)
    assert "untrusted" not in sys.modules
    monkeypatch.setenv("WRP_SAFE", "tests.flow")
    assert isinstance(make_flow(f"{__name__}.Taking"), Taking)
