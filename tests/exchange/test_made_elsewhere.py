"""Labels that other programs' libraries write are imported; where one is not installed, its test is skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.clips import LABEL_MAP, picture
from tests.exports import clips_to_label, ids, some_labels
from wrp.cli.main import main

NAMES = LABEL_MAP.names


def bring(source: Path, format_name: str, root: Path, *more: str) -> dict[str, np.ndarray]:
    """Import frames 0 and 1 of the clip `walk`; return their class indices."""
    clips_to_label(root, {"walk": 3})
    (root / "list.txt").write_text("walk/0\nwalk/1", encoding="utf-8")
    command = ["import", str(source), "--format", format_name, "--into", str(root), *more]
    assert main([*command, "--frames", str(root / "list.txt")]) == 0
    return {path.stem: LABEL_MAP.encode(ids(path)) for path in root.glob("labels/walk/*.png")}


def check(found: dict[str, np.ndarray], expected: list[np.ndarray]) -> None:
    assert sorted(found) == ["00000", "00001"]
    for number, labels in enumerate(expected):
        assert np.array_equal(found[f"{number:05d}"], labels)


def masks(labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    return [(index, labels == index) for index in np.unique(labels[labels < 255]).tolist()]


def stripes(number: int) -> np.ndarray:
    """Classes without holes, side by side; a part is unlabelled."""
    labels = np.zeros((24, 40), np.uint8)
    labels[:, 12 + number :] = 1
    labels[8:, 22:] = 2
    labels[:3] = 255
    return labels


@pytest.mark.parametrize(
    ("theirs", "format_name", "file"),
    [
        ("coco_instances", "coco", ""),
        ("coco_panoptic", "coco-panoptic", ""),
        ("cvat", "cvat", "train.xml"),
        ("voc_segmentation", "voc", ""),
        ("camvid", "camvid", ""),
    ],
)
def test_datumaro_writes(tmp_path: Path, theirs: str, format_name: str, file: str) -> None:
    datumaro = pytest.importorskip("datumaro")
    kinds = datumaro.AnnotationType
    items = []
    for number in (0, 1):
        annotations = [
            datumaro.Mask(mask, label=index + 1, id=index + 1, group=index + 1)
            for index, mask in masks(some_labels(number))
        ]
        image = datumaro.Image.from_numpy(picture(number)[..., ::-1].copy(), ext=".png")
        name, about = f"walk/{number:05d}", {"id": number + 1}
        items.append(datumaro.DatasetItem(name, subset="train", media=image, annotations=annotations, attributes=about))
    names = ["background", *NAMES]  # it takes the first class for what has none
    categories = {
        kinds.label: datumaro.LabelCategories.from_iterable(names),
        kinds.mask: datumaro.MaskCategories(dict(enumerate([(0, 0, 0), *LABEL_MAP.colors]))),
    }
    data = datumaro.Dataset.from_iterable(items, categories=categories, media_type=datumaro.Image)
    data.export(str(tmp_path / "out"), theirs, save_media=False)
    found = bring(tmp_path / "out" / file, format_name, tmp_path / "data")
    check(found, [some_labels(0), some_labels(1)])


def test_the_converter_of_label_studio_writes_png(tmp_path: Path) -> None:
    """Its masks, which it decodes into the PNGs of "Brush labels to PNG"."""
    brush = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    tasks = []
    (tmp_path / "out").mkdir()
    for number in (0, 1):
        regions = []
        for index, mask in masks(some_labels(number)):
            rle = brush.mask2rle(mask.astype(np.uint8) * 255)
            place = {"original_width": 40, "original_height": 24}
            regions.append({"type": "brushlabels", "rle": rle, "brushlabels": [NAMES[index]], **place})
        about = {"id": number + 7, "annotation_id": number + 20, "completed_by": {"email": "ann@example.org"}}
        brush.convert_task({**about, "output": {"tag": regions}}, str(tmp_path / "out"), "png")
        tasks.append({**about, "image": f"/data/upload/3/a1b2c3d4-0000{number}.png", "tag": regions})
    assert len(list((tmp_path / "out").glob("*.png"))) == 6
    (tmp_path / "out/result.json").write_text(json.dumps(tasks), encoding="utf-8")
    check(bring(tmp_path / "out", "label-studio", tmp_path / "data"), [some_labels(0), some_labels(1)])


def test_labelme_writes(tmp_path: Path) -> None:
    files = pytest.importorskip("labelme._label_file", exc_type=ImportError)
    utils = pytest.importorskip("labelme.utils", exc_type=ImportError)
    (tmp_path / "out/walk").mkdir(parents=True)
    for number in (0, 1):
        shapes = []
        for index, mask in masks(some_labels(number)):
            text = utils.img_arr_to_b64(mask.astype(np.uint8))
            shape: dict[str, Any] = {"label": NAMES[index], "points": [[0, 0], [39, 23]], "mask": text}
            shapes.append(shape | {"shape_type": "mask", "group_id": None, "description": "", "flags": {}})
        size = {"image_height": 24, "image_width": 40}
        path = tmp_path / f"out/walk/0000{number}.json"
        files.write_label_file(str(path), shapes=shapes, image_path=f"0000{number}.png", **size)
    check(bring(tmp_path / "out", "labelme", tmp_path / "data"), [some_labels(0), some_labels(1)])


@pytest.mark.parametrize("format_name", ["coco", "yolo-seg", "labelme"])
def test_supervision_writes(tmp_path: Path, format_name: str) -> None:
    """It turns masks into polygons, and rounds their corners: no pixel changes its class, but borders may be left."""
    supervision = pytest.importorskip("supervision")
    images, annotations = {}, {}
    for number in (0, 1):
        found = masks(stripes(number))
        path = f"0000{number}.png"
        layers = np.stack([mask for _, mask in found])
        images[path] = picture(number)[..., ::-1].copy()
        annotations[path] = supervision.Detections(
            xyxy=supervision.mask_to_xyxy(layers), mask=layers, class_id=np.array([index for index, _ in found])
        )
    data = supervision.DetectionDataset(list(NAMES), images, annotations)
    out = tmp_path / "out"
    if format_name == "coco":
        data.as_coco(annotations_path=str(out / "annotations/all.json"))
    elif format_name == "labelme":
        data.as_labelme(annotations_directory_path=str(out))
    else:
        data.as_yolo(annotations_directory_path=str(out / "labels"), data_yaml_path=str(out / "data.yaml"))
    for name, labels in bring(out, format_name, tmp_path / "data").items():
        expected = stripes(int(name))
        print(
            format_name,
            name,
            [
                (int(((labels == i) & (expected == i)).sum()), int(((labels == i) | (expected == i)).sum()))
                for i in (0, 1, 2, 255)
            ],
        )
        kept = (labels < 255) & (expected < 255)
        assert np.array_equal(labels[kept], expected[kept])
        assert kept.sum() > 0.85 * (expected < 255).sum()


def test_cityscapes_scripts_write(tmp_path: Path) -> None:
    """Its polygons, which it draws into *_labelIds.png with the ids of Cityscapes, 0 where nothing is."""
    scripts = pytest.importorskip("cityscapesscripts.preparation.json2labelImg", exc_type=ImportError)
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").name2label
    folder = tmp_path / "out/gtFine/train/walk"
    folder.mkdir(parents=True)
    for number in (0, 1):
        objects = []
        for index, mask in masks(stripes(number)):
            rows, columns = mask.nonzero()
            box = [columns.min(), rows.min(), columns.max(), rows.max()]
            left, top, right, bottom = (int(side) for side in box)
            objects.append(
                {"label": NAMES[index], "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]]}
            )
        path = folder / f"0000{number}_gtFine_polygons.json"
        path.write_text(json.dumps({"imgHeight": 24, "imgWidth": 40, "objects": objects}), encoding="utf-8")
        scripts.json2labelImg(str(path), str(folder / f"0000{number}_gtFine_labelIds.png"), "ids")
        with Image.open(folder / f"0000{number}_gtFine_labelIds.png") as image:
            assert np.unique(image).tolist() == [0, *sorted(labels[name].id for name in NAMES)]
    classes = [{"name": name, "id": labels[name].id, "color": list(labels[name].color)} for name in NAMES]
    (tmp_path / "out/classes.yaml").write_text(yaml.safe_dump({"classes": classes, "ignore": [0]}), encoding="utf-8")
    check(bring(tmp_path / "out", "cityscapes", tmp_path / "data"), [stripes(0), stripes(1)])
