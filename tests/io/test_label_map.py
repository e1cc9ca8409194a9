from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import CLASSES_YAML, LABEL_MAP
from wrp.errors import DataError
from wrp.io.label_map import EXAMPLE, encode_colors, map_from_palettes, read_label_map, write_label_map
from wrp.structures import LabelMap


def written(folder: Path, text: str) -> Path:
    path = folder / "classes.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_classes_are_read(tmp_path: Path) -> None:
    assert read_label_map(written(tmp_path, CLASSES_YAML)) == LABEL_MAP


def test_the_example_of_the_message_can_be_read(tmp_path: Path) -> None:
    label_map = read_label_map(written(tmp_path, EXAMPLE))
    assert label_map.names == ("road", "car")
    assert label_map.ignore == (255,)


def test_ignore_may_be_left_out_or_one_value(tmp_path: Path) -> None:
    classes = "classes: [{id: 1, name: a, color: [0, 0, 0]}]"
    assert read_label_map(written(tmp_path, classes)).ignore == (255,)
    assert read_label_map(written(tmp_path, f"ignore: 0\n{classes}")).ignore == (0,)


def test_what_was_written_is_read_back_with_255_for_unlabelled(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    write_label_map(LABEL_MAP, path)
    again = read_label_map(path)
    assert (again.ids, again.names, again.colors) == (LABEL_MAP.ids, LABEL_MAP.names, LABEL_MAP.colors)
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    np.testing.assert_array_equal(again.encode(LABEL_MAP.decode(labels)), labels)


def test_names_of_other_alphabets_survive(tmp_path: Path) -> None:
    path = written(tmp_path, "classes: [{id: 0, name: Straße, color: [1, 2, 3]}, {id: 1, name: 木, color: [1, 2, 3]}]")
    label_map = read_label_map(path)
    write_label_map(label_map, path)
    assert read_label_map(path).names == ("Straße", "木")


def test_a_missing_file_is_named_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"there is no {tmp_path / 'classes.yaml'}.*for example") as error:
        read_label_map(tmp_path / "classes.yaml")
    assert EXAMPLE in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "classes: 3",
        "classes: [1, 2]",
        "classes: [{id: 0, color: [0, 0, 0]}]",
        "classes: [{id: 0, name: a, color: [0, 0]}]",
        "classes: [{id: 0, name: a, color: [0, 0, 256]}]",
        "classes: [{id: 0, name: a, color: red}]",
        "classes: [{id: 0, name: a, color: [0, 0, 0]",
        "classes: []",
        "classes: [{id: zero, name: a, color: [0, 0, 0]}]",
        "classes: [{id: 1.5, name: a, color: [0, 0, 0]}]",
        "classes: [{id: 256, name: a, color: [0, 0, 0]}]",
        "classes: [{id: -1, name: a, color: [0, 0, 0]}]",
        "classes: [{id: 0, name: a, color: [0, 0, 0]}, {id: 0, name: b, color: [0, 0, 0]}]",
        "classes: [{id: 0, name: a, color: [0, 0, 0]}, {id: 1, name: a, color: [0, 0, 0]}]",
        "ignore: 0\nclasses: [{id: 0, name: a, color: [0, 0, 0]}]",
        "ignore: none\nclasses: [{id: 0, name: a, color: [0, 0, 0]}]",
    ],
)
def test_a_file_that_says_something_else_is_named(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DataError, match=str(path)):
        read_label_map(path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match=str(path)):
        read_label_map(path)


def test_other_values_and_colours_of_a_class_are_read(tmp_path: Path) -> None:
    text = """
classes:
  - {id: 0, name: road, color: [128, 64, 128], also: [9], also_colors: [[0, 0, 70], [1, 2, 3]]}
  - {id: 4, name: car, color: [0, 0, 142]}
"""
    (tmp_path / "classes.yaml").write_text(text)
    found = read_label_map(tmp_path / "classes.yaml")
    assert found.encode(np.array([[0, 9, 4, 255]], np.uint8)).tolist() == [[0, 0, 1, 255]]
    colors = np.array([[[128, 64, 128], [1, 2, 3], [0, 0, 142], [0, 0, 0]]], np.uint8)
    assert encode_colors(found, colors).tolist() == [[0, 0, 1, 255]]
    colors[0, 3] = (7, 7, 7)
    with pytest.raises(DataError, match=r"1 colours without a class: \(7, 7, 7\) \(1 pixels\)"):
        encode_colors(found, colors)


def test_black_may_be_a_class() -> None:
    found = LabelMap((0, 1), ("background", "thing"), ((0, 0, 0), (9, 9, 9)))
    assert encode_colors(found, np.array([[[0, 0, 0], [9, 9, 9]]], np.uint8)).tolist() == [[0, 1]]


def test_classes_of_one_colour_cannot_be_read_from_colours() -> None:
    found = LabelMap((0, 1), ("a", "b"), ((1, 1, 1), (1, 1, 1)))
    with pytest.raises(DataError, match="the same colour"):
        encode_colors(found, np.zeros((1, 1, 3), np.uint8))


def indexed(path: Path, values: list[int], palette: list[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array([values], np.uint8))
    image.putpalette(palette)
    image.save(path)
    return path


def test_indexed_labels_make_their_own_classes(tmp_path: Path) -> None:
    palette = [10, 10, 10, 20, 20, 20, 30, 30, 30, 40, 40, 40]
    first = indexed(tmp_path / "0.png", [0, 2, 255], palette)
    second = indexed(tmp_path / "1.png", [3, 2, 2], palette)
    found = map_from_palettes([first, second])
    assert found.ids == (0, 2, 3)
    assert found.names == ("class 0", "class 2", "class 3")
    assert found.colors == ((10, 10, 10), (30, 30, 30), (40, 40, 40))
    with pytest.raises(DataError, match="gives the value 2 another colour"):
        map_from_palettes([first, indexed(tmp_path / "2.png", [2], [9] * 9)])
    with pytest.raises(DataError, match="no label that holds a class"):
        map_from_palettes([])
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"is no indexed PNG \(mode 'L'\).*classes\.yaml"):
        map_from_palettes([tmp_path / "grey.png"])
