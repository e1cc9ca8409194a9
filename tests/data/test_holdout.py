"""No label is both for training and for validation, unless that is asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from tests.clips import id_picture, make_camvid, make_folder, make_images, save
from tests.data.small import AsTheyAre, images, intervals, make_run, single, windows
from wrp import LabelWriter, PropagationModule, SemiSupervisedData
from wrp.data.clipdata import DividedData
from wrp.data.propagated import PropagatedLabels
from wrp.errors import DataError, WrpError
from wrp.io.manifest import label_hash, note_seen
from wrp.options import SelectArgs, ValArgs, as_options
from wrp.structures import ClipBatch, FrameBatch

CLIPS = {"run": 4, "skip": 6, "walk": 9}

Names = set[tuple[str, int]]
"""Clip and index of frames."""

LABELLED: Names = {(clip, index) for clip, count in CLIPS.items() for index in range(count)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three clips with all labels, two of them in a list for training and one in a list for validation."""
    root = make_folder(tmp_path / "clips", CLIPS)
    for number, (clip, count) in enumerate(CLIPS.items()):  # no frame of a clip is one of another clip
        for i in range(count):
            save(root / "labels" / clip / f"{i:05d}.png", id_picture(i + 3 * number))
    (root / "splits").mkdir()
    for split, clips in {"train": "run\nwalk\n", "val": "skip\n", "both": "skip\nwalk\n"}.items():
        (root / "splits" / f"{split}.txt").write_text(clips)
    (tmp_path / "some.txt").write_text("walk/00004\nwalk/00005\nskip/00000\n")
    return root


def of(clip: str, *indices: int) -> Names:
    return {(clip, index) for index in indices}


def every(number: int, clips: dict[str, int] = CLIPS) -> Names:
    """The labels that ``label_every`` keeps."""
    return {(clip, index) for clip, count in clips.items() for index in range(0, count, number)}


LISTED = of("walk", 4, 5) | of("skip", 0)

# For each way to divide the labels the arguments, and those for training and for validation.
WAYS: dict[str, tuple[dict[str, Any], Names, Names]] = {
    "split": (
        {"split": "train", "val": ValArgs(split="val"), "select": None},
        of("run", *range(4)) | of("walk", *range(9)),
        of("skip", *range(6)),
    ),
    "split, labels held back beside it": (
        {"split": "train", "val": ValArgs(split="val"), "select": SelectArgs(label_every=4)},
        of("run", 0) | of("walk", 0, 4, 8),
        of("skip", *range(6)),
    ),
    "clips": (
        {"val": ValArgs(clips=["walk"]), "select": None},
        of("run", *range(4)) | of("skip", *range(6)),
        of("walk", *range(9)),
    ),
    "clips, labels held back beside it": (
        {"val": ValArgs(clips=["walk"]), "select": SelectArgs(label_every=3)},
        of("run", 0, 3) | of("skip", 0, 3),
        of("walk", *range(9)),
    ),
    "keyframes": ({"val": ValArgs(keyframes="some.txt"), "select": None}, LABELLED - LISTED, LISTED),
    "keyframes, some of them held back": (
        {"val": ValArgs(keyframes="some.txt"), "select": SelectArgs(label_every=4)},
        every(4) - LISTED,
        LISTED,
    ),
    "held-out labels": ({"select": SelectArgs(label_every=3)}, every(3), LABELLED - every(3)),
    "held-out labels from another one on": (
        {"select": SelectArgs(["walk"], label_every=3, label_offset=1)},
        of("walk", 1, 4, 7),
        of("walk", 0, 2, 3, 5, 6, 8),
    ),
    "held-out labels by a list": (
        {"select": SelectArgs(["skip", "walk"], keyframes="some.txt")},
        LISTED,
        of("skip", *range(1, 6)) | of("walk", 0, 1, 2, 3, 6, 7, 8),
    ),
    "held-out labels, overlap allowed": (
        {"select": SelectArgs(label_every=3), "val": ValArgs(overlap=True)},
        every(3),
        LABELLED - every(3),
    ),
    "clips, overlap allowed": (
        {"val": ValArgs(clips=["run", "walk"], overlap=True), "select": None},
        of("skip", *range(6)),
        of("run", *range(4)) | of("walk", *range(9)),
    ),
}

