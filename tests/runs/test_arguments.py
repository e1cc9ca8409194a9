"""The settings of a run: from flags and files, what is refused of them, and what may change between two runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clips import make_folder
from wrp.cli.main import main
from wrp.data.checking import Checked
from wrp.errors import WrpError
from wrp.io.manifest import NETWORKS, Entry
from wrp.options import SelectArgs, flat
from wrp.runs import record
from wrp.runs.arguments import make_parser, parse_arguments
from wrp.runs.config import SHORT, RunArgs, Settings, TeacherArgs, in_flags
from wrp.runs.record import claim_folder

BARE = ["clips", "--out=out"]

# Every flag of wrp 0.1, and what it sets.
FLAGS: list[tuple[str, str, str, Any]] = [
    ("--out", "out", "there", "there"),
    ("--layout", "layout", "folder", "folder"),
    ("--split", "split", "train", "train"),
    ("--clips", "select.clips", "walk, ride", ["walk", "ride"]),
    ("--label-every", "select.label_every", "4", 4),
    ("--label-offset", "select.label_offset", "2", 2),
    ("--keyframes", "select.keyframes", "keyframes.txt", "keyframes.txt"),
    ("--labels", "select.labels", "drawn", "drawn"),
    ("--frames", "select.frames", "10:40:2", "10:40:2"),
    ("--never", "select.never", "hood.png", "hood.png"),
    ("--methods", "methods", "motion, vote:previous", ["motion", "vote:previous"]),
    ("--teacher", "teacher", "a.ckpt", "a.ckpt"),
    ("--refiner", "refiner", "b.ckpt", "b.ckpt"),
    ("--weights", "train_teacher.weights", "none", "none"),
    ("--teacher-steps", "train_teacher.steps", "7", 7),
    ("--propagated-ratio", "train_teacher.propagated_ratio", "0.25", 0.25),
    ("--teacher-folds", "train_teacher.folds", "3", 3),
    ("--refiner-steps", "train_refiner.steps", "8", 8),
    ("--student", "student", "cisc-r", "cisc-r"),
    ("--flow", "run.flow", "raft-large", "raft-large"),
    ("--flow_args", "run.flow_args", '{"weights": "a.pth"}', {"weights": "a.pth"}),
    ("--flow_args.weights", "run.flow_args", "a.pth", {"weights": "a.pth"}),
    ("--flow-cache", "run.flow_cache", "flow", "flow"),
    ("--min-confidence", "run.min_confidence", ".5", 0.5),
    ("--shard", "run.shard", "1/2", "1/2"),
    ("--on-error", "run.on_error", "skip", "skip"),
    ("--limit", "run.limit", "0", 0),
    ("--continue", "run.continue_from", "old", "old"),
    ("--continue-steps", "run.continue_steps", "5", 5),
    ("--seed", "run.seed", "5", 5),
    ("--workers", "run.workers", "2", 2),
    ("--trainer", "run.trainer", '{"devices": 2}', {"devices": 2}),
    ("--trainer.devices", "run.trainer", "2", {"devices": 2}),
]


DEFAULTS = {
    **dict.fromkeys(("split", "select.clips", "select.label_every", "select.keyframes", "teacher", "refiner")),
    **dict.fromkeys(("select.labels", "select.frames", "select.never")),
    **dict.fromkeys(("student", "run.flow_cache", "run.shard", "run.limit", "train_teacher.network.encoder_weights")),
    **dict.fromkeys(("train_teacher.network.attention_scales", "train_teacher.network.test_scales")),
    **dict.fromkeys(
        ("train_teacher.lr", "train_teacher.steps", "train_teacher.crop", "train_teacher.inference.window")
    ),
    "layout": "auto",
    "select.label_offset": 0,
    "methods": ["motion", "semantic", "inpaint", "refine"],
    "train_teacher.weights": "auto",
    "train_teacher.network.arch": "FPN",
    "train_teacher.network.encoder_name": "auto",
    "train_teacher.network.options": {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32},
    "train_teacher.network.scale": 0.0,
    "train_teacher.network.ocr": False,
    "train_teacher.losses": {"cross_entropy": 1.0, "dice": 1.0},
    "train_teacher.propagated_ratio": 0.0,
    "train_teacher.confidence": 0.7,
    "train_teacher.inference.overlap": 1 / 3,
    "train_teacher.inference.scales": [1.0, 1.5],
    "train_teacher.inference.flip": False,
    "train_teacher.batch": 8,
    "train_teacher.folds": 0,
    "train_refiner.steps": 600,
    "train_refiner.crop": [192, 256],
    "train_refiner.batch": 6,
    "run.on_error": "stop",
    "run.flow": "dis-best",
    "run.flow_args": {},
    "run.trainer": {},
    "run.min_confidence": 0.0,
    "run.seed": 0,
    "run.workers": None,
    "run.continue_from": None,
    "run.continue_steps": None,
}


def named(settings: Settings) -> dict[str, Any]:
    """Settings by their dotted names."""
    return dict(flat(settings.as_json())) | {"out": settings.out}


@cache
def plain() -> dict[str, Any]:
    """The settings of a run without any flag."""
    return named(parse_arguments(BARE)[0])


def changed(*args: str) -> dict[str, Any]:
    """What arguments change of a run without any."""
    before, after = plain(), named(parse_arguments(args)[0])
    assert after.keys() == before.keys()
    return {name: value for name, value in after.items() if value != before[name]}


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert main(["autolabel", *args]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("wrp: error: ")
    return line.removeprefix("wrp: error: ")


def test_without_a_flag_everything_is_as_it_is_by_default() -> None:
    settings, dry = parse_arguments(BARE)
    assert settings == Settings("clips", "out")
    assert named(settings) == DEFAULTS | {"root": "clips", "out": "out"}
    assert not dry
    assert parse_arguments([*BARE, "--dry-run"]) == (settings, True)


@pytest.mark.parametrize(("flag", "setting", "text", "value"), FLAGS)
def test_a_flag_sets_what_it_stands_for(flag: str, setting: str, text: str, value: Any) -> None:
    entry = setting + flag[flag.find(".") :] * ("." in flag)
    for written in ([flag, text], [f"{flag}={text}"], [f"--{entry}", text], [f"--{entry}={text}"]):
        for args in (["clips", "--out=out", *written], ["--out=out", *written, "clips"]):
            assert changed(*args) == {setting: value}


def test_every_short_flag_is_among_these() -> None:
    assert {f"--{flag}": setting for flag, setting in SHORT.items()} == {
        flag: setting for flag, setting, *_ in FLAGS if flag != f"--{setting}" and "." not in flag
    }


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        ("train_teacher.network.encoder_name", "resnet18", "resnet18"),
        ("train_teacher.network.attention_scales", "[0.5, 1]", [0.5, 1.0]),
        ("train_teacher.network.ocr", "true", True),
        ("train_teacher.network.options", "{decoder_dropout: 0}", {"decoder_dropout": 0}),
        ("train_teacher.losses", '{"dice": 2}', {"dice": 2.0}),
        ("train_teacher.crop", "[64, 96]", [64, 96]),
        ("train_teacher.lr", "1e-3", 0.001),
        ("train_refiner.batch", "2", 2),
    ],
)
def test_settings_without_a_short_flag_have_a_long_one(setting: str, text: str, value: Any) -> None:
    assert changed(*BARE, f"--{setting}={text}") == changed(*BARE, f"--{setting}", text) == {setting: value}


def test_one_value_of_a_dictionary_may_be_given_by_itself() -> None:
    losses = {"cross_entropy": 1.0, "dice": 2.0}
    assert changed(*BARE, "--train_teacher.losses.dice=2") == {"train_teacher.losses": losses}


@pytest.mark.parametrize("place", range(4))
def test_a_student_alone_is_the_plain_one(place: int) -> None:
    args = ["clips", "--out=out", "--seed=0"]
    args.insert(place, "--student")
    if place == 0:  # it would be the student's kind
        args[0:2] = ["clips", "--student"]
    assert changed(*args) == {"student": "plain"}


@pytest.mark.parametrize(
    ("text", "value"), [("walk", ["walk"]), ("walk,ride", ["walk", "ride"]), ("123", ["123"]), ("[a, b]", ["a", "b"])]
)
def test_clips_are_a_list(text: str, value: list[str]) -> None:
    assert changed(*BARE, f"--clips={text}") == {"select.clips": value}


@pytest.mark.parametrize("root", ["clips", "-", "123", "null", "[a]", "a b", "a=b", "ä: ö"])
def test_a_root_is_taken_as_it_is_written(root: str) -> None:
    settings, _ = parse_arguments(["--seed", "3", root, "--out", root])
    assert (settings.root, settings.out) == (root, root)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["a", "b", "--out=out"], "unrecognized argument 'b': ROOT is already given as 'a'"),
        (["a", "--out=out", "--seed=3", "b"], "unrecognized argument 'b': ROOT is already given as 'a'"),
        (["a", "--root=b", "--out=out"], "unrecognized argument 'b': ROOT is already given as 'a'"),
        ([], "root and out must be given, on the command line or in --config FILE"),
        (["--out=out"], "root must be given, on the command line or in --config FILE"),
        (["clips"], "out must be given, on the command line or in --config FILE"),
        (["clips", "--out="], "out must be given, on the command line or in --config FILE"),
        ([*BARE, "--xyz=3"], "unrecognized argument --xyz; `wrp autolabel --help` shows all"),
        ([*BARE, "--xyz", "3"], "unrecognized argument --xyz; `wrp autolabel --help` shows all"),
        ([*BARE, "--xyz"], "unrecognized argument --xyz; `wrp autolabel --help` shows all"),
        ([*BARE, "-x"], "unrecognized argument -x; `wrp autolabel --help` shows all"),
        ([*BARE, "-xseed=3"], "unrecognized argument -xseed; "),
        ([*BARE, "--label_every=3"], "unrecognized argument --label_every; did you mean --label-every?"),
        ([*BARE, "--teacher-step=3"], "unrecognized argument --teacher-step; did you mean --teacher-steps?"),
        ([*BARE, "--train_teacher=a.yaml"], "unrecognized argument --train_teacher; did you mean --train_teacher."),
        ([*BARE, "--train_teacher.nothing=3"], "unrecognized argument --train_teacher.nothing"),
        ([*BARE, "--methods+=vote"], r"unrecognized argument --methods\+; did you mean --methods?"),
        ([*BARE, "--dry-run=3"], "--dry-run takes no value, got '3'"),
        ([*BARE, "--seed"], "--seed needs a value"),
        ([*BARE, "--split", "--seed=3"], "--split needs a value"),
        ([*BARE, "--config"], "--config needs a value"),
        ([*BARE, "--teacher-steps=many"], "--teacher-steps must be of type int or None, got 'many'"),
        ([*BARE, "--train_teacher.steps", "many"], "--train_teacher.steps must be of type int or None, got 'many'"),
        ([*BARE, "--seed=1.5"], "--seed must be of type int, got '1.5'"),
        ([*BARE, "--seed="], "--seed must be of type int, got ''"),
        ([*BARE, "--limit=some"], "--limit must be of type int or None, got 'some'"),
        ([*BARE, "--min-confidence=nan"], "--min-confidence must be of type float, got 'nan'"),
        ([*BARE, "--train_teacher.network.ocr=perhaps"], "--train_teacher.network.ocr must be of type bool"),
        (
            [*BARE, "--train_teacher.crop=[1,2,3]"],
            r"--train_teacher.crop must be of type tuple\[int, int\] or None, got '\[1,2,3\]",
        ),
        ([*BARE, "--train_teacher.losses.dice=much"], "--train_teacher.losses.dice must be of type dict"),
        ([*BARE, "--teacher-steps=0"], "--teacher-steps must be in 1 … 2147483647, got 0"),
        ([*BARE, "--propagated-ratio=2"], "--propagated-ratio must be in 0 … 1, got 2.0"),
        ([*BARE, "--min-confidence=-1"], "--min-confidence must be in 0 … 1, got -1.0"),
        ([*BARE, "--train_teacher.confidence=7"], "--train_teacher.confidence must be in 0 … 1, got 7.0"),
        ([*BARE, "--train_refiner.batch=0"], "--train_refiner.batch must be in 1 … 2147483647, got 0"),
        ([*BARE, "--teacher-folds=1"], "--teacher-folds must be 0 or at least 2, got 1"),
        ([*BARE, "--student=best"], r"unknown student 'best', expected one of plain, cisc-r, three-stage, st\+\+"),
        ([*BARE, "--on-error=never"], "unknown value of --on-error 'never', expected one of stop, skip"),
        ([*BARE, "--limit=-1"], "--limit must be in 0 … 2147483647, got -1"),
        ([*BARE, "--workers=-1"], "--workers must be in 0 … 256, got -1"),
        ([*BARE, "--shard=3/2"], "--shard must be i/n with i in 1 … n, such as 2/3; got '3/2'"),
        ([*BARE, "--train_teacher.network.encoder_weights=imagenet"], "use --weights instead"),
    ],
)
def test_arguments_that_are_none_are_refused(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, *args)
    assert re.search(said.replace("?", "\\?"), line), line
    assert not Path("out").exists()


def test_the_settings_of_a_run_serve_another_and_flags_win(tmp_path: Path) -> None:
    root, out = make_folder(tmp_path / "clips", {"ride": 5, "walk": 5}), tmp_path / "out"
    command = ["--methods=copy", "--label-every=2", "--clips=walk", "--seed=3", "--train_teacher.crop=[64, 96]"]
    assert main(["autolabel", str(root), f"--out={out}", *command]) == 0
    file = f"--config={out / 'settings.json'}"
    again, _ = parse_arguments([file, f"--out={out}"])
    assert again == replace(parse_arguments([str(root), f"--out={out}", *command])[0], root=str(root.resolve()))
    assert main(["autolabel", file, f"--out={out}"]) == 0
    other, _ = parse_arguments(
        ["--seed=4", file, "--out=there", "--clips=ride", "--train_teacher.crop=[32, 32]", "data"]
    )
    assert other == replace(
        again,
        root="data",
        out="there",
        select=SelectArgs(["ride"], 2),
        train_teacher=TeacherArgs(crop=(32, 32)),
        run=RunArgs(seed=4),
    )


def test_a_file_may_be_yaml_and_hold_what_a_flag_gives_instead(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "root: data\n"
        "methods: motion, vote\n"
        "select:\n  clips: [walk, 2024-01-01]\n  label_every: 4\n"
        "train_teacher:\n  network: {scale: 1}\n  losses: {dice: 1}\n"
        "run: {seed: many}\n"
    )
    assert changed(f"--config={path}", "--out=out", "--seed=3") == {
        "root": "data",
        "methods": ["motion", "vote"],
        "select.clips": ["walk", "2024-01-01"],
        "select.label_every": 4,
        "train_teacher.network.scale": 1.0,
        "train_teacher.losses": {"dice": 1.0},
        "run.seed": 3,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour: 3", "there is no setting 'colour'; `wrp autolabel --help` shows all"),
        ("seed: 3", "there is no setting 'seed'; did you mean run.seed?"),
        ("teacher_steps: 3", "there is no setting 'teacher_steps'; did you mean train_teacher.steps?"),
        ("run: {seeds: 3}", "there is no setting 'run.seeds'; did you mean run.seed?"),
        ("run: {seed: {a: 3}}", "there is no setting 'run.seed.a'; did you mean run.seed?"),
        ("train_teacher: {network: {archer: FPN}}", "there is no setting 'train_teacher.network.archer'; did you mean"),
        ("3: 3", "there is no setting '3';"),
        ("help: true", "there is no setting 'help';"),
        ("config: a.yaml", "there is no setting 'config';"),
        ("train_teacher: 3", "train_teacher must be a group of settings, lines `name: value`, got 3"),
        ("train_teacher: [steps]", "train_teacher must be a group of settings, lines `name: value`, got ['steps']"),
        ("train_teacher:", "train_teacher must be a group of settings, lines `name: value`, got None"),
        ("run: {}", "run must be a group of settings, lines `name: value`, got {}"),
        ("select: {clips: {}}", "select.clips must be of type list[str] or str or None, got {}"),
        ("run: {seed: }", "run.seed must be of type int, got None"),
        ("run: {seed: many}", "run.seed must be of type int, got 'many'"),
        ("run: {seed: 1.0}", "run.seed must be of type int, got 1.0"),
        ("run: {seed: true}", "run.seed must be of type int, got True"),
        ("run: {limit: x}", "run.limit must be of type int or None, got 'x'"),
        ("split: {a: 3}", "there is no setting 'split.a'"),
        ("split: 3", "split must be of type str or None, got 3"),
        ("select: {clips: [1, 2]}", "select.clips must be of type list[str] or str or None, got [1, 2]"),
        ("methods: [[motion]]", "methods must be of type str or list[str], got [['motion']]"),
        ("layout: '" + 900 * "x" + "'\nmethods: 3", "methods must be of type str or list[str], got 3"),
    ],
)
def test_files_of_other_settings_are_refused_by_name_and_path(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    assert refusal(capsys, *BARE, f"--config={path}").startswith(f"--config {path}: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- seed", "must contain settings, lines `name: value`, got a list"),
        ("3", "must contain settings, lines `name: value`, got a int"),
        ("a: [", "cannot be read: "),
        ("\x00", "cannot be read: "),
    ],
)
def test_files_of_no_settings_are_refused_by_path(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    assert refusal(capsys, *BARE, f"--config={path}").startswith(f"--config {path} {said}")
    assert refusal(capsys, *BARE, f"--config={tmp_path}").startswith(f"--config {tmp_path} cannot be read: ")
    assert refusal(capsys, *BARE, "--config=none.yaml").startswith("--config none.yaml cannot be read: ")


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["clips", "--out=out", "--help"], ["--xyz=3", "--help"]])
def test_help_shows_every_flag(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["autolabel", *args]) == 0
    shown = capsys.readouterr().out
    flags = {f"--{flag}" for flag in SHORT} | {flag for flag, *_ in FLAGS} | {"--config", "--dry-run"}
    flags |= {f"--{name}" for name in named(Settings("", ""))}
    missing = [flag for flag in flags if not re.search(rf"(^|[ ,]){re.escape(flag)}[ ,\n]", shown)]
    assert not missing
    groups = [f"--{name}" for name in ("select", "train_teacher", "train_refiner", "run", "train_teacher.network")]
    assert not [group for group in groups if re.search(rf" {re.escape(group)} ", shown)]
    assert not re.search(r":\w+:`|``|--\S+\+ ", shown)


def test_help_loads_no_framework() -> None:
    code = "from wrp.cli.main import main\ncode = main(['autolabel', '--help'])\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", f"{code}\nsys.exit(code)"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    loaded = {name.split(".")[0] for name in run.stdout.splitlines()[-1].split()}
    assert "jsonargparse" in loaded
    assert not loaded & {"torch", "torchvision", "pytorch_lightning", "lightning", "cv2", "albumentations"}


def test_the_parser_knows_every_setting() -> None:
    known = {action.dest for action in make_parser()._actions}
    assert known >= set(named(Settings("", "")))


FIRST = Settings("clips", "out", select=SelectArgs(label_every=4), methods=["motion", "refine"])
FREE = {
    "student": "plain",
    "run.on_error": "skip",
    "run.workers": 2,
    "run.flow_cache": "flow",
    "run.shard": "1/2",
    "run.limit": 3,
}
OTHERS = {
    "layout": "davis",
    "split": "val",
    "select.clips": ["walk"],
    "select.label_every": 5,
    "select.label_offset": 1,
    "select.keyframes": "keyframes.txt",
    "select.labels": "drawn",
    "select.frames": "10:40:2",
    "select.never": "hood.png",
    "methods": ["refine"],
    "teacher": "a.ckpt",
    "refiner": "b.ckpt",
    "train_teacher.weights": "none",
    "train_teacher.network.arch": "Unet",
    "train_teacher.network.encoder_name": "resnet18",
    "train_teacher.network.options": {},
    "train_teacher.network.scale": 0.5,
    "train_teacher.network.ocr": True,
    "train_teacher.network.attention_scales": [0.5, 1.0],
    "train_teacher.network.test_scales": [1.0],
    "train_teacher.losses": {"dice": 1.0},
    "train_teacher.propagated_ratio": 0.5,
    "train_teacher.confidence": 0.5,
    "train_teacher.inference.window": [64, 64],
    "train_teacher.inference.overlap": 0.5,
    "train_teacher.inference.scales": [1.0],
    "train_teacher.inference.flip": True,
    "train_teacher.lr": 0.1,
    "train_teacher.steps": 3,
    "train_teacher.crop": [32, 32],
    "train_teacher.batch": 2,
    "train_teacher.folds": 2,
    "train_refiner.steps": 3,
    "train_refiner.crop": [32, 32],
    "train_refiner.batch": 2,
    "run.flow": "dis",
    "run.flow_args": {"threads": 1},
    "run.trainer": {"precision": "bf16-mixed"},
    "run.min_confidence": 0.5,
    "run.seed": 1,
    "run.continue_from": "old",
    "run.continue_steps": 5,
}


def claim(settings: Settings, root: Path = Path("clips")) -> None:
    """Make the folder the run's of these settings."""
    Path("out").mkdir(exist_ok=True)
    claim_folder(replace(settings, out="out"), root, {}, {"walk": "frames"})
    Path("out/teacher.ckpt").touch()  # without any result, it would refuse no other settings


