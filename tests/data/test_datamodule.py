from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.clips import HEIGHT, WIDTH, make_camvid, make_davis, make_folder, make_images, picture, save
from wrp.data.datamodule import VideoDataModule
from wrp.data.imagemodule import ImageDataModule
from wrp.errors import DataError
from wrp.types import ClipBatch, FrameBatch

CROP = (16, 24)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two labelled clips of 9 and 4 frames."""
    return str(make_folder(tmp_path_factory.mktemp("folder"), {"run": 4, "walk": 9}))


def video(root: str, **changes: Any) -> VideoDataModule:
    arguments = {"num_classes": 3, "root": root, "label_every": 4, "crop_size": CROP, "batch_size": 2, **changes}
    return VideoDataModule(**arguments)


def on_rank(module: Any, rank: int, world: int) -> Any:
    module.trainer = SimpleNamespace(world_size=world, global_rank=rank, predicting=True)
    return module


def name(batch: ClipBatch) -> tuple[str, tuple[int, int]]:
    return batch.clip, batch.targets


def frame(index: int) -> torch.Tensor:
    return torch.from_numpy(picture(index)).permute(2, 0, 1)


def test_intervals_carry_their_frames_and_anchors(root: str) -> None:
    batches = list(video(root, serve="intervals").predict_dataloader())
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
    for serve in ("intervals", "windows"):
        for batch in video(root, serve=serve).predict_dataloader():
            assert batch.hidden == {}
            assert set(batch.labels) <= {0, 4, 8}
    for batch in video(root, serve="frames").predict_dataloader():
        assert (batch.labels == 255).all()


def test_hidden_label_files_are_not_even_opened_to_predict(tmp_path: Path) -> None:
    make_folder(tmp_path, {"walk": 9})
    for i in (1, 2, 3, 5, 6, 7):
        (tmp_path / "labels" / "walk" / f"{i:05d}.png").write_bytes(b"hidden")
    for serve in ("intervals", "windows", "frames"):
        assert list(video(str(tmp_path), serve=serve).predict_dataloader())
    list(video(str(tmp_path), serve="frames").train_dataloader())
    list(video(str(tmp_path), serve="windows").train_dataloader())
    with pytest.raises(DataError, match="cannot be read as an image"):
        list(video(str(tmp_path), serve="intervals").test_dataloader())


def test_tests_see_each_hidden_label_once(root: str) -> None:
    batches = list(video(root, serve="intervals").test_dataloader())
    hidden = [(batch.clip, index) for batch in batches for index in batch.hidden]
    assert hidden == [("run", i) for i in (1, 2, 3)] + [("walk", i) for i in (1, 2, 3, 5, 6, 7)]


def test_intervals_that_are_done_are_left_out(root: str) -> None:
    module = video(root, serve="intervals")
    module.done = frozenset({("walk", 0, 4), ("run", 0, 4), ("walk", 4, 1)})
    assert [name(batch) for batch in module.predict_dataloader()] == [("walk", (4, 9))]


def test_windows_hold_an_anchor_and_all_up_to_the_next_ones(root: str) -> None:
    windows = {name(batch): batch for batch in video(root, serve="windows").val_dataloader()}
    assert list(windows) == [("run", (0, 1)), ("walk", (0, 1)), ("walk", (4, 5)), ("walk", (8, 9))]
    middle = windows["walk", (4, 5)]
    assert (middle.first, len(middle.frames), sorted(middle.labels)) == (0, 9, [0, 4, 8])
    first = windows["walk", (0, 1)]
    assert (first.first, len(first.frames), sorted(first.labels)) == (0, 5, [0, 4])


@pytest.mark.parametrize(
    ("radius", "span", "labels"), [(0, (4, 1), [4]), (2, (2, 5), [4]), (4, (0, 9), [0, 4, 8]), (99, (0, 9), [0, 4, 8])]
)
def test_the_radius_bounds_a_window(root: str, radius: int, span: tuple[int, int], labels: list[int]) -> None:
    windows = {name(batch): batch for batch in video(root, serve="windows", radius=radius).val_dataloader()}
    middle = windows["walk", (4, 5)]
    assert (middle.first, len(middle.frames)) == span
    assert sorted(middle.labels) == labels


def test_training_windows_are_each_drawn_once_an_epoch(root: str) -> None:
    loader = video(root, serve="windows").train_dataloader()
    assert sorted(name(batch) for batch in loader) == [
        ("run", (0, 1)), ("walk", (0, 1)), ("walk", (4, 5)), ("walk", (8, 9))
    ]  # fmt: skip


def test_training_frames_are_crops_of_the_anchors(root: str) -> None:
    batches = list(video(root).train_dataloader())
    assert [len(batch.stems) for batch in batches] == [2, 2]
    assert sorted(zip(*[sum(parts, []) for parts in zip(*((b.clips, b.indices) for b in batches), strict=True)],
                      strict=True)) == [("run", 0), ("walk", 0), ("walk", 4), ("walk", 8)]  # fmt: skip
    for batch in batches:
        assert isinstance(batch, FrameBatch)
        assert batch.images.shape == (2, 3, *CROP)
        assert batch.labels.shape == (2, *CROP)
        assert batch.images.dtype == batch.labels.dtype == torch.uint8


def test_an_epoch_has_the_length_asked_for(root: str) -> None:
    assert sum(len(batch.stems) for batch in video(root, epoch_length=11).train_dataloader()) == 11


def test_frames_for_scoring_are_the_hidden_ones_as_they_are(root: str) -> None:
    batches = list(video(root).val_dataloader())
    assert [(b.clips[0], b.indices[0]) for b in batches[:3]] == [("run", 1), ("run", 2), ("run", 3)]
    assert len(batches) == 9
    assert torch.equal(batches[0].images[0], frame(1))
    assert [b.stems for b in video(root).test_dataloader()] == [b.stems for b in batches]


def test_where_nothing_is_hidden_the_anchors_are_scored(root: str) -> None:
    assert len(list(video(root, label_every=None).val_dataloader())) == 13


def test_predicted_frames_are_all_frames_in_order(root: str) -> None:
    batches = list(video(root).predict_dataloader())
    assert [(b.clips[0], b.indices[0]) for b in batches] == [("run", i) for i in range(4)] + [
        ("walk", i) for i in range(9)
    ]


def test_further_labelled_images_are_for_training(tmp_path: Path) -> None:
    root = str(make_camvid(tmp_path, val=5, train=3))
    module = video(root, num_classes=11, label_every=2, batch_size=1)
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
    alone, again, helped = (draws(video(root, workers=workers, epoch_length=8), 1) for workers in (0, 0, 2))
    assert same(alone, again)
    assert same(alone, helped)
    assert not same(alone, draws(video(root, epoch_length=8), 2))
    assert not same(alone, draws(video(root, epoch_length=8, seed=1), 1))
    for crops in alone.values():
        assert len({crop.numpy().tobytes() for crop in crops}) == len(crops) == 2


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("serve", ["intervals", "frames"])
def test_processes_share_the_work_without_loss_or_repetition(root: str, world: int, serve: Any) -> None:
    def served(module: VideoDataModule) -> list[Any]:
        batches = module.predict_dataloader()
        return [name(b) if isinstance(b, ClipBatch) else (b.clips[0], b.indices[0]) for b in batches]

    alone = served(video(root, serve=serve))
    shards = [served(on_rank(video(root, serve=serve), rank, world)) for rank in range(world)]
    assert sorted(item for shard in shards for item in shard) == sorted(alone)


def test_processes_train_on_different_items(root: str) -> None:
    shards = [set(draws(on_rank(video(root), rank, 2), 0)) for rank in range(2)]
    assert len(shards[0]) == len(shards[1]) == 2
    assert not shards[0] & shards[1]


def test_nothing_is_read_before_it_is_needed_and_mistakes_are_told_early(tmp_path: Path) -> None:
    module = video(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=f"there is no folder {tmp_path / 'nowhere'}"):
        module.prepare_data()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": "camvid"}, "num_classes must be a whole number, got 'camvid'; root is the next argument"),
        ({"num_classes": 5}, r"has 3 classes \(road, sky, car\), got num_classes=5"),
        ({"clips": ["wolk"]}, "no clip 'wolk'; its clips are run, walk"),
        ({"label_every": 0}, "label-every must be at least 1"),
        ({"layout": "davis"}, "does not have the layout 'davis'"),
        ({"split": "val"}, "cannot be read as a list"),
    ],
)
def test_arguments_are_checked_against_the_data(root: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        video(root, **changes).prepare_data()


def test_clips_can_be_chosen(root: str) -> None:
    assert {b.clip for b in video(root, clips=["walk"], serve="intervals").predict_dataloader()} == {"walk"}


def test_what_cannot_be_served_is_refused(root: str) -> None:
    with pytest.raises(DataError, match="serve=intervals trains nothing; serve frames or windows"):
        video(root, serve="intervals").train_dataloader()
    with pytest.raises(DataError, match="serve=windows tests nothing; serve frames or intervals"):
        video(root, serve="windows").test_dataloader()


def test_an_unknown_kind_of_serving_is_refused(root: str) -> None:
    with pytest.raises(DataError, match="serve"):
        video(root, serve="clips").predict_dataloader()


def test_frames_of_different_sizes_in_a_clip_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, {"walk": 5}, labelled=(0,))
    save(tmp_path / "frames" / "walk" / "00003.png", picture(3, 10, 12))
    with pytest.raises(DataError, match=r"clip walk: its frames have different sizes.*\(10, 12\), \(24, 40\)"):
        list(video(str(tmp_path), serve="intervals").predict_dataloader())


def test_a_label_of_another_size_is_refused_with_its_path(tmp_path: Path) -> None:
    make_folder(tmp_path, {"walk": 2})
    bad = save(tmp_path / "labels" / "walk" / "00000.png", picture(0, 10, 12)[..., 0] * 0)
    with pytest.raises(DataError, match=f"{bad}: the label is 12×10 pixels, its frame is 40×24"):
        list(video(str(tmp_path), serve="intervals").predict_dataloader())


def test_davis_serves_binary_labels(tmp_path: Path) -> None:
    module = video(str(make_davis(tmp_path, {"bear": 5})), num_classes=2, serve="intervals")
    batch = next(iter(module.test_dataloader()))
    assert set(batch.labels[0].unique().tolist()) == {0, 1}
    assert set(batch.hidden[1].unique().tolist()) == {0, 1}


def images(root: Path, **changes: Any) -> ImageDataModule:
    return ImageDataModule(**{"num_classes": 3, "root": str(root), "crop_size": CROP, "batch_size": 2, **changes})


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
    module = on_rank(video(root, serve="intervals"), 0, 50)
    module.trainer.predicting = False
    with pytest.raises(DataError, match="fewer than 50 processes"):
        module.test_dataloader()


def test_a_fold_of_the_anchors_is_left_out_of_training_and_windows_know_their_fold(root: str) -> None:
    names = [(clip, index) for clip, index, _ in video(root).training_frames()]
    assert names == [("run", 0), ("walk", 0), ("walk", 4), ("walk", 8)]
    kept = [(clip, index) for clip, index, _ in video(root, leave_out="2/2").training_frames()]
    assert kept == [("run", 0), ("walk", 4)]
    windows = list(video(root, serve="windows").val_dataloader())
    assert [(batch.number, batch.clip, batch.targets[0]) for batch in windows] == [
        (number, clip, index) for number, (clip, index) in enumerate(names)
    ]
    with pytest.raises(DataError, match="a fold to leave out must be i/n"):
        video(root, leave_out="3/2")
    with pytest.raises(DataError, match="nothing to train on"):
        video(root, leave_out="1/1").training_frames()
