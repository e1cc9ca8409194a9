"""Labels, arguments and lists that the systems cannot learn from, or only in part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tests.clips import picture, save
from tests.selftraining.small import SMALL, batch, command
from wrp.cli.main import main
from wrp.data.semisupervised import SemiSupervisedData
from wrp.errors import DataError, WrpError
from wrp.options import SamplingArgs
from wrp.segmentation.module import SegmentationModule
from wrp.selftraining.cisc_r import CiscModule
from wrp.selftraining.student import StudentModule
from wrp.selftraining.three_stage import ThreeStageModule
from wrp.selftraining.unimatch import UniMatchModule
from wrp.selftraining.unimatch_v2 import UniMatchV2Module


@pytest.mark.parametrize("kind", [StudentModule, CiscModule, ThreeStageModule, UniMatchModule, UniMatchV2Module])
def test_the_command_line_takes_every_argument_of_every_module(
    kind: type[StudentModule], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--model.help", f"{kind.__module__}.{kind.__name__}"]) == 0
    printed = capsys.readouterr().out
    names = ("num_classes", "network", "optimizer", "inference", "loss", "auxiliary", "pseudo_labeler", "cutout")
    assert all(f"--model.{name} " in printed for name in names)
    given = {"network": {"encoder_name": "tu-resnet10t"}, "optimizer": {"lr": 0.5}, "inference": {"flip": True}}
    flags = [f"--model.{group}.{name}={value}" for group, some in given.items() for name, value in some.items()]
    loss = ["--model.loss=wrp.segmentation.losses.SegmentationLoss", '--model.loss.weights={"dice": 1.0}']
    data = ["--data=SemiSupervisedData", "--data.num_classes=3", "--data.root=clips", "--data.labelled=list"]
    command = ["fit", f"--model={kind.__name__}", "--model.cutout=true", *flags, *loss, *data]
    assert main([*command, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert config["cutout"] is True
    assert config["loss"]["init_args"]["weights"] == {"dice": 1.0}
    assert all(config[group].items() >= some.items() for group, some in given.items())


@pytest.mark.parametrize("kind", [StudentModule, CiscModule, ThreeStageModule])
def test_students_without_any_labels_for_the_others_are_refused(kind: type[StudentModule]) -> None:
    with pytest.raises(WrpError, match="have no pseudo-labels"):
        kind(**SMALL).semi_loss(batch(), batch(labelled=False))


def test_frames_without_a_label_need_a_guesser() -> None:
    with pytest.raises(WrpError, match="have no pseudo-labels"):
        SegmentationModule(**SMALL).training_step(batch(labelled=False), 0)


def test_kinds_of_labels_are_kept_apart_where_a_module_wants_it() -> None:
    with pytest.raises(WrpError, match="apart=true"):
        ThreeStageModule(**SMALL).training_step(batch(), 0)
    with pytest.raises(WrpError, match="apart=false"):
        SegmentationModule(**SMALL).training_step({"labelled": batch(), "unlabelled": batch()}, 0)


@pytest.mark.parametrize("kind", [StudentModule, CiscModule, ThreeStageModule])
def test_a_label_counts_as_its_source_is_sure_of_it(kind: type[StudentModule]) -> None:
    """Labels of which nobody is sure teach nothing, with weights that come with the images."""

    def loss(sure: float) -> float:
        torch.manual_seed(0)
        given = replace(batch(seed=1), weights=torch.full((2, 64, 64), sure))
        torch.manual_seed(1)
        return float(kind(**SMALL).train().semi_loss(batch(), given))

    none, half, whole = (loss(sure) for sure in (0.0, 0.5, 1.0))
    assert none < half < whole
    assert half == pytest.approx((none + whole) / 2, rel=1e-4)


def test_pseudo_labels_of_other_images_are_refused(lists: dict[str, str], tmp_path: Path) -> None:
    save(tmp_path / "pseudo" / "elsewhere.png", picture(0)[..., 0])
    paths = {which: lists[which] for which in ("labelled", "unlabelled")}
    with pytest.raises(DataError, match="no pseudo-label of the 3 unlabelled images"):
        SemiSupervisedData(3, lists["root"], **paths, pseudo=str(tmp_path / "pseudo")).train_dataloader()


@pytest.mark.parametrize("size", [2, 4])
def test_every_labelled_image_comes_in_an_epoch(lists: dict[str, str], size: int) -> None:
    """Also where they are no whole number of batches, with as many unlabelled ones as asked for in each."""
    Path(lists["labelled"]).write_text("train/view0\ntrain/view1\nval/view0\n")
    Path(lists["unlabelled"]).write_text("train/view2\ntrain/view3\n")
    paths = {which: lists[which] for which in ("labelled", "unlabelled")}
    module = SemiSupervisedData(3, lists["root"], **paths, sampling=SamplingArgs((16, 16), batch_size=size))
    found = [given for given, _, _ in module.train_dataloader()]
    assert sum(len(given["labelled"].stems) for given in found) == 3
    assert [len(given["unlabelled"].stems) for given in found] == [size] * len(found)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "0"], "must be at least 1"),
        (["--crop-size", "0", "32"], "must be at least 1"),
        (["--lr", "-1"], "--lr must be in 1e-09 … 1000, got -1.0"),
        (["--scale", "0"], "--scale must be in 0.01 … 16, got 0.0"),
        (["--encoder-lr", "-1"], "must be in 0 … 1000"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_the_folder_is_claimed(
    more: list[str], message: str, lists: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command("st", lists, tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "settings.json").exists()


@pytest.mark.parametrize(
    ("which", "content", "message"),
    [
        ("labelled", "", "lists no images"),
        ("unlabelled", "\n", "lists no images"),
        ("unlabelled", "train/view1\ntrain/view2\n", "train-view1 is in both"),
    ],
)
def test_lists_that_cannot_work_are_refused_before_the_folder_is_claimed(
    which: str, content: str, message: str, lists: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(lists[which]).write_text(content)
    assert main(command("three-stage", lists, tmp_path / "out")) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "settings.json").exists()


def test_cisc_r_needs_classes_that_cover_something(
    lists: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("wrp.runs.selftrain.systems.classes_shown", lambda *_: [])
    assert main(command("cisc-r", lists, tmp_path / "out")) == 2
    assert "shows a class on 3% of its pixels" in capsys.readouterr().err
    assert not (tmp_path / "out" / "supervised.ckpt").exists()
