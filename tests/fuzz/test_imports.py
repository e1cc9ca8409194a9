"""What annotation programs send back: labels of known classes and of the size of their frames, or WrpError."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pycocotools import mask as masks

from tests.clips import save
from tests.exports import CLASSES, SIZES, export, make_run
from tests.fuzz.damage import altered, damaged
from wrp.errors import WrpError
from wrp.exchange import coco
from wrp.exchange.export import find_format
from wrp.exchange.importing import unpacked

FILES = {
    "cvat": "annotations.xml",
    "cvat-video": "walk/annotations.xml",
    "coco": "annotations/instances_train.json",
    "coco-panoptic": "annotations/panoptic_train.json",
    "label-studio": "tasks.json",
    "labelme": "walk/00000.json",
    "yolo-seg": "labels/train/walk/00000.txt",
    "voc": "labelmap.txt",
    "camvid": "label_colors.txt",
    "cityscapes": "classes.yaml",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is exported, by format."""
    folders = {}
    for name in FILES:
        folder = make_run(tmp_path_factory.mktemp(name))
        assert export(folder, name, "--images", "none") == 0
        folders[name] = folder / "out"
    return folders


def check_labels(folder: Path, format_name: str) -> None:
    """Read all labels as `wrp import` does."""
    labels = iter(find_format(format_name).read(folder, CLASSES))
    while True:
        try:
            label = next(labels, None)
            if label is None:
                return
            assert not PurePosixPath(label.name).is_absolute()
            assert ".." not in PurePosixPath(label.name).parts
            size = SIZES.get(label.name.partition("/")[0], (7, 5))
            found = label.decode(size)
        except WrpError:
            continue
        assert found.dtype == np.uint8
        assert found.shape == size
        assert np.isin(found, [*range(CLASSES.num_classes), 255]).all()


@pytest.mark.parametrize("format_name", FILES)
@given(data=st.data())
def test_damaged_files(exported: dict[str, Path], format_name: str, data: st.DataObject) -> None:
    folder = exported[format_name]
    path = folder / FILES[format_name]
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(whole) | st.binary(max_size=60)))
        check_labels(folder, format_name)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("format_name", ["coco", "coco-panoptic", "label-studio", "labelme"])
@given(data=st.data())
def test_other_json(exported: dict[str, Path], format_name: str, data: st.DataObject) -> None:
    path = exported[format_name] / FILES[format_name]
    whole = path.read_text()
    try:
        path.write_text(json.dumps(data.draw(altered(json.loads(whole)))))
        check_labels(exported[format_name], format_name)
    finally:
        path.write_text(whole)


@given(
    st.lists(
        st.lists(st.floats(-9, 16) | st.floats() | st.integers(-9, 16), max_size=9) | st.text(max_size=2), max_size=3
    )
)
@example([[1, 1, 3, 3]])  # pycocotools takes four numbers for a box
def test_polygons_of_coco(polygons: list[object]) -> None:
    try:
        found = coco._decode_mask(polygons, (5, 4))
    except (WrpError, ValueError, TypeError, LookupError):
        return
    assert found.shape == (5, 4)
    assert found.dtype == bool


@given(
    attribute=st.sampled_from(["rle", "left", "top", "width", "height", "z_order", "label", "name"]),
    value=st.text(alphabet="0123456789,-. x_", max_size=12) | st.integers().map(str) | st.just("9" * 5000),
)
def test_other_cvat(exported: dict[str, Path], attribute: str, value: str) -> None:
    path = exported["cvat"] / FILES["cvat"]
    whole = path.read_text()
    before, _, after = whole.partition(f' {attribute}="')
    try:
        path.write_text(f'{before} {attribute}="{value}"{after.partition(chr(34))[2]}')
        check_labels(exported["cvat"], "cvat")
    finally:
        path.write_text(whole)


TRACKS = """<annotations><meta><original_size><width>5</width><height>7</height></original_size></meta>
<track id="0" label="road"><polygon frame="0" outside="0" points="0,0;5,0.5;4,7" z_order="1"/>
<mask frame="1" outside="0" rle="1, 3" left="1" top="1" width="2" height="2"/>
<box frame="1" outside="0" xtl="1" ytl="1" xbr="4" ybr="3" rotation="9"/></track></annotations>"""


