import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from tests.clips import id_picture, make_folder, picture
from tests.data.small import sample, single
from tests.modules.small import FIT
from wrp.cli.main import main
from wrp.data.synthetic.scene import SyntheticClip, render_clip
from wrp.data.transforms import Draw, TrainTransform
from wrp.errors import DataError
from wrp.geometry.warp import warp

IMAGE = torch.from_numpy(picture(0, 60, 90)).permute(2, 0, 1).contiguous()
LABEL = torch.from_numpy(id_picture(0, (0, 1, 2), 60, 90))


def augment(draw: Draw, seed: int = 0, crop: tuple[int, int] = (32, 48)) -> tuple[Tensor, Tensor]:
    image, [label] = TrainTransform(crop, seed=seed)(IMAGE, [LABEL], draw)
    return image, label


def test_a_draw_is_another_seed_for_every_epoch_index_and_run() -> None:
    seeds = {Draw(epoch, index).seed(run) for epoch in range(10) for index in range(10) for run in range(5)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert Draw(3, 4).seed(5) == Draw(3, 4).seed(5)


@pytest.mark.parametrize("crop", [(32, 48), (48, 32), (64, 200), (128, 128)])
def test_every_crop_has_its_size_and_dtype(crop: tuple[int, int]) -> None:
    for index in range(6):
        image, label = augment(Draw(0, index), crop=crop)
        assert image.shape == (3, *crop)
        assert label.shape == crop
        assert image.dtype == label.dtype == torch.uint8
        assert set(label.unique().tolist()) <= {0, 1, 2, 255}


def test_augmentation_is_a_function_of_seed_epoch_and_index() -> None:
    transform = TrainTransform((32, 48), seed=3)
    first, [label] = transform(IMAGE, [LABEL], Draw(1, 2))
    for other in (Draw(0, 0), Draw(1, 1), Draw(2, 2)):
        transform(IMAGE, [LABEL], other)  # what was drawn before does not matter
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(1)
    again, [same] = transform(IMAGE, [LABEL], Draw(1, 2))
    assert torch.equal(first, again)
    assert torch.equal(label, same)
    fresh, its_label = augment(Draw(1, 2), seed=3)
    assert torch.equal(first, fresh)
    assert torch.equal(label, its_label)


def test_other_seeds_epochs_and_indices_look_different() -> None:
    cases = [(Draw(e, i), s) for e in range(3) for i in range(3) for s in range(2)]
    pictures = {augment(draw, seed)[0].numpy().tobytes() for draw, seed in cases}
    assert len(pictures) == len(cases)


def test_the_frame_given_stays_as_it_was() -> None:
    image, label = IMAGE.clone(), LABEL.clone()
    augment(Draw(0, 1))
    assert torch.equal(image, IMAGE)
    assert torch.equal(label, LABEL)


def test_frame_and_label_share_one_geometry_and_padding_is_unlabelled() -> None:
    """The frame shows its own label in grey, so they must agree after any scale, crop and mirror."""
    label = torch.zeros(64, 64, dtype=torch.uint8)
    label[:, 20:] = 1
    label[30:, 40:] = 2
    image = (label * 100 + 20).repeat(3, 1, 1)
    for index in range(20):
        crop, [moved] = TrainTransform((80, 80), seed=1)(image, [label], Draw(0, index))
        grey = crop.float().mean(0)
        medians = [grey[moved == value].median().item() for value in moved.unique().tolist() if value != 255]
        assert medians == sorted(medians)
        for value in (0, 1, 2):
            region = grey[moved == value]
            if len(region) > 100:
                assert ((region - region.median()).abs() < 25).float().mean() > 0.85
        padded = moved == 255
        if padded.any():
            assert grey[padded].max() <= 60


def test_labels_are_magnified_about_the_same_point_as_frames() -> None:
    """Edges of the label lie where the frame's grey passes the middle between both sides, on average."""
    label = torch.zeros(64, 64, dtype=torch.uint8)
    label[24:40, 24:40] = 1
    image = (label * 200).repeat(3, 1, 1)
    transform = TrainTransform((96, 96), seed=5)
    transform._color = lambda frames, seed: frames  # type: ignore[method-assign]
    rows, away = torch.arange(96.0), []
    for index in range(40):
        crop, [moved] = transform(image, [label], Draw(0, index))
        grey, marked = crop[0].float().sum(1), (moved == 1).float().sum(1)
        away.append(float((grey * rows).sum() / grey.sum() - (marked * rows).sum() / marked.sum()))
    assert abs(sum(away) / len(away)) < 0.1


def test_mirrored_and_plain_crops_both_occur() -> None:
    label = torch.zeros(64, 64, dtype=torch.uint8)
    label[:, 32:] = 1
    image = (label * 200).repeat(3, 1, 1)
    transform = TrainTransform((64, 64), scale=(1, 1), seed=0)
    left = [transform(image, [label], Draw(0, i))[1][0][0, 0].item() for i in range(20)]
    assert 3 < sum(left) < 17


def clip_of(seed: int, frames: int = 4) -> SyntheticClip:
    return render_clip(frames, 64, 112, seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_flow_is_transformed_with_its_frames(seed: int) -> None:
    """The transformed exact flow of a generated clip still leads to where the next frame shows the same."""
    clip = clip_of(seed)
    images = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).contiguous()
    labels, flows = torch.from_numpy(clip.labels), torch.from_numpy(clip.flow_fw)
    transform = TrainTransform((48, 80), scale=(0.9, 1.6), seed=seed)
    after, mirrored, longer = [], [], []
    for number in range(6):
        frames, [moved], moved_flows = transform.clip(images, [labels], Draw(number, 0), flows)
        assert moved_flows is not None
        assert moved_flows.shape == (3, 2, 48, 80)
        inside = moved[:-1] != 255
        for results, changed in (
            (after, moved_flows),
            (mirrored, moved_flows * torch.tensor([-1.0, 1.0]).view(2, 1, 1)),
            (longer, 2 * moved_flows),
        ):
            warped, valid = warp(frames[1:].float(), changed)
            results.append((warped - frames[:-1]).abs().mean(1)[valid & inside].mean().item())
    # What is left is occlusion, and exposure, which changes from frame to frame.
    assert np.mean(after) < 0.8 * np.mean(mirrored)
    assert np.mean(after) < 0.9 * np.mean(longer)


def test_vectors_are_magnified_and_mirrored() -> None:
    transform = TrainTransform((32, 48), scale=(1.2, 1.6))
    flows = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 60, 90).contiguous()
    signs = set()
    for number in range(12):
        _, _, moved = transform.clip(IMAGE[None], [], Draw(number, 0), flows)
        assert moved is not None
        across, down = moved[0].flatten(1).mean(1).tolist()
        signs.add(np.sign(across))
        assert torch.allclose(moved[0, 0], torch.tensor(across))
        assert abs(across) / 3 == pytest.approx(-down / 2, rel=0.02)
        assert 1.19 < abs(across) / 3 < 1.61
    assert signs == {-1.0, 1.0}


