from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.clips import LABEL_MAP, bare_clip
from wrp.errors import DataError, WrpError
from wrp.io.caching import BoundedCache, count_bytes
from wrp.structures import IGNORE_INDEX, ClipBatch, Interval, LabelMap


def test_ids_become_indices_and_ignored_values_255() -> None:
    values = np.array([[0, 3, 7], [9, 255, 0]], np.uint8)
    labels = LABEL_MAP.encode(values)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[0, 1, 2], [255, 255, 0]]


def test_indices_become_ids_again() -> None:
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    assert LABEL_MAP.decode(labels).tolist() == [[0, 3, 7, 255]]
    np.testing.assert_array_equal(LABEL_MAP.encode(LABEL_MAP.decode(labels)), labels)


def test_255_is_unlabelled_also_where_other_values_are_ignored() -> None:
    assert replace(LABEL_MAP, ignore=(9,)).encode(np.array([[255, 9]], np.uint8)).tolist() == [[255, 255]]


def test_aliases_are_read_as_their_class_even_255() -> None:
    label_map = LabelMap((0, 1), ("ground", "object"), ((0, 0, 0), (9, 9, 9)), ignore=(), aliases=((255, 1), (200, 0)))
    assert label_map.encode(np.array([[0, 1, 255, 200]], np.uint8)).tolist() == [[0, 1, 1, 0]]


def test_unknown_ids_are_named_with_their_number_and_the_file() -> None:
    values = np.array([[0, 4, 4], [5, 3, 7]], np.uint8)
    with pytest.raises(DataError) as error:
        LABEL_MAP.encode(values, Path("folder/a.png"))
    message = str(error.value)
    assert message.startswith("folder/a.png: the label holds ids without a class: 4 (2 pixels), 5 (1 pixels)")
    assert "[0, 3, 7]" in message
    assert "[9, 255]" in message


def test_the_highest_number_of_classes_is_read_back() -> None:
    count = 254
    label_map = LabelMap(tuple(range(1, count + 1)), tuple(map(str, range(count))), ((0, 0, 0),) * count)
    labels = np.array([[*range(count), 255]], np.uint8)
    np.testing.assert_array_equal(label_map.encode(label_map.decode(labels)), labels)


def test_colours_and_palette_show_the_same() -> None:
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    colours = LABEL_MAP.colorize(labels)
    assert colours.tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90], [0, 0, 0]]]
    palette = np.array(LABEL_MAP.palette).reshape(256, 3)
    np.testing.assert_array_equal(palette[LABEL_MAP.decode(labels)], colours)
    assert all(type(value) is int for value in LABEL_MAP.palette)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": (), "names": (), "colors": ()}, "at least one, got 0 ids"),
        ({"names": ("road",)}, "got 3 ids, 1 names, 3 colours"),
        ({"ids": (0, 3, 256)}, "whole numbers from 0 to 255, got 256"),
        ({"ids": (0, -1, 7)}, "whole numbers from 0 to 255, got -1"),
        ({"ids": (0, 3, "7")}, "whole numbers from 0 to 255, got '7'"),
        ({"ids": (0, 3, 3)}, "every value must have one meaning"),
        ({"ignore": (3,)}, "every value must have one meaning"),
        ({"aliases": ((3, 0),)}, "every value must have one meaning"),
        ({"ids": (0, 3, 255), "ignore": ()}, "id 255 means 'unlabelled'"),
        ({"names": ("road", "sky", "road")}, "class names must differ"),
    ],
)
def test_maps_that_could_not_be_read_back_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(LABEL_MAP, **change)


def test_too_many_classes_are_refused() -> None:
    with pytest.raises(DataError, match="at most 254 classes"):
        LabelMap(tuple(range(255)), tuple(map(str, range(255))), ((0, 0, 0),) * 255)


def test_an_alias_of_no_class_is_refused_at_construction() -> None:
    with pytest.raises(DataError, match="200"):
        replace(LABEL_MAP, aliases=((200, 5),))


def test_data_errors_are_mistakes_of_the_user() -> None:
    assert issubclass(DataError, WrpError)


def test_a_label_map_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        LABEL_MAP.ids = (1,)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("start", "stop", "previous", "following", "keyframes", "span"),
    [
        (2, 5, 2, 5, (2, 5), (2, 5)),
        (2, 6, 2, 5, (2, 5), (2, 5)),
        (0, 3, None, 3, (3,), (0, 3)),
        (4, 9, 4, None, (4,), (4, 8)),
        (3, 4, 3, 3, (3,), (3, 3)),
    ],
)
def test_an_interval_knows_its_anchors_and_what_it_needs(
    start: int,
    stop: int,
    previous: int | None,
    following: int | None,
    keyframes: tuple[int, ...],
    span: tuple[int, int],
) -> None:
    interval = Interval(bare_clip(10), start, stop, previous, following)
    assert interval.keyframes == keyframes
    assert interval.span == span


def test_a_batch_finds_its_frames_by_their_index_in_the_clip() -> None:
    frames = [torch.full((3, 1, 1), i, dtype=torch.uint8) for i in range(4)]
    batch = ClipBatch("walk", list("abcd"), 7, frames, {}, (7, 11))
    assert batch.frame(7) is frames[0]
    assert batch.frame(10) is frames[3]


def test_an_index_before_the_batch_is_no_frame_of_it() -> None:
    frames = [torch.full((3, 1, 1), i, dtype=torch.uint8) for i in range(4)]
    batch = ClipBatch("walk", list("abcd"), 7, frames, {}, (7, 11))
    for index in (6, 11):
        with pytest.raises(IndexError):
            batch.frame(index)


def test_a_cache_keeps_what_fits_and_drops_the_least_recently_used() -> None:
    made: list[str] = []
    cache: BoundedCache[str, str] = BoundedCache(6, len)

    def get(key: str, length: int = 3) -> str:
        return cache.get(key, lambda: made.append(key) or key * length)

    assert get("a") == "aaa"
    get("b")
    get("a")
    assert made == ["a", "b"]
    get("c")  # b goes: a was used after it
    get("a")
    assert made == ["a", "b", "c"]
    get("b")
    assert made == ["a", "b", "c", "b"]
    assert cache.held_bytes == 6


def test_a_value_larger_than_the_cache_is_held_alone() -> None:
    cache: BoundedCache[int, str] = BoundedCache(4, len)
    cache.get(1, lambda: "xx")
    assert cache.get(2, lambda: "x" * 10) == "x" * 10
    assert cache.held_bytes == 10
    cache.get(3, lambda: "xx")
    assert cache.held_bytes == 2


def test_a_function_that_fails_leaves_the_cache_as_it_was() -> None:
    cache: BoundedCache[int, str] = BoundedCache(4, len)
    with pytest.raises(ZeroDivisionError):
        cache.get(1, lambda: str(1 // 0))
    assert cache.held_bytes == 0
    assert cache.get(1, lambda: "a") == "a"


def test_bytes_are_counted() -> None:
    assert count_bytes([torch.zeros(2, 3), torch.zeros(5, dtype=torch.uint8)]) == 29
    assert IGNORE_INDEX == 255
