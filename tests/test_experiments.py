"""Every configuration and script in experiments/ runs, on tiny trees in the real layouts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import pytorch_lightning as pl
import torch

from tests.clips import make_camvid, make_davis, make_images
from wrp import SegmentationModule
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


def script(path: str) -> ModuleType:
    """An experiment's script as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, EXPERIMENTS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_screen_of_the_refiner_goes_on_where_it_stopped(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = script("camvid/refiner/screen.py")
    monkeypatch.setattr(screen, "RESULTS", tmp_path / "results.jsonl")
    teacher = SegmentationModule(11, encoder="tu-regnetx_002")
    trainer = pl.Trainer(accelerator="cpu", logger=False)
    trainer.strategy.connect(teacher)
    trainer.save_checkpoint(tmp_path / "teacher.ckpt")
    rows = ["defaults", "no teacher"]
    command = [str(trees / "camvid"), "--teacher", str(tmp_path / "teacher.ckpt"), "--steps", "1", "--every", "2"]
    for wanted in (rows[:1], rows, rows):
        monkeypatch.setattr("sys.argv", ["screen.py", *command, "--rows", *wanted])
        screen.main()
    found = [result["row"] for result in screen.results()]
    assert found == rows
    assert "| no teacher" in capsys.readouterr().out


def test_the_benchmark_of_motion_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    motion = script("benchmarks/motion.py")
    monkeypatch.setattr(motion, "SIZES", {"64×48": (48, 64)})
    monkeypatch.setattr(motion, "least", lambda repetitions, *works: [work() is None or 1.0 for work in works])
    threads = torch.get_num_threads()
    for table in ("primitives", "propagation", "vote"):
        monkeypatch.setattr("sys.argv", ["motion.py", "--only", table, "--threads", str(threads)])
        motion.main()
    printed = capsys.readouterr().out
    # The straightforward vote and ours say the same; pixels on which several others land may differ.
    shares = [float(line.split("|")[-2].rstrip(" %")) for line in printed.splitlines() if line.rstrip().endswith("% |")]
    assert len(shares) == 3
    assert min(shares) > 97
    for method in ("motion", "refine"):
        motion.print_peak(5, 48, 64, method)
        assert float(capsys.readouterr().out) > 0


@pytest.mark.slow
def test_students_with_and_without_propagated_labels_are_compared(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRP_DATA", str(trees))
    compare = script("student/compare.py")
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(compare, "GENERATED", (2, 3))
    monkeypatch.setattr(compare, "HELD_OUT", 1)
    assert main(["autolabel", "camvid", "--label-every=3", "--methods=motion", f"--out={tmp_path / 'run'}"]) == 0
    for arguments in (["camvid", f"--propagated={tmp_path / 'run'}", "--every=3"], ["generated", "--every=2"]):
        command = ["compare", *arguments, "--steps=1", f"--runs={tmp_path}", "--seeds=0", "--students"]
        for _ in range(2):
            monkeypatch.setattr("sys.argv", [*command, "anchors alone", "by confidence"])
            compare.main()
    assert len(compare.results()) == 4
    assert capsys.readouterr().out.count("by confidence") == 6