both_kinds = pytest.mark.parametrize("serve", [single, windows])
each_way = pytest.mark.parametrize("way", WAYS)


def trained(module: DividedData) -> Names:
    """The frames whose labels are served for training, also beside others."""
    found: Names = set()
    for batch in module.train_dataloader():
        if isinstance(batch, FrameBatch):
            found |= set(zip(batch.clips, batch.indices, strict=True))
        else:
            assert isinstance(batch, ClipBatch)
            assert not batch.held_out
            found |= {(batch.clip, index) for index in batch.labels}
    return found


def validated(module: DividedData) -> Names:
    """The frames that are scored, each once."""
    found: list[tuple[str, int]] = []
    for batch in module.val_dataloader():
        is_window = isinstance(batch, ClipBatch)
        found.append((batch.clip, batch.queries[0]) if is_window else (batch.clips[0], batch.indices[0]))
    assert len(set(found)) == len(found)
    return set(found)


def hashes(root: Path, frames: Names) -> set[str]:
    """The hashes of labels."""
    clips = {clip.name: clip for clip in single(root, select=None).index.clips}
    return {label_hash(clips[clip].frames[index]) for clip, index in frames}


@both_kinds
@each_way
def test_what_is_validated_on_is_not_trained_on(root: Path, serve: Any, way: str) -> None:
    arguments, train, val = WAYS[way]
    module = serve(root, **arguments)
    assert trained(module) == train
    assert validated(module) == val
    assert not train & val
    assert module.labels_seen == hashes(root, train)


@both_kinds
@each_way
def test_labels_to_validate_on_are_not_even_opened_to_train(root: Path, serve: Any, way: str) -> None:
    arguments, train, val = WAYS[way]
    for clip, index in val:
        (root / "labels" / clip / f"{index:05d}.png").write_bytes(b"to validate on")
    module = serve(root, **arguments)
    assert trained(module) == train
    with pytest.raises(DataError, match="cannot be read as an image"):
        list(module.val_dataloader())


@each_way
def test_labels_to_validate_on_are_not_propagated(root: Path, way: str) -> None:
    arguments, train, val = WAYS[way]
    module = intervals(root, **arguments)
    assert {(batch.clip, index) for batch in module.predict_dataloader() for index in batch.labels} == train
    assert module.labels_seen == hashes(root, train)
    for clip, index in val:
        (root / "labels" / clip / f"{index:05d}.png").write_bytes(b"to validate on")
    assert list(intervals(root, **arguments).predict_dataloader())


@pytest.mark.parametrize("select", [None, SelectArgs(label_every=2)])
@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.99])
def test_a_ratio_draws_by_its_seed(root: Path, ratio: float, select: SelectArgs | None) -> None:
    labelled = LABELLED if select is None else every(2)
    drawn = []
    for seed in (0, 1, 2, 0):
        for serve in (single, windows):
            module = serve(root, select=select, val=ValArgs(ratio=ratio, seed=seed))
            train, val = trained(module), validated(module)
            assert (train | val, train & val) == (labelled, set())
            assert len(val) == min(max(1, round(ratio * len(labelled))), len(labelled) - 1)
            drawn.append(frozenset(val))
        module = intervals(root, select=select, val=ValArgs(ratio=ratio, seed=seed))
        assert module.labels_seen == hashes(root, train)
    assert drawn[0::2] == drawn[1::2]  # both kinds of data modules
    assert drawn[0] == drawn[-1]
    assert len(set(drawn)) > 1


@both_kinds
def test_where_nothing_is_held_back_nothing_is_scored_unless_that_is_asked_for(root: Path, serve: Any) -> None:
    module = serve(root, select=None)
    for loader in (module.val_dataloader, *((module.test_dataloader,) if serve is single else ())):
        with pytest.raises(DataError, match=r"^no label of .* is held back to validate on: .*val\.overlap=true"):
            loader()
    assert trained(module) == LABELLED
    module = serve(root, select=None, val=ValArgs(overlap=True))
    assert trained(module) == validated(module) == LABELLED


