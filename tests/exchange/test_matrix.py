"""What each format keeps of labels, found by writing and reading them; the table stands in docs/correct.md.

``python -m tests.exchange.test_matrix`` writes the table; it needs the extra ``parquet``.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

import wrp
from tests.clips import make_video, picture, save
from tests.exports import everything, export, ids, make_run, unlabelled
from wrp.cli.main import main
from wrp.exchange.brush import encode_brush
from wrp.exchange.export import FORMATS, WRITTEN_ONLY
from wrp.io.label_map import read_label_map
from wrp.io.writing import write_label
from wrp.structures import LabelMap

PAGE = Path(wrp.__file__).parent.parent / "docs" / "correct.md"
BEGIN, END = "<!-- matrix: python -m tests.exchange.test_matrix -->\n", "\n\n<!-- end -->"

CLASSES = LabelMap(
    ids=(0, 7, 3, 200, 9),
    names=('Fuß & "Rad" <weg>', "sky: high", "汽车", "road", "empty"),
    colors=((128, 64, 128), (70, 130, 180), (0, 0, 142), (1, 2, 3), (9, 9, 9)),
)
CLIP, THIN = "ein Gäng v1.0", "ein Gäng v1.0/00001.png"
COLUMNS = ("exact", "ids", "names", "colours", "unlabelled", "overlap", "empty class", "thin class", "video clip")

Rows = list[tuple[str, tuple[int, ...] | None]]
"""Names and colours of the classes as a format lists them."""


@dataclass(frozen=True)
class Look:
    """How to look into what a format has written.

    Attributes:
        classes: Returns its list of classes.
        values: Its files of label values (glob), if it has such.
        cover: Paints class 3 over the whole of walk/00000 in addition; None where a pixel can have one class only.
        ids: Returns the ids (H, W) uint8 of each frame, of a format that `wrp import` does not read.
    """

    classes: Callable[[Path], Rows]
    values: str = ""
    cover: Callable[[Path], None] | None = None
    ids: Callable[[Path], dict[str, np.ndarray]] | None = None


def by_line(path: Path, parse: Callable[[str], tuple[str, tuple[int, ...]]]) -> Rows:
    """The classes of a list whose line numbers are the ids."""
    lines = [parse(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [lines[id_] for id_ in CLASSES.ids]


def voc_classes(out: Path) -> Rows:
    def parse(line: str) -> tuple[str, tuple[int, ...]]:
        name, color, _, _ = line.rsplit(":", 3)
        return name, tuple(map(int, color.split(",")))

    return by_line(out / "labelmap.txt", parse)


def camvid_classes(out: Path) -> Rows:
    return by_line(
        out / "label_colors.txt", lambda line: (line.split(" ", 3)[3], tuple(map(int, line.split(" ", 3)[:3])))
    )


def listed_classes(out: Path) -> Rows:
    found = read_label_map(out / "classes.yaml")
    return list(zip(found.names, found.colors, strict=True))


def cvat_classes(out: Path) -> Rows:
    labels = ElementTree.parse(out / "annotations.xml").findall("meta/task/labels/label")
    pairs = [(str(label.findtext("name")), str(label.findtext("color"))) for label in labels]
    raw = json.loads((out / "labels.json").read_text(encoding="utf-8"))
    assert [(label["name"], label["color"]) for label in raw] == pairs
    return [(name, tuple(bytes.fromhex(color[1:]))) for name, color in pairs]


def cover_cvat(out: Path) -> None:
    path = out / "annotations.xml"
    head, name, tail = path.read_text(encoding="utf-8").partition('name="walk/00000.png" width="5" height="7">')
    mask = '<mask label="road" rle="0, 35" left="0" top="0" width="5" height="7" z_order="1"/>'
    path.write_text(head + name + mask + tail, encoding="utf-8")


def cover_cvat_video(out: Path) -> None:
    path = out / "walk/annotations.xml"
    mask = '<mask frame="0" keyframe="1" outside="0" rle="0, 35" left="0" top="0" width="5" height="7" z_order="1"/>'
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("</annotations>", f'<track id="9" label="road">{mask}</track></annotations>'), "utf-8")


def coco_classes(out: Path) -> Rows:
    categories = json.loads((out / "annotations/instances_train.json").read_text(encoding="utf-8"))["categories"]
    assert [category["id"] for category in categories] == list(range(1, 1 + CLASSES.num_classes))
    return [(category["name"], tuple(category["color"])) for category in categories]


def panoptic_classes(out: Path) -> Rows:
    categories = json.loads((out / "annotations/panoptic_train.json").read_text(encoding="utf-8"))["categories"]
    return [(category["name"], tuple(category["color"])) for category in categories]


def cover_coco(out: Path) -> None:
    path = out / "annotations/instances_train.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    image = next(image["id"] for image in content["images"] if image["file_name"] == "walk/00000.png")
    mask = {"size": [7, 5], "counts": [0, 35]}
    content["annotations"].append({"id": 99, "image_id": image, "category_id": 4, "segmentation": mask})
    path.write_text(json.dumps(content), encoding="utf-8")


def label_studio_classes(out: Path) -> Rows:
    labels = ElementTree.parse(out / "labeling.xml").findall("BrushLabels/Label")
    return [(label.attrib["value"], tuple(bytes.fromhex(label.attrib["background"][1:]))) for label in labels]


def cover_label_studio(out: Path) -> None:
    path = out / "tasks.json"
    tasks = json.loads(path.read_text(encoding="utf-8"))
    regions = next(task for task in tasks if "walk/00000" in task["data"]["image"])["predictions"][0]["result"]
    regions.append({**regions[0], "value": {"rle": encode_brush(np.ones((7, 5), bool)), "brushlabels": ["road"]}})
    path.write_text(json.dumps(tasks), encoding="utf-8")


def labelme_classes(out: Path) -> Rows:
    return [(name, None) for name in (out / "labels.txt").read_text(encoding="utf-8").splitlines()]


def cover_labelme(out: Path) -> None:
    path = out / "walk/00000.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["shapes"].append({"label": "road", "points": [[0, 0], [5, 7]], "shape_type": "rectangle"})
    path.write_text(json.dumps(content), encoding="utf-8")


def yolo_classes(out: Path) -> Rows:
    names = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))["names"]
    return [(names[number], None) for number in range(len(names))]


def cover_yolo(out: Path) -> None:
    with (out / "labels/train/walk/00000.txt").open("a", encoding="utf-8") as file:
        file.write("3 0 0 1 0 1 1 0 1\n")


def ids_in_shards(out: Path) -> dict[str, np.ndarray]:
    found = {}
    with tarfile.open(out / "train-000000.tar") as archive:
        files = {member.name: (archive.extractfile(member) or io.BytesIO()).read() for member in archive}
    for name, content in files.items():
        if name.endswith(".json"):
            about = json.loads(content)
            found[f"{about['clip']}/{about['frame']}.png"] = in_picture(files[name.replace(".json", ".label.png")])
    return found


def ids_in_parquet(out: Path) -> dict[str, np.ndarray]:
    from pyarrow import parquet

    rows = parquet.read_table(out / "data/train-00000.parquet").to_pylist()
    return {f"{row['clip']}/{row['frame']}.png": in_picture(row["label"]["bytes"]) for row in rows}


def in_picture(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "P"
        return np.array(image)


LOOKS = {
    "coco": Look(coco_classes, cover=cover_coco),
    "coco-panoptic": Look(panoptic_classes),
    "cvat": Look(cvat_classes, cover=cover_cvat),
    "cvat-video": Look(lambda out: cvat_classes(out / "film"), cover=cover_cvat_video),
    "label-studio": Look(label_studio_classes, cover=cover_label_studio),
    "labelme": Look(labelme_classes, cover=cover_labelme),
    "yolo-seg": Look(yolo_classes, cover=cover_yolo),
    "cityscapes": Look(listed_classes, "gtFine/train/*/*_labelIds.png"),
    "voc": Look(voc_classes, "SegmentationClass/*/*.png"),
    "camvid": Look(camvid_classes, "trainannot/*/*.png"),
    "webdataset": Look(listed_classes, ids=ids_in_shards),
    "parquet": Look(listed_classes, ids=ids_in_parquet),
}


def make_everything(folder: Path) -> Path:
    """A run with classes in another order than their ids, odd names, an empty class, thin classes, and a video."""
    make_run(folder, CLASSES, count=2, sizes={"walk": (7, 5), CLIP: (16, 24)})
    random = np.random.default_rng(1)
    for path in folder.glob("run/labels/*/*.png"):
        labels = random.integers(0, 5, ids(path).shape).astype(np.uint8)
        labels[labels == 4] = 255
        if path == folder / "run/labels" / THIN:
            labels[:] = 0
            np.fill_diagonal(labels, 1)
            labels[2, 10] = 2
            labels[3:12, 14:23] = 3
            labels[4:11, 15:22] = 255
            labels[6, 17:20] = 2
        write_label(path, labels, CLASSES)
    shutil.copy(folder / "run/labels" / CLIP / "00000.png", folder / "root/labels" / CLIP)
    shutil.copy(folder / "run/labels/walk/00000.png", folder / "root/labels/walk")
    make_video(folder / "root/frames/film.mp4", [picture(i, 16, 32) for i in range(3)])
    film = random.integers(0, 4, (16, 32)).astype(np.uint8)
    for name in ("root/labels/film/000000.png", "run/labels/film/000001.png"):
        write_label(folder / name, film, CLASSES)
    save(folder / "run/confidence/film/000001.png", np.full((16, 32), 255, np.uint8))
    entry = {"clip": "film", "frame": "000001", "index": 1, "label": "labels/film/000001.png", "method": "motion"}
    with (folder / "run/manifest.jsonl").open("a", encoding="utf-8") as manifest:
        manifest.write(
            json.dumps(entry | {"schema": 2, "keyframes": [0], "distance": 1, "mean_confidence": 1.0}) + "\n"
        )
    return folder


def bring(folder: Path, format_name: str, out: Path, other: Path, frames: Path) -> int:
    return main(["import", str(out), "--format", format_name, "--into", str(other), "--frames", str(frames)])


def agreement(before: np.ndarray, after: np.ndarray) -> float:
    """The least IoU of a class, in percent."""
    values = np.unique(before)
    return min(100 * ((before == v) & (after == v)).sum() / ((before == v) | (after == v)).sum() for v in values)


def answer(pairs: list[tuple[np.ndarray, np.ndarray]]) -> str:
    least = min(agreement(before, after) for before, after in pairs)
    return "yes" if least == 100 else f"IoU ≥ {int(least)} %"


def overlapping(folder: Path, format_name: str, look: Look) -> str:
    """What becomes of pixels that are of two classes."""
    if look.cover is None:
        return "–"
    look.cover(folder / "out")
    other = unlabelled(folder)
    (folder / "one.txt").write_text("walk/00000", encoding="utf-8")
    if bring(folder, format_name, folder / "out", other, folder / "one.txt"):
        return "refused"
    before, after = ids(folder / "run/labels/walk/00000.png"), ids(other / "labels/walk/00000.png")
    if (after == 200).all():
        return "the upper one"
    assert np.array_equal(after, np.where((before == 255) | (before == 200), 200, 255))
    return "unlabelled"


def before_and_after(
    folder: Path, format_name: str, read: Callable[[Path], dict[str, np.ndarray]] | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The ids of the run and those that come back, by the names of the files in the run."""
    names = [path.relative_to(folder / "run/labels").as_posix() for path in folder.glob("run/labels/*/*.png")]
    if read is not None:
        found = read(folder / "out")
        assert sorted(found) == sorted(names)
        return {name: (ids(folder / "run/labels" / name), found[name]) for name in sorted(names)}
    other = unlabelled(folder)
    assert bring(folder, format_name, folder / "out", other, everything(folder)) == 0
    pairs = {name: (ids(folder / "run/labels" / name), ids(other / "labels" / name)) for name in sorted(names)}
    shutil.rmtree(other)
    return pairs


