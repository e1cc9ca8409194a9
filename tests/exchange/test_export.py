"""Labels go out in other programs' formats and come back the same; other programs read them."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import torchvision
from PIL import Image
from pycocotools.coco import COCO

from tests.clips import picture, save
from tests.exports import CLASSES, MASKS, SIZES, everything, export, ids, make_run, unlabelled
from wrp.cli.main import main
from wrp.errors import DataError
from wrp.exchange import coco, coco_panoptic, cvat, cvat_video, labelstudio, yolo_seg
from wrp.exchange.base import Export, RunFrame, decode_runs, encode_runs
from wrp.exchange.export import FORMATS
from wrp.io import json_list
from wrp.io.images import read_image
from wrp.io.writing import write_label
from wrp.structures import LabelMap


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
            assert annotation["iscrowd"] == 0  # trainers skip the others
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
    """All in one form, as readers split at blanks or at quotes."""
    make_run(tmp_path)
    assert export(tmp_path, "camvid") == 0
    out = tmp_path / "out"
    lines = (out / "train.txt").read_text().splitlines()
    assert lines[0] == '"/train/ein Gang/00000.png" "/trainannot/ein Gang/00000.png"'
    assert lines[3] == '"/train/walk/00000.png" "/trainannot/walk/00000.png"'
    for line in lines:
        image, label = (part.lstrip("/") for part in line.split('"')[1::2])
        name = image.removeprefix("train/")
        assert (out / image).read_bytes() == (tmp_path / "root/frames" / name).read_bytes()
        assert np.array_equal(ids(out / label), ids(tmp_path / "run/labels" / name))
    shutil.rmtree(out)
    manifest = tmp_path / "run/manifest.jsonl"
    manifest.write_text("".join(line for line in manifest.read_text().splitlines(True) if '"walk"' in line))
    assert export(tmp_path, "camvid") == 0
    assert (out / "train.txt").read_text().splitlines()[0] == "/train/walk/00000.png /trainannot/walk/00000.png"


@pytest.mark.parametrize(
    ("ids_", "colors", "expected"),
    [
        ((0, 1), ((9, 9, 9), (8, 8, 8)), ["a:9,9,9::", "b:8,8,8::", "background:0,0,0::"]),
        ((1, 0), ((9, 9, 9), (8, 8, 8)), ["b:8,8,8::", "a:9,9,9::", "background:0,0,0::"]),
        ((1, 2), ((9, 9, 9), (8, 8, 8)), ["background:0,0,0::", "a:9,9,9::", "b:8,8,8::"]),
        (
            (0, 3),
            ((0, 0, 0), (255, 255, 255)),
            [
                "a:0,0,0::",
                "unused-1:255,255,254::",
                "unused-2:255,255,253::",
                "b:255,255,255::",
                "background:224,224,192::",
            ],
        ),
    ],
)
def test_the_numbers_of_the_lines_are_the_ids(
    tmp_path: Path, ids_: tuple[int, ...], colors: tuple[tuple[int, int, int], ...], expected: list[str]
) -> None:
    make_run(tmp_path, LabelMap(ids_, ("a", "b"), colors))
    assert export(tmp_path, "voc") == 0
    assert (tmp_path / "out/labelmap.txt").read_text().splitlines() == expected


@pytest.mark.parametrize(
    ("format_name", "theirs"),
    [
        ("coco", "coco_instances"),
        ("coco-panoptic", "coco_panoptic"),
        ("cvat", "cvat"),
        ("voc", "voc_segmentation"),
        ("camvid", "camvid"),
    ],
)
def test_datumaro_reads(tmp_path: Path, format_name: str, theirs: str) -> None:
    datumaro = pytest.importorskip("datumaro")
    label_map = replace(CLASSES, names=("a", "b", "c", "d"))  # it splits names at blanks and colons
    make_run(tmp_path, label_map)
    assert export(tmp_path, format_name) == 0
    data = datumaro.Dataset.import_from(str(tmp_path / "out"), theirs)
    names = [category.name for category in data.categories()[datumaro.AnnotationType.label].items]
    assert len(data) == 6
    for item in data:
        values = ids(tmp_path / "run/labels" / f"{item.id}.png")
        found = np.full_like(values, 255)
        masks = [one for one in item.annotations if one.type == datumaro.AnnotationType.mask]
        for mask in masks:
            if names[mask.label] in label_map.names:
                found[np.array(mask.image) > 0] = label_map.ids[label_map.names.index(names[mask.label])]
        assert np.array_equal(found, values)


def test_supervision_reads_yolo(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    make_run(tmp_path)
    assert export(tmp_path, "yolo-seg") == 0
    for clip in SIZES:
        places = [str(tmp_path / "out" / place / clip) for place in ("images/train", "labels/train")]
        data = supervision.DetectionDataset.from_yolo(*places, str(tmp_path / "out/data.yaml"), force_masks=True)
        assert data.classes == list(CLASSES.names)
        assert len(data) == 3
        for path, _, detections in data:
            values = ids(tmp_path / "run/labels" / clip / Path(path).name)
            found = np.full_like(values, 255)
            for mask, index in zip(detections.mask, detections.class_id, strict=True):
                found[mask] = CLASSES.ids[index]
            assert np.array_equal(found, values)


def test_labelme_reads(tmp_path: Path) -> None:
    files = pytest.importorskip("labelme._label_file", exc_type=ImportError)
    make_run(tmp_path)
    assert export(tmp_path, "labelme") == 0
    for path in (tmp_path / "out").glob("*/*.json"):
        data = files.read_label_file(str(path))
        values = ids(tmp_path / "run/labels" / path.parent.name / f"{path.stem}.png")
        found = np.full_like(values, 255)
        for shape in data.shapes:
            (left, top), (right, bottom) = shape["points"]
            part = found[top : bottom + 1, left : right + 1]
            part[shape["mask"]] = CLASSES.ids[CLASSES.names.index(shape["label"])]
        assert np.array_equal(found, values)


def test_label_studio_reads(tmp_path: Path) -> None:
    """Its own check of interfaces, tasks' predictions and names of classes, and its decoder of masks."""
    interface = pytest.importorskip("label_studio_sdk.label_interface", exc_type=ImportError)
    brush = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    make_run(tmp_path)
    assert export(tmp_path, "label-studio") == 0
    theirs = interface.LabelInterface((tmp_path / "out/labeling.xml").read_text(encoding="utf-8"))
    theirs.validate()
    tasks = json.loads((tmp_path / "out/tasks.json").read_text(encoding="utf-8"))
    assert len(tasks) == 6
    for task in tasks:
        (prediction,) = task["predictions"]
        assert theirs.validate_prediction(prediction)
        name = unquote(task["data"]["image"].partition("?d=images/")[2])
        values = ids(tmp_path / "run/labels" / name)
        found = np.full_like(values, 255)
        for region in prediction["result"]:
            mask = brush.decode_rle(region["value"]["rle"]).reshape(*values.shape, 4)[..., 3] > 0
            found[mask] = CLASSES.ids[CLASSES.names.index(region["value"]["brushlabels"][0])]
        assert np.array_equal(found, values)
    tasks[0]["predictions"][0]["result"][0]["value"]["brushlabels"] = ["no class"]
    assert not theirs.validate_prediction(tasks[0]["predictions"][0])