@both_kinds
def test_a_training_needs_nothing_to_validate_on_if_it_does_not(root: Path, serve: Any) -> None:
    class Nothing(pl.LightningModule):
        def training_step(self, batch: Any) -> None:
            pass

        def validation_step(self, batch: Any) -> None:
            pass

        def configure_optimizers(self) -> None:
            pass

    def fit(**flags: Any) -> None:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(accelerator="cpu", max_epochs=1, **quiet, **flags)
        trainer.fit(Nothing(), serve(root, select=None))

    with pytest.raises(DataError, match="is held back to validate on"):
        fit()
    fit(limit_val_batches=0)


@both_kinds
@pytest.mark.parametrize(("split", "val", "both", "of_all"), [("train", "train", 13, 13), ("train", "both", 9, 15)])
def test_splits_that_have_labels_in_common_are_refused(
    root: Path, serve: Any, split: str, val: str, both: int, of_all: int
) -> None:
    with pytest.raises(DataError, match=f"^{both} of the {of_all} validation labels are trained on as well, the first"):
        serve(root, split=split, select=None, val=ValArgs(split=val)).val_dataloader()
    module = serve(root, split=split, select=None, val=ValArgs(split=val, overlap=True))
    assert len(trained(module) & validated(module)) == both


@both_kinds
def test_links_to_a_label_are_that_label(root: Path, serve: Any) -> None:
    copy = root / "labels" / "skip" / "00002.png"
    copy.unlink()
    copy.symlink_to(root / "labels" / "walk" / "00007.png")
    with pytest.raises(DataError, match=f"^1 of the 6 validation labels are trained on as well, the first is {copy}"):
        serve(root, select=None, val=ValArgs(clips=["skip"])).val_dataloader()


def test_further_images_are_trained_on_as_well(tmp_path: Path) -> None:
    root = make_camvid(tmp_path, val=5, train=3)
    arguments: dict[str, Any] = {"num_classes": 11, "select": None, "val": ValArgs(split="train")}
    with pytest.raises(DataError, match="3 of the 3 validation labels are trained on as well"):
        single(root, **arguments).val_dataloader()
    module = single(root, further_images=False, **arguments)
    assert not {clip for clip, _ in trained(module)} & {clip for clip, _ in validated(module)}
    # All labels are held back from the clips and none from the images.
    module = single(root, num_classes=11, select=None, val=ValArgs(clips=["0016E5_07959"]))
    assert {clip for clip, _ in trained(module)} == {""}
    assert len(validated(module)) == 5


def test_splits_and_lists_of_images_that_have_labels_in_common_are_refused(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images", {"train": 3, "val": 2})
    assert len(images(root).val_dataloader()) == 2
    linked = root / "labels" / "val" / "view1.png"
    linked.unlink()
    linked.symlink_to(root / "labels" / "train" / "view2.png")
    for loader in (images(root).val_dataloader, images(root).test_dataloader):
        with pytest.raises(DataError, match=f"^1 of the 2 validation labels are trained on as well.* {linked}: name"):
            loader()
    with pytest.raises(DataError, match="^3 of the 3 validation labels are trained on as well"):
        images(root, val_split="train").test_dataloader()
    assert len(images(root, train_split="nowhere").val_dataloader()) == 2
    (tmp_path / "labelled").write_text("train/view0\ntrain/view2\n")
    for val, both in {"train/view1\nval/view0\n": 0, "train/view2\nval/view0\n": 1, "val/view1\n": 1}.items():
        (tmp_path / "val").write_text(val)
        module = SemiSupervisedData(3, str(root), str(tmp_path / "labelled"), val=str(tmp_path / "val"))
        for loader in (module.val_dataloader, module.test_dataloader):
            if both:
                with pytest.raises(DataError, match=f"^{both} of the . validation labels are trained on as well"):
                    loader()
            else:
                assert len(loader()) == 2


VALUES: dict[str, Any] = {"split": "val", "clips": ["walk"], "keyframes": "some.txt", "ratio": 0.5}


@pytest.mark.parametrize(("first", "second"), combinations(VALUES, 2))
def test_two_ways_at_once_are_refused(first: str, second: str) -> None:
    given = {name: VALUES[name] for name in (first, second)}
    for overlap in (False, True):
        with pytest.raises(WrpError, match=rf"^val\.{first} and val\.{second} exclude one another$"):
            ValArgs(**given, overlap=overlap)
    with pytest.raises(WrpError, match="exclude one another"):
        as_options(ValArgs, given)


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, float("nan")])
def test_a_ratio_is_one(ratio: float) -> None:
    with pytest.raises(WrpError, match=r"^val\.ratio must be in \(0, 1\), got "):
        ValArgs(ratio=ratio)


