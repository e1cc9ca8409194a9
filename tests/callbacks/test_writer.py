"""The writer's copies to the host: several frames together, and the same files as one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import wrp
from tests.segmentation.small import QUIET, Linear
from wrp.callbacks import writer
from wrp.callbacks.writer import LabelWriter
from wrp.data.synthetic.folder import label_map
from wrp.io.manifest import join_manifest, read_manifest
from wrp.report.markdown import cut_rows
from wrp.structures import Prediction

SIZE = (6, 10)


def predictions(count: int) -> list[Prediction]:
    """A keyframe, and frames that two methods label, the last one with provenance."""
    random = torch.Generator().manual_seed(0)

    def make(index: int, method: str) -> Prediction:
        labels = torch.randint(0, 4, SIZE, generator=random).to(torch.uint8)
        confidence = torch.rand(SIZE, generator=random)
        confidence[0, :3] = torch.tensor([0.5 / 255, 1.5 / 255, 1.0])  # halves are rounded to even numbers
        agreeing = torch.randint(0, 8, SIZE, generator=random).to(torch.uint8) if method == "refine" else None
        return Prediction("clip", f"{index:03d}", index, method, labels, confidence, (0,), (index,), agreeing)

    return [make(0, "keyframe"), *(make(index, method) for index in range(1, count) for method in ("motion", "refine"))]


def write(made: list[Prediction], out: Path) -> dict[str, bytes]:
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(label_map=label_map(4)))
    module: Any = SimpleNamespace(methods=["motion", "refine"])
    LabelWriter(str(out)).write_on_batch_end(trainer, module, iter(made), None, None, 0, 0)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.*") if path.is_file()}


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_frames_copied_together_make_the_same_files(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, began = predictions(count), []
    alone = write(made, tmp_path / "alone")
    monkeypatch.setattr(writer, "_frames_per_copy", lambda device: 4)
    begin = writer._begin_copy
    monkeypatch.setattr(writer, "_begin_copy", lambda some: began.append(len(some)) or begin(some))
    together = write(made, tmp_path / "together")
    assert together == alone
    assert sum(name.endswith(".png") for name in together) == 2 + 4 * (count - 1)
    full, rest = divmod(count, 4)
    assert len(began) == full + bool(rest)
    assert sum(began) == len(made)


def test_a_copy_has_the_time_of_the_next_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_frames_per_copy", lambda device: 2)
    labelled = []

    def label() -> Any:
        for made in predictions(6):
            labelled.append(made.index)
            yield made

    found = writer._on_host(label(), "refine")
    assert next(found)[0].index == 0
    assert labelled[-1] == 3  # two copies have begun before the first one is waited for
    assert [made.index for made, _ in found] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_on_the_cpu_a_prediction_is_written_at_once() -> None:
    made = predictions(3)
    source = iter(made)
    found = writer._on_host(source, "refine")
    assert next(found)[0] is made[0]
    assert next(source) is made[2]  # but one, which has been labelled while the first is written


def test_confidence_in_half_precision_is_rounded_as_float32(tmp_path: Path) -> None:
    made = [replace(one, confidence=one.confidence.bfloat16()) for one in predictions(3)]
    assert write(made, tmp_path / "half") == write(
        [replace(one, confidence=one.confidence.float()) for one in made], tmp_path / "single"
    )


class Labelled(list[Prediction]):
    """What a session yields, and the cuts that it has found."""

    cuts = (1, 3)


def test_cuts_are_recorded_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = [replace(one, keyframes=(0,)) for one in predictions(6)]
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(label_map=label_map(4)))
    module: Any = SimpleNamespace(methods=["motion", "refine"])
    LabelWriter(str(tmp_path)).write_on_batch_end(trainer, module, Labelled(made), None, None, 0, 0)
    join_manifest(tmp_path)
    entries = read_manifest(tmp_path)
    assert [entry.cut for entry in entries] == [False, True, False, True, False, False]
    assert [entry.keyframes for entry in entries] == [(0,), (0,), (), (), (), ()]
    assert [entry.distance for entry in entries] == [0, 1, None, None, None, None]
    assert cut_rows(entries) == [["clip", "002"], ["clip", "004"]]
    assert [record.message for record in caplog.records] == [
        "Clip clip: a cut between 001 and 002; no label is propagated across it",
        "Clip clip: a cut between 003 and 004; no label is propagated across it",
        "Clip clip: no label is propagated to frames 002 … 005, as none of their scene is labelled",
    ]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_images_of_any_data_module_are_in_the_manifest(tmp_path: Path) -> None:
    class Images(pl.LightningDataModule):
        label_map = label_map(3)

        def predict_dataloader(self) -> Any:
            return DataLoader([{"image": torch.rand(3, *SIZE), "stem": stem} for stem in "xyz"], batch_size=2)

    module = wrp.SegmentationModule(3, net=Linear())
    trainer = pl.Trainer(**{**QUIET, "callbacks": [LabelWriter(str(tmp_path / "out"))]})
    trainer.predict(module, Images())
    entries = read_manifest(tmp_path / "out")
    assert [(entry.clip, entry.frame, entry.label) for entry in entries] == [
        ("images", stem, f"labels/images/{stem}.png") for stem in "xyz"
    ]
    assert all((tmp_path / "out" / entry.label).is_file() for entry in entries)
