"""What annotators have corrected comes back, and nothing else."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import LABEL_MAP, make_folder, save
from tests.exports import CLASSES, everything, export, ids, make_run, unlabelled
from wrp.cli.main import main
from wrp.errors import DataError
from wrp.exchange import coco, cvat
from wrp.exchange.importing import is_changed
from wrp.io.writing import write_label


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


def test_archives_are_unpacked(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert export(folder, "voc") == 0
    archive = shutil.make_archive(str(tmp_path / "done"), "zip", tmp_path / "out")
    other = unlabelled(folder)
    command = ["import", archive, "--format", "voc", "--into", str(other), "--frames", str(everything(folder))]
    assert main(command) == 0
    assert len(list((other / "labels").rglob("*.png"))) == 6


FILES = {
    "coco": "annotations/instances_train.json",
    "coco-panoptic": "annotations/panoptic_train.json",
    "cvat": "annotations.xml",
    "labelme": "walk/00001.json",
    "yolo-seg": "labels/train/walk/00001.txt",
}


def rewrite(folder: Path, format_name: str, change: Callable[[str], str]) -> None:
    """Change the text of the exported file."""
    path = folder / "out" / FILES[format_name]
    text = path.read_text(encoding="utf-8")
    changed = change(text)
    assert changed != text
    path.write_text(changed, encoding="utf-8")


@pytest.mark.parametrize(
    ("format_name", "old", "new", "message"),
    [
        ("coco", '"name": "road"', '"name": "raod"', "6 frames cannot be imported, so nothing was written"),
        ("coco", '"name": "road"', '"name": "raod"', "unknown class 'raod'; did you mean road? Expected one of Fuß"),
        ("coco", '"size": [7, 5]', '"size": [5, 7]', "3 frames cannot be imported"),
        ("coco", '"size": [7, 5]', '"size": [5, 7]', "walk/00000: the label is 7×5 pixels, its frame is 5×7"),
        ("coco", "walk/00001.png", "walk/00009.png", "1 frame cannot be imported"),
        ("coco", "walk/00001.png", "../../../evil.png", "leads out of its folder"),
        ("coco", "walk/00001.png", "/evil.png", "evil: there is no such frame"),
        ("coco", "walk/00001.png", "walk\\\\..\\\\..\\\\evil.png", "leads out of its folder"),
        ("coco", "walk/00001.png", "walk/00002.png", "walk/00002: its label comes twice"),
        (
            "coco",
            '"categories"',
            '"kinds"',
            "is damaged, or of another format: ValueError: it has no list 'categories'",
        ),
        ("coco", '"counts": "', '"counts": "0', "has runs of"),
        ("coco", '"counts": "', '"counts": "~', "is damaged"),
        ("coco", '"category_id": 4', '"category_id": 5', "is damaged"),
        ("coco", '{"size": [7, 5]', '[[1, 1, 1, 3, 3, 3]], "x": {"size": [7, 5]', "masks of different classes overlap"),
        ("coco", '{"size": [7, 5]', '[[1, 1, 3, 3]], "x": {"size": [7, 5]', "has a polygon of 4 numbers, expected x"),
        ("coco", '{"size": [7, 5]', '[[1, 1, 1, 3, 3e9, 3]], "x": {"size": [7, 5]', "far outside of its frame of 5×7"),
        ("coco", '{"size": [7, 5]', '[[1, 1, 1, 3, "a", 3]], "x": {"size": [7, 5]', "is damaged"),
        (
            "coco-panoptic",
            '"file_name": "walk/00001.png", "seg',
            '"file_name": "../evil.png", "seg',
            "leads out of its",
        ),
        ("coco-panoptic", '"file_name": "walk/00001.png", "seg', '"file_name": "nothing.png", "seg', "nothing.png"),
        ("coco-panoptic", '{"id": 4, "category_id": 4', '{"id": 9, "category_id": 4', "holds the segment 4, which the"),
        ("coco-panoptic", '"image_id": 2', '"image_id": "2"', "is of the image '2', which it does not list"),
        ("coco-panoptic", '"name": "road"', '"name": "raod"', "unknown class 'raod'"),
        ("coco-panoptic", '"segments_info"', '"segments"', "is damaged"),
        (
            "coco",
            '{"size": [7, 5]',
            '[], "x": {"size": [7, 5]',
            "the annotation 21 has no mask (segmentation); draw one",
        ),
        ("coco", '"segmentation"', '"other"', "the annotation 1 has no mask (segmentation); draw one"),
        ("coco", '"counts"', '"other"', "the annotation 1 has no mask (segmentation); draw one"),
        ("coco", '"image_id": 2', '"image_id": "2"', "is of the image '2', which it does not list"),
        ("coco", '"id": 2, "name"', '"id": 1, "name"', "two categories have the id 1: "),
        ("labelme", '"shape_type": "mask"', '"shape_type": "circle"', "that has no area (circle); draw a polygon or a"),
        ("labelme", '"mask": "', '"mask": "A', "is no PNG of this size"),
        ("labelme", '"imageHeight": 7', '"imageHeight": 9', "the label is 5×9 pixels, its frame is 5×7"),
        ("labelme", '"label": "road"', '"label": "raod"', "unknown class 'raod'"),
        ("labelme", '"shapes"', '"shape"', "is damaged"),
        ("yolo-seg", "3 ", "4 ", "is of the class 4; the classes are 0 … 3"),
        ("yolo-seg", "3 0.", "3 2.", "has corners outside of the frame"),
        ("yolo-seg", "\n", " 0.1\n", "numbers, expected a polygon"),
        ("yolo-seg", "\n", "\n0 0.5 0.5 0.1 0.1\n", "line 2 holds a box, expected a polygon"),
        ("yolo-seg", "0.", "x.", "is damaged"),
        ("cvat", 'label="road"', 'label="raod"', "unknown class 'raod'"),
        ("cvat", 'width="5" height="7"', 'width="7" height="5"', "the label is 7×5 pixels, its frame is 5×7"),
        ("cvat", "walk/00001.png", "../../evil.png", "leads out of its folder"),
        ("cvat", 'left="0"', 'left="4"', "lies outside of the frame"),
        ("cvat", 'left="0"', 'left="-1"', "lies outside of the frame"),
        ("cvat", 'rle="', 'rle="1, ', "has runs of"),
        ("cvat", 'rle="', 'rle="a, ', "is damaged"),
        ("cvat", 'rle="', 'x="', "has no pixels; draw it again"),
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
    assert "1 frame cannot be imported" in (error := capsys.readouterr().err)
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
    assert "1 frame cannot be imported, so nothing was written: walk/00000: it has another label already" in error
    assert given.read_bytes() == before
    assert not (folder / "root/labels/walk/00001.png").exists()
    assert main([*command, "--force"]) == 0
    assert given.read_bytes() == (folder / "run/labels/walk/00000.png").read_bytes()
    assert capsys.readouterr().out == "walk/00000\nwalk/00001\n"


def test_what_a_killed_import_has_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert export(folder, "voc") == 0
    (tmp_path / "one.txt").write_text("walk/00001\n")
    left = folder / "root/labels/walk/.00001.png.0123456789ab.tmp"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    command = ["import", str(folder / "out"), "--format", "voc", "--into", str(folder / "root")]
    assert main([*command, "--frames", str(tmp_path / "one.txt")]) == 0
    assert not left.exists()


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
    assert "one.txt names 'walk/00007': there is no such frame" in capsys.readouterr().err
    (folder / "out/trainannot/walk/00002.png").unlink()
    (tmp_path / "one.txt").write_text("walk/00002")
    assert main([*command, "--frames", str(tmp_path / "one.txt")]) == 2
    assert "walk/00002: it has no label there; it has labels of 'ein Gang/00000'" in capsys.readouterr().err


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


def test_labels_that_would_mean_something_else_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path)
    assert export(folder, "cityscapes") == 0
    (tmp_path / "one.txt").write_text("walk/00001")
    classes = folder / "root/classes.yaml"
    command = ["import", str(folder / "out"), "--format", "cityscapes", "--into", str(folder / "root")]
    given = classes.read_text()
    classes.write_text(given.replace("ignore: 255", "ignore: []").replace("- id: 0", "- also: [255]\n  id: 0"))
    assert main([*command, "--frames", str(tmp_path / "one.txt")]) == 2
    assert "it has unlabelled pixels, but the data set takes 255 for a class" in capsys.readouterr().err
    classes.write_text(given)
    save(folder / "out/gtFine/train/walk/00001_gtFine_labelIds.png", np.full((7, 5), 255, np.uint8))
    assert main([*command, "--frames", str(tmp_path / "one.txt")]) == 2
    assert "walk/00001: nothing in it is labelled" in capsys.readouterr().err
    (folder / "out/classes.yaml").unlink()
    assert main([*command, "--frames", str(tmp_path / "one.txt")]) == 2
    assert "classes.yaml" in capsys.readouterr().err


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
    assert [entry["frame"] for entry in entries if entry["method"] == "keyframe"] == ["00000", "00003", "00006"]
    assert entries[2]["keyframes"] == [0, 3]
    assert np.array_equal(ids(Path("second/labels/walk/00003.png")), corrected)
    assert (ids(Path("second/labels/walk/00002.png"))[:8, 2:8] == 7).mean() > 0.5


def test_an_encoding_that_there_is_not_is_damage(tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_bytes(b'<?xml version="1.0" encoding="ttf-8"?><annotations/>')
    with pytest.raises(DataError, match="annotations.xml is damaged, or of another format: LookupError"):
        list(cvat.read(tmp_path, LABEL_MAP))
