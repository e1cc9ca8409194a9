"""Labels go out in other programs' formats and come back the same; other programs read them; nothing bad comes in."""

from __future__ import annotations

import json
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torchvision
from PIL import Image
from pycocotools.coco import COCO

from tests.clips import make_folder, picture, save
from wrp.cli import main
from wrp.data.labelmaps import read_label_map, write_label_map
from wrp.data.reading import read_image
from wrp.pipeline.exporting import coco, cvat
from wrp.pipeline.exporting.export import FORMATS
from wrp.pipeline.exporting.frames import Export, RunFrame, decode_runs, encode_runs
from wrp.pipeline.exporting.importing import is_changed
from wrp.pipeline.settings import Settings
from wrp.types import DataError, LabelMap
from wrp.writing import write_label

CLASSES = LabelMap(
    ids=(0, 7, 3, 200),
    names=('Fuß & "Rad" <weg>', "sky: high", "汽车", "road"),
    colors=((128, 64, 128), (70, 130, 180), (0, 0, 142), (1, 2, 3)),
)
# One class is black, as the background of masks, so that black cannot be what has no class.
MASKS = LabelMap(ids=(0, 1), names=("background", "object"), colors=((0, 0, 0), (236, 95, 103)))

SIZES = {"walk": (7, 5), "ein Gang": (6, 11)}


