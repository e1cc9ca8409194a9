"""Files that never end or hold more than the machine, and names that cannot be written: refused at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.clips import make_folder
from tests.forked import wrp
from wrp.cli.main import main
from wrp.errors import DataError, inert
from wrp.io.label_map import read_label_map
from wrp.io.opening import check_ratio, read_content, read_json, read_text
from wrp.propagation.confidence import read_calibration
from wrp.runs.search import read_sweep


def pipe(path: Path) -> None:
    os.mkfifo(path)


def giant(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 42)  # sparse: it takes no room


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = [pipe, giant, device]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    "read",
    [read_content, read_text, lambda path: read_json(path, "delete it"), read_label_map, read_sweep]
    + [lambda path: read_calibration(str(path))],
)
def test_a_file_that_does_not_end_is_refused(make: object, read: object, tmp_path: Path) -> None:
    path = tmp_path / "file"
    make(path)  # type: ignore[operator]
    with pytest.raises(Exception, match="is no regular file|more than the|there is no") as refused:
        read(path)  # type: ignore[operator]
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    "name", ["data/classes.yaml", "data/frames/walk/00001.png", "data/labels/walk/00000.png", "list.txt", "config.yaml"]
)
def test_a_command_that_meets_such_a_file_ends(
    name: str, make: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path / "data", {"walk": 3}, labelled=(0,))
    command = ["autolabel", "data", "--out=out", "--methods=copy"]
    command += ["--keyframes=list.txt"] if name == "list.txt" else ["--config=config.yaml"] if "config" in name else []
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)  # type: ignore[operator]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "wrp: error: " in error
    assert Path(name).name in error
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "name", ["out/settings.json", "out/metrics.json", "out/manifest.parts/walk/000000.jsonl", "out/stages.json"]
)
@pytest.mark.parametrize("make", KINDS)
def test_a_run_with_such_a_file_ends(name: str, make: object, tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {"walk": 3}, labelled=(0,))
    command = ["autolabel", "data", "--out=out", "--methods=copy"]
    assert main(command) == 0
    (tmp_path / name).unlink()
    make(tmp_path / name)  # type: ignore[operator]
    assert main(command) in (0, 2)
    assert main(["report", "out"]) in (0, 2)


def test_what_unpacks_to_many_times_its_size_is_refused() -> None:
    check_ratio(Path("a.zip"), 10, 2**30)
    with pytest.raises(DataError, match="which would unpack to"):
        check_ratio(Path("a.zip"), 10, 2**31)


@pytest.mark.parametrize("name", ["a\nb", "a\u2028b", "a\x85b", "a\x1b[2Jb", os.fsdecode(b"a\xffb")])
@pytest.mark.parametrize("part", ["clip", "frame"])
def test_a_name_that_cannot_stand_in_a_list_is_refused(
    part: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "data", {"walk": 3, "ride": 3}, labelled=(0,))
    place = root / "frames/walk" if part == "clip" else root / "frames/walk/00001.png"
    place.rename(place.with_name(name + place.suffix))
    if part == "clip":
        (root / "labels/walk").rename(root / "labels" / name)
    assert main(["data", "check", "data"]) == 2
    assert main(["autolabel", "data", "--out=out", "--methods=copy"]) == 2
    assert "has a name that cannot be written in a list" in capsys.readouterr().err
    done = wrp("autolabel", "data", "--out=out", "--methods=copy", "--on-error=skip", PYTHONIOENCODING="ascii")
    assert done.returncode == 3, done.stderr
    assert [path.name for path in Path("out/labels").iterdir()] == ["ride"]


def test_control_characters_are_shown_escaped() -> None:
    assert inert("a\x1b[2Jb\x07\x9b\u202e") == "a\\x1b[2Jb\\x07\\x9b\\u202e"
    assert inert("straße\t車\n") == "straße\t車\n"
