"""The modules, and whole runs of every system on tiny images."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.clips import make_camvid, picture, save
from tests.selftraining.small import NETWORK, SMALL, batch, command
from wrp.cli.main import main
from wrp.data.lists import find_images
from wrp.data.semisupervised import SemiSupervisedData
from wrp.errors import DataError, WrpError
from wrp.options import NetworkArgs, OptimizerArgs, SamplingArgs
from wrp.runs.selftrain.config import SYSTEM_NAMES
from wrp.segmentation.module import SegmentationModule, load_segmenter
from wrp.segmentation.network import Segmenter, create_segmenter, with_features
from wrp.selftraining.cisc_r import CiscModule, cross_image_loss
from wrp.selftraining.student import StrongView, StudentModule
from wrp.selftraining.three_stage import ThreeStageModule, second_head
from wrp.selftraining.unimatch import UniMatchModule
from wrp.selftraining.unimatch_v2 import UniMatchV2Module


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEM_NAMES)
def test_every_system_runs_all_its_stages_and_resumes(
    system: str, lists: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(command(system, lists, out)) == 0
    first = capsys.readouterr().out
    assert "mIoU" in first
    last = json.loads((out / "metrics.json").read_text())["network"]
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.ckpt")}
    # The last stage is lost: it alone is made again, and its result is the same.
    (out / last).unlink()
    assert main(command(system, lists, out)) == 0
    assert capsys.readouterr().out == first
    assert {path for path, time in times.items() if path.stat().st_mtime_ns != time} == {out / last}
    assert main(command(system, lists, out, "--seed=1")) == 2
    assert f"{out} was begun with --seed 0, this command has --seed 1; choose another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_systems_share_their_first_stage(lists: dict[str, str], tmp_path: Path) -> None:
    assert main(command("st++", lists, tmp_path / "a")) == 0
    network = tmp_path / "a" / "supervised.ckpt"
    assert main(command("st", lists, tmp_path / "b", f"--supervised={network}")) == 0
    assert not (tmp_path / "b" / "supervised.ckpt").exists()
    assert len(list((tmp_path / "b" / "pseudo" / "student").glob("*.png"))) == 3


def test_an_unknown_system_is_refused(
    lists: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("magic", lists, tmp_path / "out")) == 2
    assert "expected one of supervised, st, st++" in capsys.readouterr().err


def test_both_kinds_of_images_come_in_one_batch(lists: dict[str, str]) -> None:
    paths = {which: lists[which] for which in ("labelled", "unlabelled", "val")}
    sampling = SamplingArgs((16, 16), batch_size=2, epoch_length=8)
    module = SemiSupervisedData(3, lists["root"], **paths, sampling=sampling, unlabelled_size=3)
    found = [given for given, _, _ in module.train_dataloader()]
    assert len(found) == 4
    for given in found:
        assert {stem for stem in given["labelled"].stems} <= {"train-view0", "train-view1"}
        assert {stem for stem in given["unlabelled"].stems} <= {f"train-view{i}" for i in (2, 3, 4)}
        assert (given["unlabelled"].labels == 255).all()
    assert [b.stems for b in module.predict_dataloader()] == [[f"train-view{i}"] for i in (2, 3, 4)]


def test_images_and_labels_that_are_missing_are_named(lists: dict[str, str]) -> None:
    root = Path(lists["root"])
    with pytest.raises(DataError, match="there is no image .*view9"):
        find_images(root, "folder", ["train/view9"], labelled=False)
    with pytest.raises(DataError, match="there is no label .*view2"):
        find_images(root, "folder", ["train/view2"], labelled=True)
    with pytest.raises(DataError, match="unknown layout 'x'"):
        SemiSupervisedData(3, lists["root"], lists["labelled"], layout="x").images("labelled")
    with pytest.raises(DataError, match="nothing to score"):
        SemiSupervisedData(3, lists["root"], lists["labelled"]).val_dataloader()


def test_layouts_of_images(tmp_path: Path) -> None:
    voc = tmp_path / "voc"
    save(voc / "JPEGImages" / "2007_000032.jpg", picture(0))
    save(voc / "SegmentationClass" / "2007_000032.png", picture(0)[..., 0])
    assert find_images(voc, "voc", ["2007_000032"], True)[0].label == voc / "SegmentationClass" / "2007_000032.png"
    save(voc / "SegmentationClassAug" / "2007_000032.png", picture(0)[..., 0])
    assert find_images(voc, "voc", ["2007_000032"], True)[0].label == voc / "SegmentationClassAug" / "2007_000032.png"
    city, name = tmp_path / "city", "train/ulm/ulm_000000_000019"
    save(city / "leftImg8bit" / f"{name}_leftImg8bit.png", picture(0))
    assert find_images(city, "cityscapes", [name], False)[0].stem == "train-ulm-ulm_000000_000019"
    save(tmp_path / "coco" / "images" / "train2017" / "9.jpg", picture(0))
    assert find_images(tmp_path / "coco", "coco", ["train2017/9"], False)[0].label is None
    camvid = make_camvid(tmp_path / "camvid", train=1)
    assert find_images(camvid, "camvid", ["train/0001TP_006690"], True)[0].label is not None


def test_strong_views_keep_labels_where_they_are_and_cut_some_out() -> None:
    torch.manual_seed(0)
    given = batch(8)
    images = given.images / 255
    strong, labels = StrongView()(images, given.labels)
    assert (strong != images).any()
    kept = labels != 255
    assert torch.equal(labels[kept], given.labels[kept])
    cut = (~kept).flatten(1).float().mean(1)
    assert (cut > 0).any()
    assert (cut == 0).any()
    assert cut.max() < 0.5
    _, uncut = StrongView(cutout=False)(images, given.labels)
    assert torch.equal(uncut, given.labels)


@pytest.mark.parametrize("kind", [StudentModule, CiscModule, ThreeStageModule, UniMatchModule, UniMatchV2Module])
def test_every_module_learns_from_both_kinds(kind: type[StudentModule]) -> None:
    torch.manual_seed(0)
    module = kind(**SMALL, pseudo_labeler=None).train()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    loss = module.training_step({"labelled": batch(), "unlabelled": batch(seed=1)}, 0)
    assert torch.isfinite(loss)
    loss.backward()
    with pytest.raises(WrpError, match="SemiSupervisedData"):
        module.training_step({"labelled": batch()}, 0)


def test_the_second_head_learns_like_the_first_and_the_average_is_deployed() -> None:
    module = ThreeStageModule(**SMALL, optimizer=OptimizerArgs(encoder_lr=0.1, lr=1.0))
    rate = {id(p): group["lr"] for group in module.parameter_groups() for p in group["params"] if "lr" in group}
    assert {rate[id(p)] for p in (*module.backbone.parameters(), *module.second.encoder.parameters())} == {0.1}
    frozen = ThreeStageModule(**SMALL, optimizer=OptimizerArgs(encoder_lr=0.0)).train()
    assert not any(part.training for part in frozen.second.encoder.modules())
    assert frozen.second.net.decoder.training
    assert module.inference_model is module.average
    assert SegmentationModule(**SMALL).inference_model is not None


def test_the_second_head_may_have_auxiliary_logits() -> None:
    module = ThreeStageModule(3, replace(NETWORK, ocr=True)).train()
    assert torch.isfinite(module.semi_loss(batch(), batch(seed=1)))


def test_pseudo_labels_alone_do_not_reach_the_first_head_but_its_trunk() -> None:
    torch.manual_seed(0)
    module = ThreeStageModule(**SMALL).train()
    images = batch().images / 255
    module.loss(module.second(images), batch().labels[:, ::1]).backward()
    net: Any = module.net
    of_head = [p.grad for p in (*net.net.decoder.parameters(), *net.net.segmentation_head.parameters())]
    assert all(grad is None for grad in of_head)
    assert net.net.encoder.model.stem.conv.weight.grad.abs().sum() > 0
    assert net.net.encoder.model.s4.b1.conv1.conv.weight.grad is None
    assert not any(p.requires_grad for p in module.average.parameters())


def test_in_the_third_stage_all_but_the_classifier_is_shared() -> None:
    net = create_segmenter(3, NETWORK)
    second: Any = second_head(net, None)
    first: Any = net
    assert second.net.decoder is first.net.decoder
    assert second.net.encoder is first.net.encoder
    assert second.net.segmentation_head is not first.net.segmentation_head
    with pytest.raises(WrpError, match=r"shared must be 0 … 4, stages of the encoder \(s1, s2"):
        second_head(net, 9)


@pytest.mark.parametrize("encoder", ["tu-tf_efficientnet_lite0", "efficientnet-b0", "mobilenet_v2", "resnet18"])
def test_three_stages_are_those_down_to_a_sixteenth(encoder: str) -> None:
    """Also where the blocks of all stages are one list, which as a whole was taken for a stage."""
    net = create_segmenter(3, NetworkArgs(encoder_name=encoder))
    second = second_head(net, 3)
    mine = {id(parameter) for parameter in net.encoder.parameters()}
    of_both = [id(parameter) in mine for parameter in second.encoder.parameters()]
    assert of_both == sorted(of_both, reverse=True)
    assert all(of_both[: len(of_both) // 2])
    images, before, after = torch.rand(2, 3, 64, 64), net.eval().encoder, second.eval().encoder
    with torch.no_grad():
        for parameter in (p for p in after.parameters() if id(p) not in mine):
            parameter.zero_()
        same = [torch.equal(one, other) for one, other in zip(before(images), after(images), strict=True)]
    assert same == [True] * 5 + [False]  # of a 32nd


def test_features_are_those_in_front_of_the_head() -> None:
    net = create_segmenter(3, NETWORK).eval()
    assert isinstance(net, Segmenter)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        logits, features = with_features(net, images)
        assert torch.equal(logits, net(images))
    assert features.shape == (1, 128, 16, 16)


def test_rectified_weights_follow_the_features() -> None:
    """A pseudo-labeler whose features are the colours: red pixels called road though road is green count little."""
    torch.manual_seed(0)
    module = CiscModule(3, net=create_segmenter(3, NETWORK), pseudo_labeler=CiscModule(**SMALL))
    labelled, unlabelled = batch(), batch(seed=1)
    weights = module.rectify(unlabelled.images, unlabelled.labels, labelled)
    assert weights.shape == (2, 64, 64)
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert weights.std() > 0
    assert (CiscModule(**SMALL).rectify(unlabelled.images, unlabelled.labels, labelled) == 1).all()
    nothing = torch.full_like(unlabelled.labels, 255)
    assert (module.rectify(unlabelled.images, nothing, labelled) == 1).all()


def test_images_that_share_no_class_have_no_consistency_term() -> None:
    features = torch.rand(2, 4, 8, 8, requires_grad=True)
    labels = torch.stack((torch.zeros(8, 8), torch.ones(8, 8))).long()
    loss = cross_image_loss(features, labels)
    assert loss == 0
    loss.backward()
    assert cross_image_loss(features, torch.zeros(2, 8, 8).long()) > 0


def test_features_leave_the_padding_out() -> None:
    """40 of 64 rows and 70 of 96 columns are image: so are 10 of 16 and, rounded, 18 of 24 of the features."""
    net = create_segmenter(3, NETWORK).eval()
    with torch.no_grad():
        _, features = with_features(net, torch.rand(1, 3, 40, 70))
    assert features.shape[-2:] == (10, 18)
    half = create_segmenter(3, replace(NETWORK, scale=0.5)).eval()
    with torch.no_grad():
        _, features = with_features(half, torch.rand(1, 3, 192, 288))
    assert features.shape[-2:] == (24, 36)


def test_a_first_stage_that_does_not_fit_is_refused(
    lists: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pytorch_lightning as pl

    other = StudentModule(**{**SMALL, "num_classes": 7})
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(other)
    trainer.save_checkpoint(tmp_path / "seven.ckpt")
    mine = StudentModule(**SMALL)
    trainer.strategy.connect(mine)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    for system, network, message in (
        ("st", "seven.ckpt", "knows 7 classes, expected 3"),
        ("st", "none.ckpt", "there is no checkpoint"),
        ("st++", "three.ckpt", "there is no .*three-1.ckpt"),
    ):
        assert main(command(system, lists, tmp_path / "out", f"--supervised={tmp_path / network}")) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not (tmp_path / "out" / "settings.json").exists()


@pytest.mark.slow
def test_what_a_system_has_trained_is_a_teacher(lists: dict[str, str], tmp_path: Path) -> None:
    assert main(command("three-stage", lists, tmp_path / "out")) == 0
    loaded = load_segmenter(str(tmp_path / "out" / "stage-3.ckpt"), 3)
    assert isinstance(loaded, ThreeStageModule)
    images = batch().images
    with torch.no_grad():
        expected = loaded.average(images / 255).softmax(1)
        torch.testing.assert_close(loaded.probabilities(images), expected)


def test_other_lists_are_another_run(lists: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("supervised", lists, tmp_path / "out")) == 0
    Path(lists["unlabelled"]).write_text("train/view3\n")
    assert main(command("supervised", lists, tmp_path / "out")) == 2
    assert "holds a run whose images or labels have changed since" in capsys.readouterr().err


def test_names_that_would_share_a_pseudo_label_are_refused(tmp_path: Path) -> None:
    for name in ("a/b-c", "a-b/c"):
        save(tmp_path / "images" / f"{name}.png", picture(0))
    with pytest.raises(DataError, match="are both named 'a-b-c'"):
        find_images(tmp_path, "folder", ["a/b-c", "a-b/c"], labelled=False)
