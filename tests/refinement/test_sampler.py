"""Examples for the refiner: walks that are kept, and draws that do not depend on who makes them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.clips import make_folder
from tests.refinement.small import SIZE, Constant, window
from wrp import CycleExamples, RefinementData, SegmentationModule
from wrp.data.transforms import Draw
from wrp.errors import WrpError
from wrp.options import CycleArgs, InferenceArgs, KeepArgs
from wrp.refinement.store import CycleRecord
from wrp.structures import ClipBatch, FramePair, RefinerExamples

SMALL: dict[str, Any] = {"crops": 3, "crop_size": (12, 20), "cycles": CycleArgs(displacement=1.0)}


class Counted(CycleExamples):
    """Remembers the clips whose walks it has made."""

    def __init__(self, **options: Any) -> None:
        super().__init__(flow=Constant(True), **SMALL, **options)
        self.made: list[str] = []

    def record(self, window: ClipBatch, num_classes: int) -> CycleRecord:
        self.made.append(window.clip)
        return super().record(window, num_classes)


def clips(names: str = "abc") -> list[ClipBatch]:
    return [replace(window(), clip=name) for name in names]


def kept_in(where: str, max_bytes: int = 2**31) -> KeepArgs:
    return KeepArgs("kept" if where == "folder" else None, max_bytes)


def same(one: RefinerExamples, other: RefinerExamples) -> bool:
    pairs = zip(vars(one.inputs).values(), vars(other.inputs).values(), strict=True)
    names = (one.clip, one.stem, one.index) == (other.clip, other.stem, other.index)
    return names and torch.equal(one.labels, other.labels) and all(torch.equal(*pair) for pair in pairs)


class Tiny(SegmentationModule):
    """A teacher with numbers of no dimension among its weights."""

    def configure_network(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))


def network(seed: int) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(3)


def save(module: pl.LightningModule, path: Path) -> str:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return str(path)


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_each_walk_is_made_once(where: str) -> None:
    source = Counted(keep=kept_in(where))
    items = source.training(clips(), 3, seed=0)
    drawn = [items[Draw(number, number % 3)] for number in range(9)]
    assert source.made == ["a", "b", "c"]
    assert [examples.clip for examples in drawn] == ["a", "b", "c"] * 3
    assert not same(drawn[0], drawn[3])  # the same walk, drawn from anew
    assert len(list(Path("kept").glob("*.cycles"))) == (3 if where == "folder" else 0)


def test_examples_are_the_same_wherever_walks_are_kept() -> None:
    draws = [Draw(number, number % 3) for number in range(6)]
    in_memory, in_files, found = (
        Counted(teacher=network(0), keep=kept_in(where)).training(clips(), 3, seed=5)
        for where in ("memory", "folder", "folder")
    )
    for draw in draws:
        assert same(in_memory[draw], in_files[draw])
    assert all(same(in_memory[draw], found[draw]) for draw in draws)  # now from the files of the other
    assert not same(in_memory[draws[0]], Counted(teacher=network(0)).training(clips(), 3, seed=6)[draws[0]])


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_the_least_recently_used_walk_goes_where_there_is_no_room(where: str) -> None:
    size = CycleExamples(flow=Constant(True)).record(window(), 3).nbytes()
    if where == "folder":
        Counted(keep=KeepArgs("other")).validation(clips("a"), 3)[0]
        [file] = Path("other").glob("*.cycles")
        size = file.stat().st_size
    source = Counted(keep=kept_in(where, int(2.5 * size)))
    items = source.validation(clips(), 3)
    for name in "abacab":  # b goes for c, as a was used after it, and is made again
        assert items["abc".index(name)].clip == name
        time.sleep(0.02)  # file systems count time in steps
    assert source.made == ["a", "b", "c", "b"]
    if where == "folder":
        assert len(list(Path("kept").glob("*.cycles"))) == 2


def test_a_walk_without_any_room_is_made_each_time_it_is_needed() -> None:
    source = Counted(keep=KeepArgs("kept", 0))
    items = source.validation(clips("ab"), 3)
    assert [items[number].clip for number in (0, 1, 0)] == ["a", "b", "a"]
    assert source.made == ["a", "b", "a"]


def test_another_source_finds_what_is_kept_in_a_folder(tmp_path: Path) -> None:
    teacher = save(network(0), tmp_path / "teacher.ckpt")
    first, second = (Counted(teacher=teacher, keep=kept_in("folder")) for _ in range(2))
    made = [first.training(clips(), 3, 0)[Draw(0, number)] for number in range(3)]
    assert all(same(second.training(clips(), 3, 0)[Draw(0, number)], made[number]) for number in range(3))
    validated = second.validation(clips(), 3)
    assert [validated[number].clip for number in range(3)] == ["a", "b", "c"]
    assert second.made == []


def changed(what: str, tmp_path: Path) -> tuple[Counted, ClipBatch, int]:
    """A source, a window and a number of classes that differ in one thing from what was kept."""
    batch, number = window(), 3
    teacher: Any = save(network(0), tmp_path / "same.ckpt")
    if what == "labels":
        batch = replace(batch, labels={1: (batch.labels[1] + 1) % 3})
    elif what == "labels of another keyframe":
        batch = replace(batch, labels=batch.labels | {2: batch.labels[1].clone()})
    elif what == "clip":
        batch = replace(batch, clip="other")
    elif what == "frame":
        batch = replace(batch, frames=[batch.frame(0), batch.frame(1) + 1, batch.frame(2)])
    elif what == "frame around":
        batch = replace(batch, frames=[batch.frame(0), batch.frame(1), batch.frame(2) + 1])
    elif what == "teacher":
        teacher = save(network(1), tmp_path / "other.ckpt")
    elif what == "teacher's weights at the same place":
        teacher = save(network(1), Path(teacher))
    elif what == "no teacher":
        teacher = None
    elif what == "classes":
        teacher, number = None, 4
    source = Counted(teacher=teacher, keep=kept_in("folder"))
    if what == "flow":
        source.flow = type("Other", (Constant,), {"signature": "other"})(True)
    elif what == "ways":
        source.cycles = CycleArgs(crossed=False)
    return source, batch, number


@pytest.mark.parametrize(
    "what",
    ["nothing", "labels", "labels of another keyframe", "clip", "frame", "frame around", "teacher",
     "teacher's weights at the same place", "no teacher", "classes", "flow", "ways"],
)  # fmt: skip
def test_what_is_kept_is_not_found_for_anything_else(what: str, tmp_path: Path) -> None:
    for teacher in (save(network(0), tmp_path / "same.ckpt"), None):
        if teacher is not None or what == "classes":  # as no teacher knows several numbers of them
            Counted(teacher=teacher, keep=kept_in("folder")).validation([window()], 3)[0]
    source, batch, number = changed(what, tmp_path)
    made = source.validation([batch], number)[0]
    assert source.made == ([] if what == "nothing" else [batch.clip])
    assert torch.equal(made.labels[0], batch.labels[1])


def test_modules_as_teachers_are_told_by_their_weights_and_by_how_they_answer() -> None:
    flipping = network(0)
    flipping.inference = InferenceArgs(flip=True)
    for teacher, found in ((network(0), False), (network(0), True), (network(1), False), (flipping, False)):
        source = Counted(teacher=teacher, keep=kept_in("folder"))
        source.validation([window()], 3)[0]
        assert source.made == ([] if found else ["clip"])


def test_folds_are_told_from_one_another(tmp_path: Path) -> None:
    folds = [save(network(seed), tmp_path / f"{seed}.ckpt") for seed in range(2)]
    source = Counted(fold_teachers=folds, keep=kept_in("folder"))
    windows = [replace(window(), number=number) for number in range(4)]
    items = source.validation(windows, 3)
    seen = [items[number].inputs.teacher_probs for number in range(4)]
    assert len(source.made) == 2  # the third one is as the first: the same frame, the same teacher
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("content", [b"", b"no walk", None])
def test_a_damaged_walk_is_made_again(content: bytes | None) -> None:
    first = Counted(keep=kept_in("folder")).validation(clips("a"), 3)[0]
    [file] = Path("kept").glob("*.cycles")
    whole = file.read_bytes()
    file.write_bytes(content if content is not None else whole[: len(whole) // 2])
    source = Counted(keep=kept_in("folder"))
    assert same(source.validation(clips("a"), 3)[0], first)
    assert source.made == ["a"]
    again = Counted(keep=kept_in("folder"))
    assert same(again.validation(clips("a"), 3)[0], first)
    assert again.made == []


def test_files_may_go_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process may need the room."""
    Counted(keep=kept_in("folder")).validation(clips("a"), 3)[0]
    [file] = Path("kept").glob("*.cycles")
    touch = os.utime
    monkeypatch.setattr(os, "utime", lambda path, *rest: (touch(path, *rest), Path(path).unlink()))
    source = Counted(keep=kept_in("folder"))
    assert source.validation(clips("a"), 3)[0].clip == "a"
    assert source.made == ["a"]
    assert file.stat().st_size > 0
    monkeypatch.setattr(os, "utime", touch)
    monkeypatch.setattr(CycleRecord, "save", lambda *_: None)  # and gone at once
    assert source.validation(clips("b"), 3)[0].clip == "b"