def test_arguments_that_there_are_not_are_refused() -> None:
    with pytest.raises(WrpError, match=r"^ValArgs has no argument 'part'$"):
        as_options(ValArgs, {"clips": ["walk"], "part": 1})


@both_kinds
@pytest.mark.parametrize(
    ("arguments", "listed", "message"),
    [
        ({"val": ValArgs(split="wal")}, "", r"wal\.txt cannot be read"),
        ({"val": ValArgs(clips=["walk", "wolk"])}, "", "has no clip 'wolk'; its clips are run, skip, walk"),
        (
            {"val": ValArgs(keyframes="list.txt")},
            "walk/00009",
            r"list\.txt names walk/00009, which is no labelled frame of",
        ),
        ({"val": ValArgs(keyframes="list.txt")}, "00001", r"list\.txt names 00001, which is no labelled frame of"),
        ({"val": ValArgs(keyframes="list.txt")}, "walk/00001\nwalk/00001", "twice"),
        ({"val": ValArgs(keyframes="list.txt")}, "../walk/00001", "leads out"),
        ({"val": ValArgs(keyframes="nowhere.txt")}, "", "cannot be read"),
        (
            {"select": SelectArgs(["walk"], label_every=9), "val": ValArgs(ratio=0.5)},
            "",
            "has 1 labelled frames, expected at least two",
        ),
    ],
)
def test_what_there_is_not_is_refused_in_one_line(
    root: Path, serve: Any, arguments: dict[str, Any], listed: str, message: str
) -> None:
    Path("list.txt").write_text(listed)
    module = serve(root, **{"select": None, **arguments})
    for loader in (module.train_dataloader, module.val_dataloader):
        with pytest.raises(DataError, match=message) as refused:
            loader()
        assert "\n" not in str(refused.value)


@both_kinds
@pytest.mark.parametrize("way", ["clips", "keyframes"])
def test_holding_all_labels_back_leaves_nothing_to_train_on(root: Path, serve: Any, way: str) -> None:
    Path("all.txt").write_text("\n".join(f"{clip}/{index:05d}" for clip, index in LABELLED))
    val = ValArgs(clips=list(CLIPS)) if way == "clips" else ValArgs(keyframes="all.txt")
    message = "leaving out every keyframe of .* leaves nothing" if serve is single else "no labelled frame is left"
    with pytest.raises(DataError, match=message):
        serve(root, select=None, val=val).train_dataloader()


