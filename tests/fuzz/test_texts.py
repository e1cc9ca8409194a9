"""Lists, classes, manifests, settings and calibrations: what they have to say, or WrpError."""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tests.clips import CLASSES_YAML, make_folder
from tests.data.small import make_run
from tests.exports import make_run as make_exported
from tests.fuzz.damage import altered, damaged, plain
from wrp.data.index import FrameNames, read_list, select_clips
from wrp.data.layouts.registry import open_index
from wrp.data.propagated import PropagatedLabels
from wrp.data.run import open_run
from wrp.errors import DataError, WrpError
from wrp.io.label_map import read_label_map
from wrp.io.manifest import join_manifest, read_manifest, written_parts
from wrp.options import SelectArgs
from wrp.propagation.confidence import read_calibration
from wrp.runs.arguments import parse_arguments
from wrp.runs.config import Settings
from wrp.structures import IGNORE_INDEX, LabelMap

DEEP = "[" * 2000
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


def check_classes(path: Path) -> None:
    try:
        found = read_label_map(path)
    except DataError as error:
        message = str(error)
    else:
        check_map(found)
        return
    assert str(path) in message
    assert len(message) < 5000


def check_map(found: LabelMap) -> None:
    indices = np.arange(found.num_classes, dtype=np.uint8)
    assert np.array_equal(found.encode(found.decode(indices)), indices) or 255 in [value for value, _ in found.aliases]
    assert all(isinstance(name, str) for name in found.names)
    assert found.written.decode(np.uint8([IGNORE_INDEX])) == IGNORE_INDEX
    assert len(found.palette) == 768
    found.colorize(indices)


@given(damaged(CLASSES_YAML.encode()) | st.binary(max_size=100))
@example(DEEP.encode())
@example(b"classes: " + DEEP.encode())
@example(BOMB.encode() + b"classes: [{id: *i, name: *i, color: [0, 0, 0]}]")
@example(b"classes: [{id: 0, name: a, color: [.inf, 0, 0]}]")
@example(b"classes: [{id: 0, name: a, color: [!!timestamp x, 0, 0]}]")
def test_damaged_classes(folder: Path, content: bytes) -> None:
    path = folder / "classes.yaml"
    path.write_bytes(content)
    check_classes(path)


@given(altered(yaml.safe_load(CLASSES_YAML)))
def test_other_classes(folder: Path, content: Any) -> None:
    path = folder / "classes.yaml"
    path.write_text(yaml.safe_dump(content))
    check_classes(path)