@given(
    attribute=st.sampled_from(["points", "frame", "outside", "xtl", "ybr", "rotation", "rle", "label", "z_order"]),
    value=st.text(alphabet="0123456789,;-. einfx", max_size=12) | st.floats().map(str) | st.just("9" * 5000),
)
def test_other_tracks_of_cvat(tmp_path_factory: pytest.TempPathFactory, attribute: str, value: str) -> None:
    path = tmp_path_factory.mktemp("tracks") / "annotations.xml"
    before, _, after = TRACKS.partition(f' {attribute}="')
    path.write_text(f'{before} {attribute}="{value}"{after.partition(chr(34))[2]}')
    check_labels(path, "cvat")


@pytest.fixture(scope="module")
def brushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Label Studio exports of one task, with two classes."""
    folder = tmp_path_factory.mktemp("brushed")
    for name in ("road", "汽车"):
        save(folder / f"task-1-annotation-2-by-3-tag-{name}-0.png", np.full((7, 5), 200, np.uint8))
    regions = [{"brushlabels": ["road"]}, {"brushlabels": ["汽车", "road"]}]
    tasks = [{"id": 1, "annotation_id": 2, "image": "/data/upload/1/0a1b2c3d-walk.png", "tag": regions}]
    (folder / "result.json").write_text(json.dumps(tasks))
    return folder


@given(data=st.data())
def test_other_label_studio(brushed: Path, data: st.DataObject) -> None:
    path = brushed / "result.json"
    whole = path.read_text()
    try:
        path.write_text(json.dumps(data.draw(altered(json.loads(whole)))))
        check_labels(brushed, "label-studio")
    finally:
        path.write_text(whole)


@given(data=st.data())
def test_damaged_masks_of_label_studio(brushed: Path, data: st.DataObject) -> None:
    path = brushed / "task-1-annotation-2-by-3-tag-road-0.png"
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(whole)))
        check_labels(brushed, "label-studio")
    finally:
        path.write_bytes(whole)


def test_entities_do_not_grow(exported: dict[str, Path], tmp_path: Path) -> None:
    names = [f"e{i}" for i in range(20)]
    entities = '<!ENTITY e0 "xxxxxxxxxx">' + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip(names, names[1:], strict=False)
    )
    (tmp_path / "annotations.xml").write_text(f"<!DOCTYPE a [{entities}]><annotations>&e19;</annotations>")
    with pytest.raises(WrpError, match="is damaged"):
        list(find_format("cvat").read(tmp_path, CLASSES))


@given(st.data())
def test_damaged_archives(exported: dict[str, Path], data: st.DataObject) -> None:
    folder = exported["voc"]
    archive = folder.parent / "whole.zip"
    method = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    with zipfile.ZipFile(archive, "w", method) as file:
        for path in sorted(folder.rglob("*.*")):
            file.write(path, path.relative_to(folder).as_posix())
    archive.write_bytes(data.draw(damaged(archive.read_bytes())))
    try:
        with unpacked(archive) as place:
            if place == archive:  # no archive any more
                return
            for path in place.rglob("*"):
                assert path.resolve().is_relative_to(place.resolve())
                if path.is_file() and (whole := folder / path.relative_to(place)).is_file():
                    assert path.read_bytes() == whole.read_bytes()
    except WrpError:
        return


def test_an_archive_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(100_000))
    room = shutil.disk_usage(tmp_path)._replace(free=99_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    with pytest.raises(WrpError, match="holds 100,000 bytes, of which 99,999 fit"), unpacked(tmp_path / "bomb.zip"):
        pass


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_masks_of_coco_are_read_as_pycocotools_reads_them(height: int, width: int, share: float, seed: int) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    encoded = masks.encode(np.asfortranarray(mask))
    text = {"size": [height, width], "counts": encoded["counts"].decode("ascii")}
    assert np.array_equal(coco._decode_mask(text, (height, width)), mask)


@given(st.text(alphabet=[chr(c) for c in range(40, 128)], max_size=20) | st.text(max_size=8))
@example("")
@example("P")  # more is to follow: pycocotools reads on behind its end
@example("oooooooooooooo0")
def test_no_mask_of_coco_is_made_of_what_is_none(text: str) -> None:
    try:
        found = coco._decode_mask({"size": [5, 4], "counts": text}, (5, 4))
    except (WrpError, ValueError):
        return
    assert found.shape == (5, 4)
    assert masks.encode(np.asfortranarray(found.astype(np.uint8)))["counts"]
