import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import LABEL_MAP
from wrp.io.images import read_label
from wrp.io.writing import replacing, write_image, write_json, write_label, write_text


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