@given(damaged(b"walk/00000\n# other\nrun/00001\n") | st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_lists(folder: Path, content: bytes) -> None:
    path, root = folder / "list.txt", folder / "clips"
    path.write_bytes(content)
    if not root.is_dir():
        make_folder(root, {"walk": 2, "run": 2})
    try:
        found = read_list(path)
    except DataError:
        return
    assert len(set(found)) == len(found)
    for line in found:
        assert line
        assert not PurePosixPath(line).is_absolute()
        assert ".." not in PurePosixPath(line).parts
    try:
        chosen = select_clips(open_index(root), SelectArgs(keyframes=str(path)))
    except DataError:
        return
    kept = [f"{clip.name}/{clip.frames[i].stem}" for clip in chosen.clips for i in clip.keyframes]
    names = FrameNames(["walk/00000", "walk/00001", "run/00000", "run/00001"])
    assert sorted(kept) == sorted(str(names.find(line)) for line in found)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    make_folder(folder / "walks", {"walk": 9})
    return Path(make_run(folder / "run"))


def check_manifest(run: Path) -> None:
    clips = open_index(run.parent / "walks").clips
    try:
        for entry in read_manifest(run):
            assert (run / entry.label).resolve().is_relative_to((run / "labels").resolve())
        found = PropagatedLabels(str(run)).frames(clips)
    except DataError:
        return
    for clip, index, frame in found:
        assert clip == "walk"
        assert frame.stem == f"{index:05d}"
        assert frame.confidence is not None


@given(st.data())
def test_damaged_manifests(run: Path, data: st.DataObject) -> None:
    whole = Path(make_run(run)).joinpath("manifest.jsonl").read_bytes()
    (run / "manifest.jsonl").write_bytes(data.draw(damaged(whole) | st.binary(max_size=60)))
    check_manifest(run)


@given(st.data())
def test_other_manifests(run: Path, data: st.DataObject) -> None:
    lines = Path(make_run(run)).joinpath("manifest.jsonl").read_text().splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = json.dumps(data.draw(altered(json.loads(lines[number]))))
    (run / "manifest.jsonl").write_text("\n".join(lines))
    check_manifest(run)


def test_a_manifest_that_is_nested_too_deeply_is_refused(run: Path) -> None:
    (run / "manifest.jsonl").write_text(DEEP)
    with pytest.raises(DataError, match="is damaged"):
        read_manifest(run)


@given(st.data())
def test_parts_of_a_manifest_are_whole_or_written_anew(run: Path, data: st.DataObject) -> None:
    lines = Path(make_run(run)).joinpath("manifest.jsonl").read_text().splitlines()
    parts = run / "manifest.parts" / "walk"
    parts.mkdir(parents=True, exist_ok=True)
    for path in parts.iterdir():
        path.unlink()
    (parts / "000000.jsonl").write_text("\n".join(lines[:4]) + "\n")
    if data.draw(st.booleans()):
        damage = data.draw(damaged("\n".join(lines[4:]).encode() + b"\n"))
    else:
        damage = b"\n".join(json.dumps(data.draw(altered(json.loads(line)))).encode() for line in lines[4:])
    name = data.draw(st.sampled_from(["000004.jsonl", "x.jsonl", "-1.jsonl", "0_4.jsonl"]))
    (parts / name).write_bytes(damage)
    done = written_parts(run)
    assert ("walk", 0, 4) in done
    join_manifest(run)
    joined = [json.loads(line) for line in (run / "manifest.jsonl").read_text().splitlines()]
    assert len(joined) == sum(count for _, _, count in done)
    assert {entry["label"] for entry in joined} <= {f"labels/walk/{i:05d}.png" for i in range(9)}


def check_settings(folder: Path, config: Path) -> None:
    try:
        found, _ = parse_arguments([str(folder / "data"), f"--out={folder / 'out'}", f"--config={config}"])
    except WrpError as error:
        message = str(error)
    else:
        assert isinstance(found, Settings)
        assert (found.root, found.out) == (str(folder / "data"), str(folder / "out"))
        return
    assert len(message.splitlines()) == 1
    assert len(message) < 2000


SETTINGS = {
    "select": {"label_every": 5, "clips": None},
    "methods": ["motion", "refine"],
    "train_teacher": {
        "network": {"scale": 0.5, "options": {"decoder_pyramid_channels": 64}},
        "crop": [64, 96],
        "losses": {"dice": 1.0},
    },
    "run": {"shard": "1/2", "seed": 3},
    "labels": "0123",
}


@given(damaged(json.dumps(SETTINGS).encode()) | damaged(yaml.safe_dump(SETTINGS).encode()) | st.binary(max_size=60))
@example(DEEP.encode())
@example(BOMB.encode() + b"run: {seed: *i}")
@example(b"select: {clips: 5}")
@example(b"methods: [[motion]]")
@example(b'run: {flow_cache: "a\\0b"}')
@example(b"run: {flow_cache: " + b"a" * 5000 + b"}")
def test_damaged_settings(folder: Path, content: bytes) -> None:
    path = folder / "settings.json"
    path.write_bytes(content)
    check_settings(folder, path)


@given(altered(SETTINGS) | st.dictionaries(st.sampled_from(sorted(Settings.__dataclass_fields__)), plain, max_size=4))
def test_other_settings(folder: Path, content: Any) -> None:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(content))
    check_settings(folder, path)


@given(st.data())
def test_the_settings_of_a_damaged_run(folder: Path, data: st.DataObject) -> None:
    run = folder / "exported" / "run"
    if not run.is_dir():
        make_exported(folder / "exported")
        (run / "whole.json").write_bytes((run / "settings.json").read_bytes())
    whole = (run / "whole.json").read_bytes()
    change = damaged(whole) | altered(json.loads(whole)).map(lambda content: json.dumps(content).encode())
    (run / "settings.json").write_bytes(data.draw(change))
    (run / "metrics.json").write_text(json.dumps(data.draw(st.just({}) | altered({"skipped": {"walk": "broken"}}))))
    try:
        index = open_run(run)
    except WrpError:
        return
    assert {clip.name for clip in index.clips} <= {"walk", "ein Gang"}


CALIBRATION = {
    "motion": {"shift": 0.1, "slope": 0.9, "distance": 12.5},
    "refine": {"shift": 0, "slope": 1, "distance": 3},
}


@given(damaged(json.dumps(CALIBRATION).encode()) | altered(CALIBRATION).map(lambda x: json.dumps(x).encode()))
@example(json.dumps({"motion": {"shift": 0, "slope": 1, "distance": 0}}).encode())
@example(b'{"motion": {"shift": 1' + b"0" * 400 + b', "slope": 1, "distance": 1}}')
def test_damaged_calibrations(folder: Path, content: bytes) -> None:
    path = folder / "calibration.json"
    path.write_bytes(content)
    try:
        found = read_calibration(str(path))
    except WrpError:
        return
    for line in found.values():
        assert all(map(math.isfinite, vars(line).values()))
        assert line.distance > 0