def test_jobs_that_start_at_once_all_add_to_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each records the frames that it has read, while the other one is still writing."""
    Path("out").mkdir()
    write, both = record.write_json, threading.Barrier(2)

    def slowly(*given: Any) -> None:
        Path("out", ".settings.json.0.tmp").touch()
        time.sleep(0.3)
        Path("out", ".settings.json.0.tmp").unlink()
        write(*given)

    def job(clip: str) -> None:
        both.wait()
        claim_folder(replace(FIRST, out="out"), Path("clips"), {}, {clip: "frames"}, Checked([clip]))

    monkeypatch.setattr(record, "write_json", slowly)
    with ThreadPoolExecutor(2) as jobs:
        list(jobs.map(job, ["walk", "run"]))
    assert json.loads(Path("out/settings.json").read_text())["frames"] == {"walk": "frames", "run": "frames"}


def with_setting(name: str, value: Any) -> Settings:
    """The first run's settings, but for one."""
    settings, _ = parse_arguments(["clips", "--out=out", "--label-every=4", "--methods=motion,refine"])
    assert settings == FIRST
    given = ["clips", "--out=out", "--label-every=4", "--methods=motion,refine", f"--{name}={json.dumps(value)}"]
    if isinstance(value, str):
        given[-1] = f"--{name}={value}"
    return parse_arguments(given)[0]


