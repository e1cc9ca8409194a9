"""What SegmentationModule does beyond a fit and a prediction, which test_roundtrip.py has."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import BackboneFinetuning, EMAWeightAveraging
from torch import Tensor, nn

from tests.clips import make_folder
from tests.data.small import make_run
from tests.segmentation.small import QUIET, Linear, frames
from wrp import PropagationData, SegmentationData, SegmentationModule
from wrp.callbacks.pictures import CELL, NAMES, ConfusionPicture, draw_confusion
from wrp.data.propagated import PropagatedLabels
from wrp.flow.cache import FlowCache
from wrp.flow.estimator import FlowEstimator
from wrp.geometry.labels import argmax_with_confidence
from wrp.io.checkpoints import load_module
from wrp.metrics.calibration import CalibrationError
from wrp.metrics.segmentation import SegmentationScore
from wrp.options import InferenceArgs, NetworkArgs, OptimizerArgs, SamplingArgs, SelectArgs
from wrp.segmentation.losses import LOSSES, SegmentationLoss
from wrp.structures import FramePair, LabelMap

SMALL = NetworkArgs(encoder_name="tu-regnetx_002")


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(make_folder(tmp_path / "clips", {"walk": 9}))


def data(root: str, sampling: dict[str, Any] | None = None, **changes: Any) -> SegmentationData:
    crops = SamplingArgs((32, 32), batch_size=2, **sampling or {})
    return SegmentationData(3, root, select=SelectArgs(label_every=4), sampling=crops, **changes)


def fit(module: SegmentationModule, loaders: SegmentationData, **flags: Any) -> pl.Trainer:
    trainer = pl.Trainer(**{**QUIET, "max_steps": 2, "limit_val_batches": 0, **flags})
    trainer.fit(module, loaders)
    return trainer


def test_every_part_of_the_network_and_loss_is_trained_by_a_real_run(root: str) -> None:
    loss = SegmentationLoss(dict.fromkeys(LOSSES, 0.5), {"label_smoothing": 0.1})
    module = SegmentationModule(3, replace(SMALL, ocr=True, attention_scales=[0.5, 1.0]), loss=loss)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer = fit(module, data(root))
    assert all((p != before[name]).any() for name, p in module.named_parameters())
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


def test_a_checkpoint_remembers_heads(root: str, tmp_path: Path) -> None:
    network = replace(SMALL, ocr=True, attention_scales=[0.5, 1.0], test_scales=[0.5, 1.0, 2.0])
    module = SegmentationModule(3, network, auxiliary=0.3, loss=SegmentationLoss({"dice": 1.0}))
    fit(module, data(root), max_steps=1).save_checkpoint(tmp_path / "a.ckpt")
    loaded = load_module(SegmentationModule, tmp_path / "a.ckpt")
    images = frames().images
    with torch.no_grad():
        assert torch.equal(loaded.probabilities(images), module.eval().probabilities(images))
    assert loaded.network == network
    assert loaded.auxiliary == 0.3


def test_weights_of_pixels_reach_the_loss() -> None:
    module = SegmentationModule(3, net=Linear())
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    weights = (torch.arange(32) < 16).float().expand(2, 32, 32).clone()
    batch = frames(weights=weights)
    half = module.training_step(batch, 0)
    batch.labels[..., 16:] = 255
    batch.weights = None
    torch.testing.assert_close(2 * half, module.training_step(batch, 0))


def test_auxiliary_logits_have_their_share_of_the_loss() -> None:
    class TwoHeads(Linear):
        def forward(self, images: Tensor) -> Any:
            logits = super().forward(images)
            return (logits, -logits) if self.training else logits

    module = SegmentationModule(3, net=TwoHeads(), auxiliary=0.3).train()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch = frames()
    logits = module(batch.images / 255)[0]
    expected = module.loss(logits, batch.labels) + 0.3 * module.loss(-logits, batch.labels)
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def rates(module: SegmentationModule, processes: int = 1) -> dict[str, float]:
    """Learning rate of each parameter at the start."""
    module._trainer = type("T", (), {"world_size": processes, "accumulate_grad_batches": 2,
                                     "estimated_stepping_batches": 10, "ckpt_path": None})()  # fmt: skip
    groups = module.configure_optimizers()["optimizer"].param_groups
    names = {id(p): name for name, p in module.named_parameters()}
    return {names[id(p)]: group["initial_lr"] for group in groups for p in group["params"]}


def test_the_encoder_has_its_own_learning_rate() -> None:
    found = rates(SegmentationModule(3, net=Linear(), optimizer=OptimizerArgs(lr=0.1, encoder_lr=0.2)))
    assert found["net.head.weight"] == pytest.approx(0.1)
    assert found["net.encoder.0.weight"] == found["net.encoder.1.weight"] == pytest.approx(0.02)


def test_earlier_layers_learn_slower() -> None:
    found = rates(SegmentationModule(3, SMALL, OptimizerArgs(lr=0.1, layer_decay=0.5)))
    assert found["net.net.segmentation_head.0.weight"] == pytest.approx(0.1)
    of_encoder = [rate for name, rate in found.items() if ".encoder." in name]
    assert of_encoder == sorted(of_encoder, reverse=True)  # groups begin with the last layer
    # timm counts the stem and 13 blocks.
    assert sorted({rate / 0.1 for rate in of_encoder}) == pytest.approx([0.5**k for k in range(13, -1, -1)])


@pytest.mark.parametrize("processes", [1, 4])
def test_the_learning_rate_grows_with_the_global_batch_where_asked(processes: int) -> None:
    for scale_lr, expected in ((False, 0.1), (True, 0.1 * 2 * processes)):
        module = SegmentationModule(3, net=Linear(), optimizer=OptimizerArgs(lr=0.1, scale_lr=scale_lr))
        assert list(rates(module, processes).values()) == pytest.approx([expected] * 6)


def test_an_encoder_without_a_learning_rate_is_frozen(root: str) -> None:
    module = SegmentationModule(3, SMALL, OptimizerArgs(encoder_lr=0.0))
    before = [p.detach().clone() for p in module.backbone.parameters()]
    statistics = [b.clone() for b in module.backbone.buffers()]
    fit(module, data(root))
    assert all(torch.equal(a, b) for a, b in zip(before, module.backbone.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(statistics, module.backbone.buffers(), strict=True))


def test_lightnings_callbacks_freeze_the_encoder_and_average_the_weights(root: str) -> None:
    module = SegmentationModule(3, SMALL)
    weights = module.net.net.segmentation_head[0].weight
    callbacks = [BackboneFinetuning(unfreeze_backbone_at_epoch=9), EMAWeightAveraging(decay=0.5)]
    # Lightning goes on to train what normalises batches.
    filters = [p for p in module.backbone.parameters() if p.ndim == 4]
    before = [p.detach().clone() for p in filters]
    start = weights.detach().clone()
    fit(module, data(root), callbacks=callbacks)
    assert all(torch.equal(a, b) for a, b in zip(before, filters, strict=True))
    assert (weights != start).any()


def test_windows_scales_and_mirror_images_decide_what_is_scored_and_predicted() -> None:
    torch.manual_seed(0)
    plain = SegmentationModule(3, net=Linear()).eval()
    inference = InferenceArgs((16, 16), scales=[0.5, 1.0], flip=True)
    several = SegmentationModule(3, net=plain.net, inference=inference).eval()
    images = frames().images
    with torch.no_grad():
        assert not torch.allclose(plain.probabilities(images), several.probabilities(images))
        predicted = torch.stack([result.labels for result in several.predict_step(frames(), 0)])
        several.test_step(frames(), 0)
        plain.test_step(frames(), 0)
    assert torch.equal(predicted, several.probabilities(images).argmax(1).to(torch.uint8))
    assert float(several.test_score.compute()) != float(plain.test_score.compute())


def test_a_test_of_intervals_scores_hidden_frames_once_and_every_pair_of_neighbours(root: str) -> None:
    module = SegmentationModule(3, net=Linear())
    pairs = []
    update = module.consistency.update
    module.consistency.update = lambda *given: (pairs.append(1), update(*given))[1]  # type: ignore[method-assign]
    trainer = pl.Trainer(**QUIET)
    intervals = PropagationData(3, root, select=SelectArgs(label_every=4))
    [by_interval] = trainer.test(module, intervals, verbose=False)
    assert len(pairs) == 8
    assert 1 < by_interval["test/temporal_consistency"] <= 100
    [by_frame] = trainer.test(module, data(root), verbose=False)
    names = data(root).label_map.names
    for key in ("test/miou", "test/ece", *(f"test/iou_{name}" for name in names)):
        assert by_interval[key] == pytest.approx(by_frame[key], nan_ok=True)


def test_scores_are_in_percent_and_classes_have_their_names(root: str) -> None:
    module, frames_of = SegmentationModule(3, net=Linear()), data(root)
    [scores] = pl.Trainer(**QUIET).test(module, frames_of, verbose=False)
    counted = SegmentationScore(3)
    error = CalibrationError(3)
    for batch in frames_of.test_dataloader():
        labels, confidence = argmax_with_confidence(module.probabilities(batch.images))
        counted.update(labels, batch.labels)
        error.update(labels, confidence, batch.labels)
    assert scores["test/miou"] == pytest.approx(100 * float(counted.compute()))
    assert scores["test/ece"] == pytest.approx(100 * float(error.compute()), rel=1e-4)
    for name, iou in zip(frames_of.label_map.names, counted.per_class(), strict=True):
        assert scores[f"test/iou_{name}"] == pytest.approx(100 * float(iou), nan_ok=True)
    # Without a data module, nobody knows the names.
    [bare] = pl.Trainer(**QUIET).test(module, frames_of.test_dataloader(), verbose=False)
    assert {"test/iou_0", "test/iou_1", "test/iou_2"} <= bare.keys()


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("flow is cached, or a temporary folder made")


def test_nothing_but_a_test_of_intervals_has_a_use_for_flow(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with monkeypatch.context() as context:
        for name in ("mkdtemp", "TemporaryDirectory", "NamedTemporaryFile"):
            context.setattr(tempfile, name, refuse)
        context.setattr("wrp.segmentation.module.cached", refuse)
        context.setattr("wrp.segmentation.module.DIS", refuse)
        module = SegmentationModule(3, net=Linear())
        trainer = fit(module, data(root), limit_val_batches=1)
        assert "val/miou" in trainer.callback_metrics
        [scores] = trainer.test(module, data(root), verbose=False)
        predicted = trainer.predict(module, data(root))
        trainer.save_checkpoint(tmp_path / "network.ckpt")
        copy.deepcopy(module)
    assert [one.index for predictions in predicted or [] for one in predictions] == list(range(9))
    assert module.flow is None
    assert {"test/miou", "test/ece"} <= scores.keys()
    assert "test/temporal_consistency" not in scores
    assert not list(temporary.iterdir())
    [scores] = trainer.test(module, PropagationData(3, root, select=SelectArgs(label_every=4)), verbose=False)
    assert 0 <= scores["test/temporal_consistency"] <= 100
    assert module.flow is not None
    assert module.flow.misses == 8
    [scores] = trainer.test(module, data(root), verbose=False)
    assert "test/temporal_consistency" not in scores


@pytest.mark.parametrize(("step", "consistent"), [(-2.0, True), (0.0, False)])
def test_consistency_is_measured_along_a_flow_of_ones_own(step: float, consistent: bool, tmp_path: Path) -> None:
    """What is at x in a frame was at x + 2 in the one before; the labels follow the picture."""

    class Mine(FlowEstimator):
        signature = "mine"

        def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
            flow = torch.zeros(len(frames_s), 2, *frames_s.shape[2:])
            half = len(frames_s) // 2
            flow[:half, 0], flow[half:, 0] = step, -step
            return flow

    class Striped(SegmentationModule):
        def configure_flow(self) -> FlowEstimator:
            return Mine()

        def probabilities(self, images: Tensor) -> Tensor:
            # Neighbouring stripes of the pictures differ in their class.
            classes = (images[:, 0] > 127).long()
            return nn.functional.one_hot(classes, 3).movedim(-1, 1).float()

    root = make_folder(tmp_path / "moving", {"walk": 5}, labelled=(0, 2, 4))
    module = Striped(3, net=Linear())
    intervals = PropagationData(3, str(root), select=SelectArgs(label_every=2))
    [scores] = pl.Trainer(**QUIET).test(module, intervals, verbose=False)
    assert (scores["test/temporal_consistency"] > 98) == consistent
    assert isinstance(module.flow, FlowCache)
    assert isinstance(module.flow.estimator, Mine)
    assert module.flow.misses == 4


def test_labels_that_do_not_move_are_consistent_and_those_that_jump_are_not() -> None:
    module = SegmentationModule(3, net=Linear())
    still = torch.zeros(2, 8, 12)
    labels = (torch.arange(12) > 5).to(torch.uint8).expand(8, 12)
    module.consistency.update(labels, labels, still)
    assert module.consistency.compute() == 1
    moved, flow = labels.roll(2, 1), still.clone()
    flow[0] = -2  # what is at x in the later frame was at x - 2 in the earlier one
    module.consistency.reset()
    module.consistency.update(labels, moved, flow)
    assert module.consistency.compute() == 1
    module.consistency.reset()
    module.consistency.update(labels, moved, still)
    assert module.consistency.compute() < 0.8


def test_a_student_learns_from_propagated_labels(root: str, tmp_path: Path) -> None:
    """All of them say class 2: so does, after a few steps, the student."""
    torch.manual_seed(0)
    labels = PropagatedLabels(make_run(tmp_path / "run"), ratio=1.0, weighted=False)
    module = SegmentationModule(3, net=Linear(), optimizer=OptimizerArgs(lr=0.05))
    loaders = data(root, {"epoch_length": 80}, propagated=labels)
    fit(module, loaders, max_steps=40)
    with torch.no_grad():
        assert (module.eval().probabilities(frames().images).argmax(1) == 2).float().mean() > 0.9


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_every_precision_trains_and_tests(root: str, precision: str) -> None:
    if precision == "16-mixed" and not torch.cuda.is_available():
        pytest.skip("float16 needs a GPU")
    flags = {"accelerator": "gpu"} if precision == "16-mixed" else {}
    loss = SegmentationLoss({"cross_entropy": 1.0, "rmi": 0.1})
    module = SegmentationModule(3, replace(SMALL, ocr=True), loss=loss)
    trainer = fit(module, data(root), precision=precision, **flags)
    [scores] = trainer.test(module, data(root), verbose=False)
    assert 0 <= scores["test/miou"] <= 100


def test_a_compiled_network_keeps_the_names_of_its_weights() -> None:
    plain, compiled = SegmentationModule(3, net=Linear()), SegmentationModule(3, net=Linear(), compile_net=True)
    assert plain.state_dict().keys() == compiled.state_dict().keys()


def test_guesses_stand_in_where_a_frame_has_no_label() -> None:
    class Sure(nn.Module):
        """Class 1 on the left, surely; class 2 on the right, hardly."""

        def forward(self, images: Tensor) -> Tensor:
            logits = torch.zeros(len(images), 3, *images.shape[-2:])
            logits[:, 1, :, :16], logits[:, 2, :, 16:] = 9.0, 0.5
            return logits

    module = SegmentationModule(
        3, net=Linear(), pseudo_labeler=SegmentationModule(3, net=Sure()), pseudo_label_threshold=0.8
    )
    batch = frames(weights=torch.ones(2, 32, 32))
    batch.labels[0, :, :] = 0
    batch.labels[1] = 255
    assert batch.weights is not None
    batch.weights[1, :4] = 0  # outside of the frame
    labels, weights = module.label_source(batch)
    assert weights is not None
    assert (labels[0] == 0).all()
    assert (weights[0] == 1).all()
    assert (labels[1, 4:, :16] == 1).all()
    assert (weights[1, 4:, :16] > 0.99).all()
    assert (labels[1, 4:, 16:] == 255).all()
    assert (labels[1, :4] == 255).all()
    assert not any(name.startswith("pseudo_labeler") for name in module.state_dict())


def test_frames_without_a_label_are_drawn_by_their_share(root: str) -> None:
    loader = data(root, {"unlabelled": 0.25, "epoch_length": 40}).train_dataloader()
    drawn = [index for batch in loader for index in batch.indices]
    assert sum(index in (0, 4, 8) for index in drawn) == 30
    for batch in loader:
        for i, index in enumerate(batch.indices):
            guessed = batch.weights is not None and bool(((batch.labels[i] == 255) & (batch.weights[i] > 0)).any())
            assert guessed == (index not in (0, 4, 8))
    fit(SegmentationModule(3, SMALL, pseudo_labeler=SegmentationModule(3, SMALL)), data(root, {"unlabelled": 0.5}))


def test_the_confusion_matrix_is_drawn(root: str, tmp_path: Path) -> None:
    module = SegmentationModule(3, net=Linear())
    path = tmp_path / "scores" / "confusion.png"
    trainer = pl.Trainer(**{**QUIET, "callbacks": [ConfusionPicture(str(path))]})
    trainer.test(module, data(root), verbose=False)
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        assert min(picture.size) > 200


def test_right_answers_are_green_and_wrong_ones_blue() -> None:
    matrix = np.array([[100, 0, 0], [0, 0, 100]])
    label_map = LabelMap((0, 1), ("road", "car"), ((1, 1, 1), (2, 2, 2)))
    picture = np.array(draw_confusion(matrix, label_map))
    middle = [[picture[NAMES + CELL * r + 5, NAMES + CELL * c + 5] for c in range(3)] for r in range(2)]
    assert middle[0][0].argmax() == 1
    assert middle[1][2].argmax() == 2
    assert middle[0][1].min() == middle[1][1].min() == 255
