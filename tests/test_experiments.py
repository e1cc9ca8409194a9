"""Every configuration and script in experiments/ runs, on tiny trees in the real layouts."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentParser
from torch.utils.data import Subset

from tests.clips import make_camvid, make_davis, make_folder, make_images, picture, save
from tests.layouts import ids, make_cityscapes, make_kitti, make_nyuv2
from wrp import SegmentationModule
from wrp.cli.lightning import DATA_MODULES, EXAMPLES
from wrp.cli.main import main
from wrp.data import clipdata, tiles
from wrp.data.items import FrameItems, IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.data.synthetic.folder import generate_folder
from wrp.io.checkpoints import ENCODER_KEY
from wrp.io.images import read_label
from wrp.io.versions import versions
from wrp.options import NetworkArgs, SelectArgs
from wrp.propagation.methods.refine import Refine
from wrp.runs.search import command_line, draw, read_sweep

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
# Data sets whose configurations are for GPUs, and what makes them run on a laptop without a network.
FOR_GPUS = ("cityscapes", "kitti", "nyuv2")
TRANSFORMERS = ("dinov2", "dinov3")
DEV_RUN = ["--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"]
ON_CPU = ["--trainer.precision=32", "--data.init_args.workers=0"]
CROPS = ["--data.init_args.sampling.crop_size=[64,64]", "--data.init_args.sampling.batch_size=2"]
SMALL = ["--model.init_args.network={encoder_weights: null}", *CROPS]
ONE_EPOCH = ["--data.init_args.propagated.truth_last=0"]  # a run for development has one
# The other ones are read by `wrp search` and `wrp autolabel`.
CONFIGS = sorted(p for p in EXPERIMENTS.rglob("*.yaml") if p.parent.name != "sweeps" and p.stem != "autolabel")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("trees")
    make_camvid(base / "camvid")
    make_davis(base / "davis2016", {"bear": 6})
    make_images(base / "images", {"train": 2, "val": 2})
    make_cityscapes(base / "cityscapes")
    make_kitti(base / "kitti")
    make_nyuv2(base / "nyuv2")
    save(base / "nyuv2" / "labels40" / "bathroom_0001" / "r-100.5-0.png", ids(1, 2, 3))
    with (base / "nyuv2" / "train.txt").open("a") as listed:  # two labels to divide
        listed.write("bathroom_0001/r-100.5-0\n")
    generate_folder(base / "generated", height=64, width=112)
    return base


@pytest.fixture
def data_sets(trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All data sets where the configurations look for them; what is kept of them goes into the test's folder."""
    monkeypatch.setenv("WRP_DATA", str(trees))
    monkeypatch.setattr(clipdata, "cached_folder", lambda *_: trees / "generated")
    monkeypatch.setattr(tiles, "CACHE", tmp_path / "tiles")


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
@pytest.mark.usefixtures("data_sets")
def test_config_runs(config: Path) -> None:
    if config.parent.name not in FOR_GPUS:
        verbs = ("test", "predict") if config.stem == "propagation" else ("fit",)
        more = ["--data.init_args.num_classes=3"] if config.parent.name == "images" else []
        more += [*SMALL, "--trainer.precision=32"] if config.stem in TRANSFORMERS else []
        more += CROPS if config.stem in ("segmentation", "teacher") else []
        assert all(main([verb, f"--config={config}", *DEV_RUN, *more]) == 0 for verb in verbs)
        return
    if config.stem == "refiner":
        assert main(["fit", f"--config={config}", *DEV_RUN, *ON_CPU]) == 0
        return
    propagation = config.with_name("propagation.yaml")
    assert main(["predict", f"--config={propagation}", "--data.init_args.workers=0", "--return_predictions=false"]) == 0
    if config != propagation:
        students = ONE_EPOCH if "propagated:" in config.read_text() else []  # learn from what was just written
        assert main(["fit", f"--config={config}", *DEV_RUN, *ON_CPU, *SMALL, *students]) == 0


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} == {
        "segmentation",
        "teacher",
        "refiner",
        "propagation",
        "student",
        *TRANSFORMERS,
    }


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_are_made_as_their_configurations_say(name: str) -> None:
    config = EXPERIMENTS / "images" / f"{name}.yaml"
    given = yaml.safe_load(config.read_text())["model"]
    given["init_args"] |= {"num_classes": 3}
    given["init_args"]["network"] |= {"encoder_weights": None}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationModule, "model")
    module = parser.instantiate_classes(parser.parse_object({"model": given})).model
    assert "NOT RUN" in config.read_text()
    sampling = yaml.safe_load(config.read_text())["data"]["init_args"]["sampling"]
    assert [side % module.net.stride for side in (*sampling["crop_size"], *module.inference.window)] == [0] * 4
    rates = {group.get("lr") for group in module.parameter_groups()}
    assert len(rates) == 1 + 1 + 12  # the decoder, the stem, and each block
    assert module.net.net.encoder.model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)