def test_each_setting_is_free_or_not() -> None:
    assert FREE.keys() | OTHERS.keys() == named(FIRST).keys() - {"root", "out", "train_teacher.network.encoder_weights"}
    assert not FREE.keys() & OTHERS.keys()


@pytest.mark.parametrize("name", OTHERS)
def test_settings_of_another_run_are_refused_by_name(name: str) -> None:
    claim(FIRST)
    before = Path("out/settings.json").read_bytes()
    claim(FIRST)
    assert Path("out/settings.json").read_bytes() == before
    was, other = named(FIRST)[name], with_setting(name, OTHERS[name])
    assert named(other)[name] == OTHERS[name]
    with pytest.raises(WrpError) as refused:
        claim(other)
    said = f"out was begun {in_flags(name, was, OTHERS[name])}; choose another --out, or delete it"
    assert str(refused.value).startswith(said)
    assert Path("out/settings.json").read_bytes() == before


@pytest.mark.parametrize("name", FREE)
def test_settings_that_change_no_result_are_free(name: str) -> None:
    claim(FIRST)
    other = with_setting(name, FREE[name])
    assert named(other)[name] == FREE[name] != named(FIRST)[name]
    claim(other)
    kept = dict(flat(json.loads(Path("out/settings.json").read_text())))
    assert kept[name] == FREE[name]