@pytest.mark.parametrize("density", [0.02, 0.4, 0.6, 0.95])
def test_polygons_of_yolo_lose_nothing(density: float) -> None:
    """Masks with many parts, holes, and parts in holes, also at the border."""
    random = np.random.default_rng(0)
    for size in ((1, 1), (1, 9), (9, 1), (40, 60), (61, 47)):
        labels = np.where(random.random(size) < density, random.integers(0, 2, size), 255).astype(np.uint8)
        text = "".join(yolo_seg._lines(labels))
        assert all(len(line.split()) >= 7 and len(line.split()) % 2 for line in text.splitlines())
        assert np.array_equal(yolo_seg._paint(text, 2, size), labels)


def test_how_much_polygons_lose_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path, replace(CLASSES, names=("a", "b", "c", "d")))
    caplog.set_level("INFO", "wrp")
    assert export(tmp_path, "yolo-seg") == 0
    told = "IoU of the polygons with the labels: a {}, b 100.00 %, c 100.00 %, d 100.00 %"
    assert told.format("100.00 %") in caplog.text
    whole = yolo_seg._lines
    monkeypatch.setattr(yolo_seg, "_lines", lambda labels: [line for line in whole(labels) if line[0] != "0"])
    shutil.rmtree(tmp_path / "out")
    assert export(tmp_path, "yolo-seg") == 0
    assert told.format("0.00 %") in caplog.text


