"""Lists in JSON are read item by item, whatever the pieces are that they come in; and items are grouped on the disk."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from pathlib import Path

import pytest

from wrp.errors import DataError
from wrp.io import json_list
from wrp.io.grouping import Groups, grouping
from wrp.io.json_list import read_json_list, read_json_lists

ITEMS = [{"a": [1, 2.5, {"b": "]},["}]}, [], 12345, -1.5e3, 1.5, 2.25e-7, "ä\n", None, True, {}]


@pytest.mark.parametrize("chunk", [*range(1, 9), 1 << 16])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("indent", [None, 2])
def test_items_come_as_json_has_them(
    tmp_path: Path, chunk: int, encoding: str, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_list, "CHUNK", chunk)
    path = tmp_path / "list.json"
    for items in (ITEMS, [], ITEMS[2:3]):
        path.write_text(json.dumps(items, indent=indent, ensure_ascii=False) + "\n", encoding=encoding)
        assert list(read_json_list(path)) == items


@pytest.mark.parametrize(
    "text", ["", "{}", "[", "[1", "[1,", "[1,]", "[1 2]", "[1]]", '["a', "[1] 2", "[tru]", "[" * 100_000]
)
def test_what_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011, it is whatever the decoder says
        list(read_json_list(path))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    with pytest.raises(DataError, match="cannot be read"):
        list(read_json_list(path))
    path.write_bytes(b'["\xff"]')
    with pytest.raises(DataError, match="no text in UTF-8"):
        list(read_json_list(path))


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.json")
    with pytest.raises(DataError, match="is no regular file"):
        next(read_json_list(tmp_path / "list.json"))


def test_a_long_item_makes_those_behind_it_no_slower(tmp_path: Path) -> None:
    short = [{"id": number, "text": "y" * 80} for number in range(16_000)]
    path, took = tmp_path / "list.json", list[float]()
    for items in (short, ["x" * 2_200_000, *short]):  # of the text that is read with it, half is left
        path.write_text(json.dumps(items))
        started = time.process_time()
        assert sum(1 for _ in read_json_list(path)) == len(items)
        took.append(time.process_time() - started)
    assert took[1] < 8 * took[0]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_an_object_come_in_their_order(
    tmp_path: Path, chunk: int, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_list, "CHUNK", chunk)
    path = tmp_path / "object.json"
    content = {"b": ITEMS, "other": {"a": [1]}, "empty": [], "a": [1, 2], "last": 12}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding=encoding)
    expected = [*(("b", item) for item in ITEMS), ("a", 1), ("a", 2)]
    assert list(read_json_lists(path, ("a", "b", "empty"))) == expected
    assert list(read_json_lists(path, ())) == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", '{"a"', '{"a":', '{"a": [1}', '{"a": [1]', '{"a": [1],}', '{"a": [1]}}', '{"a": {}}'),
        *('{"a": [], "a": []}', '{"b": []}', "{1: []}", '{"a" []}', '{"a": [] "b": 1}', '{"b": [}'),
    ],
)
def test_what_is_no_object_with_the_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "object.json"
    path.write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011, it is whatever the decoder says
        list(read_json_lists(path, ("a",)))


def test_items_are_grouped_while_others_are_added() -> None:
    with grouping() as groups:
        for i in range(5):
            groups.add(i % 2, {"i": i, "text": "ä\n" * i})
            assert groups.items(i % 2)[-1]["i"] == i
        assert list(groups) == [0, 1]
        assert [item["i"] for item in groups.items(0)] == [0, 2, 4]
        assert groups.items(7) == []


def test_a_full_disk_is_told() -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"No space left on device; make room there, or name"):
        Groups(Full()).add(1, {})