def test_a_run_goes_on_with_other_devices() -> None:
    precise = with_setting("run.trainer", {"precision": "bf16-mixed"})
    claim(precise)
    claim(with_setting("run.trainer", {"precision": "bf16-mixed", "devices": 2, "logger": "CSVLogger"}))
    with pytest.raises(WrpError, match='with --trainer \'{"precision": "bf16-mixed"}\', this command has none'):
        claim(FIRST)


def test_arguments_of_a_class_follow_its_name() -> None:
    logged = ["--trainer.logger.save_dir=logs", "--trainer.logger", "CSVLogger"]
    settings, _ = parse_arguments([*BARE, *logged, "--trainer.devices=[0, 1]"])
    assert settings.run.trainer == {"logger.save_dir": "logs", "logger": "CSVLogger", "devices": [0, 1]}


def test_another_data_set_is_another_run() -> None:
    claim(FIRST)
    with pytest.raises(WrpError, match="out was begun with ROOT .*clips, this command has ROOT .*elsewhere; "):
        claim(FIRST, Path("elsewhere"))


def test_a_run_says_which_setting_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = make_folder(tmp_path / "clips", {"walk": 5}), tmp_path / "out"
    command = [str(root), f"--out={out}", "--methods=copy", "--label-every=2"]
    assert main(["autolabel", *command]) == 0
    assert (
        main(["autolabel", *command, "--workers=1", "--limit=5", "--on-error=skip", f"--flow-cache={tmp_path}/a"]) == 0
    )
    capsys.readouterr()
    assert main(["autolabel", *command[:-1], "--label-every=4"]) == 2
    told = f"{out} was begun with --label-every 2, this command has --label-every 4; choose another --out"
    assert told in capsys.readouterr().err


