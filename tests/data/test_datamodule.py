from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from tests.clips import HEIGHT, LABEL_MAP, WIDTH, make_camvid, make_davis, make_folder, make_images, picture, save
from tests.data.small import CROP, images, intervals, process, sample, single, windows
from tests.refinement.small import Constant
from wrp.data.images import ImageData
from wrp.data.propagation import PropagationData
from wrp.data.refinement import LEAST_EXAMPLES, RefinementData
from wrp.data.segmentation import SegmentationData
from wrp.data.semisupervised import SemiSupervisedData
from wrp.errors import DataError
from wrp.io.manifest import Entry, part_of, write_part
from wrp.io.writing import checksum, write_label
from wrp.options import SelectArgs, ValArgs
from wrp.refinement.sampler import CycleExamples
from wrp.structures import ClipBatch, FrameBatch, RefinerExamples


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two labelled clips of 9 and 4 frames."""
    return str(make_folder(tmp_path_factory.mktemp("folder"), {"run": 4, "walk": 9}))


def name(batch: ClipBatch) -> tuple[str, tuple[int, int]]:
    return batch.clip, batch.queries


def frame(index: int) -> torch.Tensor:
    return torch.from_numpy(picture(index)).permute(2, 0, 1)


def test_intervals_carry_their_frames_and_keyframes(root: str) -> None:
    batches = list(intervals(root).predict_dataloader())
    assert [name(batch) for batch in batches] == [("run", (0, 4)), ("walk", (0, 4)), ("walk", (4, 9))]
    for batch in batches:
        assert isinstance(batch, ClipBatch)
        assert len(batch.stems) == len(batch.frames)
        for offset, (stem, image) in enumerate(zip(batch.stems, batch.frames, strict=True)):
            assert stem == f"{batch.first + offset:05d}"
            assert torch.equal(image, frame(batch.first + offset))
    assert [sorted(batch.labels) for batch in batches] == [[0], [0, 4], [4, 8]]
    assert [(batch.first, len(batch.frames)) for batch in batches] == [(0, 4), (0, 5), (4, 5)]
    assert all(label.dtype == torch.uint8 and label.shape == (HEIGHT, WIDTH) for label in batches[1].labels.values())


def test_hidden_labels_are_absent_from_what_is_predicted(root: str) -> None:
    for batch in intervals(root).predict_dataloader():
        assert batch.held_out == {}
        assert set(batch.labels) <= {0, 4, 8}
    for batch in single(root).predict_dataloader():
        assert (batch.labels == 255).all()


def test_hidden_labels_are_absent_from_what_is_trained_on(root: str) -> None:
    for batch in windows(root).train_dataloader():
        assert batch.held_out == {}
        assert set(batch.labels) <= {0, 4, 8}
    for batch in single(root).train_dataloader():
        assert set(batch.indices) <= {0, 4, 8}


def test_hidden_label_files_are_not_even_opened_to_predict(tmp_path: Path) -> None:
    make_folder(tmp_path, {"walk": 9})
    for i in (1, 2, 3, 5, 6, 7):
        (tmp_path / "labels" / "walk" / f"{i:05d}.png").write_bytes(b"hidden")
    for serve in (intervals, single):
        assert list(serve(tmp_path).predict_dataloader())
    for serve in (windows, single):
        assert list(serve(tmp_path).train_dataloader())
    scored = intervals(tmp_path).test_dataloader, single(tmp_path).val_dataloader, windows(tmp_path).val_dataloader
    for loader in scored:
        with pytest.raises(DataError, match="cannot be read as an image"):
            list(loader())


def test_tests_see_each_hidden_label_once(root: str) -> None:
    batches = list(intervals(root).test_dataloader())
    held_out = [(batch.clip, index) for batch in batches for index in batch.held_out]
    assert held_out == [("run", i) for i in (1, 2, 3)] + [("walk", i) for i in (1, 2, 3, 5, 6, 7)]


def write_interval(out: Path, clip: str, first: int, count: int) -> None:
    """What a run leaves behind that has labelled an interval."""
    entries = []
    for index in range(first, first + count):
        files = {kind: out / kind / clip / f"{index:05d}.png" for kind in ("labels", "confidence")}
        for path in files.values():
            write_label(path, np.zeros((HEIGHT, WIDTH), np.uint8), LABEL_MAP)
        checksums = {kind: checksum(path.read_bytes()) for kind, path in files.items()}
        label = f"labels/{clip}/{index:05d}.png"
        entries.append(Entry(clip, f"{index:05d}", index, "motion", (0,), index, 0.5, label, checksums))
    write_part(part_of(out, clip, first), entries)


def test_intervals_that_are_done_are_left_out(root: str, tmp_path: Path) -> None:
    for clip, first, count in (("walk", 0, 4), ("run", 0, 4), ("walk", 4, 1)):
        write_interval(tmp_path, clip, first, count)
    module = intervals(root, done=str(tmp_path))
    assert [name(batch) for batch in module.predict_dataloader()] == [("walk", (4, 9))]
    assert len(intervals(root, done=str(tmp_path / "nowhere")).predict_dataloader()) == 3


def test_what_was_done_when_prediction_began_is_left_out_and_no_more(root: str, tmp_path: Path) -> None:
    """Processes may come to their loaders at different times, when others have written already."""
    module = intervals(root, done=str(tmp_path))
    module.setup("predict")
    write_interval(tmp_path, "walk", 0, 4)
    assert len(module.predict_dataloader()) == 3


def test_windows_hold_an_keyframe_and_all_up_to_the_next_ones(root: str) -> None:
    found = {name(batch): batch for batch in windows(root).train_dataloader()}
    assert sorted(found) == [("run", (0, 1)), ("walk", (0, 1)), ("walk", (4, 5)), ("walk", (8, 9))]
    middle = found["walk", (4, 5)]
    assert (middle.first, len(middle.frames), sorted(middle.labels)) == (0, 9, [0, 4, 8])
    first = found["walk", (0, 1)]
    assert (first.first, len(first.frames), sorted(first.labels)) == (0, 5, [0, 4])


def test_windows_to_validate_on_hold_a_hidden_label_and_the_anchors_around_it(root: str) -> None:
    found = {name(batch): batch for batch in windows(root).val_dataloader()}
    assert list(found) == [("run", (i, i + 1)) for i in (1, 2, 3)] + [
        ("walk", (i, i + 1)) for i in (1, 2, 3, 5, 6, 7)
    ]  # fmt: skip
    between = found["walk", (6, 7)]
    assert (between.first, len(between.frames), sorted(between.labels)) == (4, 5, [4, 6, 8])
    last = found["run", (3, 4)]
    assert (last.first, len(last.frames), sorted(last.labels)) == (0, 4, [0, 3])
    assert [name(batch) for batch in windows(root).predict_dataloader()] == list(found)


@pytest.mark.parametrize(
    ("radius", "span", "labels"), [(0, (4, 1), [4]), (2, (2, 5), [4]), (4, (0, 9), [0, 4, 8]), (99, (0, 9), [0, 4, 8])]
)
def test_the_radius_bounds_a_window(root: str, radius: int, span: tuple[int, int], labels: list[int]) -> None:
    found = {name(batch): batch for batch in windows(root, radius=radius).train_dataloader()}
    middle = found["walk", (4, 5)]
    assert (middle.first, len(middle.frames)) == span
    assert sorted(middle.labels) == labels


def test_training_windows_are_each_drawn_once_an_epoch(root: str) -> None:
    loader = windows(root).train_dataloader()
    assert sorted(name(batch) for batch in loader) == [
        ("run", (0, 1)), ("walk", (0, 1)), ("walk", (4, 5)), ("walk", (8, 9))
    ]  # fmt: skip


def test_training_frames_are_crops_of_the_keyframes(root: str) -> None:
    batches = list(single(root).train_dataloader())
    assert [len(batch.stems) for batch in batches] == [2, 2]
    assert sorted(zip(*[sum(parts, []) for parts in zip(*((b.clips, b.indices) for b in batches), strict=True)],
                      strict=True)) == [("run", 0), ("walk", 0), ("walk", 4), ("walk", 8)]  # fmt: skip
    for batch in batches:
        assert isinstance(batch, FrameBatch)
        assert batch.images.shape == (2, 3, *CROP)
        assert batch.labels.shape == (2, *CROP)
        assert batch.images.dtype == batch.labels.dtype == torch.uint8


def test_an_epoch_has_the_length_asked_for(root: str) -> None:
    assert sum(len(batch.stems) for batch in single(root, sample(epoch_length=11)).train_dataloader()) == 11
    assert len(list(windows(root, epoch_length=11).train_dataloader())) == 11


def examples_of(root: str, crops: int, **changes: Any) -> RefinementData:
    source = CycleExamples(flow=Constant(True), crops=crops, crop_size=CROP)
    return windows(root, examples=source, **changes)


def drawn(batches: list[RefinerExamples]) -> list[tuple[str, int, bytes]]:
    return [
        (clip, index, image.numpy().tobytes())
        for batch in batches
        for clip, index, image in zip(batch.clips, batch.indices, batch.inputs.image, strict=True)
    ]


@pytest.mark.parametrize("epoch_length", [None, 6])
def test_two_processes_draw_the_examples_of_one_with_half_the_batch(root: str, epoch_length: int | None) -> None:
    alone, each = (examples_of(root, crops, epoch_length=epoch_length) for crops in (4, 2))
    batches = list(alone.train_dataloader())
    assert [len(batch.stems) for batch in batches] == [4] * (epoch_length or 4)
    assert all(len(set(zip(batch.clips, batch.indices, strict=True))) == 1 for batch in batches)
    each.setup("fit")
    parts = []
    for rank in range(2):
        with process(rank, 2):
            parts.append(list(each.train_dataloader()))
    for whole, *halves in zip(batches, *parts, strict=False):
        assert sorted(drawn([whole])) == sorted(drawn(halves))
    assert len(parts[0]) == len(parts[1]) == (epoch_length or 2)


def trained_by(data: RefinementData, **limits: Any) -> list[tuple[str, int]]:
    """The keyframes that a training learns from."""
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **limits)
    data.setup("fit")
    return sorted({(clip, index) for clip, index, _ in drawn(list(data.train_dataloader()))})


def test_a_short_training_learns_from_few_keyframes(root: str) -> None:
    every = trained_by(examples_of(root, 8), max_steps=4 * LEAST_EXAMPLES // 8)
    assert len(every) == 4
    made = examples_of(root, 8)
    chosen = trained_by(made, max_steps=2 * LEAST_EXAMPLES // 8)
    assert len(chosen) == made.examples.made == 2  # type: ignore[attr-defined]
    assert set(chosen) < set(every)
    assert trained_by(examples_of(root, 8), max_steps=2 * LEAST_EXAMPLES // 8) == chosen
    others = {tuple(trained_by(examples_of(root, 8, seed=seed), max_steps=12)) for seed in range(3)}
    assert len(others) > 1
    assert len(trained_by(examples_of(root, 8, epoch_length=3), max_epochs=4)) == 2
    assert len(trained_by(examples_of(root, 8), max_steps=1)) == 1
    assert trained_by(made, max_steps=-1, max_epochs=100) == every  # the same data, in a longer training


def test_examples_of_validation_are_made_of_as_many_frames_as_the_trainer_takes(root: str) -> None:
    data = examples_of(root, 4)
    data.trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1, limit_val_batches=2
    )
    assert len(data.val_dataloader()) == data.examples.made == 2  # type: ignore[attr-defined]
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1)
    assert [batch.indices for batch in data.val_dataloader()][:3] == [[1], [2], [3]]
    assert len(data.val_dataloader()) == data.examples.made == 9  # type: ignore[attr-defined]


def test_frames_for_scoring_are_the_hidden_ones_as_they_are(root: str) -> None:
    batches = list(single(root).val_dataloader())
    assert [(b.clips[0], b.indices[0]) for b in batches[:3]] == [("run", 1), ("run", 2), ("run", 3)]
    assert len(batches) == 9
    assert torch.equal(batches[0].images[0], frame(1))
    assert [b.stems for b in single(root).test_dataloader()] == [b.stems for b in batches]


def test_where_nothing_is_hidden_the_anchors_are_scored_if_that_is_asked_for(root: str) -> None:
    for serve in (single, windows):
        assert len(list(serve(root, select=None, val=ValArgs(overlap=True)).val_dataloader())) == 13
        with pytest.raises(DataError, match="no label of .* is held back to validate on"):
            serve(root, select=None).val_dataloader()


def test_predicted_frames_are_all_frames_in_order(root: str) -> None:
    batches = list(single(root).predict_dataloader())
    assert [(b.clips[0], b.indices[0]) for b in batches] == [("run", i) for i in range(4)] + [
        ("walk", i) for i in range(9)
    ]


def test_further_labelled_images_are_for_training(tmp_path: Path) -> None:
    root = make_camvid(tmp_path, val=5, train=3)
    module = single(root, sample(batch_size=1), num_classes=11, select=SelectArgs(label_every=2))
    frames = module.training_frames()
    assert [clip for clip, _, _ in frames] == ["", "", "", *["0016E5_07959"] * 3]
    stems = sorted(batch.stems[0] for batch in module.train_dataloader())
    assert stems == sorted(frame.stem for _, _, frame in frames)


def draws(module: Any, epoch: int) -> dict[tuple[str, int], list[torch.Tensor]]:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    found: dict[tuple[str, int], list[torch.Tensor]] = {}
    for batch in loader:
        for clip, index, image, label in zip(batch.clips, batch.indices, batch.images, batch.labels, strict=True):
            found.setdefault((clip, index), []).append(torch.cat((image, label[None])))
    return found


def same(first: dict[Any, list[torch.Tensor]], second: dict[Any, list[torch.Tensor]]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(a, b) for key in first for a, b in zip(first[key], second[key], strict=True))


def test_augmentation_depends_on_seed_epoch_and_item_and_not_on_workers(root: str) -> None:
    eight = sample(epoch_length=8)
    alone, again, helped = (draws(single(root, eight, workers=workers), 1) for workers in (0, 0, 2))
    assert same(alone, again)
    assert same(alone, helped)
    assert not same(alone, draws(single(root, eight), 2))
    assert not same(alone, draws(single(root, sample(epoch_length=8, seed=1)), 1))
    for crops in alone.values():
        assert len({crop.numpy().tobytes() for crop in crops}) == len(crops) == 2


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("serve", [intervals, single])
def test_processes_share_the_work_without_loss_or_repetition(root: str, world: int, serve: Any) -> None:
    def served(loader: Any) -> list[Any]:
        return [name(b) if isinstance(b, ClipBatch) else (b.clips[0], b.indices[0]) for b in loader]

    # One loader: how many processes there are is asked when it is used, not when it is made.
    loader = serve(root).predict_dataloader()
    alone, shards = served(loader), []
    for rank in range(world):
        with process(rank, world):
            shards.append(served(loader))
            assert len(loader) == len(shards[-1])
    assert sorted(item for shard in shards for item in shard) == sorted(alone)


def test_processes_train_on_different_items(root: str) -> None:
    module, shards = single(root), []
    for rank in range(2):
        with process(rank, 2):
            shards.append(set(draws(module, 0)))
    assert len(shards[0]) == len(shards[1]) == 2
    assert not shards[0] & shards[1]


def test_nothing_is_read_before_it_is_needed_and_mistakes_are_told_early(tmp_path: Path) -> None:
    module = single(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"there is no file or folder {tmp_path / 'nowhere'}"):
        module.prepare_data()


@pytest.mark.parametrize("serve", [single, windows, intervals])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": "camvid"}, "num_classes must be a whole number, got 'camvid'; root is the next argument"),
        ({"num_classes": 5}, r"has 3 classes \(road, sky, car\), got num_classes=5"),
        ({"select": SelectArgs(["wolk"])}, "no clip 'wolk'; its clips are run, walk"),
        ({"select": SelectArgs(label_every=0)}, "label-every must be at least 1"),
        ({"layout": "davis"}, "does not have the layout 'davis'"),
        ({"split": "val"}, "cannot be read"),
    ],
)
def test_arguments_are_checked_against_the_data(root: str, serve: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        serve(root, **changes).prepare_data()


def test_clips_can_be_chosen(root: str) -> None:
    assert {b.clip for b in intervals(root, select=SelectArgs(["walk"])).predict_dataloader()} == {"walk"}


def test_what_cannot_be_served_is_refused(root: str) -> None:
    with pytest.raises(DataError, match="^PropagationData serves nothing to train: use .* such as SegmentationData"):
        intervals(root).train_dataloader()
    with pytest.raises(DataError, match="^RefinementData serves nothing to test: use .* such as SegmentationData"):
        windows(root).test_dataloader()


def test_an_index_that_is_open_is_served_as_it_is(root: str) -> None:
    index = single(root).index
    module = SegmentationData.over(index, sampling=sample(), val=ValArgs(overlap=True))
    assert module.index is index
    assert [(clip, i) for clip, i, _ in module.training_frames()] == [("run", 0), ("walk", 0), ("walk", 4), ("walk", 8)]
    assert len(module.val_dataloader()) == 9


def test_frames_of_different_sizes_in_a_clip_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, {"walk": 5}, labelled=(0,))
    save(tmp_path / "frames" / "walk" / "00003.png", picture(3, 10, 12))
    with pytest.raises(DataError, match=r"clip walk: its frames have different sizes.*\(10, 12\), \(24, 40\)"):
        [batch.frame(0) for batch in intervals(tmp_path).predict_dataloader()]


def test_a_label_of_another_size_is_refused_with_its_path(tmp_path: Path) -> None:
    make_folder(tmp_path, {"walk": 2})
    bad = save(tmp_path / "labels" / "walk" / "00000.png", picture(0, 10, 12)[..., 0] * 0)
    with pytest.raises(DataError, match=f"{bad}: the label is 12×10 pixels, its frame is 40×24"):
        list(intervals(tmp_path).predict_dataloader())


def test_davis_serves_binary_labels(tmp_path: Path) -> None:
    module = intervals(make_davis(tmp_path, {"bear": 5}), num_classes=2)
    batch = next(iter(module.test_dataloader()))
    assert set(batch.labels[0].unique().tolist()) == {0, 1}
    assert set(batch.held_out[1].unique().tolist()) == {0, 1}


def test_images_are_served_by_split(tmp_path: Path) -> None:
    module = images(make_images(tmp_path, {"train": 4, "val": 3}, labelled=(0, 2)))
    assert sorted(stem for batch in module.train_dataloader() for stem in batch.stems) == ["view0", "view2"]
    assert [batch.stems[0] for batch in module.val_dataloader()] == ["view0", "view2"]
    assert [batch.stems[0] for batch in module.test_dataloader()] == ["view0", "view2"]
    assert [batch.stems[0] for batch in module.predict_dataloader()] == ["view0", "view1", "view2"]
    assert module.label_map.names == ("road", "sky", "car")


def test_unlabelled_images_are_all_255(tmp_path: Path) -> None:
    batches = list(images(make_images(tmp_path, {"train": 1, "val": 2}, labelled=(0,))).predict_dataloader())
    assert (batches[1].labels == 255).all()
    assert batches[1].labels.shape == (1, HEIGHT, WIDTH)


def test_missing_images_classes_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        images(tmp_path / "nowhere").train_dataloader()
    make_images(tmp_path, {"train": 2}, labelled=())
    with pytest.raises(DataError, match=f"{tmp_path / 'images' / 'train'} holds no image with a label in"):
        images(tmp_path).train_dataloader()
    with pytest.raises(DataError, match=f"there is no folder {tmp_path / 'images' / 'val'}"):
        images(tmp_path).val_dataloader()


def test_the_number_of_classes_of_images_is_checked(tmp_path: Path) -> None:
    make_images(tmp_path, {"train": 1})
    with pytest.raises(DataError, match=f"{tmp_path} has 3 classes .*, got num_classes=7"):
        images(tmp_path, num_classes=7).train_dataloader()


def test_scoring_with_more_processes_than_items_is_refused(root: str) -> None:
    for loader in (intervals(root).test_dataloader(), single(root).val_dataloader(), windows(root).val_dataloader()):
        with process(0, 50), pytest.raises(DataError, match="fewer than 50 processes"):
            len(loader)
        with process(0, 50), pytest.raises(DataError, match="fewer than 50 processes"):
            next(iter(loader))


def test_a_fold_of_the_anchors_is_left_out_of_training_and_windows_know_their_fold(root: str) -> None:
    names = [(clip, index) for clip, index, _ in single(root).training_frames()]
    assert names == [("run", 0), ("walk", 0), ("walk", 4), ("walk", 8)]
    kept = [(clip, index) for clip, index, _ in single(root, leave_out="2/2").training_frames()]
    assert kept == [("run", 0), ("walk", 4)]
    numbers = sorted((batch.number, batch.clip, batch.queries[0]) for batch in windows(root).train_dataloader())
    assert numbers == [(number, clip, index) for number, (clip, index) in enumerate(names)]
    with pytest.raises(DataError, match="a fold to leave out must be i/n"):
        single(root, leave_out="3/2")
    with pytest.raises(DataError, match="nothing to train on"):
        single(root, leave_out="1/1").training_frames()


def test_the_number_of_classes_is_that_of_the_data_set(root: str, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", {"train": 2, "val": 2})
    (tmp_path / "list").write_text("train/view0\n")
    for data in (
        SegmentationData(root=root),
        PropagationData(root=root),
        RefinementData(examples=CycleExamples(), root=root),
        ImageData(root=str(folder)),
        SemiSupervisedData(root=str(folder), labelled=str(tmp_path / "list")),
    ):
        assert data.num_classes == 3
    assert SegmentationData(5, root).num_classes == 5  # which the data set does not have, as is said on use


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (RefinementData, "RefinementData needs what makes its examples: give examples"),
        (ImageData, "ImageData needs the folder of its images: give root"),
        (SemiSupervisedData, "needs its folder and a list of labelled images: give root and labelled"),
    ],
)
def test_what_a_data_module_cannot_do_without_is_named(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(3)