def test_nothing_is_written_to_the_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a temporary file is made")

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in ("mkdtemp", "mkstemp", "TemporaryFile", "NamedTemporaryFile", "TemporaryDirectory"):
        monkeypatch.setattr(tempfile, name, refuse)
    for where in ("memory", "folder"):
        source = CycleExamples(teacher=network(0), keep=kept_in(where), **SMALL)  # with the flow of every day
        source.training(clips(), 3, 0)[Draw(0, 0)]
        source.validation(clips(), 3)[1]
    assert not list(temporary.iterdir())


def test_somebody_elses_folder_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("dear to me")
    with pytest.raises(WrpError, match="examples.keep.folder .*mine holds files"):
        Counted(keep=KeepArgs(str(tmp_path / "mine"))).validation(clips(), 3)[0]


class Batches(Constant):
    """Counts the pairs of frames whose flow was asked for."""

    pairs = 0

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
        self.pairs += len(frames_s)
        return super().estimate(frames_s, frames_t, pairs)


def test_the_flow_of_a_walk_is_estimated_once() -> None:
    flow = Batches(False)
    CycleExamples(flow=flow).record(window(), 3)
    assert flow.pairs == 2 * 2  # two pairs of neighbours, both ways


def loaded(root: Path, workers: int, where: str) -> list[RefinerExamples]:
    source = CycleExamples(teacher=network(0), keep=kept_in(where), **SMALL)
    data = RefinementData(3, source, str(root), epoch_length=6, seed=3, workers=workers)
    loader: DataLoader[Any] = data.train_dataloader()
    batches = list(loader)
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    return [*batches, *loader]


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_loader_process_draws_what_the_main_process_draws(where: str, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 7}, labelled=(0, 3, 6))
    here, there = loaded(root, 0, "memory"), loaded(root, 2, where)
    assert len(here) == len(there) == 12
    assert all(same(*pair) for pair in zip(here, there, strict=True))
    assert len({tuple(examples.inputs.image.flatten()[:9].tolist()) for examples in here}) == 12  # each another draw


def test_a_draw_leaves_the_random_numbers_of_others_alone() -> None:
    items = Counted().training(clips(), 3, seed=0)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    items[Draw(0, 0)]
    assert torch.equal(torch.rand(3), expected)


def test_examples_of_validation_are_whole_frames() -> None:
    items = Counted().validation(clips(), 3)
    first, again = items[0], items[0]
    assert same(first, again)
    assert first.inputs.image.shape == (1, 3, *SIZE)
    assert torch.equal(first.labels[0], window().labels[1])


def test_one_frame_is_no_clip_to_learn_from() -> None:
    alone = replace(window(), frames=[window().frame(1)], first=1, stems=["1"])
    with pytest.raises(WrpError, match="clip clip: a refiner needs at least two frames to learn from, got one"):
        CycleExamples().training([alone], 3, 0)[0]