ENTRY = Entry(
    clip="ein Gang",
    frame="00003",
    index=3,
    method="refine",
    keyframes=(0, 4),
    distance=1,
    mean_confidence=0.5,
    label="labels/ein Gang/00003.png",
    checksums={"labels": "0123", "methods/motion:previous": "4567"},
    networks={"teacher": "89ab", "refiner": "cdef"},
)
numbers = st.integers(0, 10**9)
digests = st.text("0123456789abcdef", min_size=16, max_size=16)
kinds = st.sampled_from(["labels", "confidence", "provenance", "methods/motion", "methods/vote:nearest"])


@given(
    st.builds(
        Entry,
        clip=st.text(),
        frame=st.text(),
        index=numbers,
        method=st.text(),
        keyframes=st.lists(numbers, max_size=3).map(tuple),
        distance=st.none() | numbers,
        mean_confidence=st.floats(0, 1),
        label=st.text(st.characters(exclude_characters="\0/."), min_size=1).map(lambda name: f"labels/{name}"),
        checksums=st.dictionaries(kinds, digests),
        networks=st.dictionaries(st.sampled_from(NETWORKS), digests),
    )
)
def test_a_line_of_the_manifest_says_all_of_a_frame(entry: Entry) -> None:
    line = entry.line()
    assert line.splitlines(keepends=True) == [line]
    assert Entry.parse(line) == entry
    said = json.loads(line)
    assert said.keys() - set(NETWORKS) == {"schema", *(one.name for one in fields(Entry))} - {"networks"}
    assert {name: said[name] for name in NETWORKS if name in said} == entry.networks