def test_cvat_for_video_has_a_file_for_each_clip(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert export(tmp_path, "cvat-video") == 0
    for clip in SIZES:
        folder = tmp_path / "out" / clip
        names = (folder / "frames.txt").read_text().splitlines()
        assert names == sorted(path.stem for path in (folder / "images").iterdir()) == ["00000", "00001", "00002"]
        tree = ElementTree.parse(folder / "annotations.xml")
        size = [tree.findtext(f"meta/task/original_size/{side}") for side in ("height", "width")]
        assert size == [str(side) for side in SIZES[clip]]
        assert tree.findtext("meta/task/size") == "3"
        found = [np.full(SIZES[clip], 255, np.uint8) for _ in names]
        for track in tree.findall("track"):
            mask, *ends = track
            number = int(mask.attrib["frame"])
            expected = [] if number == 2 else [(str(number + 1), "1", "1")]
            assert [(end.attrib["frame"], end.attrib["keyframe"], end.attrib["outside"]) for end in ends] == expected
            assert (mask.attrib["keyframe"], mask.attrib["outside"]) == ("1", "0")
            left, top, width, height = (int(mask.attrib[key]) for key in ("left", "top", "width", "height"))
            box = decode_runs(np.array(mask.attrib["rle"].split(","), int), height, width)
            id_ = CLASSES.ids[CLASSES.names.index(track.attrib["label"])]
            found[number][top : top + height, left : left + width][box] = id_
        for name, values in zip(names, found, strict=True):
            assert np.array_equal(values, ids(tmp_path / f"run/labels/{clip}/{name}.png"))


def test_frames_of_cvat_for_video_are_named_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the run is not finished, and the number of a frame among the images is not that in the clip."""
    make_run(tmp_path)
    manifest = tmp_path / "run/manifest.jsonl"
    manifest.write_text("".join(line for line in manifest.read_text().splitlines(True) if '"00001"' not in line))
    assert export(tmp_path, "cvat-video") == 0
    assert (tmp_path / "out/walk/frames.txt").read_text() == "00000\n00002\n"
    other = unlabelled(tmp_path)
    (tmp_path / "one.txt").write_text("walk/00002")
    command = ["import", str(tmp_path / "out"), "--format", "cvat-video", "--into", str(other)]
    assert main([*command, "--frames", str(tmp_path / "one.txt")]) == 0
    assert (other / "labels/walk/00002.png").read_bytes() == (tmp_path / "run/labels/walk/00002.png").read_bytes()
    (tmp_path / "out/walk/frames.txt").unlink()
    capsys.readouterr()
    assert main([*command, "--frames", str(tmp_path / "one.txt")]) == 2
    assert "walk/00002: it has no label there" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out/walk")
    shutil.rmtree(tmp_path / "out/ein Gang")
    assert main([*command, "--frames", str(tmp_path / "one.txt")]) == 2
    assert "holds no annotations.xml; export each clip as 'CVAT for video 1.1'" in capsys.readouterr().err


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
    make_run(tmp_path)
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
        entry = {"clip": "film", "frame": "000001", "index": 1, "label": "labels/film/000001.png", "method": "motion"}
        entry |= {"schema": 2}
        manifest.write(json.dumps(entry | {"keyframes": [1], "distance": 0, "mean_confidence": 1.0}) + "\n")
    assert export(tmp_path, "cvat") == 0
    assert Image.open(tmp_path / "out/images/film/000001.png").size == (32, 16)
    # It comes back to the file that has its label already, however that writes the number.
    path = tmp_path / "out/annotations.xml"
    save(tmp_path / "run/confidence/film/000001.png", np.full((16, 32), 255, np.uint8))
    write_label(tmp_path / "run/labels/film/000001.png", labels + 1, CLASSES)
    write_label(tmp_path / "root/labels/film/1.png", labels + 2, CLASSES)
    command = ["import", str(path), "--format", "cvat", "--into", str(tmp_path / "root")]
    assert main([*command, "--changed-from", str(tmp_path / "run"), "--force"]) == 0
    assert [p.name for p in (tmp_path / "root/labels/film").iterdir()] == ["1.png"]
    assert (ids(tmp_path / "root/labels/film/1.png") == 0).all()


@pytest.mark.parametrize(
    ("label_map", "format_name", "message"),
    [
        (replace(CLASSES, colors=((1, 1, 1), (1, 1, 1), (2, 2, 2), (3, 3, 3))), "voc", "share the colour (1, 1, 1)"),
        (replace(CLASSES, names=("a", " b", "c", "d")), "camvid", "the class name ' b' cannot be written into"),
        (replace(CLASSES, names=("a", " b", "c", "d")), "labelme", "the class name ' b' cannot be written into"),
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
        (
            ["export", "run", "--format", "yolo", "--out", "out"],
            "unknown format 'yolo'; did you mean yolo-seg? Expected one of coco, ",
        ),
        (["export", "root", "--format", "voc", "--out", "out"], "expected the output of `wrp autolabel`"),
        (["import", "run", "--format", "yolo", "--into", "root", "--frames", "all.txt"], "voc, camvid"),
        (["import", "run", "--format", "yolo-seg", "--into", "root", "--changed-from", "run"], "holds 0 YAML files"),
        (["export", "run", "--format", "voc", "--out", "root"], "root holds"),
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


SHAPE = (14, 20)


@pytest.mark.parametrize("chosen", [coco, coco_panoptic, cvat, cvat_video, labelstudio])
def test_memory_does_not_grow_with_the_frames(tmp_path: Path, chosen: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "CHUNK", 1 << 12)  # small beside the files
    folder = make_run(tmp_path, sizes={"walk": SHAPE})
    label, confidence = (folder / f"run/{kind}/walk/00000.png" for kind in ("labels", "confidence"))

    def peak(count: int) -> int:
        frames = tuple(RunFrame("walk", f"{i:05d}", folder, label, confidence) for i in range(count))
        out = tmp_path / f"out{count}"
        out.mkdir()
        tracemalloc.start()
        chosen.write(Export(CLASSES, frames, images=False), out)  # type: ignore[attr-defined]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    def peak_of_reading(count: int) -> int:
        tracemalloc.start()
        for number, label in enumerate(chosen.read(tmp_path / f"out{count}", CLASSES)):  # type: ignore[attr-defined]
            if number % 20 == 0:  # it takes long
                label.decode(SHAPE)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(20)  # what is imported and cached once
    grown = peak(160) - peak(60)
    sizes = [sum(path.stat().st_size for path in tmp_path.glob(f"out{count}/**/*.*")) for count in (60, 160)]
    assert grown < 0.4 * (sizes[1] - sizes[0])  # bytes
    peak_of_reading(20)  # fills the caches of the library
    grown = peak_of_reading(160) - peak_of_reading(60)
    assert grown < 0.4 * (sizes[1] - sizes[0])
