"""Every configuration in experiments/ runs, on tiny trees in the real layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clips import make_camvid, make_davis, make_images
from wrp.cli import main

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
CONFIGS = sorted(EXPERIMENTS.rglob("*.yaml"))


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("trees")
    make_camvid(base / "camvid")
    make_davis(base / "davis2016", {"bear": 6})
    make_images(base / "images", {"train": 2, "val": 2})
    return base


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_config_runs(config: Path, trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRP_DATA", str(trees))
    verbs = ("test", "predict") if config.stem == "propagation" else ("fit",)
    more = ["--data.init_args.num_classes=3"] if config.parent.name == "images" else []
    for verb in verbs:
        command = [verb, f"--config={config}", "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", *more]
        assert main(command) == 0


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} == {"segmentation", "refinement", "propagation"}