def data_of(config: Path) -> Any:
    """The data module of a configuration, without propagated labels, which have to be made first."""
    assert DATA_MODULES  # jsonargparse knows the names of classes that are imported
    assert EXAMPLES
    given = yaml.safe_load(config.read_text())["data"]
    given["init_args"].pop("propagated", None)
    if config.parent.name == "images":
        given["init_args"]["num_classes"] = 3
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    return parser.instantiate_classes(parser.parse_object({"data": given})).data


def labels_of(loader: Any) -> set[Path]:
    """The labels that a loader serves, or propagates."""
    items = loader.dataset
    if isinstance(items, FrameItems):
        frames = [frame for _, _, frame in items.frames]
    elif isinstance(items, IntervalItems):
        frames = [interval.clip.frames[keyframe] for interval in items.intervals for keyframe in interval.keyframes]
    else:
        if not isinstance(items, Subset):
            items = Subset(items, range(len(items)))
        windows = [items.dataset.windows[i] for i in items.indices]
        frames = [clip.frames[target] for clip, target in windows]
    return {frame.label.resolve() for frame in frames if frame.label is not None}


@pytest.mark.parametrize(
    "config",
    [path for path in CONFIGS if path.stem != "propagation"],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
@pytest.mark.usefixtures("data_sets")
def test_nothing_is_validated_on_what_was_learned_from(config: Path) -> None:
    data = data_of(config)
    if config.stem == "refiner":  # the windows themselves, as making examples of all takes long
        kept = data.examples
        data.examples = SimpleNamespace(crops=kept.crops, labels_seen=kept.labels_seen)
        data.examples.training = data.examples.validation = lambda windows, *_: windows
    learned, scored = labels_of(data.train_dataloader()), labels_of(data.val_dataloader())
    assert learned
    assert scored
    assert not learned & scored
    propagation = config.with_name("propagation.yaml")
    if propagation.is_file():  # what a student learns from as well
        propagated = labels_of(data_of(propagation).predict_dataloader())
        assert propagated
        assert not propagated & scored


@pytest.mark.parametrize(
    "config",
    [path for path in CONFIGS if path.stem != "propagation"],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_trainings_keep_the_best_checkpoint_by_their_validation(config: Path) -> None:
    trainer = yaml.safe_load(config.read_text())["trainer"]
    [kept] = [one["init_args"] for one in trainer["callbacks"] if one["class_path"] == "ModelCheckpoint"]
    assert (kept["monitor"], kept["mode"], kept["save_last"]) == ("val/miou", "max", True)
    assert trainer.get("limit_val_batches") != 0


def test_no_overlap_of_training_and_validation_is_asked_for() -> None:
    for path in EXPERIMENTS.rglob("*.yaml"):
        text = path.read_text()
        given = yaml.safe_load(text).get("data", {}).get("init_args", {})
        assert "overlap" not in given.get("val", {}), path
        assert "val.overlap" not in text, path


@pytest.mark.parametrize(
    "config", [path for path in CONFIGS if path.stem == "refiner"], ids=lambda path: path.parent.name
)
def test_a_refiners_teacher_is_named_on_the_command_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data.init_args.examples.init_args.teacher=T.ckpt", "--data.init_args.examples.init_args.crops=3"]
    assert main(["fit", f"--config={config}", *flags, "--print_config"]) == 0
    examples = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["examples"]["init_args"]
    there = yaml.safe_load(config.read_text())["data"]["init_args"]["examples"]["init_args"]
    assert (examples["teacher"], examples["crops"], examples["crop_size"]) == ("T.ckpt", 3, there["crop_size"])


def script(path: str) -> ModuleType:
    """An experiment's script as a module, which imports what lies beside it."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, EXPERIMENTS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend((EXPERIMENTS / path).parent)
        patch.setitem(sys.modules, spec.name, module)  # where its dataclasses look for their types
        spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_screen_of_the_refiner_goes_on_where_it_stopped(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = script("camvid/refiner/screen.py")
    monkeypatch.setattr(screen.RESULTS, "path", tmp_path / "results.jsonl")
    teacher = SegmentationModule(11, NetworkArgs(encoder_name="tu-regnetx_002", scale=0.5))
    trainer = pl.Trainer(accelerator="cpu", logger=False)
    trainer.strategy.connect(teacher)
    trainer.save_checkpoint(tmp_path / "teacher.ckpt")
    rows = ["defaults", "no teacher"]
    command = [str(trees / "camvid"), "--teacher", str(tmp_path / "teacher.ckpt"), "--steps", "1", "--every", "4"]
    command += ["--networks", str(tmp_path / "networks"), "--score-every"]
    monkeypatch.setattr(screen, "CACHE", tmp_path)

    def screened(*arguments: str) -> list[tuple[str, int]]:
        monkeypatch.setattr("sys.argv", ["screen.py", *command, *arguments])
        screen.main()
        return [(result["row"], result["scored"]) for result in screen.RESULTS]

    assert screened("4", "--rows", *rows[:1]) == [("defaults", 4)]
    learned = sorted((tmp_path / "networks").iterdir())
    assert screened("4", "2", "--rows", *rows[:1]) == [("defaults", 4), ("defaults", 2)]
    assert sorted((tmp_path / "networks").iterdir()) == learned
    found = [("defaults", 4), ("defaults", 2), ("no teacher", 4)]
    assert screened("4", "--rows", *rows) == screened("4", "--rows", *rows) == found
    assert screened("4", "--rows", "no teacher", "--scale", "1")[3:] == [("no teacher", 4)]
    assert "| no teacher" in (alone := capsys.readouterr().out)
    assert not alone.splitlines()[-1].split("|")[-2].strip(), "there is nothing to compare it with"
    screened("4", "--rows", "defaults", "--scale", "1")
    gains = [line.split("|")[-2].strip() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert sorted(map(bool, gains)) == [False, True]  # of the defaults, and of the row that is compared with them
    with pytest.raises(SystemExit):
        screened("3")
    assert "else learned labels count" in capsys.readouterr().err


@pytest.mark.slow
def test_the_default_read_out_and_votes_are_those_of_refine(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run = ["autolabel", str(trees / "camvid"), f"--out={out}", "--label-every=3", "--weights=none"]
    assert main([*run, "--teacher-steps=2", "--refiner-steps=2"]) == 0
    networks = ["--teacher", str(out / "teacher.ckpt"), "--refiner", str(out / "refiner.ckpt")]

    def measured(name: str) -> dict[str, float]:
        monkeypatch.setattr("sys.argv", [f"{name}.py", str(trees / "camvid"), "--every", "3", *networks])
        capsys.readouterr()
        script(f"camvid/refiner/{name}.py").main()
        rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
        return {row[1].strip(): float(row[2]) for row in rows}

    by_votes = measured("rounds")
    assert measured("readout")["the same with half of both (default)"] == by_votes["none"]
    scores = json.loads((out / "metrics.json").read_text())["overall"]["refine"]
    voters = ", ".join(map(str, Refine.voters))
    assert by_votes[f"±{voters} by {Refine.vote}"] == pytest.approx(scores["miou"], abs=0.006)


@pytest.mark.slow
def test_a_refiner_for_any_classes_is_trained_and_scored(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, root = tmp_path / "out", str(trees / "camvid")
    assert (
        main(
            [
                "autolabel",
                root,
                f"--out={out}",
                "--label-every=3",
                "--weights=none",
                "--teacher-steps=1",
                "--refiner-steps=1",
            ]
        )
        == 0
    )
    agnostic, asked = script("camvid/refiner/agnostic.py"), {}
    data = agnostic.RefinementData
    monkeypatch.setattr(agnostic, "RefinementData", lambda *a, **chosen: asked.update(chosen) or data(*a, **chosen))
    given = [f"--teacher={out / 'teacher.ckpt'}", f"--agnostic={tmp_path / 'agnostic.pt'}", "--every=3"]
    for command in (["train", "--steps=1", "--seed=5"], ["score", f"--refiner={out / 'refiner.ckpt'}"]):
        monkeypatch.setattr("sys.argv", ["agnostic.py", command[0], root, *given, *command[1:]])
        capsys.readouterr()
        agnostic.main()
    assert (asked["seed"], asked["select"]) == (5, SelectArgs(label_every=3))
    names = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert names == ["motion", "semantic", "inpaint", "untrained", "agnostic", "refine"]
    probs = torch.rand(1, 4, 2, 3)
    one = agnostic.against_rest(probs, 2)
    torch.testing.assert_close(one[:, 1], probs[:, 2])
    torch.testing.assert_close(one.sum(1), probs.sum(1))


def test_the_benchmark_of_motion_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    motion, tiny = script("benchmarks/motion.py"), (48, 64)
    monkeypatch.setattr(motion, "SIZES", [tiny])
    monkeypatch.setattr(motion, "VOTES", [(tiny, every) for every in (10, 25, 50)])
    least = sys.modules["measuring"].least
    for name in ("propagating", "sampling"):
        monkeypatch.setattr(sys.modules[name], "least", lambda repetitions, *works: least(1, *works))
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    for table in ("primitives", "propagation", "vote"):
        monkeypatch.setattr("sys.argv", ["motion.py", "--only", table, "--threads", str(threads)])
        motion.main()
    printed = capsys.readouterr().out
    # The straightforward vote and ours say the same; pixels on which several others land may differ.
    vote = printed[printed.index("equal pixels") :].splitlines()[2:]
    assert len(vote) == 3
    assert all(97 < float(line.split("|")[-2]) <= 100 for line in vote)


def test_time_and_memory_of_propagation_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    growth = script("benchmarks/growth.py")
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    for method in ("motion", "refine"):
        monkeypatch.setattr("sys.argv", ["growth", method, "5", "48", "64", "11", f"--threads={threads}"])
        growth.main()
        assert min(json.loads(capsys.readouterr().out).values()) >= 0
    (tmp_path / "echo.py").write_text("import json, sys; print(json.dumps(sys.argv[1:]))")
    assert growth.in_fresh_process(str(tmp_path / "echo.py"), 1, "x") == ["1", "x", f"--threads={threads}"]
    assert growth.exponent([10, 20, 40], [3, 12, 48]) == pytest.approx(2)
    assert growth.exponent([10, 20], [5, 0]) is None
    assert growth.exponent([10, 10], [5, 5]) is None


@pytest.mark.slow
def test_benchmarks_make_one_file_of_tables(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All tables but those of several processes, which are too slow here, and of a GPU."""
    monkeypatch.setenv("WRP_DATA", str(trees))
    autolabel = ["autolabel", "camvid", f"--out={tmp_path / 'run'}", "--label-every=3", "--weights=none"]
    assert main([*autolabel, "--teacher-steps=1", "--refiner-steps=1"]) == 0
    run, tiny = script("benchmarks/run.py"), (48, 64)
    growth = sys.modules["growth"]
    monkeypatch.setattr(growth, "measure", growth.measure_here)
    monkeypatch.setattr(sys.modules["startup"], "STARTED", {name: ["-c", "pass"] for name in ("wrp", "torch", "pl")})
    extent = replace(
        run.QUICK,
        scene=(6, (32, 48)),
        every=(2, 3),
        seeds=(0, 1),
        methods=("copy", "motion"),
        propagation=((tiny,), 4),
        votes=((tiny, 3),),
        steps=(3, 1, (64, 64)),
        loader=(4, 1),
        writer=((tiny,), 4, 1),
        growth={"classes": tuple(growth.Case("motion", 5, *tiny, classes) for classes in (11, 150))},
        startup=1,
    )
    monkeypatch.setattr(run, "QUICK", extent)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    only = [name for name in run.TABLES if name != "jobs"]
    command = ["run.py", "--root", "camvid", "davis2016", "--runs", str(tmp_path / "run")]
    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.argv", [*command, f"--out={tmp_path / 'tables'}", f"--threads={threads}", "--only", *only])
    run.main()
    markdown = (tmp_path / "tables.md").read_text()
    assert markdown in capsys.readouterr().out
    made = json.loads((tmp_path / "tables.json").read_text())
    tables = {table["title"]: table["rows"] for table in made["tables"]}
    assert [line[3:] for line in markdown.splitlines() if line.startswith("## ")] == list(tables)
    assert made["versions"] == versions()
    assert list(dict.fromkeys(table["name"] for table in made["tables"])) == only
    how = made["tables"][0]["made"]
    assert how["seeds"] == [0, 1]
    assert how["command"].startswith("run.py --root camvid davis2016")
    assert str(tmp_path) not in markdown.replace(str(tmp_path / "run"), "")
    assert run.command(["--full", "--out", "x", "--only", "vote"]) == "run.py --full --only vote"
    # Camvid's tiny clip has six frames: each of the seeds of K=2 and of K=3 hides other ones.
    copy = {(row["data"], row["K"], row["score"]): row["copy"] for row in tables["Quality by motion alone"]}
    assert copy["camvid", 2, "mIoU"] != copy["camvid", 3, "mIoU"]
    assert copy["camvid", 3, "mIoU"][0] != copy["camvid", 3, "mIoU"][1]
    assert [len(values) for values in copy.values()] == [2] * 6
    assert copy["davis2016", 2, "J"][0] > 0
    with_networks = {row["method"]: row["camvid K=3"][0] for row in tables["Quality with networks"]}
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["overall"]
    for method in ("motion", "semantic", "inpaint", "refine", "upper_bound"):
        assert with_networks[method] == pytest.approx(metrics[method]["miou"], abs=0.02), method
    assert "student" not in with_networks
    assert tables["Propagation over flow"][0]["calls"] == 6
    assert tables["Vote and fusion over the plain vote"][0]["equal pixels, %"] > 97
    assert tables["Module step over a plain loop"][1]["ratio"] == 1
    assert [row["data"] for row in tables["Loader over raw decoding"]] == ["camvid"] * 4 + ["davis2016"] * 4
    written = tables["Writer over raw encoding"][0]
    assert written["ratio"] == pytest.approx(written["written, frames/s"] / written["encoded, frames/s"])
    assert [row["classes"] for row in tables["Time and memory by length, resolution and classes"]] == [11, 150]
    assert tables["Start-up"][1]["over import torch"] == 1
    if not torch.cuda.is_available():
        assert "not yet run on a GPU" in markdown

    monkeypatch.setattr("sys.argv", [*command[:1], f"--out={tmp_path / 'tables'}", "--threads=1", "--only", "startup"])
    run.main()
    again = json.loads((tmp_path / "tables.json").read_text())
    assert [table["title"] for table in again["tables"]] == list(tables)
    assert again["tables"][:-1] == made["tables"][:-1]
    assert again["tables"][-1]["made"]["command"] == "run.py --threads=1 --only startup"

    (tmp_path / "tables.json").write_text(json.dumps({**again, "versions": {"torch": "1.0"}}))
    with pytest.raises(SystemExit, match="2"):
        run.main()
    assert "has tables with versions {'torch': '1.0'}, here it is" in capsys.readouterr().err


def test_a_benchmark_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = script("benchmarks/run.py")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = [f"--out={tmp_path / 'tables'}", f"--threads={torch.get_num_threads()}", "--only", "quality"]
    for given in (["--root", str(tmp_path / "nothing")], ["--runs", str(tmp_path / "nothing")]):
        monkeypatch.setattr("sys.argv", ["run.py", *given, *out])
        with pytest.raises(SystemExit, match="2"):
            run.main()
        assert str(tmp_path / "nothing") in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_propagators_are_compared(
    trees: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRP_DATA", str(trees))
    monkeypatch.setattr("sys.argv", ["methods", "davis2016", "--every", "2", "3", "--methods", "copy", "motion"])
    script("propagation/methods.py").main()
    printed = capsys.readouterr().out
    assert "davis2016 K=2 | davis2016 K=3" in printed
    assert printed.count("J / F by distance") == 2


@pytest.mark.slow
def test_the_benchmark_of_gpus_runs_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu, found = script("benchmarks/gpu.py"), {}
    tables = gpu.tables
    monkeypatch.setattr(gpu, "tables", lambda *given: found.update(tables(*given)) or found)
    monkeypatch.setattr("sys.argv", ["gpu", "--device=cpu", "--size", "64", "96"])
    gpu.main()
    assert capsys.readouterr().out.count("on a CPU, not yet run on a GPU") == 3
    labelling, training, sharing = found.values()
    for row in labelling:
        percentages = [cell for head, cell in row.items() if head.endswith("%")]
        assert len(percentages) == 5
        assert min(percentages) > 0
        assert sum(percentages) == pytest.approx(100)
        assert row["frames/s"] > 0
    assert [(row["module"], row["precision"]) for row in training] == [
        (name, precision) for name in ("SegmentationModule", "RefinementModule") for precision in ("32", "bf16")
    ]
    assert all(row["s/step"] > row["of that waiting for data, s"] > 0 for row in training)
    assert [row["pictures as from one process"] for row in sharing] == ["14 of 14"] * 2


@pytest.mark.slow
def test_jobs_share_the_work_of_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = script("benchmarks/jobs.py")
    root = jobs.two_clips(tmp_path, 4, (32, 48))
    assert len(list((root / "labels").glob("*/*.png"))) == 4
    assert jobs.label(root, tmp_path / "two", [["--shard=1/2"], ["--shard=2/2"]]) > 0
    assert len(list((tmp_path / "two" / "labels").glob("*/*.png"))) == 8
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RuntimeError, match="exit code 1"):
        jobs.label(root, tmp_path / "none", [[]])
    seconds = {"nothing": 2.0, "one": 10.0, "one-on-both": 8.0, "two": 6.0}
    monkeypatch.setattr(jobs, "label", lambda root, out, shares, cores=None: seconds[out.name])
    rows = jobs.measure(tmp_path, 4, (32, 48))
    assert [row["frames/s"] for row in rows] == [0.8, 1, 8 / 6]
    assert [row["ratio without start"] for row in rows] == [1, 8 / 6, 2]


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
        "--trainer.limit_val_batches=2",  # 1 would be all of them
        "--trainer.accelerator=cpu",
    ]
    short += ["--trainer.val_check_interval=1", "--data.init_args.select.label_every=3"]
    assert main([*command_line(sweep, values), *short, "--trainer.num_sanity_val_steps=0"]) == 0
    pushed = wandb.run.config["config"]
    scored = {name: wandb.run.summary[name] for name in (sweep["metric"]["name"], "val/miou")}
    wandb.finish()
    assert 0 <= scored["hp/miou"] == scored["val/miou"] <= 100
    [config] = Path("lightning_logs").glob("*/config.yaml")
    kept = yaml.safe_load(config.read_text())
    assert pushed == kept
    for key, value in values.items():
        found = kept
        for part in key.split("."):
            found = found[part]
        assert found == pytest.approx(value)


@pytest.mark.slow
def test_a_sweep_over_the_whole_job_is_searched(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setenv("WRP_DATA", str(trees))
    monkeypatch.chdir(tmp_path)
    sweep = yaml.safe_load((EXPERIMENTS / "sweeps" / "autolabel.yaml").read_text())
    sweep["command"] += ["--teacher-steps=1", "--train_teacher.crop=[32, 64]", "--run.flow=dis-fast", "--label-every=3"]
    sweep["command"].remove("--label-every=25")
    sweep["parameters"]["train_refiner.steps"] = {"values": [1, 2]}
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert main(["search", "sweep.yaml", "--trials=1", "--out=search"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 3  # head, line and one trial
    assert Path("runs/sweep/sweep-0-0/metrics.json").is_file()


@pytest.mark.slow
def test_students_with_and_without_propagated_labels_are_compared(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRP_DATA", str(trees))
    compare = script("student/compare.py")
    monkeypatch.setattr(compare.RESULTS, "path", tmp_path / "results.jsonl")
    monkeypatch.setattr(compare, "GENERATED", (2, 3))
    monkeypatch.setattr(compare, "generate_folder", partial(generate_folder, height=64, width=96))
    monkeypatch.setattr(compare, "HELD_OUT", 1)
    assert main(["autolabel", "camvid", "--label-every=3", "--methods=motion", f"--out={tmp_path / 'run'}"]) == 0
    for arguments in (["camvid", f"--propagated={tmp_path / 'run'}", "--every=3"], ["generated", "--every=2"]):
        command = ["compare", *arguments, "--steps=3", f"--runs={tmp_path}", "--seeds=0", "--students"]
        for _ in range(2):
            monkeypatch.setattr("sys.argv", [*command, "keyframes alone", "by confidence"])
            compare.main()
        if "camvid" in arguments:
            monkeypatch.setattr("sys.argv", [*command, "CISC-R weights", "Three-Stage firewall", "ST++ scheduling"])
            compare.main()
    assert len(list(compare.RESULTS)) == 7
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


def test_a_step_is_measured_by_how_threads_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["spinning.py", "--one", "--steps=1", "--size=64"])
    script("benchmarks/spinning.py").main()
    assert float(capsys.readouterr().out) > 0


def test_export_and_import_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exchange = script("benchmarks/exchange.py")
    monkeypatch.setattr(exchange, "CLIP", 2)
    monkeypatch.setattr(exchange, "run", lambda *command: exchange.timed([str(part) for part in command]))
    command = ["exchange", str(tmp_path), "--size", "32", "64", "--frames", "2", "4"]
    monkeypatch.setattr("sys.argv", [*command, "--formats", "coco", "webdataset"])
    exchange.main()
    lines = capsys.readouterr().out.splitlines()[-2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells] == ["coco", "webdataset"]
    assert all(cell not in ("–", "0.00") for cell in cells[0][1:4])
    assert cells[1][-4:] == ["–"] * 4  # it is not read


@pytest.mark.slow
@pytest.mark.parametrize("data", ["camvid", "generated"])
def test_systems_are_compared_and_share_their_first_stage(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_camvid(tmp_path / "camvid", train=30)
    monkeypatch.setenv("WRP_DATA", str(tmp_path))
    compare = script("selftraining/compare.py")
    monkeypatch.setattr(compare.RESULTS, "path", tmp_path / "results.jsonl")
    monkeypatch.setattr(compare, "GENERATED", (3, 9))
    monkeypatch.setattr(compare, "generate_folder", partial(generate_folder, height=64, width=96))
    monkeypatch.setitem(compare.CROP, data, (64, 96))
    monkeypatch.setitem(compare.HELD_OUT, "generated", {"street101"})
    arguments = [data, f"--runs={tmp_path / 'runs'}", "--steps=3", "--seeds=0", "--systems", "st++", "supervised"]
    arguments += [f"--results={tmp_path / 'results.jsonl'}"]
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["compare", *arguments])
        compare.main()
    assert [(result["data"], result["system"]) for result in compare.RESULTS] == [
        (data, "st++"),
        (data, "supervised"),
    ]
    runs = tmp_path / "runs" / data / "none-8-3-0.005-1.0"
    assert not (runs / "supervised-0" / "supervised.ckpt").exists()
    assert "st++" in capsys.readouterr().out
    lists = [(runs / "lists" / f"{name}.txt").read_text().split() for name in ("labelled", "unlabelled", "val")]
    assert len(set().union(*lists)) == sum(map(len, lists))
    if data == "generated":
        assert [len(names) for names in lists] == [4, 14, 9]


@pytest.mark.slow
def test_systems_with_other_weights_or_labels_are_compared_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_camvid(tmp_path / "camvid", train=30)
    monkeypatch.setenv("WRP_DATA", str(tmp_path))
    compare = script("selftraining/compare.py")
    monkeypatch.setitem(compare.CROP, "camvid", (64, 96))
    found = tmp_path / "results.jsonl"
    old = {"data": "camvid", "system": "supervised", "seed": 0, "steps": 3, "miou": 12.0, "seconds": 1}
    found.write_text(json.dumps(old) + "\n")
    given = ["camvid", f"--runs={tmp_path / 'runs'}", "--steps=3", "--seeds=0", f"--results={found}", "--systems"]
    choices: list[list[str]] = [[], ["--weights=imagenet"], ["--weights=imagenet"], ["--labelled-every=4"]]
    for more in choices:
        monkeypatch.setattr("sys.argv", ["compare", *given, "supervised", "unimatch-v2", *more])
        compare.main()
    chosen = [(row["system"], row["weights"], row["labelled_every"], row["lr"]) for row in compare.RESULTS]
    assert chosen == [
        ("supervised", "none", 8, 0.005),  # the old one, which was not made again
        ("unimatch-v2", "none", 8, 0.005),
        *((system, "imagenet", 8, 0.001) for system in ("supervised", "unimatch-v2")),
        *((system, "none", 4, 0.005) for system in ("supervised", "unimatch-v2")),
    ]
    assert json.loads(found.read_text().splitlines()[0]) == old
    rows = capsys.readouterr().out.splitlines()[-6:]
    assert [row.split("|")[-2].strip().count(".") for row in rows] == [0, 1] * 3
    used = torch.load(next((tmp_path / "runs").glob("camvid/imagenet*/unimatch-v2-0/*.ckpt")), weights_only=True)
    assert "efficientnet-lite0" in used[ENCODER_KEY]


@pytest.mark.slow
def test_curves_are_read_from_what_a_fit_logged(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRP_DATA", str(trees))
    log = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path}", "--trainer.logger.name=plain"]
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--data.init_args.sampling.crop_size=[32,32]"]
    config = EXPERIMENTS / "camvid" / "teacher.yaml"
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


def test_a_data_set_backward_in_time(trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["reverse.py", str(trees / "camvid"), str(tmp_path / "reversed")])
    script("propagation/reverse.py").main()
    there, back = open_index(trees / "camvid"), open_index(tmp_path / "reversed")
    for clip, turned in zip(there.clips, back.clips, strict=True):
        for frame, opposite in zip(clip.frames, reversed(turned.frames), strict=True):
            assert isinstance(opposite.image, Path)
            assert opposite.image.read_bytes() == frame.image.read_bytes()
            assert (frame.label is None) == (opposite.label is None)
            if frame.label is not None and opposite.label is not None:
                labels = read_label(opposite.label, back.label_map)
                assert torch.equal(labels, read_label(frame.label, there.label_map))


def test_a_corrected_keyframe_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--intervals", "4", "--size", "32", "48", "--options", "--methods", "motion"]
    script("propagation/continuing.py").main(["--out", str(tmp_path / "out"), *small])
    table = capsys.readouterr().out.splitlines()[-2:]
    assert [[cell.strip() for cell in row.split("|")][-2] for row in table] == ["4", "2"]


def test_kinds_of_video_are_compared_cell_by_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(make_folder(tmp_path / "clips", {"walk": 9}))
    domains = script("domains/run.py")
    monkeypatch.setattr(domains, "SPACINGS", {root: (4, 2)})
    monkeypatch.setattr(domains, "RESULTS", type(domains.RESULTS)(tmp_path / "results.jsonl"))
    monkeypatch.setattr("sys.argv", ["run.py", root, "--quick", f"--folder={tmp_path / 'runs'}"])
    domains.main()
    [cell] = domains.RESULTS
    assert cell["every"] == 4
    of_each = {"miou", "biou", "estimated", "keyframes"}
    assert cell["motion"].keys() == of_each, "no pixel keeps its class for eight frames"
    assert cell["vote"].keys() == of_each | {"ece", "auroc"}
    assert cell["accepted"]["0.95"]["held_out"] == 1
    scored = json.loads(next((tmp_path / "runs").rglob("metrics.json")).read_text())
    assert cell["vote"]["miou"] == scored["overall"]["vote"]["miou"]
    assert not list((tmp_path / "runs").rglob("labels"))
    domains.main()
    assert len(list(domains.RESULTS)) == 1, "what is there is not made again"
    assert f"{root}, K=4" in capsys.readouterr().out


def test_planted_mistakes_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 7})
    monkeypatch.setattr("sys.argv", ["audit.py", f"{root}:2", "--mistakes=1", "--flow=dis-fast"])
    script("suggest/audit.py").main()
    out = capsys.readouterr().out
    assert out.count(f"{root}, K=2") == 8, "a row for each of the settings, and one as they come"
    assert "confidence 0.9, band 0.01, pixels 0.001" in out


@pytest.mark.parametrize(("scene", "package"), [("arm", "pybullet"), ("doom", "vizdoom")])
def test_simulated_clips_have_exact_labels(scene: str, package: str, tmp_path: Path) -> None:
    generate = script("domains/generate.py")
    if importlib.util.find_spec(package) is None:
        with pytest.raises(SystemExit, match=r"pip install '\.\[simulators\]'"):
            generate.write_scene(scene, tmp_path / scene, 3)
        return
    [clip] = open_index(generate.write_scene(scene, tmp_path / scene, 3)).clips
    assert len(clip.frames) == len(clip.keyframes) == 3
    label = read_label(clip.frames[0].label, open_index(tmp_path / scene).label_map)
    assert len(label.unique()) > 1