NO_LABELS = ("", "x.png", "labels", "labels/", "/labels/x", "labels/../x", "../labels/x", "labels/\0")
NO_CHECKSUMS = (
    None,
    3,
    ["labels"],
    {"x": "0"},
    {"methods/..": "0"},
    {"methods/a/b": "0"},
    {"labels": 3},
)
NO_SHARES = (None, "0.5", True, -0.1, 1.1, float("nan"), float("inf"), [0.5])
DAMAGE: list[tuple[str, Any]] = [
    *(("schema", value) for value in (None, 1, "2", 3)),
    *((name, value) for name in ("clip", "frame", "method", "label") for value in (None, 3, ["a"], {})),
    *(("index", value) for value in (None, "3", 3.0, True, -1, [3])),
    *(("keyframes", value) for value in (None, 3, "04", [0.5], ["0"], [True], [-1], [None], {"0": 4})),
    *(("distance", value) for value in ("1", 1.0, True, -1, [1])),
    *(("mean_confidence", value) for value in NO_SHARES),
    *(("label", value) for value in NO_LABELS),
    *(("checksums", value) for value in NO_CHECKSUMS),
    *((name, value) for name in NETWORKS for value in (None, 3, ["a"])),
]


@pytest.mark.parametrize(("name", "value"), DAMAGE)
def test_a_damaged_field_of_a_line_is_refused_by_name(name: str, value: Any) -> None:
    content = json.loads(ENTRY.line())
    assert Entry.parse(json.dumps(content)) == ENTRY
    with pytest.raises(ValueError, match=rf"^the (index \S+ and the )?{name.rstrip('s')}|^the checksum .* of {name}$"):
        Entry.parse(json.dumps(content | {name: value}))


