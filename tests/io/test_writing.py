import errno
import json
import os
import shutil
import stat
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import LABEL_MAP
from wrp.io.images import read_label
from wrp.io.writing import (
    new_folder,
    remove_leftovers,
    replacing,
    write_image,
    write_json,
    write_label,
    write_text,
)


def test_a_file_appears_once_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent  # renaming works within one file system only
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass
    assert not list(tmp_path.iterdir())


def test_an_image_that_cannot_be_saved_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, Image.new("L", (2, 2), 7))
    before = path.read_bytes()
    with pytest.raises(OSError, match="cannot write mode"):
        write_image(path, Image.new("HSV", (2, 2)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_names_are_no_images(tmp_path: Path) -> None:
    """A reader that lists a folder while it is written must not see half of an image."""
    with replacing(tmp_path / "a.png") as temporary:
        assert temporary.name.startswith(".")
        assert temporary.suffix != ".png"
        temporary.touch()


def test_text_and_json_are_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Straße\n")
    assert (tmp_path / "a.txt").read_bytes() == "Straße\n".encode()
    write_json(tmp_path / "a.json", {"miou": 71.5, "none": None, "list": [1, 2]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"miou": 71.5, "none": None, "list": [1, 2]}
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 3


def test_a_label_is_an_indexed_png_of_ids_in_its_colours(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)
    path = tmp_path / "label.png"
    write_label(path, labels, LABEL_MAP)
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), LABEL_MAP.decode(labels))
        np.testing.assert_array_equal(np.array(image.convert("RGB")), LABEL_MAP.colorize(labels))
    assert torch.equal(read_label(path, LABEL_MAP, (2, 3)), torch.from_numpy(labels))


@pytest.mark.parametrize("classes", [[0], [0, 1], [255], [0, 1, 2, 255]])
def test_labels_of_few_classes_are_read_back(tmp_path: Path, classes: list[int]) -> None:
    labels = np.random.default_rng(0).choice(np.array(classes, np.uint8), (13, 17))
    write_label(tmp_path / "label.png", labels, LABEL_MAP)
    assert torch.equal(read_label(tmp_path / "label.png", LABEL_MAP), torch.from_numpy(labels))


def test_what_a_killed_export_has_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    left, others = tmp_path / ".export.0123456789ab.tmp", tmp_path / ".other.0123456789ab.tmp"
    for folder in (left, others):
        (folder / "images").mkdir(parents=True)
    with new_folder(tmp_path / "export") as filling:
        assert not left.exists()
        with new_folder(tmp_path / "export") as other:  # of another process
            (other / "b.txt").touch()
            assert filling.is_dir()
        assert (tmp_path / "export/b.txt").is_file()
        shutil.rmtree(tmp_path / "export")
        (filling / "a.txt").touch()
    assert [path.name for path in sorted(tmp_path.iterdir())] == [others.name, "export"]
    assert (tmp_path / "export/a.txt").is_file()


def test_an_export_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    with new_folder(tmp_path / "export") as folder:
        (folder / "images").mkdir()
        (folder / "images/0.png").touch()
    names = {Path(path).relative_to(tmp_path).parts[1:] for path in synced[:-1]}
    assert names == {(), ("images",), ("images", "0.png")}
    assert synced[-1] == str(tmp_path)


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_synchronise_folders_is_no_error(
    number: int, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, "not here")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="not here") if fails else nullcontext():
        write_text(tmp_path / "a.txt", "a")


@pytest.mark.parametrize("name", [".report.md.0123456789ab.tmp", "report/.a.png.0123456789ab.tmp"])
def test_what_killed_processes_have_left_is_removed(name: str, tmp_path: Path) -> None:
    kept = [tmp_path / ".lock", tmp_path / "report/mine.tmp", tmp_path / ".mine.tmp"]
    for path in (*kept, tmp_path / name):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    remove_leftovers(tmp_path)
    assert not (tmp_path / name).exists()
    assert all(path.is_file() for path in kept)
