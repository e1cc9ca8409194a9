"""Every configuration and script in experiments/ runs, on tiny trees in the real layouts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml

from tests.clips import make_camvid, make_davis, make_images, picture, save
from tests.layouts import make_cityscapes, make_kitti, make_nyuv2
from wrp import SegmentationModule
from wrp.cli import main
from wrp.data import tiles
from wrp.data.datasets import open_index
from wrp.data.reading import read_label
from wrp.pipeline.search import command_line, draw, read_sweep

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
# Data sets whose configurations are for GPUs, and what makes them run on a laptop without a network.
FOR_GPUS = ("cityscapes", "kitti", "nyuv2")
DEV_RUN = ["--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"]
ON_CPU = ["--trainer.precision=32", "--data.init_args.workers=0"]
SMALL = ["--model.init_args.weights=null", "--data.init_args.crop_size=[64,64]", "--data.init_args.batch_size=2"]
SMALL += ["--data.init_args.propagated.truth_last=0"]  # a run for development has one epoch
CONFIGS = sorted(path for path in EXPERIMENTS.rglob("*.yaml") if path.parent.name != "sweeps")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("trees")
    make_camvid(base / "camvid")
    make_davis(base / "davis2016", {"bear": 6})
    make_images(base / "images", {"train": 2, "val": 2})
    make_cityscapes(base / "cityscapes")
    make_kitti(base / "kitti")
    make_nyuv2(base / "nyuv2")
    return base


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_config_runs(config: Path, trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRP_DATA", str(trees))
    monkeypatch.setattr(tiles, "CACHE", tmp_path / "tiles")
    monkeypatch.chdir(tmp_path)
    if config.parent.name not in FOR_GPUS:
        verbs = ("test", "predict") if config.stem == "propagation" else ("fit",)
        more = ["--data.init_args.num_classes=3"] if config.parent.name == "images" else []
        assert all(main([verb, f"--config={config}", *DEV_RUN, *more]) == 0 for verb in verbs)
        return
    if config.stem == "refinement":
        assert main(["fit", f"--config={config}", *DEV_RUN, *ON_CPU]) == 0
        return
    propagation = config.with_name("propagation.yaml")
    assert main(["predict", f"--config={propagation}", "--data.init_args.workers=0", "--return_predictions=false"]) == 0
    if config.stem == "segmentation":  # learns from what was just written
        assert main(["fit", f"--config={config}", *DEV_RUN, *ON_CPU, *SMALL]) == 0


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
@pytest.mark.parametrize("name", ["refiner", "student"])
def test_sweeps_run_as_an_agent_would_run_them(
    name: str, trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna, wandb = pytest.importorskip("optuna"), pytest.importorskip("wandb")
    monkeypatch.setenv("WRP_DATA", str(trees))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    Path("experiments").symlink_to(EXPERIMENTS)
    quick = ["--label-every=3", "--methods=motion,inpaint", "--teacher-steps=1", "--weights=none"]
    assert main(["autolabel", "camvid", "--out=runs/camvid-25", *quick]) == 0
    Path("teacher.ckpt").symlink_to("runs/camvid-25/teacher.ckpt")
    sweep = read_sweep(EXPERIMENTS / "sweeps" / f"{name}.yaml")
    values = draw(optuna.create_study().ask(), sweep)
    assert values.keys() == sweep["parameters"].keys()
    short = [
        "--trainer.logger.save_dir=.",
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=1",
        "--trainer.accelerator=cpu",
    ]
    command = [*command_line(sweep, values), *short, "--trainer.val_check_interval=1", "--data.init_args.label_every=3"]
    assert main([*command, "--trainer.num_sanity_val_steps=0"]) == 0
    pushed = wandb.run.config["config"]
    wandb.finish()
    [config] = Path("lightning_logs").glob("*/config.yaml")
    kept = yaml.safe_load(config.read_text())
    assert pushed == kept
    for key, value in values.items():
        found = kept
        for part in key.split("."):
            found = found[part]
        assert found == pytest.approx(value)


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
        command = ["compare", *arguments, "--steps=3", f"--runs={tmp_path}", "--seeds=0", "--students"]
        for _ in range(2):
            monkeypatch.setattr("sys.argv", [*command, "anchors alone", "by confidence"])
            compare.main()
        if "camvid" in arguments:
            monkeypatch.setattr("sys.argv", [*command, "CISC-R weights", "Three-Stage firewall", "ST++ scheduling"])
            compare.main()
    assert len(compare.results()) == 7
    assert capsys.readouterr().out.count("by confidence") == 7


def test_the_labels_of_nyu_are_converted(tmp_path: Path) -> None:
    """A file as MATLAB writes it: labels by column, names as references to arrays of characters."""
    h5py, scipy_io = pytest.importorskip("h5py"), pytest.importorskip("scipy.io")
    labels = np.zeros((2, 4, 3), np.uint16)  # (number, column, row)
    labels[0, 3, 0], labels[1, 0, 2] = 5, 894
    with h5py.File(tmp_path / "labeled.mat", "w") as file:
        file["labels"] = labels
        names = file.create_dataset("rawRgbFilenames", (1, 2), dtype=h5py.ref_dtype)
        for i, name in enumerate(("den_0002/r-1.5-3.ppm", "den_0002/r-2.5-4.ppm")):
            file[f"name{i}"] = np.array([[ord(c)] for c in name], np.uint16)
            names[0, i] = file[f"name{i}"].ref
    mapping = np.full((1, 894), 40)
    mapping[0, 4] = 1
    scipy_io.savemat(tmp_path / "map.mat", {"mapClass": mapping})
    scipy_io.savemat(tmp_path / "splits.mat", {"trainNdxs": [[2]], "testNdxs": [[1]]})
    out = tmp_path / "nyuv2"
    convert = script("nyuv2/convert.py").convert
    assert convert(*(tmp_path / f"{name}.mat" for name in ("labeled", "map", "splits")), out) == 2
    (out / "raw" / "den_0002").mkdir(parents=True)
    for stem in ("r-1.5-3", "r-2.5-4"):
        save(out / "raw" / "den_0002" / f"{stem}.png", picture(0, 3, 4))
    index = open_index(out, split="train")
    (frame,) = (frame for frame in index.clips[0].frames if frame.label)
    assert frame.stem == "r-2.5-4"
    assert frame.label is not None
    assert read_label(frame.label, index.label_map).tolist() == [[255] * 4, [255] * 4, [39, 255, 255, 255]]
    assert read_label(out / "labels40/den_0002/r-1.5-3.png", index.label_map)[0].tolist() == [255, 255, 255, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("step", ["--steps=3", "--repeats=1", "--size", "64", "64"], "ratio "),
        ("loader", ["camvid", "--repeats=1"], "| camvid"),
    ],
)
def test_benchmarks_run(
    name: str,
    arguments: list[str],
    wanted: str,
    trees: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WRP_DATA", str(trees))
    monkeypatch.setattr("sys.argv", [name, *arguments])
    script(f"benchmarks/{name}.py").main()
    assert wanted in capsys.readouterr().out


@pytest.mark.slow
def test_systems_are_compared_and_share_their_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_camvid(tmp_path / "camvid", train=30)
    monkeypatch.setenv("WRP_DATA", str(tmp_path))
    compare = script("selftraining/compare.py")
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "results.jsonl")
    arguments = ["camvid", f"--runs={tmp_path / 'runs'}", "--steps=3", "--seeds=0", "--systems", "st++", "supervised"]
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["compare", *arguments])
        compare.main()
    assert [result["system"] for result in compare.results()] == ["st++", "supervised"]
    assert not (tmp_path / "runs" / "supervised-0" / "supervised.ckpt").exists()
    assert "st++" in capsys.readouterr().out


@pytest.mark.slow
def test_curves_are_read_from_what_a_fit_logged(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRP_DATA", str(trees))
    log = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path}", "--trainer.logger.name=plain"]
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--data.init_args.crop_size=[32,32]"]
    config = EXPERIMENTS / "camvid" / "segmentation.yaml"
    assert main(["fit", f"--config={config}", *log, *steps, "--trainer.accelerator=cpu"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["curve", str(tmp_path / "plain")])
    script("curve.py").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["1", "2"]


def test_suggestions_are_compared_with_even_spacing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_davis(tmp_path / "davis2016", {"bear": 6, "surf": 5})
    monkeypatch.setattr("sys.argv", ["curve", str(root), "-n=2", "--half", f"--out={tmp_path / 'curve.json'}"])
    script("suggest/curve.py").main()
    assert "| one by one | uniform |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "curve.json").read_text())["miou"]["suggested"]) == 2