def row(folder: Path, format_name: str) -> dict[str, str]:
    """The row of a format."""
    look, out = LOOKS[format_name], folder / "out"
    assert export(folder, format_name) == 0
    classes = look.classes(out)
    assert [name for name, _ in classes] == list(CLASSES.names)
    colors = [color for _, color in classes]
    assert colors == list(CLASSES.colors) or not any(colors)
    if look.values:
        paths = sorted(out.glob(look.values))
        assert len(paths) == 5
        assert {value for path in paths for value in np.unique(Image.open(path))} == {0, 3, 7, 200, 255}
    pairs = before_and_after(folder, format_name, look.ids)
    blank = [(before == 255, after == 255) for before, after in pairs.values()]
    return {
        "exact": answer([pair for name, pair in pairs.items() if name != THIN]),
        "ids": "in its files" if look.values or look.ids else "by name",
        "names": "yes",
        "colours": "yes" if any(colors) else "no",
        "unlabelled": answer(blank),
        "overlap": overlapping(folder, format_name, look),
        "empty class": "yes",
        "thin class": answer([pairs[THIN]]),
        "video clip": answer([pairs["film/000001.png"]]),
    }


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, str]]]:
    made = {}
    for name in LOOKS:
        if name != "parquet" or importlib.util.find_spec("pyarrow"):
            made[name] = row(make_everything(tmp_path_factory.mktemp(name)), name)
    return made


