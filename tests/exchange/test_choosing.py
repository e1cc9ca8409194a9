"""Exports of some frames alone, and exports that are stopped and go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clips import save
from tests.exports import CLASSES, export, make_run
from wrp.exchange import base, parquet, webdataset
from wrp.exchange.export import FORMATS, WRITTEN_ONLY
from wrp.io.resuming import ITEMS
from wrp.io.writing import checksum, write_label


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run whose manifest has checksums, and which knows that the first frame of each clip is a keyframe."""
    folder = make_run(tmp_path)
    note(folder / "run")
    return folder


def note(run: Path) -> None:
    path, lines = run / "manifest.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        entry["checksums"] = {"labels": checksum((run / entry["label"]).read_bytes())}
        entry["method"] = "motion" if entry["index"] else "keyframe"
        lines.append(json.dumps(entry) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def paint(run: Path, name: str) -> None:
    height, width = {"walk": (7, 5), "ein Gang": (6, 11)}[name.partition("/")[0]]
    write_label(run / f"labels/{name}.png", np.full((height, width), 2, np.uint8), CLASSES)


def exported(folder: Path, only: str) -> list[str]:
    assert export(folder, "voc", "--only", only) == 0
    names = (folder / "out/ImageSets/Segmentation/train.txt").read_text(encoding="utf-8").splitlines()
    pictures = sorted(path.relative_to(folder / "out/JPEGImages") for path in folder.glob("out/JPEGImages/*/*"))
    assert [path.with_suffix("").as_posix() for path in pictures] == sorted(names)
    shutil.rmtree(folder / "out")
    return names


def test_some_frames_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(folder, "keyframes") == ["ein Gang/00000", "walk/00000"]
    for only, problem in {"changed": "no label has changed", "suggested": "run `wrp suggest"}.items():
        assert export(folder, "voc", "--only", only) == 2
        assert problem in capsys.readouterr().err
    (folder / "run/suggest.txt").write_text("walk/2\nwalk/00001\n", encoding="utf-8")
    assert exported(folder, "suggested") == ["walk/00001", "walk/00002"]
    paint(folder / "run", "walk/00002")  # corrected by hand
    assert exported(folder, "changed") == ["walk/00002"]
    # The run continues another one, in which a label of the other clip was another one.
    shutil.copytree(folder / "run", folder / "earlier")
    paint(folder / "earlier", "ein Gang/00001")
    note(folder / "earlier")
    note(folder / "run")
    (folder / "run/continued.json").write_text(json.dumps({"from": str(folder / "earlier")}), encoding="utf-8")
    assert exported(folder, "changed") == ["ein Gang/00001"]
    shutil.rmtree(folder / "earlier")
    assert export(folder, "voc", "--only", "changed") == 2
    assert "needs the run that" in capsys.readouterr().err


LABELS = base.Export.labels


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("format_name", ["coco", "label-studio"])
def test_an_export_that_was_stopped_goes_on(folder: Path, format_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []

    def copy(source: Path, path: Path) -> Any:
        if len(copied) == 4:
            raise Stopped
        copied.append(Path(source).name)
        return path.write_bytes(Path(source).read_bytes())

    monkeypatch.setattr(base.shutil, "copyfile", copy)
    with pytest.raises(Stopped):
        export(folder, format_name)
    assert not (folder / "out").exists()
    (folder / ".out.part/.half.jpg.0123456789ab.tmp").touch()  # as if it had been killed
    del copied[:2]  # four more may be copied; two are left
    assert export(folder, format_name) == 0
    assert len(copied) == 4
    stopped = {path.relative_to(folder / "out"): path.read_bytes() for path in folder.glob("out/**/*.*")}
    shutil.rmtree(folder / "out")
    monkeypatch.undo()
    assert export(folder, format_name) == 0
    assert stopped == {path.relative_to(folder / "out"): path.read_bytes() for path in folder.glob("out/**/*.*")}
    assert not [*folder.glob(".*"), *folder.glob("out/**/.*")]


@pytest.mark.parametrize("format_name", [*FORMATS, *WRITTEN_ONLY])
def test_labels_are_not_written_again(folder: Path, format_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if format_name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    monkeypatch.setattr(webdataset, "SHARD_FRAMES", 2)
    monkeypatch.setattr(parquet, "FILE_ROWS", 2)
    monkeypatch.setattr(parquet, "ROWS", 2)
    assert export(folder, format_name) == 0
    (folder / "out").rename(folder / "whole")
    read = labels_that_are_read(monkeypatch, stop_at=3)
    with pytest.raises(Stopped):
        export(folder, format_name)
    names = [f"{clip}/{number:05d}" for clip in ("ein Gang", "walk") for number in range(3)]
    assert read == names[:3]
    if format_name not in WRITTEN_ONLY:  # what the process was writing when it was killed
        with (folder / ".out.part" / ITEMS).open("ab") as file:
            file.write(b'[{"half')
    read = labels_that_are_read(monkeypatch)
    assert export(folder, format_name) == 0
    assert read == names[2 if format_name in WRITTEN_ONLY else 3 :]  # a shard is written as a whole
    before, after = (
        {p.relative_to(out): p.is_file() and p.read_bytes() for p in out.rglob("*")} for out in outs(folder)
    )
    assert before == after
    assert not list(folder.glob(".*"))


def outs(folder: Path) -> list[Path]:
    return [folder / "whole", folder / "out"]


@pytest.mark.parametrize("change", ["label", "confidence", "classes", "limit"])
def test_labels_that_have_changed_are_written_again(folder: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels_that_are_read(monkeypatch, stop_at=3)
    with pytest.raises(Stopped):
        export(folder, "labelme", "--min-confidence", "0.5")
    if change == "label":
        paint(folder / "run", "walk/00002")
    elif change == "confidence":
        save(folder / "run/confidence/walk/00002.png", np.full((7, 5), 255, np.uint8))
    elif change == "classes":
        classes = folder / "root/classes.yaml"
        classes.write_text(classes.read_text(encoding="utf-8").replace("road", "street"), encoding="utf-8")
    read = labels_that_are_read(monkeypatch)
    assert export(folder, "labelme", "--min-confidence", "0.6" if change == "limit" else "0.5") == 0
    assert len(read) == 6


def labels_that_are_read(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[str]:
    """The names of the frames whose labels are read from now on."""
    read = list[str]()

    def labels(self: base.Export, frame: base.RunFrame) -> np.ndarray:
        if len(read) == stop_at:
            raise Stopped
        read.append(frame.name)
        return LABELS(self, frame)

    monkeypatch.setattr(base.Export, "labels", labels)
    return read


def test_what_was_begun_otherwise_is_not_mixed_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(base.Export, "labels", stop)
        with pytest.raises(Stopped):
            export(folder, "cvat")
    assert (folder / ".out.part/images").is_dir()
    assert export(folder, "camvid") == 0
    assert not (folder / "out/images").exists()
    assert not list(folder.glob(".*"))


def test_frames_that_are_no_longer_suggested_are_not_mixed_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suggested = folder / "run/suggest.txt"
    suggested.write_text("walk/00001\n", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(base.Export, "labels", stop)
        with pytest.raises(Stopped):
            export(folder, "voc", "--only", "suggested")
    assert list(folder.glob(".out.part/JPEGImages/*/*"))
    suggested.write_text("walk/00002\n", encoding="utf-8")
    assert exported(folder, "suggested") == ["walk/00002"]


def stop(*_: Any) -> None:
    raise Stopped
