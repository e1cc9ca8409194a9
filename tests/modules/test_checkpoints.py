"""What a checkpoint holds beside its weights: its format, the labels that were seen, arguments as plain values."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.clips import make_folder
from tests.modules.small import FIT, PREDICT, checkpoints, writer
from wrp import (
    CycleExamples,
    PropagationData,
    PropagationModule,
    RefinementData,
    RefinementModule,
    SegmentationData,
    SegmentationModule,
)
from wrp.cli.main import main
from wrp.data.layouts.registry import open_index
from wrp.errors import WrpError
from wrp.io.checkpoints import (
    CLASS_KEY,
    FORMAT,
    FORMAT_KEY,
    INFERENCE_KEY,
    SEEN_KEY,
    load_module,
    network_hash,
    read_checkpoint,
    save_weights,
)
from wrp.io.manifest import label_hash
from wrp.options import (
    CycleArgs,
    InferenceArgs,
    NetworkArgs,
    OptimizerArgs,
    RefinerArgs,
    SamplingArgs,
    SelectArgs,
    ValArgs,
    as_options,
)
from wrp.segmentation.losses import SegmentationLoss

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "max_steps": 1, "limit_val_batches": 0,
}  # fmt: skip
SMALL = NetworkArgs(encoder_name="tu-test_resnet", options={"decoder_pyramid_channels": 16})
CROPS = SamplingArgs((32, 32), batch_size=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "clips", {"walk": 9})


def fit(module: pl.LightningModule, data: pl.LightningDataModule, path: str, **flags: Any) -> str:
    trainer = pl.Trainer(**{**QUIET, **flags})
    trainer.fit(module, data)
    trainer.save_checkpoint(path)
    return path


def hashes(root: Path, *indices: int) -> set[str]:
    [clip] = open_index(root).clips
    return {label_hash(clip.frames[index]) for index in indices}


def segmentation(root: Path, **options: Any) -> SegmentationData:
    return SegmentationData(3, str(root), select=SelectArgs(label_every=4), sampling=CROPS, **options)


def with_format(path: str, version: Any, out: str) -> str:
    """The same checkpoint, or weights, in another format; None: in none."""
    if out.endswith(".safetensors"):
        save_weights(read_checkpoint(Path(path)), Path(out))
        with safe_open(out, "pt") as file:
            known = dict(file.metadata())
        known.pop(FORMAT_KEY)
        save_file(load_file(out), out, known if version is None else known | {FORMAT_KEY: str(version)})
        return out
    content = read_checkpoint(Path(path))
    content.pop(FORMAT_KEY)
    torch.save(content if version is None else content | {FORMAT_KEY: version}, out)
    return out


@pytest.mark.parametrize("version", [None, FORMAT - 1, FORMAT + 1])
@pytest.mark.parametrize("out", ["other.ckpt", "other.safetensors"])
def test_another_format_is_refused(
    out: str, version: int | None, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = fit(SegmentationModule(3, SMALL), segmentation(root), "network.ckpt")
    other = with_format(network, version, out)
    message = f"{other} has the checkpoint format {version or 1}, this version of wrp reads {FORMAT}: use the version"
    with pytest.raises(WrpError, match=message) as error:
        load_module(SegmentationModule, other)
    assert "\n" not in str(error.value)
    with pytest.raises(WrpError, match=message):
        load_module(RefinementModule, other)  # the format is what helps, whatever class is there
    assert load_module(SegmentationModule, with_format(network, FORMAT, out)) is not None
    if not out.endswith(".safetensors"):
        command = ["fit", "--model=SegmentationModule", "--model.network.encoder_name=tu-test_resnet"]
        command += ["--data=SegmentationData", "--data.num_classes=3", f"--data.root={root}", *FIT]
        with_format(network, version, out)
        capsys.readouterr()
        assert main([*command, f"--ckpt_path={out}"]) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert message in line
        with pytest.raises(WrpError, match=f"has the checkpoint format {version or 1}, this version of wrp reads"):
            pl.Trainer(**QUIET).fit(SegmentationModule(3, SMALL), segmentation(root), ckpt_path=out)


def test_a_checkpoint_of_the_first_version_is_told_by_its_format(root: Path) -> None:
    content = read_checkpoint(Path(fit(SegmentationModule(3, SMALL), segmentation(root), "network.ckpt")))
    del content[FORMAT_KEY], content[SEEN_KEY]
    torch.save(content | {CLASS_KEY: "wrp.modules.segmentation.SegmentationModule"}, "old.ckpt")
    with pytest.raises(WrpError, match=r"old.ckpt has the checkpoint format 1, this version of wrp reads"):
        load_module(SegmentationModule, "old.ckpt")


def test_the_hash_of_a_network_is_that_of_what_it_predicts_with(root: Path) -> None:
    content = read_checkpoint(Path(fit(SegmentationModule(3, SMALL), segmentation(root), "network.ckpt")))
    expected = network_hash("network.ckpt")
    name, weights = next(iter(content["state_dict"].items()))
    settings = content["hyper_parameters"]
    others = {
        "state_dict": {**content["state_dict"], name: weights + 1},
        "hyper_parameters": {**settings, "num_classes": 4},
        INFERENCE_KEY: {"flip": True},
    }
    torch.save(content | {"datamodule_hyper_parameters": {"workers": 7}, "optimizer_states": []}, "other.ckpt")
    assert network_hash("other.ckpt") == expected
    for key, value in others.items():
        torch.save(content | {key: value}, "other.ckpt")
        assert network_hash("other.ckpt") != expected, key


@pytest.mark.parametrize("version", [None, FORMAT])
def test_weights_alone_are_no_training_to_go_on_with(
    version: int | None, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = fit(SegmentationModule(3, SMALL), segmentation(root), "network.ckpt")
    weights = with_format(network, version, "network.safetensors")
    command = ["fit", "--model=SegmentationModule", "--model.network.encoder_name=tu-test_resnet"]
    command += ["--data=SegmentationData", "--data.num_classes=3", f"--data.root={root}", *FIT]
    capsys.readouterr()
    assert main([*command, f"--ckpt_path={weights}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        "wrp: error: ckpt_path network.safetensors contains weights only; expected the checkpoint they were taken from"
    )


def test_the_labels_that_were_seen_come_along(root: Path) -> None:
    data = segmentation(root)
    network = fit(SegmentationModule(3, SMALL), data, "network.ckpt")
    seen = hashes(root, 0, 4, 8)
    assert len(seen) == 3
    assert load_module(SegmentationModule, network).labels_seen == data.labels_seen == seen
    assert sorted(seen) == torch.load(network, weights_only=True)[SEEN_KEY]
    left_out = fit(SegmentationModule(3, SMALL), segmentation(root, leave_out="2/3"), "left-out.ckpt")
    assert load_module(SegmentationModule, left_out).labels_seen == hashes(root, 0, 8)


def test_what_was_seen_before_is_not_forgotten(root: Path) -> None:
    network = fit(SegmentationModule(3, SMALL), segmentation(root, leave_out="2/3"), "network.ckpt")
    more = SegmentationData(3, str(root), select=SelectArgs(label_every=4, label_offset=2), sampling=CROPS)
    loaded = load_module(SegmentationModule, network)
    assert load_module(SegmentationModule, fit(loaded, more, "more.ckpt")).labels_seen == hashes(root, 0, 8, 2, 6)
    gone_on = fit(SegmentationModule(3, SMALL), segmentation(root), "second.ckpt")
    trainer = pl.Trainer(**{**QUIET, "max_steps": 2})
    module = SegmentationModule(3, SMALL)
    trainer.fit(module, more, ckpt_path=gone_on)
    trainer.save_checkpoint("third.ckpt")
    assert load_module(SegmentationModule, "third.ckpt").labels_seen == hashes(root, 0, 2, 4, 6, 8)


def test_a_refiner_has_seen_what_its_teachers_have(root: Path) -> None:
    teacher = fit(SegmentationModule(3, SMALL), segmentation(root, leave_out="2/3"), "teacher.ckpt")
    fold = fit(SegmentationModule(3, SMALL), segmentation(root, leave_out="1/3"), "fold.ckpt")

    def seen(path: str, **source: Any) -> frozenset[str]:
        examples = CycleExamples(crops=1, crop_size=(16, 16), **source)
        keyframes = SelectArgs(label_every=8, label_offset=2)  # another label than the teacher's
        data = RefinementData(3, examples, str(root), select=keyframes, radius=1)
        found: frozenset[str] = load_module(RefinementModule, fit(RefinementModule(3, tiny), data, path)).labels_seen
        return found

    tiny = RefinerArgs((4, 8))
    assert seen("without.ckpt") == hashes(root, 2)
    assert seen("with.ckpt", teacher=teacher) == hashes(root, 2, 0, 8)
    assert seen("folds.ckpt", teacher=teacher, fold_teachers=[fold]) == hashes(root, 2, 0, 8, 4)
    assert seen("module.ckpt", teacher=load_module(SegmentationModule, teacher)) == hashes(root, 2, 0, 8)
    tiny = RefinerArgs((4, 8), "FPN", encoder_from=fold)
    assert seen("encoder.ckpt") == hashes(root, 2, 4, 8)
    assert PropagationModule(3, ["refine"], teacher, "folds.ckpt").labels_seen == hashes(root, 2, 0, 8, 4)


def test_a_network_has_seen_what_its_guesser_has(root: Path) -> None:
    pseudo_labeler = fit(SegmentationModule(3, SMALL), segmentation(root, leave_out="2/3"), "pseudo_labeler.ckpt")
    module = SegmentationModule(3, SMALL, pseudo_labeler=pseudo_labeler)
    data = SegmentationData(3, str(root), select=SelectArgs(label_every=8, label_offset=2), sampling=CROPS)
    assert load_module(SegmentationModule, fit(module, data, "network.ckpt")).labels_seen == hashes(root, 0, 8, 2)


def test_weights_keep_what_was_seen(root: Path) -> None:
    network = fit(SegmentationModule(3, SMALL), segmentation(root), "network.ckpt")
    save_weights(read_checkpoint(Path(network)), Path("by-hand.safetensors"))
    assert main(["weights", network, "--out=network.safetensors"]) == 0
    for path in ("by-hand.safetensors", "network.safetensors"):
        assert load_module(SegmentationModule, path).labels_seen == hashes(root, 0, 4, 8)
    source = CycleExamples(teacher="network.safetensors")
    assert source.labels_seen == hashes(root, 0, 4, 8)


def test_labels_that_were_seen_are_told_beside_those_that_are_propagated(root: Path) -> None:
    """So that a student is not validated on what its labels were made from."""
    teacher = fit(SegmentationModule(3, SMALL), segmentation(root), "teacher.ckpt")
    model = ["--model=PropagationModule", f"--model.teacher={teacher}", "--model.methods=[semantic]"]
    chosen = ["--data=PropagationData", "--data.num_classes=3", f"--data.root={root}", "--data.select.label_every=8"]
    assert main(["predict", *model, *chosen, *PREDICT, *writer("out")]) == 0
    assert set(json.loads(Path("out/manifest.seen.json").read_text())["labels"]) == hashes(root, 0, 4, 8)
    assert PropagationData(3, str(root), select=SelectArgs(label_every=8)).labels_seen == hashes(root, 0, 8)


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(one) for key, one in value.items())
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


NETWORK = NetworkArgs(
    "FPN", "tu-test_resnet", options={"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32}, scale=0.5,
    ocr=True, attention_scales=[0.5, 1.0], test_scales=[1.0, 2.0],
)  # fmt: skip
REFINER = RefinerArgs((4, 8, 12), "FPN", "tu-test_resnet", freeze_encoder=False)
OPTIMIZER = OptimizerArgs("sgd", lr=0.01, weight_decay=0.0, layer_decay=0.5)


def flags(of: str, group: Any) -> list[str]:
    """A group of arguments as flags of the command line."""
    given = {name: json.dumps(value) for name, value in asdict(group).items() if value is not None}
    return [f"--{of}.{name}={value.strip(chr(34))}" for name, value in given.items()]


@pytest.fixture(params=["python", "command line"])
def how(request: pytest.FixtureRequest) -> str:
    """How the training is started."""
    return str(request.param)


def by_command(kind: str, model: list[str], data: list[str], root: Path) -> str:
    of = "SegmentationData" if kind == "SegmentationModule" else "RefinementData"
    where = [f"--data={of}", "--data.num_classes=3", f"--data.root={root}", "--data.select.label_every=4"]
    quick = [flag for flag in FIT if "max_steps" not in flag]
    quick += ["--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    assert main(["fit", f"--model={kind}", *model, *where, *data, *quick, *checkpoints("made")]) == 0
    return "made/model.ckpt"


def test_a_segmentation_network_comes_back_with_all_its_arguments(how: str, root: Path) -> None:
    if how == "python":
        module = SegmentationModule(
            3,
            NETWORK,
            OPTIMIZER,
            InferenceArgs(flip=True),
            SegmentationLoss({"dice": 1.0}),
            0.3,
            pseudo_label_threshold=0.7,
        )
        path = fit(module, segmentation(root, val=ValArgs(ratio=0.5)), "made.ckpt")
    else:
        model = [*flags("model.network", NETWORK), *flags("model.optimizer", OPTIMIZER), "--model.inference.flip=true"]
        model += ["--model.loss=wrp.segmentation.losses.SegmentationLoss", '--model.loss.weights={"dice": 1.0}']
        model += ["--model.auxiliary=0.3", "--model.pseudo_label_threshold=0.7"]
        data = ["--data.sampling.crop_size=[32,32]", "--data.sampling.batch_size=2", "--data.val.ratio=0.5"]
        path = by_command("SegmentationModule", model, data, root)
    content = torch.load(path, weights_only=True)
    saved = content["hyper_parameters"]
    assert is_plain(saved)
    assert is_plain(content["datamodule_hyper_parameters"])
    assert content["datamodule_hyper_parameters"]["val"]["ratio"] == 0.5
    assert (saved["network"], saved["optimizer"]) == (asdict(NETWORK), asdict(OPTIMIZER))
    loaded = load_module(SegmentationModule, path)
    assert (loaded.network, loaded.optimizer) == (NETWORK, OPTIMIZER)
    assert (loaded.auxiliary, loaded.pseudo_label_threshold) == (0.3, 0.7)
    assert loaded.inference == InferenceArgs(flip=True)
    assert content["state_dict"].keys() == loaded.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], weights) for name, weights in content["state_dict"].items())
    again = SegmentationModule(3, NETWORK, inference=InferenceArgs(flip=True)).eval()
    again.load_state_dict(content["state_dict"])
    images = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded.probabilities(images), again.probabilities(images))


def test_a_refiner_comes_back_with_all_its_arguments(how: str, root: Path) -> None:
    if how == "python":
        examples = CycleExamples(cycles=CycleArgs(jitter=0.1), crops=2, crop_size=(16, 32))
        data = RefinementData(3, examples, str(root), select=SelectArgs(label_every=4), radius=2)
        path = fit(RefinementModule(3, REFINER, OPTIMIZER), data, "made.ckpt")
    else:
        model = [*flags("model.network", REFINER), *flags("model.optimizer", OPTIMIZER)]
        given = ["--data.examples=CycleExamples", "--data.examples.cycles.jitter=0.1", "--data.examples.crops=2"]
        given += ["--data.examples.crop_size=[16,32]", "--data.radius=2"]
        path = by_command("RefinementModule", model, given, root)
    content = torch.load(path, weights_only=True)
    saved = content["hyper_parameters"]
    assert is_plain(saved)
    assert is_plain(content["datamodule_hyper_parameters"])
    assert (saved["network"], saved["optimizer"]) == (asdict(REFINER), asdict(OPTIMIZER))
    loaded = load_module(RefinementModule, path)
    assert (loaded.network, loaded.optimizer) == (REFINER, OPTIMIZER)
    again = RefinementModule(3, REFINER).eval()
    again.load_state_dict(content["state_dict"])
    inputs = CycleExamples().validation([open_window(root)], 3)[0].inputs
    with torch.no_grad():
        assert torch.equal(loaded(inputs), again(inputs))


def open_window(root: Path) -> Any:
    from wrp.data.items import WindowItems

    index = open_index(root)
    return WindowItems(index.clips, index.label_map, 1)[4]


def test_arguments_that_were_left_out_are_those_of_the_training(how: str, root: Path) -> None:
    """Whatever the defaults will be in a later version; a refiner has its own."""
    if how == "python":
        data = RefinementData(3, CycleExamples(crops=1), str(root), select=SelectArgs(label_every=4))
        path = fit(RefinementModule(3), data, "made.ckpt")
    else:
        path = by_command("RefinementModule", [], ["--data.examples=CycleExamples", "--data.examples.crops=1"], root)
    saved = torch.load(path, weights_only=True)["hyper_parameters"]
    assert saved["optimizer"] == asdict(OptimizerArgs(lr=5e-3))
    assert saved["network"] == asdict(RefinerArgs())


def test_a_saved_argument_that_there_is_not_is_named(root: Path) -> None:
    content = read_checkpoint(Path(fit(SegmentationModule(3, SMALL), segmentation(root), "network.ckpt")))
    content["hyper_parameters"]["network"]["depth"] = 3
    torch.save(content, "later.ckpt")
    with pytest.raises(WrpError, match="later.ckpt: NetworkArgs has no argument 'depth'"):
        load_module(SegmentationModule, "later.ckpt")


class Own(SegmentationModule):
    """With a group of arguments of its own."""

    def __init__(self, *args: Any, crops: SamplingArgs | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.crops = as_options(SamplingArgs, crops)


def test_arguments_of_ones_own_are_plain_as_well(root: Path) -> None:
    path = fit(Own(3, SMALL, crops=CROPS), segmentation(root), "own.ckpt")
    saved = torch.load(path, weights_only=True)["hyper_parameters"]
    assert is_plain(saved)
    assert saved["crops"] == asdict(CROPS)
    assert load_module(SegmentationModule, path).crops == CROPS