@pytest.mark.parametrize(
    "name", ["clip", "frame", "index", "method", "keyframes", "distance", "mean_confidence", "label"]
)
def test_a_line_that_lacks_a_field_is_refused_by_name(name: str) -> None:
    content = json.loads(ENTRY.line())
    del content[name]
    with pytest.raises(ValueError, match=f"^no {name}$"):
        Entry.parse(json.dumps(content))


@pytest.mark.parametrize("line", ["", "{", "[]", "3", "null", '"a"', "[" * 3000])
def test_a_line_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="."):
        Entry.parse(line)


def test_a_frame_says_which_files_and_keyframes_are_its(tmp_path: Path) -> None:
    name = "ein Gang/00003.png"
    assert ENTRY.files(tmp_path) == {
        tmp_path / "labels" / name: "0123",
        tmp_path / "methods/motion:previous" / name: "4567",
    }
    assert (ENTRY.is_given, ENTRY.offset) == (False, -1)
    assert (replace(ENTRY, index=1).is_given, replace(ENTRY, index=1).offset) == (False, 1)
    assert (replace(ENTRY, index=4).is_given, replace(ENTRY, index=4).offset) == (True, 0)


def test_the_name_of_a_flag_in_0_1_is_still_taken(caplog: pytest.LogCaptureFixture) -> None:
    settings, _ = parse_arguments([*BARE, "--anchors", "list.txt"])
    assert settings.select.keyframes == "list.txt"
    assert "--anchors is now called --keyframes" in caplog.text
    caplog.clear()
    assert parse_arguments([*BARE, "--anchors=list.txt"])[0] == parse_arguments([*BARE, "--keyframes=list.txt"])[0]
    assert caplog.text.count("is now called") == 1
