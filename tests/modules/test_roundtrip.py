"""Fit, checkpoint, load and predict every module through the real command line."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from tests.clips import make_folder
from tests.modules.small import FIT, PREDICT, checkpoints, writer
from wrp import CycleExamples, LabelWriter, PropagationData, PropagationModule, RefinementModule, SegmentationModule
from wrp.cli.lightning import run
from wrp.cli.main import main
from wrp.data import items
from wrp.data.items import IntervalItems, WindowItems
from wrp.data.layouts.registry import open_index
from wrp.errors import WrpError
from wrp.geometry.fusion import blend, blend_weights
from wrp.geometry.labels import argmax_frame
from wrp.io.checkpoints import load_module
from wrp.io.images import read_image
from wrp.options import KeepArgs, NetworkArgs
from wrp.propagation.methods.base import Context, Needs, PropagationMethod, QueryFrame
from wrp.propagation.methods.copy import Copy
from wrp.refinement.store import CycleRecord
from wrp.selftraining.three_stage import ThreeStageModule
from wrp.selftraining.unimatch_v2 import UniMatchV2Module
from wrp.structures import ClipBatch

FIT += ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_model_summary=false"]
SEGMENTER = ["--model=SegmentationModule", "--model.network.encoder_name=tu-test_resnet"]
REFINER = ["--model=RefinementModule", "--model.network.channels=[4,8,8]"]
CYCLES = ["--data.examples=CycleExamples", "--data.examples.crop_size=[16,32]", "--data.examples.crops=2"]
OF_KIND = {  # all labels are trained on and scored
    "SegmentationData": ["--data.sampling.crop_size=[32,64]", "--data.val.overlap=true"],
    "RefinementData": [*CYCLES, "--data.val.overlap=true"],
    "PropagationData": [],
}


def data(root: Path, kind: str) -> list[str]:
    return [f"--data={kind}", "--data.num_classes=3", f"--data.root={root}", *OF_KIND[kind]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "clips", {"walk": 7}, labelled=(0, 3, 6))


def fit(root: Path, kind: str, model: list[str], folder: str, *more: str) -> str:
    assert main(["fit", *model, *data(root, kind), *more, *FIT, *checkpoints(folder)]) == 0
    return f"{folder}/model.ckpt"


def written(folder: str) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted(Path(folder, "labels", "walk").glob("*.png"))]


def test_segmentation(root: Path) -> None:
    checkpoint = fit(root, "SegmentationData", SEGMENTER, "teacher")
    command = [
        "predict",
        *SEGMENTER,
        *data(root, "SegmentationData"),
        *PREDICT,
        *writer("out"),
        f"--ckpt_path={checkpoint}",
    ]
    assert main(command) == 0
    labels = written("out")
    assert len(labels) == 7
    module = load_module(SegmentationModule, checkpoint)
    frame = torch.from_numpy(np.array(Image.open(root / "frames/walk/00004.png"))).permute(2, 0, 1)
    with torch.inference_mode():
        expected = module.probabilities(frame[None]).argmax(1)[0].numpy()
    assert np.array_equal(np.array([0, 3, 7])[expected], labels[4])


def test_refinement_and_propagation(root: Path) -> None:
    teacher = fit(root, "SegmentationData", SEGMENTER, "teacher")
    refiner = fit(root, "RefinementData", REFINER, "refiner", f"--data.examples.teacher={teacher}")
    names = torch.load(refiner, weights_only=True)["state_dict"]
    assert names
    assert all(name.startswith("net.") for name in names)
    again = ["predict", *REFINER, *data(root, "RefinementData"), f"--data.examples.teacher={teacher}", *PREDICT]
    assert main([*again, *writer("keyframes"), f"--ckpt_path={refiner}"]) == 0
    assert len(written("keyframes")) == 3
    methods = ["motion", "semantic", "inpaint", "refine"]
    model = ["--model=PropagationModule", f"--model.methods={methods}", f"--model.teacher={teacher}"]
    model.append(f"--model.refiner={refiner}")
    assert main(["predict", *model, *data(root, "PropagationData"), *PREDICT, *writer("out")]) == 0
    labels = written("out")
    assert len(labels) == 7
    for keyframe in (0, 3, 6):
        assert np.array_equal(labels[keyframe], np.array(Image.open(root / f"labels/walk/{keyframe:05d}.png")))
    for method in methods[:-1]:
        assert len(list(Path("out", "methods", method, "walk").glob("*.png"))) == 4
    lines = [json.loads(line) for line in Path("out", "manifest.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(7))
    assert [line["method"] for line in lines] == [
        "keyframe",
        "refine",
        "refine",
        "keyframe",
        "refine",
        "refine",
        "keyframe",
    ]


def test_propagation_scores_hidden_frames(root: Path) -> None:
    root = make_folder(root.parent / "full", {"walk": 7})
    model = ["--model=PropagationModule", "--model.methods=[motion,'motion:previous']"]
    cli = run(["test", *model, *data(root, "PropagationData"), "--data.select.label_every=4", *PREDICT[:3]])
    scores = cli.trainer.callback_metrics
    assert {"test/motion/miou", "test/motion:previous/miou_1", "test/motion:previous/miou_2"} <= set(scores)
    assert 0 < scores["test/motion/miou"] <= 100


def test_checkpoint_of_another_class_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = fit(root, "SegmentationData", SEGMENTER, "teacher")
    with pytest.raises(WrpError, match="holds a .*SegmentationModule, expected a .*RefinementModule"):
        load_module(RefinementModule, teacher)
    command = ["predict", *REFINER, *data(root, "RefinementData"), *PREDICT, f"--ckpt_path={teacher}"]
    assert main(command) == 2
    assert "holds a wrp.segmentation.module.SegmentationModule" in capsys.readouterr().err


def test_settings_of_a_checkpoint_that_win_are_named(root: Path) -> None:
    teacher = fit(root, "SegmentationData", SEGMENTER, "teacher")
    given = ["--model.optimizer.lr=0.5", "--model.network.encoder_weights=imagenet", "--model.auxiliary=0.2"]
    command = ["fit", *SEGMENTER, *given, *data(root, "SegmentationData"), *FIT, f"--ckpt_path={teacher}"]
    with pytest.warns(UserWarning, match="replaces the") as told:
        assert main([*command, *checkpoints("again")]) == 0
    messages = sorted(str(warning.message) for warning in told if "replaces the" in str(warning.message))
    assert messages == [
        f"auxiliary=0.4 of {teacher} replaces the 0.2 of the configuration",
        f"optimizer.lr=0.001 of {teacher} replaces the 0.5 of the configuration",
    ]


def test_a_method_without_its_network_is_refused() -> None:
    with pytest.raises(WrpError, match="'inpaint' needs a teacher"):
        PropagationModule(3, ["motion", "inpaint"])
    with pytest.raises(WrpError, match=r"unknown method 'motoin'; did you mean motion\? Expected one of copy, "):
        PropagationModule(3, ["motoin"])
    with pytest.raises(WrpError, match="'semantic:nearest': semantic takes no keyframes"):
        PropagationModule(3, ["semantic:nearest"])
    with pytest.raises(WrpError, match="each once"):
        PropagationModule(3, ["motion", "motion"])


@pytest.mark.parametrize(
    ("verb", "model", "kind", "message"),
    [
        ("fit", SEGMENTER, "RefinementData", "SegmentationModule learns from single frames, got a RefinerExamples"),
        ("fit", SEGMENTER, "PropagationData", "PropagationData serves nothing to train: use another"),
        ("validate", SEGMENTER, "PropagationData", "learns from single frames, got a ClipBatch: use --data Segm"),
        ("test", SEGMENTER, "RefinementData", "RefinementData serves nothing to test: use another --data"),
        ("fit", REFINER, "SegmentationData", "RefinementModule learns from examples, got a FrameBatch: use --data Ref"),
        (
            "predict",
            ["--model=PropagationModule"],
            "SegmentationData",
            "labels intervals, got a FrameBatch: use --data",
        ),
    ],
)
def test_wrong_batches_are_named(
    verb: str, model: list[str], kind: str, message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*FIT, "--trainer.limit_val_batches=0"] if verb == "fit" else PREDICT[: None if verb == "predict" else 3]
    assert main([verb, *model, *data(root, kind), *flags]) == 2
    assert message in capsys.readouterr().err


def test_an_own_method_takes_five_lines(root: Path) -> None:
    class Earlier(PropagationMethod):
        needs = Needs(warped=True)

        def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
            first = query.warped.of_keyframe(0)
            return argmax_frame(blend(first, blend_weights(first), state.num_classes))

    class Mine(PropagationModule):
        known_methods = {**PropagationModule.known_methods, "earlier": Earlier}

    batch = IntervalItems(open_index(root).clips, open_index(root).label_map)[0]
    mine = list(Mine(3, ["earlier"]).session(batch))
    theirs = list(PropagationModule(3, ["motion:previous"]).session(batch))
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(mine, theirs, strict=True))
    assert [result.method for result in mine] == ["keyframe", "earlier", "earlier"]


@pytest.mark.slow
def test_wandb_offline(root: Path) -> None:
    # Not ".": W&B takes it for the folder of the first run of this process.
    logger = [
        "--trainer.logger=WandbLogger",
        "--trainer.logger.offline=true",
        f"--trainer.logger.save_dir={Path.cwd()}",
    ]
    quick = [flag for flag in FIT if "logger" not in flag]
    assert main(["fit", *REFINER, *data(root, "RefinementData"), *quick, *logger, "--trainer.log_every_n_steps=1"]) == 0
    assert list(Path("wandb").glob("offline-run-*/*.wandb"))


def test_a_flow_cache_is_shared_through_the_command_line(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    flow = ["--model.flow=wrp.flow.cache.FlowCache", "--model.flow.folder=flow"]
    flow += ["--model.flow.estimator=wrp.flow.dis.DIS", "--model.flow.estimator.preset=fast"]
    model = ["--model=PropagationModule", *flow]
    for folder, rate in (("first", "25 %"), ("second", "100 %")):
        caplog.clear()
        with caplog.at_level("INFO", "wrp"):
            assert main(["predict", *model, *data(root, "PropagationData"), *PREDICT, *writer(folder)]) == 0
        assert f"{rate} found" in caplog.text
    assert all(np.array_equal(a, b) for a, b in zip(written("first"), written("second"), strict=True))


def test_a_long_stretch_is_read_frame_by_frame_with_the_same_result(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_index(root)
    module = PropagationModule(3, ["motion"])
    at_once = list(module.session(IntervalItems(index.clips, index.label_map)[0]))
    monkeypatch.setattr(items, "STRETCH_BYTES", 0)
    batch = IntervalItems(index.clips, index.label_map)[0]
    assert isinstance(batch.frames, items.LazyFrames)
    one_by_one = list(module.session(batch))
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(at_once, one_by_one, strict=True))
    moved = IntervalItems(index.clips, index.label_map)[1]
    image = Image.open(root / "frames/walk/00004.png")
    image.resize((9, 9)).save(root / "frames/walk/00004.png")
    with pytest.raises(WrpError, match=r"different sizes .* of .*00004.png"):
        list(module.session(moved))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_long_stretch_comes_from_a_loader_process(root: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "STRETCH_BYTES", 0)
    loaders = [f"--data.workers={workers}"]
    model = ["--model=PropagationModule"]
    assert main(["predict", *model, *data(root, "PropagationData"), *loaders, *PREDICT, *writer(f"out{workers}")]) == 0
    assert len(written(f"out{workers}")) == 7


@pytest.mark.parametrize("collected", [True, False])
def test_a_session_works_in_the_precision_of_the_trainer(collected: bool, root: Path) -> None:
    seen = []

    class Watching(Copy):
        def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().predict(query, state)

    class Watched(PropagationModule):
        known_methods = {"copy": Watching}

    module = PropagationData(3, str(root))
    callbacks = [] if collected else [LabelWriter("out")]
    trainer = pl.Trainer(accelerator="cpu", precision="bf16-mixed", logger=False, callbacks=callbacks)
    sessions = trainer.predict(Watched(3, ["copy"]), module)
    if collected:  # they begin to work where they are iterated over
        assert seen == []
        for session in sessions or []:
            for prediction in session:
                assert not torch.is_autocast_enabled("cpu")
                assert prediction.labels.dtype == torch.uint8
    assert seen == [True] * 4
    assert not torch.is_autocast_enabled("cpu")


def test_walks_of_another_data_set_are_not_taken_for_those_of_this_one(root: Path) -> None:
    other = make_folder(root.parent / "other", {"walk": 7}, labelled=(0, 3, 6))
    for path in (other / "frames/walk").iterdir():
        Image.fromarray(255 - np.array(Image.open(path))).save(path)
    windows = [WindowItems(open_index(r).clips, open_index(r).label_map)[1] for r in (root, other, root)]
    for keep in (KeepArgs(), KeepArgs("kept")):
        made = []

        class Counted(CycleExamples):
            def record(self, window: ClipBatch, num_classes: int) -> CycleRecord:
                made.append(window)  # noqa: B023, used in this turn
                return super().record(window, num_classes)

        first, second, again = Counted(keep=keep).validation(windows, 3)
        assert torch.equal(first.inputs.image, again.inputs.image)
        assert torch.equal(first.inputs.cues, again.inputs.cues)
        fresh = CycleExamples().validation(windows, 3)[1]
        assert torch.equal(second.inputs.image, fresh.inputs.image)
        assert torch.equal(second.inputs.cues, fresh.inputs.cues)
        assert not torch.equal(second.inputs.cues, first.inputs.cues)
        assert len(made) == 2


def test_options_of_the_architecture_come_back_with_the_checkpoint(root: Path) -> None:
    options = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
    checkpoint = fit(root, "SegmentationData", [*SEGMENTER, f"--model.network.options={json.dumps(options)}"], "slim")
    module = load_module(SegmentationModule, checkpoint)
    assert module.network.options == options
    assert sum(p.numel() for p in module.parameters()) < sum(
        p.numel() for p in SegmentationModule(3, NetworkArgs(encoder_name="tu-test_resnet")).parameters()
    )


@pytest.mark.parametrize(
    "kind", [SegmentationModule, ThreeStageModule, UniMatchV2Module], ids=lambda kind: kind.__name__
)
def test_a_checkpoint_that_was_made_in_python_serves_the_command_line(
    root: Path, kind: type[SegmentationModule], tmp_path: Path
) -> None:
    options = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}
    module = kind(3, NetworkArgs(encoder_name="tu-test_resnet", options=options, scale=0.5))
    trainer = pl.Trainer(max_steps=0, logger=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    model = [f"--model={kind.__name__}", f"--ckpt_path={tmp_path / 'student.ckpt'}"]
    assert main(["predict", *model, *data(root, "SegmentationData"), *PREDICT, *writer("out")]) == 0
    expected = load_module(kind, tmp_path / "student.ckpt")
    frame = read_image(root / "frames/walk/00002.png")
    labels = expected.probabilities(frame[None]).argmax(1)[0].numpy()
    assert np.array_equal(written("out")[2], np.array([0, 3, 7])[labels])


def test_weights_are_exported_without_what_belongs_to_the_training(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = ["--weights=none", "--teacher-steps=1", "--refiner-steps=1", "--label-every=2"]
    assert main(["autolabel", str(root), "--out=first", *networks]) == 0
    for name in ("teacher", "refiner"):
        checkpoint = Path("first", f"{name}.ckpt")
        assert main(["weights", str(checkpoint)]) == 0
        exported = checkpoint.with_suffix(".safetensors")
        assert str(exported) in capsys.readouterr().out
        assert exported.stat().st_size < 0.45 * checkpoint.stat().st_size
    Path("first/teacher.ckpt").unlink()  # of which the refiner's settings speak
    given = ["--teacher=first/teacher.safetensors", "--refiner=first/refiner.safetensors", "--label-every=2"]
    assert main(["autolabel", str(root), "--out=second", *given]) == 0
    for path in sorted(Path("first/labels").rglob("*.png")):
        assert Path("second", path.relative_to("first")).read_bytes() == path.read_bytes()
    assert main(["autolabel", str(root), "--out=third", "--label-every=2", "--teacher=first/refiner.safetensors"]) == 2
    assert "expected a wrp.segmentation.module.SegmentationModule" in capsys.readouterr().err
    assert main(["weights", "first/refiner.ckpt", "--out=refiner.pt"]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err


def test_a_network_learns_at_its_working_resolution_and_answers_at_full(root: Path) -> None:
    module = SegmentationModule(3, NetworkArgs(encoder_name="tu-test_resnet", scale=0.5))
    images = torch.rand(2, 3, 48, 64)
    assert module.train()(images).shape == (2, 3, 24, 32)
    assert module.eval()(images).shape == (2, 3, 48, 64)


def test_a_refiner_learns_and_answers_in_bf16(root: Path) -> None:
    checkpoint = fit(root, "RefinementData", [*REFINER, "--trainer.precision=bf16-mixed"], "half")
    model = ["--model=PropagationModule", "--model.methods=[refine]", f"--model.refiner={checkpoint}"]
    teacher = fit(root, "SegmentationData", [*SEGMENTER, "--trainer.precision=bf16-mixed"], "half-teacher")
    model.append(f"--model.teacher={teacher}")
    predict = [*PREDICT, "--trainer.precision=bf16-mixed", *writer("out")]
    assert main(["predict", *model, *data(root, "PropagationData"), *predict]) == 0
    assert len(written("out")) == 7


def test_what_is_written_is_not_collected_in_memory(root: Path, tmp_path: Path) -> None:
    given: list[weakref.ref[Any]] = []

    class Watched(PropagationModule):
        def predict_step(self, batch: ClipBatch, batch_idx: int) -> Any:
            assert all(session() is None for session in given[:-1])
            session = super().predict_step(batch, batch_idx)
            given.append(weakref.ref(session))
            return session

    trainer = pl.Trainer(logger=False, accelerator="cpu", callbacks=[LabelWriter(str(tmp_path / "out"))])
    assert trainer.predict(Watched(3, ["copy"]), PropagationData(3, str(root))) is None
    assert len(given) == 2


def test_a_prediction_goes_on_where_it_stopped(root: Path) -> None:
    command = ["predict", "--model=PropagationModule", *data(root, "PropagationData"), *PREDICT, *writer("out")]
    assert main(command) == 0
    everything = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    parts = sorted(Path("out/manifest.parts").rglob("*.jsonl"))
    lost = [json.loads(line)["label"] for line in parts[-1].read_text().splitlines()]
    parts[-1].unlink()
    kept = {path: path.stat().st_mtime_ns for path in Path("out/labels").rglob("*.png")}
    assert main([*command, "--data.done=out"]) == 0
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == everything
    written_again = {str(path.relative_to("out")) for path, time in kept.items() if path.stat().st_mtime_ns != time}
    assert written_again == set(lost)