MANY = LabelMap(
    tuple(range(254)),
    tuple(f"{('Straße', 'a.b c', '汽车', 'car (parked)')[i % 4]} {i}" for i in range(254)),
    tuple((i, 255 - i, i // 2) for i in range(254)),
)
STEMS = ("00.01 ä", "a.png", "v w", "x#y%20z&q?")
CLIPS = {"Gäng 1.5 (früh)_leftImg8bit.x": (15, 17)}


@pytest.mark.parametrize("format_name", LOOKS)
def test_odd_names_and_254_classes(tmp_path: Path, format_name: str) -> None:
    """All that a label can have, in frames and clips whose names have spaces, umlauts, dots and what URLs escape."""
    if format_name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    make_run(tmp_path, MANY, sizes=CLIPS, stems=STEMS)
    for path in tmp_path.glob("run/labels/*/*.png"):
        values = np.arange(ids(path).size).reshape(ids(path).shape) % 255
        write_label(path, np.where(values == 254, 255, values).astype(np.uint8), MANY)
    assert export(tmp_path, format_name) == 0
    pairs = before_and_after(tmp_path, format_name, LOOKS[format_name].ids)
    assert len(pairs) == 4
    assert all(np.array_equal(before, after) for before, after in pairs.values())
    assert all(len(np.unique(before)) == 255 for before, _ in pairs.values())


def table(found: dict[str, dict[str, str]]) -> str:
    lines = [["format", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    lines += [[f"`{name}`", *(cells[column] for column in COLUMNS)] for name, cells in found.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def documented() -> dict[str, dict[str, str]]:
    """The table in the documentation."""
    lines = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].splitlines()
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {cells[0].strip("`"): dict(zip(split[0][1:], cells[1:], strict=True)) for cells in split[2:]}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("format_name", LOOKS)
def test_what_a_format_keeps(rows: dict[str, dict[str, str]], format_name: str, column: str) -> None:
    if format_name not in rows:
        pytest.skip("pyarrow is not installed")
    assert rows[format_name][column] == documented()[format_name][column]


def test_the_documentation_has_every_format_and_property() -> None:
    formats = [*FORMATS, *WRITTEN_ONLY]
    assert {name: tuple(cells) for name, cells in documented().items()} == dict.fromkeys(formats, COLUMNS)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = {name: row(make_everything(Path(folder, name)), name) for name in LOOKS}
    before, _, after = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(made) + END + after.split(END, 1)[1], encoding="utf-8")
