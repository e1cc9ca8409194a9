from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from tests.clips import make_davis, make_folder
from tests.data.small import intervals, make_run, process, sample, single
from wrp.data.propagated import PropagatedLabels
from wrp.data.sampling import TrainSampler
from wrp.data.segmentation import SegmentationData
from wrp.errors import DataError
from wrp.options import ValArgs


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(make_folder(tmp_path / "data", {"walk": 9}))


def serve(root: str, labels: PropagatedLabels, num_classes: int = 3, **changes: Any) -> SegmentationData:
    return single(root, sample(**{"batch_size": 1, **changes}), num_classes=num_classes, propagated=labels)


def test_training_mixes_truth_and_propagated_labels_by_their_share(root: str, tmp_path: Path) -> None:
    module = serve(root, PropagatedLabels(make_run(tmp_path / "run"), ratio=0.25), epoch_length=40)
    drawn = [(b.indices[0], b.weights is None) for b in module.train_dataloader()]
    assert len(drawn) == 40
    assert sum(truth for _, truth in drawn) == 30
    assert {i for i, truth in drawn if truth} == {0, 4, 8}
    assert {i for i, truth in drawn if not truth} == {1, 2, 3, 5, 6, 7}


def test_pixels_count_by_their_confidence(root: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    weights = {}
    for weighted, least in ((True, 0.0), (True, 0.3), (False, 0.3)):
        module = serve(root, PropagatedLabels(run, 1.0, least, weighted), epoch_length=30)
        for batch in module.train_dataloader():
            assert set(batch.labels.unique().tolist()) <= {2, 255}
            assert not batch.weights[batch.labels == 255].any()
            weights[weighted, least, batch.indices[0]] = round(float(batch.weights.max()), 3)
    away_1, away_2 = round(155 / 255, 3), round(55 / 255, 3)
    assert [weights[True, 0.0, i] for i in (1, 2)] == [away_1, away_2]
    assert [weights[True, 0.3, i] for i in (1, 2)] == [away_1, 0]
    assert [weights[False, 0.3, i] for i in (1, 2)] == [1, 0]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [({"max_distance": 1}, {1, 3, 5, 7}), ({"offsets": [1, -2]}, {1, 5}), ({"offsets": [2]}, {2, 6})],
)
def test_frames_are_chosen_by_distance_and_offset(root: str, tmp_path: Path, wanted: dict, expected: set[int]) -> None:
    labels = PropagatedLabels(make_run(tmp_path / "run"), ratio=1.0, **wanted)
    assert {index for _, index, _ in labels.frames(serve(root, labels).index.clips)} == expected


def test_batches_of_both_kinds_give_truth_its_full_weight(root: str, tmp_path: Path) -> None:
    module = serve(root, PropagatedLabels(make_run(tmp_path / "run")), batch_size=8, epoch_length=8)
    [batch] = module.train_dataloader()
    assert batch.weights.shape == batch.labels.shape
    for i, index in enumerate(batch.indices):
        assert (batch.weights[i] == 1).all() == (index in (0, 4, 8))


def test_groups_have_other_shares_in_later_epochs() -> None:
    items: Dataset = range(10)  # type: ignore[assignment]
    sampler = TrainSampler(items, 8, 0, [(4, 0.5), (6, 0.5)], later=[(1, [0.25, 0.75]), (3, [1.0, 0.0])])
    for epoch, expected in enumerate([4, 6, 6, 0, 0]):
        sampler.set_epoch(epoch)
        assert sum(draw.index >= 4 for draw in sampler) == expected