def make_run(folder: Path, label_map: LabelMap = CLASSES, count: int = 3) -> Path:
    """What autolabel leaves: the data set in ``root``, of which the first frame has a label, and the run in ``run``."""
    root, run = folder / "root", folder / "run"
    random = np.random.default_rng(0)
    lines = []
    for clip, (height, width) in SIZES.items():
        for i in range(count):
            name = f"{clip}/{i:05d}.png"
            save(root / "frames" / name, picture(i, height, width))
            labels = random.integers(0, label_map.num_classes + 1, (height, width)).astype(np.uint8)
            labels[labels == label_map.num_classes] = 255
            write_label(run / "labels" / name, labels, label_map)
            confidence = random.integers(1, 256, (height, width)) * (labels < 255)
            save(run / "confidence" / name, confidence.astype(np.uint8))
            lines.append(json.dumps({"clip": clip, "frame": f"{i:05d}", "label": f"labels/{name}"}))
        (root / "labels" / clip).mkdir(parents=True)
        shutil.copy(run / "labels" / clip / "00000.png", root / "labels" / clip / "00000.png")
    write_label_map(label_map, root / "classes.yaml")
    (run / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Settings(root=str(root), out=str(run), methods=("motion",)).claim_folder()
    return folder


def unlabelled(folder: Path) -> Path:
    """A copy of the data set with one label, that of a further clip, so that all others are free."""
    other = shutil.copytree(folder / "root", folder / "other")
    shutil.rmtree(other / "labels")
    return other


def ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def everything(folder: Path) -> Path:
    path = folder / "all.txt"
    names = sorted(p.relative_to(folder / "run/labels").with_suffix("") for p in folder.glob("run/labels/*/*.png"))
    path.write_text("\n".join(name.as_posix() for name in names), encoding="utf-8")
    return path


def export(folder: Path, format_name: str, *more: str) -> int:
    return main(["export", str(folder / "run"), "--format", format_name, "--out", str(folder / "out"), *more])


@pytest.mark.parametrize("label_map", [CLASSES, MASKS], ids=["classes", "masks"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_labels_come_back_byte_identical(
    tmp_path: Path, format_name: str, label_map: LabelMap, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path, label_map)
    assert export(folder, format_name) == 0
    other = unlabelled(folder)
    command = ["import", str(folder / "out"), "--format", format_name, "--into", str(other)]
    capsys.readouterr()
    assert main([*command, "--frames", str(everything(folder))]) == 0
    printed = capsys.readouterr().out.split("\n")
    assert sorted(printed[:-1]) == everything(folder).read_text().splitlines()
    written = sorted((folder / "run/labels").rglob("*.png"))
    assert len(written) == 6
    for path in written:
        came = other / "labels" / path.relative_to(folder / "run/labels")
        assert ids(came).tobytes() == ids(path).tobytes()
        assert came.read_bytes() == path.read_bytes()
    assert not list(tmp_path.rglob(".*.tmp"))
    # Nothing was changed: there is nothing to import, and once more is no conflict.
    assert main([*command, "--changed-from", str(folder / "run")]) == 0
    assert main([*command, "--frames", str(everything(folder))]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("format_name", FORMATS)
def test_classes_keep_their_order_names_and_colours(tmp_path: Path, format_name: str) -> None:
    out = make_run(tmp_path) / "out"
    assert export(tmp_path, format_name) == 0
    if format_name == "coco":
        categories = json.loads((out / "annotations/instances_train.json").read_text())["categories"]
        found = [(category["name"], tuple(category["color"])) for category in categories]
        assert [category["id"] for category in categories] == [1, 2, 3, 4]
    elif format_name == "cvat":
        labels = ElementTree.parse(out / "annotations.xml").findall("meta/task/labels/label")
        pairs = [(label.findtext("name"), label.findtext("color")) for label in labels]
        found = [(str(name), tuple(bytes.fromhex(str(color)[1:]))) for name, color in pairs]
        raw = json.loads((out / "labels.json").read_text())
        assert [(label["name"], label["color"]) for label in raw] == pairs
    elif format_name == "cityscapes":
        assert read_label_map(out / "classes.yaml") == CLASSES
        return
    elif format_name == "voc":
        lines = (out / "labelmap.txt").read_text(encoding="utf-8").splitlines()
        assert lines[0] == "background:0,0,0::"
        found = [(line[: line[:-2].rindex(":")], line[:-2].rpartition(":")[2].split(",")) for line in lines[1:]]
        found = [(name, tuple(map(int, color))) for name, color in found]
    else:
        lines = (out / "label_colors.txt").read_text(encoding="utf-8").splitlines()
        assert lines[0] == "0 0 0 background"
        found = [(line.split(" ", 3)[3], tuple(map(int, line.split(" ")[:3]))) for line in lines[1:]]
    assert found == list(zip(CLASSES.names, CLASSES.colors, strict=True))


def test_pycocotools_reads_coco(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert export(tmp_path, "coco") == 0
    data = COCO(str(tmp_path / "out/annotations/instances_train.json"))
    assert len(data.imgs) == 6
    for number, image in data.imgs.items():
        name = image["file_name"]
        assert (tmp_path / "out/images" / name).read_bytes() == (tmp_path / "root/frames" / name).read_bytes()
        values = ids(tmp_path / "run/labels" / name)
        assert (image["height"], image["width"]) == values.shape
        found = np.full_like(values, 255)
        for annotation in data.loadAnns(data.getAnnIds(imgIds=number)):
            mask = data.annToMask(annotation) == 1
            rows, columns = mask.nonzero()
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum()
            found[mask] = CLASSES.ids[CLASSES.names.index(data.cats[annotation["category_id"]]["name"])]
        assert np.array_equal(found, values)


def test_cvat_masks_are_the_runs_in_their_boxes(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert export(tmp_path, "cvat") == 0
    images = ElementTree.parse(tmp_path / "out/annotations.xml").findall("image")
    assert [image.get("id") for image in images] == list("012345")
    for image in images:
        values = ids(tmp_path / "run/labels" / image.attrib["name"])
        found = np.full_like(values, 255)
        for mask in image:
            left, top, width, height = (int(mask.attrib[key]) for key in ("left", "top", "width", "height"))
            pixels = "".join("01"[i % 2] * int(run) for i, run in enumerate(mask.attrib["rle"].split(", ")))
            assert len(pixels) == width * height
            box = np.array(list(pixels)).reshape(height, width) == "1"
            assert all(edge.any() for edge in (box[0], box[-1], box[:, 0], box[:, -1]))
            found[top : top + height, left : left + width][box] = CLASSES.ids[CLASSES.names.index(mask.attrib["label"])]
        assert np.array_equal(found, values)


def test_torchvision_reads_voc(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert export(tmp_path, "voc") == 0
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOCdevkit/VOC2012").symlink_to(tmp_path / "out")
    data = torchvision.datasets.VOCSegmentation(str(tmp_path), "2012", "train")
    assert len(data) == 6
    for i, (image, label) in enumerate(data):
        name = list(SIZES)[::-1][i // 3] + f"/{i % 3:05d}.png"
        values = ids(tmp_path / "run/labels" / name)
        assert np.array_equal(np.array(label), values)
        with Image.open(data.images[i]) as file:
            assert file.format == "JPEG"
        frame = read_image(tmp_path / "root/frames" / name).permute(1, 2, 0).numpy()
        assert np.abs(np.asarray(image, int) - frame).mean() < 30
        colors = CLASSES.colorize(CLASSES.encode(values))
        assert np.array_equal(np.array(label.convert("RGB")), colors)


def test_torchvision_reads_cityscapes(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert export(tmp_path, "cityscapes") == 0
    data = torchvision.datasets.Cityscapes(str(tmp_path / "out"), "train", "fine", ["semantic", "color"])
    assert len(data) == 6
    for path, (image, (semantic, color)) in zip(data.images, data, strict=True):
        name = Path(path).parent.name + "/" + Path(path).name.replace("_leftImg8bit", "")
        values = ids(tmp_path / "run/labels" / name)
        assert np.array_equal(np.array(image), read_image(tmp_path / "root/frames" / name).permute(1, 2, 0))
        assert np.array_equal(np.array(semantic), values)
        assert np.array_equal(np.array(color), CLASSES.colorize(CLASSES.encode(values)))


def test_camvid_lists_its_pairs(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert export(tmp_path, "camvid") == 0
    out = tmp_path / "out"
    lines = (out / "train.txt").read_text().splitlines()
    assert lines[0] == '"/train/ein Gang/00000.png" "trainannot/ein Gang/00000.png"'
    assert lines[3] == "/train/walk/00000.png trainannot/walk/00000.png"
    for line in lines:
        image, label = (part.strip("/ ") for part in (line.split('"')[1::2] or line.split()))
        name = image.removeprefix("train/")
        assert (out / image).read_bytes() == (tmp_path / "root/frames" / name).read_bytes()
        assert np.array_equal(ids(out / label), ids(tmp_path / "run/labels" / name))


def test_unsure_pixels_go_out_unlabelled_and_that_is_no_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path)
    assert export(tmp_path, "cityscapes", "--min-confidence", "0.5") == 0
    path = tmp_path / "out/gtFine/train/walk/00001_gtFine_labelIds.png"
    with Image.open(path) as image:
        found = np.array(image)
    sure = np.array(Image.open(tmp_path / "run/confidence/walk/00001.png")) / 255 >= 0.5
    before = ids(tmp_path / "run/labels/walk/00001.png")
    assert np.array_equal(found, np.where(sure, before, 255))
    command = ["import", str(tmp_path / "out"), "--format", "cityscapes", "--into", str(tmp_path / "root")]
    capsys.readouterr()
    assert main([*command, "--changed-from", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == ""
    found[np.unravel_index(np.argmax(found != 255), found.shape)] = 255  # one more pixel erased, by hand
    save(path, found)
    assert main([*command, "--changed-from", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == "walk/00001\n"


@pytest.mark.parametrize(
    ("labels", "changed"),
    [
        ([0, 1, 255, 2], False),
        ([0, 1, 255, 1], True),  # another class
        ([0, 1, 1, 2], True),  # a class where there was none
        ([255, 255, 255, 2], False),  # the least confident are left out
        ([0, 255, 255, 2], True),  # a more confident one is left out
        ([255, 255, 255, 255], False),
    ],
)
def test_what_counts_as_a_change(labels: list[int], changed: bool) -> None:
    before, confidence = np.array([[0, 1, 255, 2]], np.uint8), np.array([[0.1, 0.2, 0, 0.9]], np.float32)
    assert is_changed(np.array([labels], np.uint8), before, confidence) is changed


def test_images_may_stay_away(tmp_path: Path) -> None:
    make_run(tmp_path)
    for format_name in FORMATS:
        out = tmp_path / format_name
        command = ["export", str(tmp_path / "run"), "--format", format_name, "--images", "none"]
        assert main([*command, "--out", str(out)]) == 0
        assert not [
            path for name in ("images", "JPEGImages", "leftImg8bit", "train") for path in (out / name).rglob("*")
        ]


def test_frames_of_a_video_become_files(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    folder = make_run(tmp_path)
    with av.open(str(tmp_path / "root/frames/film.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for i in range(3):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i, 16, 32), format="rgb24")))
        file.mux(stream.encode(None))
    labels = np.zeros((16, 32), np.uint8)
    for name in ("root/labels/film/1.png", "run/labels/film/000001.png"):
        write_label(tmp_path / name, labels, CLASSES)
    with (tmp_path / "run/manifest.jsonl").open("a") as manifest:
        manifest.write('{"clip": "film", "frame": "000001", "label": "labels/film/000001.png"}\n')
    assert export(folder, "cvat") == 0
    assert Image.open(tmp_path / "out/images/film/000001.png").size == (32, 16)
    # It comes back to the file that has its label already, however that writes the number.
    path = tmp_path / "out/annotations.xml"
    path.write_text(path.read_text().replace('name="film/000001.png"', 'name="film/000001.PNG"'))
    text = path.read_text()
    assert text.count('<mask label="Fuß &amp; &quot;Rad&quot; &lt;weg&gt;"') or "&lt;weg&gt;" in text
    save(tmp_path / "run/confidence/film/000001.png", np.full((16, 32), 255, np.uint8))
    write_label(tmp_path / "run/labels/film/000001.png", labels + 1, CLASSES)
    write_label(tmp_path / "root/labels/film/1.png", labels + 2, CLASSES)
    command = ["import", str(path), "--format", "cvat", "--into", str(tmp_path / "root")]
    assert main([*command, "--changed-from", str(tmp_path / "run"), "--force"]) == 0
    assert [p.name for p in (tmp_path / "root/labels/film").iterdir()] == ["1.png"]
    assert (ids(tmp_path / "root/labels/film/1.png") == 0).all()


def test_archives_are_unpacked(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert export(folder, "voc") == 0
    archive = shutil.make_archive(str(tmp_path / "done"), "zip", tmp_path / "out")
    other = unlabelled(folder)
    command = ["import", archive, "--format", "voc", "--into", str(other), "--frames", str(everything(folder))]
    assert main(command) == 0
    assert len(list((other / "labels").rglob("*.png"))) == 6


def rewrite(folder: Path, format_name: str, change: Callable[[str], str]) -> None:
    """Change the text of the exported file."""
    path = folder / "out" / {"coco": "annotations/instances_train.json", "cvat": "annotations.xml"}[format_name]
    text = path.read_text(encoding="utf-8")
    changed = change(text)
    assert changed != text
    path.write_text(changed, encoding="utf-8")


@pytest.mark.parametrize(
    ("format_name", "old", "new", "message"),
    [
        ("coco", '"name": "road"', '"name": "raod"', "6 frames cannot be imported, so nothing was written"),
        ("coco", '"name": "road"', '"name": "raod"', "there is no class 'raod'; the classes of the data set are Fuß"),
        ("coco", '"size": [7, 5]', '"size": [5, 7]', "3 frames cannot be imported"),
        ("coco", '"size": [7, 5]', '"size": [5, 7]', "walk/00000: the label is 7×5 pixels, its frame is 5×7"),
        ("coco", "walk/00001.png", "walk/00009.png", "1 frames cannot be imported"),
        ("coco", "walk/00001.png", "../../../evil.png", "leads out of its folder"),
        ("coco", "walk/00001.png", "/evil.png", "leads out of its folder"),
        ("coco", "walk/00001.png", "walk/00002.png", "walk/00002: its label comes twice"),
        ("coco", '"categories"', '"kinds"', "is damaged, or of another format: KeyError"),
        ("coco", '"counts": "', '"counts": "0', "is damaged"),
        ("coco", '"category_id": 4', '"category_id": 5', "is damaged"),
        ("coco", '{"size": [7, 5]', '[], "x": {"size": [7, 5]', "given as polygons"),
        ("cvat", 'label="road"', 'label="raod"', "there is no class 'raod'"),
        ("cvat", 'width="5" height="7"', 'width="7" height="5"', "the label is 7×5 pixels, its frame is 5×7"),
        ("cvat", "walk/00001.png", "../../evil.png", "leads out of its folder"),
        ("cvat", 'left="0"', 'left="4"', "lies outside of the frame"),
        ("cvat", 'left="0"', 'left="-1"', "lies outside of the frame"),
        ("cvat", 'rle="', 'rle="1, ', "has runs of"),
        ("cvat", 'rle="', 'rle="a, ', "is damaged"),
        ("cvat", "<mask ", "<polygon ", "is damaged"),
        ("cvat", "</annotations>", "", "is damaged"),
    ],
)
def test_what_cannot_be_imported_is_told_and_nothing_written(
    tmp_path: Path, format_name: str, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path)
    assert export(folder, format_name) == 0
    rewrite(folder, format_name, lambda text: text.replace(old, new))
    before = sorted(tmp_path.rglob("*"))
    run = str(folder / "run")
    command = ["import", str(folder / "out"), "--format", format_name, "--into", str(folder / "root")]
    assert main([*command, "--changed-from", run]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_shapes_that_are_no_masks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path)
    assert export(folder, "cvat") == 0
    rewrite(
        folder, "cvat", lambda text: text.replace("</image>", '<polygon label="road" points="1,1;2,2"/></image>', 1)
    )
    command = ["import", str(folder / "out"), "--format", "cvat", "--into", str(folder / "root")]
    assert main([*command, "--changed-from", str(folder / "run")]) == 2
    assert "1 frames cannot be imported" in (error := capsys.readouterr().err)
    assert "shapes that are no masks (polygon)" in error


def test_overlapping_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CVAT's have an order, COCO's have none."""
    folder = make_run(tmp_path)
    frames = tmp_path / "one.txt"
    frames.write_text("walk/00001")
    assert export(folder, "cvat") == 0
    cover = '<mask label="road" rle="0, 35" left="0" top="0" width="5" height="7" z_order="{}"/>'
    for order, number in ((1, 200), (-1, None)):
        other = folder / f"root{order}"
        shutil.copytree(folder / "root", other)
        text = (folder / "out/annotations.xml").read_text()
        head, name, tail = text.partition('name="walk/00001.png" width="5" height="7">')
        (folder / "changed.xml").write_text(head + name + cover.format(order) + tail)
        command = ["import", str(folder / "changed.xml"), "--format", "cvat", "--into", str(other)]
        assert main([*command, "--frames", str(frames)]) == 0
        found = ids(other / "labels/walk/00001.png")
        before = ids(folder / "run/labels/walk/00001.png")
        assert np.array_equal(found, np.full_like(found, 200) if number else np.where(before == 255, 200, before))
    shutil.rmtree(folder / "out")
    assert export(folder, "coco") == 0
    content = json.loads((folder / "out/annotations/instances_train.json").read_text())
    image = next(image["id"] for image in content["images"] if image["file_name"] == "walk/00001.png")
    segmentation = {"size": [7, 5], "counts": [0, 35]}
    content["annotations"].append({"id": 99, "image_id": image, "category_id": 4, "segmentation": segmentation})
    (folder / "changed.json").write_text(json.dumps(content))
    command = ["import", str(folder / "changed.json"), "--format", "coco", "--into", str(folder / "root")]
    assert main([*command, "--frames", str(frames)]) == 2
    assert "walk/00001: masks of different classes overlap" in capsys.readouterr().err


def test_uncompressed_masks_of_coco_are_read_by_columns(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert export(folder, "coco") == 0
    path = folder / "out/annotations/instances_train.json"
    content = json.loads(path.read_text())
    number = content["images"][-1]["id"]
    content["annotations"] = [
        {"image_id": number, "category_id": 3, "segmentation": {"size": [7, 5], "counts": [1, 8, 26]}}
    ]
    path.write_text(json.dumps(content))
    (tmp_path / "one.txt").write_text("walk/00002")
    command = ["import", str(path), "--format", "coco", "--into", str(folder / "root")]
    assert main([*command, "--frames", str(tmp_path / "one.txt")]) == 0
    expected = np.full((7, 5), 255)
    expected[1:7, 0] = expected[:2, 1] = 3
    assert np.array_equal(ids(folder / "root/labels/walk/00002.png"), expected)


def test_masks_of_coco_that_are_too_short_hold_no_chance_pixels() -> None:
    """pycocotools leaves what a mask does not say as it was in memory."""
    for _ in range(50):
        dirt = [np.full((50, 40), 255, np.uint8) for _ in range(20)]
        del dirt
        try:
            mask = coco._decode_mask({"size": [50, 40], "counts": "55"}, (50, 40))  # five out, five in, and no more
        except DataError:
            continue
        assert mask.T.ravel().nonzero()[0].tolist() == [5, 6, 7, 8, 9]


def test_a_label_that_is_there_is_replaced_by_force_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path)
    assert export(folder, "voc") == 0
    given = folder / "root/labels/walk/00000.png"
    write_label(given, np.zeros((7, 5), np.uint8), CLASSES)
    before = given.read_bytes()
    (tmp_path / "two.txt").write_text("walk/00000\nwalk/00001\n")
    command = ["import", str(folder / "out"), "--format", "voc", "--into", str(folder / "root")]
    command += ["--frames", str(tmp_path / "two.txt")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "1 frames cannot be imported, so nothing was written: walk/00000: it has another label already" in error
    assert given.read_bytes() == before
    assert not (folder / "root/labels/walk/00001.png").exists()
    assert main([*command, "--force"]) == 0
    assert given.read_bytes() == (folder / "run/labels/walk/00000.png").read_bytes()
    assert capsys.readouterr().out == "walk/00000\nwalk/00001\n"


def test_unknown_colours_and_frames_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path)
    assert export(folder, "camvid") == 0
    for i in range(2):
        save(folder / f"out/trainannot/walk/{i:05d}.png", np.full((7, 5, 3), 9, np.uint8))
    save(folder / "out/trainannot/strange/00000.png", np.zeros((7, 5, 3), np.uint8))
    command = ["import", str(folder / "out"), "--format", "camvid", "--into", str(folder / "root")]
    assert main([*command, "--changed-from", str(folder / "run")]) == 2
    error = capsys.readouterr().err
    assert "3 frames cannot be imported" in error
    assert "strange/00000: there is no such frame" in error
    assert "(9, 9, 9) (35 pixels)" in error
    # With a list, only what it names has to be right.
    (tmp_path / "one.txt").write_text("walk/00002")
    assert main([*command, "--frames", str(tmp_path / "one.txt")]) == 0
    (tmp_path / "one.txt").write_text("walk/00007")
    assert main([*command, "--frames", str(tmp_path / "one.txt")]) == 2
    assert "walk/00007: it has no label there" in capsys.readouterr().err


def test_colours_may_be_written_as_rgb_and_classes_in_another_order(tmp_path: Path) -> None:
    """As CVAT and datumaro write them back."""
    folder = make_run(tmp_path)
    assert export(folder, "voc") == 0
    entries = (folder / "out/labelmap.txt").read_text(encoding="utf-8").splitlines()
    (folder / "out/labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(sorted(entries)))
    for path in (folder / "out/SegmentationClass").rglob("*.png"):
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        rgb.save(path)
    other = unlabelled(folder)
    command = ["import", str(folder / "out"), "--format", "voc", "--into", str(other)]
    assert main([*command, "--frames", str(everything(folder))]) == 0
    for path in (folder / "run/labels").rglob("*.png"):
        assert np.array_equal(ids(other / "labels" / path.relative_to(folder / "run/labels")), ids(path))


@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "SegmentationClass/../../evil.png", "..\\evil.png"])
def test_archives_that_lead_out_are_refused(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, b"")
    command = ["import", str(tmp_path / "evil.zip"), "--format", "voc", "--into", str(tmp_path / "root")]
    assert main([*command, "--changed-from", str(tmp_path / "run")]) == 2
    assert "leads out of the archive" in capsys.readouterr().err
    assert not list(tmp_path.rglob("evil.png"))


def test_damaged_archives_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path)
    assert export(tmp_path, "cvat") == 0
    archive = Path(shutil.make_archive(str(tmp_path / "done"), "zip", tmp_path / "out"))
    content = bytearray(archive.read_bytes())
    content[60:90] = bytes(30)
    archive.write_bytes(content)
    command = ["import", str(archive), "--format", "cvat", "--into", str(tmp_path / "root")]
    assert main([*command, "--changed-from", str(tmp_path / "run")]) == 2
    assert "done.zip cannot be unpacked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("label_map", "format_name", "message"),
    [
        (replace(CLASSES, colors=((1, 1, 1), (1, 1, 1), (2, 2, 2), (3, 3, 3))), "voc", "share the colour (1, 1, 1)"),
        (replace(CLASSES, names=("a", " b", "c", "d")), "camvid", "the class name ' b' cannot be written into"),
        (replace(CLASSES, names=("a", "b", "#c", "d")), "voc", "the class name '#c' cannot be written into"),
        (replace(CLASSES, names=("background", "void", "unlabelled", "d")), "voc", "needs one of the names background"),
    ],
)
def test_classes_that_a_format_cannot_hold_are_refused(
    tmp_path: Path, label_map: LabelMap, format_name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, label_map)
    assert export(tmp_path, format_name) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))
    assert export(tmp_path, "coco") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "run", "--format", "yolo", "--out", "out"], "unknown format 'yolo', expected one of coco, cvat"),
        (["export", "root", "--format", "voc", "--out", "out"], "expected the output of `wrp autolabel`"),
        (["export", "run", "--format", "voc", "--out", "root"], "root is there already"),
        (["export", "run", "--format", "voc", "--out", "out", "--min-confidence", "2"], "must be in 0 … 1, got 2.0"),
        (["import", "nothing", "--format", "voc", "--into", "root", "--changed-from", "run"], "there is no nothing"),
        (
            ["import", "root", "--format", "voc", "--into", "root", "--changed-from", "run"],
            "no folder root/Seg",
        ),
        (["import", "root", "--format", "camvid", "--into", "root", "--changed-from", "run"], "no folder such as"),
        (["import", "root", "--format", "cityscapes", "--into", "root", "--changed-from", "run"], "holds no labels"),
        (["import", "root", "--format", "coco", "--into", "root", "--changed-from", "run"], "holds 0 JSON files"),
        (["import", "root", "--format", "cvat", "--into", "root", "--changed-from", "run"], "cannot be read"),
        (["import", "root", "--format", "cvat", "--into", "root"], "one of the arguments --frames --changed-from"),
        (["import", "root", "--format", "cvat", "--into", "run", "--changed-from", "run"], "does not have the layout"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_finished_gives_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path)
    manifest = tmp_path / "run/manifest.jsonl"
    manifest.write_text("".join(manifest.read_text().splitlines(True)[:2]))
    assert export(tmp_path, "coco") == 0
    assert capsys.readouterr().out == f"2 labels: {tmp_path / 'out'}\n"
    manifest.write_text("")
    assert main(["export", str(tmp_path / "run"), "--format", "coco", "--out", "none"]) == 2
    assert "holds no labels" in capsys.readouterr().err


def test_a_failing_export_leaves_nothing(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "run/labels/walk/00002.png").write_bytes(b"")
    assert export(tmp_path, "voc") == 2
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("seed", range(5))
def test_runs(seed: int) -> None:
    mask = np.random.default_rng(seed).random((7, 5)) < [0.5, 0.01, 0.99, 0, 1][seed]
    runs = encode_runs(mask)
    assert (runs[1:] > 0).all()
    assert np.array_equal(decode_runs(runs, 7, 5), mask)
    with pytest.raises(DataError, match="has runs of"):
        decode_runs(runs, 7, 6)


@pytest.mark.parametrize("chosen", [coco, cvat])
def test_memory_does_not_grow_with_the_frames(tmp_path: Path, chosen: object) -> None:
    folder = make_run(tmp_path)
    label = folder / "run/labels/walk/00000.png"

    def peak(count: int) -> int:
        frames = tuple(RunFrame("walk", f"{i:05d}", folder, label, folder) for i in range(count))
        out = tmp_path / f"out{count}"
        out.mkdir()
        tracemalloc.start()
        chosen.write(Export(CLASSES, frames, images=False), out)  # type: ignore[attr-defined]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(20)  # what is imported and cached once
    assert peak(1000) - peak(200) < 50_000  # bytes, of some 600 kB that are written


def test_the_loop_of_correcting_and_propagating(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 7}, labelled=(0, 6))
    autolabel = ["autolabel", str(root), "--methods", "motion", "--out"]
    assert main([*autolabel, "first"]) == 0
    assert main(["export", "first", "--format", "cvat", "--out", "out"]) == 0
    # An annotator paints a car over the upper left of one frame.
    path = Path("out/annotations.xml")
    head, name, tail = path.read_text().partition('name="walk/00003.png" width="40" height="24">')
    car = '<mask label="car" rle="0, 80" left="0" top="0" width="8" height="10" z_order="1"/>'
    path.write_text(head + name + car + tail)
    capsys.readouterr()
    command = ["import", "out", "--format", "cvat", "--into", str(root), "--changed-from", "first"]
    assert main(command) == 0
    assert capsys.readouterr().out == "walk/00003\n"
    corrected = ids(root / "labels/walk/00003.png")
    assert (corrected[:10, :8] == 7).all()
    assert np.array_equal(corrected[10:], ids(Path("first/labels/walk/00003.png"))[10:])
    assert main([*autolabel, "second"]) == 0
    entries = [json.loads(line) for line in Path("second/manifest.jsonl").read_text().splitlines()]
    assert [entry["frame"] for entry in entries if entry["method"] == "anchor"] == ["00000", "00003", "00006"]
    assert entries[2]["anchors"] == [0, 3]
    assert np.array_equal(ids(Path("second/labels/walk/00003.png")), corrected)
    assert (ids(Path("second/labels/walk/00002.png"))[:8, 2:8] == 7).mean() > 0.5
