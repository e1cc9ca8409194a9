"""What a user writes on top of the package is checked by mypy as strictly as they like."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.clips import make_folder
from tests.pages import named_files
from tests.strict import check

pytest.importorskip("mypy", reason="mypy is part of the extra lint")

SHOWN = named_files("extending")

SCRIPT = '''\
"""A network, a refiner, a propagation method and a flow estimator of one's own, and what they work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from wrp import (
    CycleExamples,
    LabelWriter,
    PropagationData,
    PropagationModule,
    RefinementData,
    RefinementModule,
    SegmentationData,
    SegmentationModule,
    Settings,
    autolabel,
)
from wrp.errors import WrpError
from wrp.flow.estimator import FlowEstimator
from wrp.io.checkpoints import load_module
from wrp.segmentation.losses import SegmentationLoss
from wrp.metrics.segmentation import SegmentationScore
from wrp.refinement.network import CUES
from wrp.structures import RefinerInput
from wrp.geometry.fusion import blend_weights, blend
from wrp.geometry.labels import argmax_frame
from wrp.options import CycleArgs, InferenceArgs, KeepArgs, NetworkArgs, OptimizerArgs, RefinerArgs
from wrp.options import SamplingArgs, SelectArgs, ValArgs
from wrp.propagation.methods.base import Context, Labels, Needs, PropagationMethod, QueryFrame
from wrp.structures import ClipBatch, FrameBatch, FramePair, Prediction


class Network(nn.Module):
    """Images to logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images))
        return logits


class Mine(SegmentationModule):
    """Another loss, network, score and source of labels."""

    def __init__(self, num_classes: int, hardest: float = 0.25) -> None:
        super().__init__(num_classes, optimizer=OptimizerArgs(lr=1e-2), inference=InferenceArgs(flip=True))
        self.hardest = hardest

    def configure_network(self) -> nn.Module:
        return Network(self.num_classes)

    def configure_score(self) -> SegmentationScore:
        return SegmentationScore(self.num_classes)

    def configure_flow(self) -> FlowEstimator:
        return Still()

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        per_pixel = nn.functional.cross_entropy(logits, labels.long(), ignore_index=255, reduction="none")
        return per_pixel.flatten(1).topk(int(self.hardest * per_pixel[0].numel())).values.mean()

    def label_source(self, batch: FrameBatch) -> tuple[Tensor, Tensor | None]:
        return batch.labels, batch.weights

    def probabilities(self, images: Tensor) -> Tensor:
        return super().probabilities(images).clamp(min=1e-6)


class Shallow(nn.Module):
    """What the refiner sees to logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3 + 3 * num_classes + CUES, num_classes, 1)

    def forward(self, inputs: RefinerInput) -> Tensor:
        seen = torch.cat((inputs.image, inputs.prior, inputs.teacher_probs, inputs.cues, inputs.motion), 1)
        added: Tensor = self.layer(seen)
        return inputs.prior.clamp(min=1e-3).log() + added


class MyRefiner(RefinementModule):
    """Another network and loss."""

    def configure_network(self) -> nn.Module:
        return Shallow(self.num_classes)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits, labels) * 2


class Average(PropagationMethod):
    """Motion and teacher, half and half."""

    needs = Needs(warped=True, teacher=True, neighbours=1)

    def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:
        around: Mapping[int, QueryFrame] = query.neighbours
        assert query.index in around
        motion = blend(query.warped, blend_weights(query.warped), state.num_classes)
        return argmax_frame((motion + query.teacher_probs) / 2)


class Counting(PropagationMethod[list[int]]):
    """With a state of its own."""

    needs = Needs(teacher=True)

    def start(self, context: Context) -> list[int]:
        return []

    def predict(self, query: QueryFrame, state: list[int]) -> tuple[Tensor, Tensor]:
        state.append(query.index)
        labels: Labels = query.teacher_labels
        return labels

    def close(self, state: list[int]) -> None:
        state.clear()


class MyPropagation(PropagationModule):
    """With two more methods."""

    known_methods = {**PropagationModule.known_methods, "average": Average, "counting": Counting}


class Still(FlowEstimator):
    """Nothing moves."""

    signature = "still"

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        return frames_s.new_zeros(len(frames_s), 2, *frames_s.shape[2:], dtype=torch.float32)


class Moving(Still):
    """The signature by what it depends on."""

    def __init__(self, speed: float) -> None:
        super().__init__(scale=0.5)
        self.speed = speed

    @property
    def signature(self) -> str:  # type: ignore[override]  # a constant in the base
        return f"moving by {self.speed}"


