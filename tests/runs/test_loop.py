"""The loop of correcting, as its pages describe it: their commands, and the other programs' side as files.

CVAT's file is as https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/ and
https://docs.cvat.ai/docs/other/xml_format/ describe it, Label Studio's as https://labelstud.io/guide/export does.
"""

from __future__ import annotations

import json
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.clips import make_folder
from tests.pages import ROOT, blocks
from wrp.cli.main import main
from wrp.exchange.brush import decode_brush, encode_brush
from wrp.exchange.cvat import encode_mask

BOX = np.zeros((24, 40), bool)
BOX[4:12, 6:20] = True


def in_cvat(folder: Path) -> None:
    """Paint a car over the first frame and export the task, without images, as CVAT for images 1.1."""
    exported = ElementTree.parse(folder / "to-cvat/annotations.xml").getroot()
    found = ElementTree.Element("annotations")
    ElementTree.SubElement(found, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(found, "meta"), "task")
    task.extend([child for child in exported.findall("meta/task/labels")])
    for number, image in enumerate(exported.findall("image")):
        assert (folder / "to-cvat/images" / image.attrib["name"]).is_file()
        image.attrib |= {"subset": "default", "task_id": "7"}
        for mask in image:
            mask.set("source", "file")
        if number == 0:
            painted = {"label": "car", "source": "manual", "occluded": "0", "z_order": "1", **encode_mask(BOX)}
            ElementTree.SubElement(image, "mask", painted)
        found.append(image)
    with zipfile.ZipFile(folder / "from-cvat.zip", "w") as archive:
        archive.writestr("annotations.xml", ElementTree.tostring(found, encoding="utf-8", xml_declaration=True))


def in_label_studio(folder: Path) -> None:
    """Copy the predictions, paint a car over the first frame, erase what was there, and export the project as JSON."""
    tasks = json.loads((folder / "to-label-studio/tasks.json").read_text(encoding="utf-8"))
    for number, task in enumerate(tasks):
        assert (folder / "to-label-studio" / task["data"]["image"].partition("?d=")[2]).is_file()
        regions = task.pop("predictions")[0]["result"]
        painted = BOX if number == 0 else np.zeros_like(BOX)
        for region in regions:
            value = region["value"]
            mask = decode_brush(value["rle"], *BOX.shape)
            value["rle"] = encode_brush(mask | painted if value["brushlabels"] == ["car"] else mask & ~painted)
            region["origin"] = "prediction-changed"
        annotation = {
            "id": number + 40,
            "completed_by": 1,
            "result": regions,
            "was_cancelled": False,
            "task": task["id"],
        }
        task |= {"annotations": [annotation], "drafts": [], "predictions": [], "meta": {}, "project": 3}
    (folder / "from-label-studio.json").write_text(json.dumps(tasks), encoding="utf-8")


@pytest.mark.parametrize(("page", "correct"), [("loop-cvat", in_cvat), ("loop-label-studio", in_label_studio)])
def test_a_round_of_the_loop(page: str, correct: Callable[[Path], None], tmp_path: Path) -> None:
    before, after = (
        [shlex.split(line)[1:] for line in block.splitlines()] for block in blocks(ROOT / f"docs/{page}.md", "sh")
    )
    make_folder(tmp_path / "mine", {"walk": 15}, labelled=(0, 7, 14))
    for command in before:
        assert run(command) == 0
    suggested = (tmp_path / "first/suggest.txt").read_text().splitlines()
    correct(tmp_path)
    # The first frame of an export is the earlier one, whichever is suggested first.
    corrected, other = sorted(suggested)
    for command in after:
        assert run(command) == 0
    for out in ("mine", "second"):
        assert (ids(tmp_path / out / f"labels/{corrected}.png")[BOX] == 7).all()
        assert np.array_equal(ids(tmp_path / out / f"labels/{other}.png"), ids(tmp_path / f"first/labels/{other}.png"))
    found = json.loads((tmp_path / "second/metrics.json").read_text())["continued"]
    assert found["keyframes"] == {"changed": [], "added": [corrected, other], "removed": []}
    assert corrected in [name for name, _ in found["labels"]["most"]]
    assert (tmp_path / "second/suggest.txt").read_text().splitlines() != suggested


def run(command: list[str]) -> int:
    """Run a command of a page; labels by motion alone need no training."""
    return main([*command, "--methods", "motion"] if command[0] == "autolabel" else command)


def ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)
