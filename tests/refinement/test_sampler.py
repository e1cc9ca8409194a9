"""Examples for the refiner: walks that are kept, and draws that do not depend on who makes them."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
    """Remembers the clips whose records it has made."""

    def __init__(self, **options: Any) -> None:
        super().__init__(flow=Constant(True), **SMALL | options)
        self.clips: list[str] = []

    def record(self, window: ClipBatch, num_classes: int) -> CycleRecord:
        self.clips.append(window.clip)
        return super().record(window, num_classes)


def clips(names: str = "abc") -> list[ClipBatch]:
    return [replace(window(), clip=name) for name in names]


def kept(max_bytes: int = 2**31) -> KeepArgs:
    return KeepArgs("kept", max_bytes)


def names(examples: RefinerExamples) -> tuple[list[str], list[str], list[int]]:
    return examples.clips, examples.stems, examples.indices


def same(one: RefinerExamples, other: RefinerExamples) -> bool:
    pairs = zip(vars(one.inputs).values(), vars(other.inputs).values(), strict=True)
    return (
        names(one) == names(other)
        and torch.equal(one.labels, other.labels)
        and all(torch.equal(*pair) for pair in pairs)
    )


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


@pytest.mark.parametrize("folder", [None, "kept"])
def test_each_record_is_made_once_and_before_it_is_needed(folder: str | None) -> None:
    source = Counted(keep=KeepArgs(folder))
    items = source.training(clips(), 3, seed=0)
    assert source.clips == ["a", "b", "c"]
    drawn = [items[Draw(number, number % 3)] for number in range(9)]
    assert source.clips == ["a", "b", "c"]
    assert source.made == 3
    assert [names(examples) for examples in drawn] == [([name], ["1"], [1]) for name in "abc" * 3]
    assert all(examples.inputs.image.shape == (1, 3, 12, 20) for examples in drawn)
    assert not same(drawn[0], drawn[3])  # the same record, drawn from anew
    assert len(list(Path("kept").glob("*.cycles"))) == (3 if folder else 0)


def test_examples_are_the_same_wherever_records_are_kept() -> None:
    draws = [Draw(number, number % 3) for number in range(6)]
    sources = [Counted(teacher=network(0), keep=KeepArgs(folder)) for folder in (None, "kept", "kept")]
    temporary, in_files, found = (source.training(clips(), 3, seed=5) for source in sources)
    assert all(same(temporary[draw], in_files[draw]) for draw in draws)
    assert all(same(temporary[draw], found[draw]) for draw in draws)  # now from the files of the other
    assert not same(temporary[draws[0]], Counted(teacher=network(0)).training(clips(), 3, seed=6)[draws[0]])


def test_a_temporary_folder_goes_with_its_source() -> None:
    source = Counted()
    items = source.training(clips("a"), 3, 0)
    folder = source.open_folder()[0]
    assert len(list(folder.glob("*.cycles"))) == 1
    source.validation(clips("a"), 3)
    assert source.clips == ["a"]
    del source, items
    gc.collect()
    assert not folder.exists()


def sizes() -> list[int]:
    return [file.stat().st_size for file in Path("kept").glob("*.c*s")]


def test_records_that_are_too_large_are_kept_as_crops() -> None:
    args: dict[str, Any] = {"teacher": network(0), "keep": kept(3 * 50_000 * 4 // 3)}
    source = Counted(**args)
    assert source.record(window(), 3).nbytes() <= 50_000
    source.training(clips(), 3, 0)
    assert sorted(path.suffix for path in Path("kept").iterdir()) == [".cycles", ".cycles", ".cycles", ".json"]

    source = Counted(**args | {"keep": replace(kept(), folder="crops", max_bytes=3 * 8000 * 4 // 3)})
    items = source.training(clips(), 3, 0)
    files = list(Path("crops").glob("*.crops"))
    assert len(files) == 3
    assert all(4000 < file.stat().st_size <= 8000 for file in files)  # several of them, and no more than fit
    drawn = [items[Draw(number, 1)] for number in range(20)]
    assert all(examples.inputs.image.shape == (1, 3, 12, 20) for examples in drawn)
    assert len({examples.inputs.image.numpy().tobytes() for examples in drawn}) == 20
    assert len({int(examples.labels.sum()) for examples in drawn}) > 1  # not all of one crop
    again = Counted(**args | {"keep": KeepArgs("crops", 3 * 8000 * 4 // 3)})
    repeated = again.training(clips(), 3, 0)
    assert again.made == 0
    assert all(same(repeated[Draw(number, 1)], drawn[number]) for number in range(20))
    assert Counted(**args | {"keep": KeepArgs("crops", 0)}).training(clips(), 3, 0)[0].labels.shape == (1, 12, 20)


def test_crops_are_those_of_the_whole_record_up_to_their_rounding() -> None:
    still = CycleArgs(jitter=0.0, pair_ratio=0.0, interval=2)
    args: dict[str, Any] = {"teacher": network(0), "crop_size": SIZE, "cycles": still}
    whole = Counted(**args, keep=kept()).validation(clips("a"), 3)[0]
    rounded = Counted(**args, keep=KeepArgs("crops", 0)).validation(clips("a"), 3)[0]
    assert [path.suffix for path in Path("crops").glob("*.c*s")] == [".crops"]
    assert torch.equal(whole.labels, rounded.labels)
    assert torch.equal(whole.inputs.image, rounded.inputs.image)
    probs, other = whole.inputs.teacher_probs, rounded.inputs.teacher_probs
    assert 0 < (probs - other).abs().max() <= 0.5 / 255 + 1e-3  # of float16
    assert (whole.inputs.prior - rounded.inputs.prior).abs().max() < 0.02


def test_crops_are_drawn_anew_for_other_choices() -> None:
    args: dict[str, Any] = {"crop_size": (8, 8), "keep": KeepArgs("kept", 0)}
    Counted(**args).training(clips("a"), 3, 0)
    for change in ({"crop_size": (8, 12)}, {"cycles": CycleArgs(pair_ratio=0.1)}, {"cycles": CycleArgs(interval=1)}):
        source = Counted(**args | change)
        source.training(clips("a"), 3, 0)
        assert source.made == 1
    source = Counted(**args | {"cycles": CycleArgs(displacement=9.0)})  # of the draws alone
    source.training(clips("a"), 3, 0)
    assert source.made == 0


def test_a_disk_without_room_is_told_at_once_and_not_filled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def free(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records]

    args: dict[str, Any] = {"keep": kept(2 * 10**9), "crop_size": (8, 8)}
    free(30_000)
    Counted(**args).training(clips(), 3, 0)
    [line] = said()
    assert "kept has room for 0.0 GB of the refiner's examples, expected examples.keep.max_bytes, 2.0 GB: fewer" in line
    assert 0 < sum(sizes()) <= 27_000
    caplog.clear()
    free(10 * 10**9)
    Counted(**args).training(clips(), 3, 1)
    assert not said()
    free(0)
    there = sum(sizes())
    assert Counted(keep=kept(there)).open_folder()[1] == there  # what is there counts
    assert not said()


def test_a_folder_that_a_process_does_not_reach_is_told(tmp_path: Path) -> None:
    source = Counted()
    source._claim = lambda: (tmp_path / "other", 1)  # type: ignore[method-assign]
    with pytest.raises(WrpError, match="process 0 does not reach .*other, .* give examples.keep.folder on a disk that"):
        source.training(clips(), 3, 0)


def test_a_record_that_is_gone_is_told() -> None:
    items = Counted(keep=kept()).training(clips(), 3, 0)
    shutil.rmtree("kept")
    with pytest.raises(WrpError, match="kept/.*cycles is gone: leave the refiner's examples there"):
        items[0]


def test_another_source_finds_what_is_kept_in_a_folder(tmp_path: Path) -> None:
    teacher = save(network(0), tmp_path / "teacher.ckpt")
    first, second = (Counted(teacher=teacher, keep=kept()) for _ in range(2))
    made = [first.training(clips(), 3, 0)[Draw(0, number)] for number in range(3)]
    assert all(same(second.training(clips(), 3, 0)[Draw(0, number)], made[number]) for number in range(3))
    validated = second.validation(clips(), 3)
    assert [validated[number].clips for number in range(3)] == [["a"], ["b"], ["c"]]
    assert second.made == 0


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
    source = Counted(teacher=teacher, keep=kept())
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
            Counted(teacher=teacher, keep=kept()).validation([window()], 3)[0]
    source, batch, number = changed(what, tmp_path)
    made = source.validation([batch], number)[0]
    assert source.clips == ([] if what == "nothing" else [batch.clip])
    assert torch.equal(made.labels[0], batch.labels[1])


def test_modules_as_teachers_are_told_by_their_weights_and_by_how_they_answer() -> None:
    flipping = network(0)
    flipping.inference = InferenceArgs(flip=True)
    for teacher, found in ((network(0), False), (network(0), True), (network(1), False), (flipping, False)):
        source = Counted(teacher=teacher, keep=kept())
        source.validation([window()], 3)[0]
        assert source.clips == ([] if found else ["clip"])


def test_folds_are_told_from_one_another(tmp_path: Path) -> None:
    folds = [save(network(seed), tmp_path / f"{seed}.ckpt") for seed in range(2)]
    source = Counted(fold_teachers=folds, keep=kept())
    windows = [replace(window(), number=number) for number in range(4)]
    items = source.validation(windows, 3)
    seen = [items[number].inputs.teacher_probs for number in range(4)]
    assert source.made == 2  # the third one is as the first: the same frame, the same teacher
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("content", [b"", b"no walk", None])
def test_a_damaged_walk_is_made_again(content: bytes | None) -> None:
    first = Counted(keep=kept()).validation(clips("a"), 3)[0]
    [file] = Path("kept").glob("*.cycles")
    whole = file.read_bytes()
    file.write_bytes(content if content is not None else whole[: len(whole) // 2])
    source = Counted(keep=kept())
    assert same(source.validation(clips("a"), 3)[0], first)
    assert source.clips == ["a"]
    again = Counted(keep=kept())
    assert same(again.validation(clips("a"), 3)[0], first)
    assert again.made == 0


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


def loaded(root: Path, workers: int, folder: str | None) -> list[RefinerExamples]:
    source = CycleExamples(teacher=network(0), keep=KeepArgs(folder), **SMALL)
    data = RefinementData(3, source, str(root), epoch_length=6, seed=3, workers=workers)
    loader: DataLoader[Any] = data.train_dataloader()
    batches = list(loader)
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    return [*batches, *loader]


@pytest.mark.parametrize("folder", [None, "kept"])
def test_a_loader_process_draws_what_the_main_process_draws(folder: str | None, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 7}, labelled=(0, 3, 6))
    here, there = loaded(root, 0, None), loaded(root, 2, folder)
    assert len(here) == len(there) == 12
    assert all(same(*pair) for pair in zip(here, there, strict=True))
    assert all(len(set(batch.indices)) == 1 for batch in here)  # a batch is of one keyframe
    assert len({index for batch in here for index in batch.indices}) == 3
    images = [image for batch in here for image in batch.inputs.image]
    assert len({tuple(image.flatten()[:9].tolist()) for image in images}) == 36  # each another draw


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