def train(root: str, out: Path) -> MyPropagation:
    select, val = SelectArgs(label_every=4), ValArgs(ratio=0.25, seed=1)
    sampling = SamplingArgs((32, 32), batch_size=2)
    frames = SegmentationData(3, root, select=select, val=val, sampling=sampling)
    trainer = pl.Trainer(max_steps=1, logger=False)
    teacher = Mine(3)
    trainer.fit(teacher, frames)
    trainer.save_checkpoint(out / "teacher.ckpt")
    loaded: Mine = load_module(Mine, out / "teacher.ckpt")
    keep = KeepArgs(str(out / "kept"))
    source = CycleExamples(loaded, flow=Still(), cycles=CycleArgs(jitter=0.0), crops=2, keep=keep)
    examples = RefinementData(3, source, root, select=select, val=val)
    refiner = MyRefiner(3, RefinerArgs((4, 8)), OptimizerArgs("sgd"), loss=SegmentationLoss({"dice": 1.0}))
    pl.Trainer(max_steps=1, logger=False).fit(refiner, examples)
    return MyPropagation(3, ["motion", "average:previous", "refine"], loaded, refiner, Moving(2.0))


def label(module: MyPropagation, root: str, out: Path) -> list[Prediction]:
    intervals = PropagationData(3, root, select=SelectArgs(clips="walk", label_every=4), shard="1/2", done=str(out))
    trainer = pl.Trainer(logger=False, callbacks=[LabelWriter(str(out))])
    trainer.predict(module, intervals, return_predictions=False)
    batch: ClipBatch = intervals.intervals()[0]
    with module.session(batch, only={9, 10}) as session:
        return [made for made in session if made.distance is not None and made.distance < 3]


def everything(root: str, out: Path) -> float:
    network = NetworkArgs(encoder_name="tu-regnetx_002", scale=0.5)
    plain = SegmentationModule(3, network, net=Network(3))
    try:
        metrics = autolabel(Settings(root, str(out), select=SelectArgs(label_every=4))) or {}
    except WrpError as error:
        raise SystemExit(str(error)) from error
    return plain.optimizer.lr + len(metrics)
'''


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy knows of torch, which takes it a minute to find out."""
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.slow
def test_what_is_built_on_the_package_passes_the_strictest_check(tmp_path: Path, cache: Path) -> None:
    """The script above, and the files that the page on extending shows."""
    for name, text in SHOWN.items():
        (tmp_path / f"{name}.py").write_text(text)
    done = check(tmp_path, SCRIPT, cache, *(f"{name}.py" for name in SHOWN))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_what_passes_can_be_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT)
    root = make_folder(tmp_path / "clips", {"walk": 17})
    mine = runpy.run_path(str(tmp_path / "mine.py"), run_name="mine")
    module = mine["train"](str(root), tmp_path)
    made = mine["label"](module, str(root), tmp_path / "out")
    assert [(one.index, one.method) for one in made] == [
        (index, method) for index in (9, 10) for method in ("motion", "average:previous", "refine")
    ]


MISTAKES = {
    "what predict returns": (
        "def predict(self, query: QueryFrame, state: Context) -> tuple[Tensor, Tensor]:",
        "def predict(self, query: QueryFrame, state: Context) -> Tensor:",
        'Return type "Tensor" of "predict" incompatible with return type "tuple[Tensor, Tensor]"',
    ),
    "what predict is handed": (
        "state: list[int]) -> tuple",
        "state: Context) -> tuple",
        'Argument 2 of "predict" is incompatible',
    ),
    "what configure_network returns": (
        "def configure_network(self) -> nn.Module:\n        return Shallow(self.num_classes)",
        "def configure_network(self) -> int:\n        return self.num_classes",
        'Return type "int" of "configure_network" incompatible with',
    ),
    "what loss returns": (
        "weights: Tensor | None = None) -> Tensor:",
        "weights: Tensor | None = None) -> float:",
        'Return type "float" of "loss" incompatible with return type "Tensor"',
    ),
    "what estimate is given": (
        "pairs: Sequence[FramePair] | None) -> Tensor:",
        "pairs: Sequence[FramePair]) -> Tensor:",
        'Argument 3 of "estimate" is incompatible',
    ),
    "an argument of a group": ("label_every=4), Val", "label_each=4), Val", 'Unexpected keyword argument "label_each"'),
    "an argument of a data module": (
        "val=val, sampling=sampling)",
        "val=val, crop_size=(32, 32))",
        'Unexpected keyword argument "crop_size" for "SegmentationData"',
    ),
    "an argument that is missing": (
        'load_module(Mine, out / "teacher.ckpt")',
        "load_module(Mine)",
        'Missing positional argument "path" in call to "load_module"',
    ),
    "a method that is none": (
        '"counting": Counting}',
        '"counting": Network}',
        'incompatible type "str": "type[Network]"',
    ),
    "what a session gives": (
        "-> list[Prediction]:",
        "-> list[Labels]:",
        "incompatible type List[Prediction]; expected List[Labels]",
    ),
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> str:
    """What mypy says of the script with all mistakes; each of its messages comes from one of them alone."""
    script = SCRIPT
    for right, wrong, _ in MISTAKES.values():
        assert script.count(right) >= 1, right
        script = script.replace(right, wrong, 1)
    done = check(tmp_path_factory.mktemp("wrong"), script, cache)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(mistake: str, complaints: str) -> None:
    *_, message = MISTAKES[mistake]
    assert complaints.count(message) == 1, complaints