def test_all_frames_of_a_clip_share_one_geometry() -> None:
    images = IMAGE.repeat(3, 1, 1, 1)
    labels = LABEL.repeat(3, 1, 1)
    plain = TrainTransform((32, 48), seed=2)
    for number in range(5):
        moved, [moved_labels], _ = plain.clip(images, [labels], Draw(number, 0))
        assert all(torch.equal(moved[0], frame) for frame in moved)
        assert all(torch.equal(moved_labels[0], label) for label in moved_labels)


def test_colours_may_change_by_frame() -> None:
    images = IMAGE.repeat(3, 1, 1, 1)
    by_frame = TrainTransform((32, 48), seed=2, color_by_frame=True)
    several = [by_frame.clip(images, [LABEL[None]], Draw(number, 0))[0] for number in range(5)]
    assert any(not torch.equal(frames[0], frames[1]) for frames in several)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_the_draws(tmp_path: Path, workers: int) -> None:
    root = make_folder(tmp_path, {"walk": 6})
    sampling = sample(crop_size=(16, 16), epoch_length=12, seed=3)
    module = single(root, sampling, select=None, workers=workers)
    alone = single(root, sampling, select=None)
    pairs = list(zip(module.train_dataloader(), alone.train_dataloader(), strict=True))
    assert all(torch.equal(one.images, other.images) for one, other in pairs)
    assert len({one.images.numpy().tobytes() for one, _ in pairs}) == len(pairs)


