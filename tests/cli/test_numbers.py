"""Numbers that nothing can be done with are refused before any work, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.clips import make_folder, make_images
from wrp.cli.main import main
from wrp.data.loaders import BaseDataModule
from wrp.data.synthetic.folder import generate_folder
from wrp.errors import WrpError
from wrp.options import (
    CycleArgs,
    InferenceArgs,
    NetworkArgs,
    OptimizerArgs,
    SamplingArgs,
    ValArgs,
    check_losses,
    check_range,
    read_shard,
)
from wrp.runs.arguments import parse_arguments
from wrp.runs.search import read_sweep
from wrp.runs.selftrain.config import Lists, SelfTraining
from wrp.runs.trainer import check_trainer

NOT_FINITE = [".nan", ".inf", "-.inf", "1e400"]
WRONG = {
    "--seed": ["-1", str(2**32)],
    "--workers": ["-1", "257", "1000000000000"],
    "--min-confidence": ["-1", "2", *NOT_FINITE],
    "--shard": ["1/0", "0/1", "2/1", "1/100001"],
    "--teacher-steps": ["0", "-5", str(2**31), str(10**30)],
    "--refiner-steps": ["0", str(10**30)],
    "--teacher-folds": ["1", "-2", "1001"],
    "--train_teacher.lr": ["-1", "1001", *NOT_FINITE],
    "--train_teacher.crop": ["[0,0]", "[-5,5]", "[5,32767]", "[30000,30000]", "[10000000,10000000]"],
    "--train_teacher.batch": ["0", "100000000", str(10**30)],
    "--train_teacher.confidence": ["-1", *NOT_FINITE],
    "--train_teacher.network.scale": ["-1", "0.0001", "1000000", *NOT_FINITE],
    "--train_teacher.network.attention_scales": ["[0]", "[.nan]", "[1,1e9]"],
    "--train_teacher.inference.scales": ["[]", "[0]", "[.nan]", "[1e9]"],
    "--train_teacher.inference.window": ["[0,0]", "[1,100000]"],
    "--train_teacher.inference.overlap": ["1", *NOT_FINITE],
    "--train_teacher.losses.dice": ["-1", "1e9", *NOT_FINITE],
    "--train_refiner.crop": ["[0,0]", "[-4,4]", "[1000000,1000000]"],
    "--train_refiner.batch": ["0", "100000000"],
    "--propagated-ratio": ["-1", "2", *NOT_FINITE],
}


@pytest.mark.parametrize(("flag", "value"), [(flag, value) for flag, values in WRONG.items() for value in values])
def test_a_number_of_autolabel_that_is_out_of_range_is_refused(flag: str, value: str) -> None:
    with pytest.raises(WrpError) as refused:
        parse_arguments(["data", "--out=out", f"{flag}={value}"])
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 500


def test_what_is_in_range_is_taken() -> None:
    few = ["--seed=4294967295", "--workers=256", "--shard=10000/10000", "--train_teacher.network.scale=16"]
    settings, _ = parse_arguments(["data", "--out=out", *few, "--train_teacher.losses={cross_entropy: 1, dice: 0}"])
    assert settings.train_teacher.losses == {"cross_entropy": 1, "dice": 0}


def test_names_in_a_file_of_settings_have_no_null_character(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text('split: "a\\0b"')
    with pytest.raises(WrpError, match="split must be a name without a null character"):
        parse_arguments(["data", "--out=out", f"--config={config}"])


@pytest.mark.parametrize(
    "changes",
    [{"lr": float("nan")}, {"lr": float("inf")}, {"encoder_lr": float("nan")}, {"seed": -1}, {"seed": 2**32}]
    + [{"steps": 2}, {"steps": 2**31}, {"workers": 257}, {"workers": -1}],
)
def test_a_number_of_selftrain_that_is_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WrpError):
        SelfTraining("st", "root", Lists("l", "u", "v"), "out", **changes)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (SamplingArgs, {"seed": -1}),
        (SamplingArgs, {"epoch_length": 0}),
        (SamplingArgs, {"class_uniform": float("nan")}),
        (ValArgs, {"seed": 2**32}),
        (ValArgs, {"ratio": float("nan")}),
        (CycleArgs, {"interval": 0}),
        (CycleArgs, {"pair_ratio": float("nan")}),
        (CycleArgs, {"jitter": 2}),
        (OptimizerArgs, {"lr": float("inf")}),
        (OptimizerArgs, {"weight_decay": -1}),
        (OptimizerArgs, {"warmup": 2**31}),
        (OptimizerArgs, {"layer_decay": float("nan")}),
        (NetworkArgs, {"test_scales": [0.0]}),
        (InferenceArgs, {"overlap": float("nan")}),
        (BaseDataModule, {"workers": 257}),
        (BaseDataModule, {"workers": -1}),
        (generate_folder, {"folder": Path("out"), "clips": 0}),
        (generate_folder, {"folder": Path("out"), "clips": 10**30}),
        (generate_folder, {"folder": Path("out"), "num_frames": -1}),
        (generate_folder, {"folder": Path("out"), "seed": -1}),
        (generate_folder, {"folder": Path("out"), "height": 1}),
        (generate_folder, {"folder": Path("out"), "height": 30000, "width": 30000}),
        (check_losses, {"losses": {"dice": float("nan")}}),
        (check_losses, {"losses": {"dice": 0.0}}),
        (check_trainer, {"given": {"devices": 100000}}),
        (check_trainer, {"given": {"devices": "100000"}}),
        (read_shard, {"text": "1/10001", "what": "--shard"}),
        (check_range, {"name": "x", "value": float("nan"), "least": 0, "most": 1}),
    ],
)
def test_an_argument_that_is_out_of_range_is_refused(kind: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(WrpError):
        kind(**changes)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "parameter",
    [
        {"min": 1, "max": 0},
        {"min": "x", "max": "y"},
        {"min": float("nan"), "max": 1.0},
        {"min": float("-inf"), "max": float("inf")},
        {"min": 0, "max": 10**400},
        {"min": 0, "max": 1, "distribution": "log_uniform_values"},
        {"min": 0.5, "max": 2.5, "distribution": "int_uniform"},
        {"min": True, "max": 2},
        {"min": 1, "max": 2, "distribution": []},
        {"values": "abc"},
        {"values": []},
        5,
    ],
)
def test_a_range_from_which_nothing_can_be_drawn_is_refused(parameter: Any, tmp_path: Path) -> None:
    sweep: dict[str, Any] = {"command": ["wrp", "fit", "${args}"], "metric": {"goal": "maximize", "name": "x"}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep | {"parameters": {"a": parameter}}))
    with pytest.raises(WrpError, match="parameter a"):
        read_sweep(tmp_path / "sweep.yaml")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep | {"parameters": {5: {"value": 1}}}))
    with pytest.raises(WrpError, match="parameter 5"):
        read_sweep(tmp_path / "sweep.yaml")


@pytest.mark.parametrize(
    "words",
    [
        ["data", "check", "data", "--threads=0"],
        ["data", "check", "data", "--threads=1000000"],
        ["data", "synthetic", "out", "--size=1x1"],
        ["data", "synthetic", "out", "--seed=-1"],
        ["demo", "--out=out", "--seed=-1"],
        ["search", "sweep.yaml", "--out=out", "--trials=-1"],
        ["search", "sweep.yaml", "--out=out", "--seed=-1"],
    ],
)
def test_a_number_of_a_command_that_is_out_of_range_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path / "data", {"walk": 2})
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("wrp: error: ")
    assert not Path("out").exists()


TEACHER = ["autolabel", "data", "--out=out", "--methods=semantic", "--weights=none", "--teacher-steps=1"]


@pytest.mark.parametrize(
    "wrong",
    [
        "--teacher=nix.ckpt",
        "--refiner=nix.ckpt",
        "--train_teacher.network.arch=Foo",
        "--train_teacher.network.encoder_name=foo",
        "--train_teacher.network.options.foo=1",
        "--train_teacher.losses.foo=1",
        "--weights=nix.pth",
        "--flow=foo",
        "--flow_args.foo=1",
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path / "data", {"walk": 9}, labelled=(0, 8))
    assert main([*TEACHER, wrong]) == 2
    assert "wrp: error: " in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "wrong",
    [["--encoder=foo"], ["--architecture=foo"], ["--weights=nix.pth"], ["--scale=nan"], ["--crop-size", "0", "1"]],
)
def test_a_mistake_of_selftrain_is_told_before_anything_is_written(wrong: list[str], tmp_path: Path) -> None:
    make_images(tmp_path / "images", {"train": 4, "val": 2})
    for name, stems in {"l": ["train/view0"], "u": ["train/view1"], "v": ["val/view0"]}.items():
        Path(f"{name}.txt").write_text("\n".join(stems))
    lists = ["--labelled=l.txt", "--unlabelled=u.txt", "--val=v.txt", "--out=out"]
    assert main(["selftrain", "st", "images", *lists, *wrong]) == 2
    assert not Path("out").exists()


def test_a_command_that_failed_before_it_had_a_result_refuses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from wrp.segmentation.module import SegmentationModule

    make_folder(tmp_path / "data", {"walk": 9}, labelled=(0, 8))

    def failing(*_: Any) -> None:
        raise WrpError("it fails")

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", failing)
        assert main(TEACHER) == 2
    assert Path("out/settings.json").is_file()
    assert "replaces it" not in caplog.text
    assert main(["autolabel", "data", "--out=out", "--methods=copy"]) == 0
    assert "; nothing was labelled or trained there yet, so this command replaces it" in caplog.text
    assert main(["autolabel", "data", "--out=out", "--methods=motion"]) == 2  # now there are labels


def test_a_network_of_an_unfinished_training_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "data", {"walk": 9}, labelled=(0, 8))
    torch.save({"global_step": 3}, "teacher-unfinished.ckpt")
    assert main([*TEACHER, "--teacher=teacher-unfinished.ckpt"]) == 2
    assert "teacher-unfinished.ckpt is of a training that has not ended" in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("place", ["data/frames", "data/frames/walk/logs", "data/labels"])
def test_a_logger_does_not_write_among_data(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "data", {"walk": 9}, labelled=(0, 8))
    before = sorted(tmp_path.rglob("*"))
    logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={place}"]
    assert main([*TEACHER, *logger]) == 2
    assert f"--trainer.logger.save_dir {place} is" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
