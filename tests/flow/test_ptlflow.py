import pytest
import torch

from wrp.errors import WrpError
from wrp.flow import ptlflow
from wrp.testing import FlowEstimatorTester

installed = pytest.mark.skipif(not ptlflow._PTLFLOW, reason="ptlflow is not installed")


@installed
class TestPTLFlow(FlowEstimatorTester):
    needs_weights = True
    smallest = (16, 16)

    def make(self) -> ptlflow.PTLFlow:
        torch.manual_seed(0)
        return ptlflow.PTLFlow("rapidflow")


@installed
def test_an_unknown_model_is_named() -> None:
    with pytest.raises(WrpError, match="PTLFlow cannot make model 'no_such_model'"):
        ptlflow.PTLFlow("no_such_model")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptlflow, "_PTLFLOW", False)
    with pytest.raises(
        WrpError, match=r"need the package ptlflow: pip install 'wrp\[ptlflow\]' && pip install --no-deps ptlflow"
    ):
        ptlflow.PTLFlow("rapidflow")