def test_reliable_frames_come_first(root: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    labels = PropagatedLabels(run, reliable_first=1)
    with pytest.raises(DataError, match="reliable.txt"):
        serve(root, labels).train_dataloader()
    [(clip, _, frame), *_] = labels.frames(serve(root, labels).index.clips)
    Path(run, "reliable.txt").write_text(f"{clip}/{frame.stem}\n")
    loader = serve(root, labels, batch_size=8, epoch_length=8).train_dataloader()
    seen = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        [batch] = loader
        seen.append({stem for stem, index in zip(batch.stems, batch.indices, strict=True) if index not in (0, 4, 8)})
    assert seen[0] == {frame.stem}
    assert len(seen[1]) > 1


def test_reliable_frames_must_be_of_the_run(root: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    Path(run, "reliable.txt").write_text("other/0001\n")
    with pytest.raises(DataError, match="lists none of the 6 propagated frames"):
        serve(root, PropagatedLabels(run, reliable_first=1)).train_dataloader()


def test_truth_and_propagated_labels_are_served_apart(root: str, tmp_path: Path) -> None:
    labels = PropagatedLabels(make_run(tmp_path / "run"), ratio=0.75, apart=True)
    batches = [batch for batch, _, _ in serve(root, labels, batch_size=4, epoch_length=8).train_dataloader()]
    assert len(batches) == 2
    for batch in batches:
        assert (len(batch["labelled"].stems), len(batch["unlabelled"].stems)) == (1, 3)
        assert {*batch["labelled"].indices} <= {0, 4, 8}
        assert not {*batch["unlabelled"].indices} & {0, 4, 8}
    with pytest.raises(DataError, match="batch_size must be at least 2"):
        serve(root, labels, batch_size=1).train_dataloader()


def test_labels_kept_apart_have_no_last_epochs() -> None:
    with pytest.raises(DataError, match="apart"):
        PropagatedLabels("run", apart=True, truth_last=1)


def test_groups_are_drawn_without_repeats_and_each_draw_is_its_own() -> None:
    items: Dataset = range(10)  # type: ignore[assignment]
    sampler, draws = TrainSampler(items, 20, 5, [(2, 0.3), (8, 0.7)]), []
    for rank in (0, 1):
        with process(rank, 2):
            draws += list(sampler)
    counts = torch.bincount(torch.tensor([draw.index for draw in draws]), minlength=10).tolist()
    assert sum(counts[:2]) == 6
    assert max(counts[:2]) - min(counts[:2]) <= 1
    assert max(counts[2:]) - min(counts[2:]) <= 1
    assert len({draw.seed(0) for draw in draws}) == 20


def test_truth_last_needs_a_number_of_epochs(root: str, tmp_path: Path) -> None:
    module = serve(root, PropagatedLabels(make_run(tmp_path / "run"), truth_last=2))
    with pytest.raises(DataError, match="max_epochs"):
        module.train_dataloader()


def test_255_is_unlabelled_in_what_was_propagated_though_the_data_set_means_its_object(tmp_path: Path) -> None:
    root = make_davis(tmp_path / "davis", {"bear": 5})
    run = make_run(tmp_path / "run", "bear", 5, value=255)
    labels = PropagatedLabels(run, ratio=1.0)
    for batch in serve(str(root), labels, num_classes=2, epoch_length=3).train_dataloader():
        assert (batch.labels == 255).all()


@pytest.mark.parametrize("label", ["../labels/x.png", "labels/../../x.png", "/etc/passwd", "x/labels.png"])
def test_a_manifest_may_not_lead_out_of_its_folder(tmp_path: Path, label: str) -> None:
    manifest = Path(make_run(tmp_path)) / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("labels/walk/00003.png", label))
    with pytest.raises(DataError, match=f"line 4 has the label '{label}', expected one below labels/"):
        PropagatedLabels(str(tmp_path)).frames([])


def test_what_is_missing_or_damaged_is_told(root: str, tmp_path: Path) -> None:
    clips = single(root).index.clips
    with pytest.raises(DataError, match=r"there is no .*manifest.jsonl"):
        PropagatedLabels(str(tmp_path)).frames(clips)
    (tmp_path / "manifest.jsonl").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        PropagatedLabels(str(tmp_path)).frames(clips)
    run = make_run(tmp_path / "run")
    with pytest.raises(DataError, match="holds no propagated labels of walk"):
        PropagatedLabels(run, max_distance=0).frames(clips)
    for wrong in ({"ratio": 0.0}, {"ratio": 1.5}, {"min_confidence": 2.0}, {"truth_last": -1}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            PropagatedLabels(run, **wrong)  # type: ignore[arg-type]


def test_one_frame_may_be_served_with_a_label_and_without(root: str, tmp_path: Path) -> None:
    labels = PropagatedLabels(make_run(tmp_path / "run"), ratio=0.5, weighted=False)
    module = serve(root, labels, unlabelled=0.5, epoch_length=120)
    kinds: dict[int, set[str]] = {}
    for batch in module.train_dataloader():
        guess = bool(((batch.labels == 255) & (batch.weights > 0)).any()) if batch.weights is not None else False
        kinds.setdefault(batch.indices[0], set()).add("guess" if guess else "label")
    assert all(kinds[index] == {"guess", "label"} for index in (1, 2, 3, 5, 6, 7))
    assert all(kinds[index] == {"label"} for index in (0, 4, 8))


@pytest.mark.parametrize("val", [ValArgs(ratio=0.3), ValArgs(clips=["ride"]), None])
def test_labels_for_the_validation_of_a_student_are_not_propagated(tmp_path: Path, val: ValArgs | None) -> None:
    root = make_folder(tmp_path / "data", {"walk": 9, "ride": 9})
    data, student = intervals(root, val=val), single(root, val=val)
    propagated = {(batch.clip, keyframe) for batch in data.predict_dataloader() for keyframe in batch.labels}
    scored = {(batch.clips[0], batch.indices[0]) for batch in student.val_dataloader()}
    assert scored
    assert not propagated & scored
    assert propagated == {(clip, index) for clip, index, _ in student.training_frames()}
    assert data.labels_seen == student.labels_seen