def test_transforms_of_albumentations_stand_in_for_mirror_and_colour() -> None:
    crop, scale = (32, 48), (1.0, 1.0)
    bare = TrainTransform(crop, scale, seed=3, augmentations=[])
    always = TrainTransform(crop, scale, seed=3, augmentations=[A.HorizontalFlip(p=1.0)])
    for index in range(6):
        image, maps = bare(IMAGE, [LABEL, LABEL], Draw(0, index))
        mirrored, moved = always(IMAGE, [LABEL, LABEL], Draw(0, index))
        assert torch.equal(image.flip(-1), mirrored)
        assert all(torch.equal(one.flip(-1), other) for one, other in zip(maps, moved, strict=True))
        assert any(torch.equal(image, part) for part in IMAGE.unfold(1, 32, 1).unfold(2, 48, 1).flatten(1, 2).unbind(1))


def test_their_draws_are_a_function_of_seed_epoch_and_index() -> None:
    transform = TrainTransform((32, 48), seed=3, augmentations=[A.HorizontalFlip(), A.RandomBrightnessContrast()])
    first = [transform(IMAGE, [LABEL], Draw(epoch, 0))[0] for epoch in range(8)]
    again = [transform(IMAGE, [LABEL], Draw(epoch, 0))[0] for epoch in reversed(range(8))]
    assert all(torch.equal(one, other) for one, other in zip(first, reversed(again), strict=True))
    assert len({one.numpy().tobytes() for one in first}) == 8


def test_what_they_show_from_outside_of_the_frame_has_no_label_and_no_weight() -> None:
    turn = A.OneOf([A.Affine(rotate=(45, 45), p=1.0)], p=1.0)
    transform = TrainTransform((60, 90), (1.0, 1.0), augmentations=[turn])
    one, ones = torch.full_like(LABEL, 2), torch.full_like(LABEL, 200)
    _, [label, weights] = transform(IMAGE, [one, ones], Draw(0, 0))
    assert label[30, 45] == 2
    assert label[0, 0] == 255
    assert torch.equal(label == 255, weights == 0)
    assert set(weights.unique().tolist()) == {0, 200}


@pytest.mark.parametrize("transform", [A.RandomCrop(16, 16), A.Normalize(), A.ToTensorV2()])
def test_transforms_that_change_size_or_type_are_refused(transform: A.BasicTransform) -> None:
    with pytest.raises(DataError, match="augmentations must keep size and type of a crop") as error:
        TrainTransform((32, 48), augmentations=[transform])(IMAGE, [LABEL], Draw(0, 0))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="do not move flow"):
        TrainTransform((32, 48), augmentations=[A.HorizontalFlip()]).clip(
            IMAGE[None], [], Draw(0, 0), torch.zeros(1, 2, 60, 90)
        )


def test_a_configuration_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "clips", {"walk": 9})
    own = "[{class_path: albumentations.HorizontalFlip, init_args: {p: 0.5}}, {class_path: albumentations.CLAHE}]"
    command = ["fit", "--model=SegmentationModule", "--model.network.encoder_name=tu-regnetx_002"]
    command += ["--data=SegmentationData", "--data.root=clips", "--data.select.label_every=4", *FIT]
    command += [f"--data.augmentations={own}", "--data.sampling.crop_size=[32,32]", "--trainer.limit_val_batches=0"]
    assert main(command) == 0
    [saved] = tmp_path.glob("**/config.yaml")
    init_args = yaml.safe_load(saved.read_text())["data"]["init_args"]
    assert [one["class_path"] for one in init_args["augmentations"]] == [
        "albumentations.HorizontalFlip",
        "albumentations.CLAHE",
    ]