@pytest.mark.parametrize("way", [*WAYS, "ratio"])
def test_propagated_labels_that_have_seen_what_is_validated_on_are_refused(
    root: Path, tmp_path: Path, way: str
) -> None:
    run = tmp_path / "run"
    arguments = WAYS[way][0] if way in WAYS else {"val": ValArgs(ratio=0.3), "select": None}
    propagated = PropagatedLabels(make_run(run))
    plain = single(root, **arguments)
    train, val = trained(plain), validated(plain)
    note_seen(run, hashes(root, train))
    module = single(root, propagated=propagated, **arguments)
    assert validated(module) == val
    assert module.labels_seen == hashes(root, train)
    clip, index = max(val)
    note_seen(run, hashes(root, {(clip, index)}))
    module = single(root, propagated=propagated, **arguments)
    assert module.labels_seen == hashes(root, train | {(clip, index)})
    if not module.val.overlap:
        first = root / "labels" / clip / f"{index:05d}.png"
        message = (
            f"^the labels in {run} were propagated from, .* 1 of the {len(val)} validation labels, .* is {first}: "
        )
        for loader in (module.val_dataloader, module.test_dataloader):
            with pytest.raises(DataError, match=message):
                loader()
        arguments = {**arguments, "val": replace(module.val, overlap=True)}
        module = single(root, propagated=propagated, **arguments)
    assert validated(module) == val


@pytest.mark.parametrize("way", [*WAYS, "ratio"])
def test_examples_of_networks_that_have_seen_what_is_validated_on_are_refused(root: Path, way: str) -> None:
    arguments = WAYS[way][0] if way in WAYS else {"val": ValArgs(ratio=0.3), "select": None}
    plain = windows(root, **arguments)
    train, val = trained(plain), validated(plain)
    module = windows(root, examples=AsTheyAre(frozenset(hashes(root, train))), **arguments)
    assert validated(module) == val
    seen = train | {max(val)}
    module = windows(root, examples=AsTheyAre(frozenset(hashes(root, seen))), **arguments)
    assert module.labels_seen == hashes(root, seen)
    if not module.val.overlap:
        with pytest.raises(DataError, match=f"^the networks .* 1 of the {len(val)} validation labels, the first is"):
            module.val_dataloader()
        arguments = {**arguments, "val": replace(module.val, overlap=True)}
        module = windows(root, examples=module.examples, **arguments)
    assert validated(module) == val


def test_a_label_is_seen_with_its_clip_its_name_and_its_content(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    module = single(root, propagated=PropagatedLabels(make_run(run)), val=ValArgs(clips=["walk"]), select=None)
    assert validated(module)
    note_seen(run, hashes(root, of("skip", 3)))  # the same picture as walk/00003, which nobody has seen
    assert validated(module)
    changed = root / "labels" / "walk" / "00003.png"
    content = changed.read_bytes()
    changed.write_bytes((root / "labels" / "walk" / "00000.png").read_bytes())
    note_seen(run, hashes(root, of("walk", 3)))
    with pytest.raises(DataError, match="1 of the 9 validation labels"):
        module.val_dataloader()
    changed.write_bytes(content)
    assert validated(module)


def test_damage_to_what_was_seen_is_told(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    module = single(root, propagated=PropagatedLabels(make_run(run)))
    for content in ("{", '{"labels": 5}', '{"labels": [5]}', "{}"):
        (run / "manifest.seen.json").write_text(content)
        with pytest.raises(DataError, match=r"manifest\.seen\.json is damaged"):
            module.val_dataloader()


def test_what_prediction_writes_says_which_labels_it_has_seen(root: Path, tmp_path: Path) -> None:
    """From a run to a student: the run's keyframes are refused to validate on, and what it did not see is not."""

    def predict(out: Path, **arguments: Any) -> PropagatedLabels:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(accelerator="cpu", callbacks=[LabelWriter(str(out))], **quiet)
        trainer.predict(PropagationModule(3), intervals(root, **arguments), return_predictions=False)
        return PropagatedLabels(str(out))

    propagated = predict(tmp_path / "out")
    module = single(root, propagated=propagated)
    assert validated(module) == LABELLED - every(4)
    assert module.labels_seen == hashes(root, every(4))
    Path("list.txt").write_text("walk/00003\nwalk/00004\n")
    val = ValArgs(keyframes="list.txt")
    with pytest.raises(DataError, match=r"1 of the 2 validation labels, the first is .*walk/00004\.png"):
        single(root, propagated=propagated, val=val).val_dataloader()
    module = single(root, propagated=predict(tmp_path / "without", val=val), val=val)
    assert validated(module) == of("walk", 3, 4)
