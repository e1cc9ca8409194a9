from pathlib import Path

import numpy as np
import pytest

from tests.clips import LABEL_MAP, make_folder, picture, save
from tests.data.small import sample, single
from wrp.data import tiles as tiles_module
from wrp.data.sampling import TrainSampler
from wrp.data.tiles import TILE, class_tiles
from wrp.data.transforms import Draw, TrainTransform
from wrp.errors import WrpError
from wrp.structures import Frame


def frame(folder: Path, name: str, ids: np.ndarray) -> Frame:
    return Frame(name, save(folder / f"{name}.png", picture(0)), save(folder / "l" / f"{name}.png", ids))


@pytest.fixture
def frames(tmp_path: Path) -> list[Frame]:
    """Road everywhere, a car of 10×10 pixels in the second tile of the second frame, sky nowhere."""
    plain = np.zeros((TILE, 2 * TILE), np.uint8)
    with_car = plain.copy()
    with_car[20:30, 70:80] = 7
    return [frame(tmp_path, "a", plain), frame(tmp_path, "b", with_car)]


def test_every_class_is_found_where_it_is(frames: list[Frame], tmp_path: Path) -> None:
    found = class_tiles(frames, LABEL_MAP, tmp_path / "cache")
    assert {tuple(row[:2]) for row in found.tolist()} == {(0, 0), (0, 1), (2, 1)}
    assert [row[2:] for row in found.tolist() if row[0] == 2] == [[24, 74]]
    assert sum(row[0] == 0 for row in found.tolist()) == 4


def test_the_index_is_kept_until_a_label_changes(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = class_tiles(frames, LABEL_MAP, cache)
    read = tiles_module.read_frame_label
    monkeypatch.setattr(tiles_module, "read_frame_label", None)
    assert np.array_equal(class_tiles(frames, LABEL_MAP, cache), first)
    monkeypatch.setattr(tiles_module, "read_frame_label", read)
    assert frames[0].label is not None
    save(frames[0].label, np.full((TILE, 2 * TILE), 3, np.uint8))
    assert (class_tiles(frames, LABEL_MAP, cache)[:, 0] == 1).any()
    whole = class_tiles(frames, LABEL_MAP, cache)
    for damage in (b"", b"damaged", next(cache.glob("*.npy")).read_bytes()[:-3]):
        for path in cache.glob("*.npy"):
            path.write_bytes(damage)
        assert np.array_equal(class_tiles(frames, LABEL_MAP, cache), whole)


def test_rare_classes_are_drawn_as_often_as_frequent_ones(frames: list[Frame], tmp_path: Path) -> None:
    index = class_tiles(frames, LABEL_MAP, tmp_path / "cache")
    sampler = TrainSampler(range(2), 400, 0, tiles=index, uniform=0.5)  # type: ignore[arg-type]
    draws = list(sampler)
    around = [draw for draw in draws if draw.center is not None]
    assert 160 < len(around) < 240
    cars = [draw for draw in around if draw.center == (24, 74)]
    assert 0.35 < len(cars) / len(around) < 0.65
    assert all(draw.index == 1 for draw in cars)
    assert [draw for draw in sampler] == draws


def test_groups_keep_their_shares(frames: list[Frame], tmp_path: Path) -> None:
    index = class_tiles(frames, LABEL_MAP, tmp_path / "cache")
    sampler = TrainSampler(range(2), 200, 0, [(1, 0.8), (1, 0.2)], tiles=index, uniform=1.0)  # type: ignore[arg-type]
    assert sum(draw.index == 0 for draw in sampler) == 160


@pytest.mark.parametrize("center", [(0, 0), (24, 74), (63, 127), (40, 3)])
def test_a_crop_around_a_pixel_shows_it(center: tuple[int, int]) -> None:
    import torch

    label = torch.zeros(TILE, 2 * TILE, dtype=torch.uint8)
    label[max(0, center[0] - 1) : center[0] + 2, max(0, center[1] - 1) : center[1] + 2] = 1
    image = torch.zeros(3, TILE, 2 * TILE, dtype=torch.uint8)
    for number in range(20):
        _, [moved] = TrainTransform((32, 32), scale=(0.7, 1.5))(image, [label], Draw(number, 0, center))
        assert (moved == 1).any()


def test_a_training_crops_classes_uniformly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles_module, "CACHE", tmp_path / "cache")
    root = make_folder(tmp_path / "clips", {"walk": 5})
    module = single(root, sample(class_uniform=1.0, crop_size=(16, 16), batch_size=1), select=None)
    assert sum(len(set(batch.labels.unique().tolist()) - {255}) >= 1 for batch in module.train_dataloader()) == 5
    assert list((tmp_path / "cache").glob("*.npy"))
    with pytest.raises(WrpError, match="class_uniform"):
        sample(class_uniform=2.0)
