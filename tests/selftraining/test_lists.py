"""Lists of images: names, paths, and pairs of an image and its label, as other programs' split files have them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.clips import CLASSES_YAML, make_images, picture, save
from tests.layouts import ids
from tests.selftraining.small import command
from wrp.cli.main import main
from wrp.data.images import ImageData
from wrp.data.layouts import cityscapes
from wrp.data.lists import TRAIN_IDS, find_images
from wrp.data.semisupervised import SemiSupervisedData
from wrp.errors import DataError
from wrp.io.images import read_label

PUBLISHED = {
    "voc": ("voc", "JPEGImages/2007_000032.jpg", "SegmentationClass/2007_000032.png", "2007_000032"),
    "cityscapes": (
        "cityscapes",
        "leftImg8bit/train/ulm/ulm_000034_000019_leftImg8bit.png",
        "gtFine/train/ulm/ulm_000034_000019_gtFine_labelIds.png",
        "train-ulm-ulm_000034_000019",
    ),
    "city": (
        "cityscapes",
        "images/train/jena_000078_000019.png",
        "segmentation/train/jena_000078_000019_gtFine.png",
        "images-train-jena_000078_000019",
    ),
    "coco": ("coco", "train2017/000000000009.jpg", "masks/000000000009.png", "train2017-000000000009"),
    "ade20k": ("coco", "images/training/ADE_1.jpg", "annotations/training/ADE_1.png", "training-ADE_1"),
    "camvid": ("camvid", "train/0001TP_006690.png", "trainannot/0001TP_006690.png", "train-0001TP_006690"),
    "folder": ("folder", "images/train/view0.png", "labels/train/view0.png", "train-view0"),
}

FORMS = {
    "blank": "{image} {label}",
    "blanks": "{image}   {label}  ",
    "tab": "{image}\t{label}",
    "comma": "{image},{label}",
    "dot": "./{image} ./{label}",
    "backslashes": "{windows}",
    "dot and backslashes": ".\\{windows}",
    "slash": "/{image} /{label}",
    "elsewhere": "/SegNet/CamVid/{image} /SegNet/CamVid/{label}",
    "without suffix": "{bare}",
    "quotes": '"{image}" "{label}"',
    "absolute": "{root}/{image} {root}/{label}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("published", PUBLISHED)
def test_the_first_path_is_the_image_and_the_second_its_label(published: str, form: str, tmp_path: Path) -> None:
    layout, image, label, stem = PUBLISHED[published]
    save(tmp_path / image, picture(0))
    save(tmp_path / label, ids(0, 1))
    pair = f"{image} {label}"
    bare = " ".join(part.rpartition(".")[0] for part in pair.split())
    line = FORMS[form].format(image=image, label=label, windows=pair.replace("/", "\\"), bare=bare, root=tmp_path)
    for labelled in (True, False):
        (frame,) = find_images(tmp_path, layout, [line], labelled)
        assert (frame.image, frame.label) == (tmp_path / image, tmp_path / label if labelled else None)
        assert frame.stem == stem


@pytest.mark.parametrize("published", [name for name in PUBLISHED if name not in ("coco", "city")])
def test_a_name_and_the_path_of_an_image_mean_the_same(published: str, tmp_path: Path) -> None:
    layout, image, label, stem = PUBLISHED[published]
    save(tmp_path / image, picture(0))
    save(tmp_path / label, ids(0, 1))
    name = stem.replace("-", "/")
    suffix = Path(image).suffix
    lines = [name, f"./{name}", name.replace("/", "\\"), image, image.removesuffix(suffix), f"/{image}"]
    lines += [name + suffix] if layout != "cityscapes" else [f"{name}_leftImg8bit{suffix}"]
    found = [find_images(tmp_path, layout, [line], labelled=True) for line in lines]
    assert found == [found[0]] * len(lines)
    assert (found[0][0].image, found[0][0].label) == (tmp_path / image, tmp_path / label)


def test_suffixes_may_be_written_in_either_case(tmp_path: Path) -> None:
    for name in ("a.PNG", "b.JPG", "c.png"):
        save(tmp_path / "images" / "x.png", picture(0)).rename(tmp_path / "images" / name)
        save(tmp_path / "labels" / "x.png", ids(0)).rename(tmp_path / "labels" / f"{name[0]}.PNG")
    frames = find_images(tmp_path, "folder", ["a.png", "b", "images/c.PNG labels/c.png"], labelled=True)
    assert [frame.image.name for frame in frames if isinstance(frame.image, Path)] == ["a.PNG", "b.JPG", "c.png"]
    assert [frame.label.name for frame in frames if frame.label] == ["a.PNG", "b.PNG", "c.PNG"]


def test_names_may_have_blanks_commas_and_points(tmp_path: Path) -> None:
    for name in ("view", "view 1", "no, 2", "v.1", "ü"):
        save(tmp_path / "images" / f"{name}.jpg", picture(0))
        save(tmp_path / "labels" / f"{name}.png", ids(0))
    lines = [
        "view 1",
        "images/view.jpg labels/view.png",
        "no, 2",
        "v.1",
        "u\u0308",
    ]
    stems = ["view 1", "view", "no, 2", "v.1", "ü"]
    assert [frame.stem for frame in find_images(tmp_path, "folder", lines, labelled=True)] == stems
    pairs = ["images/view 1.jpg labels/view 1.png", "images/no, 2.jpg\tlabels/no, 2.png"]
    assert [frame.stem for frame in find_images(tmp_path, "folder", pairs, labelled=True)] == ["view 1", "no, 2"]


def test_the_label_that_is_named_is_the_one(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages" / "a.jpg", picture(0))
    for folder in ("SegmentationClass", "SegmentationClassAug", "mine"):
        save(tmp_path / folder / "a.png", ids(0))
    for folder in ("SegmentationClass", "SegmentationClassAug", "mine"):
        (frame,) = find_images(tmp_path, "voc", [f"JPEGImages/a.jpg {folder}/a.png"], labelled=True)
        assert frame.label == tmp_path / folder / "a.png"
    (frame,) = find_images(tmp_path, "voc", ["JPEGImages/a.jpg"], labelled=True)
    assert frame.label == tmp_path / "SegmentationClassAug" / "a.png"


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("images/a.png masks/a.png", r"there is no label .*/masks/a\.png of .*a\.png; list labels/a\.png, which is"),
        ("images/b.png labels/b.png", r"there is no label .*/labels/b\.png of .*b\.png; correct"),
        ("images/b.png", r"there is no label .*/labels/b\.png of .*b\.png"),
        ("other/c.png", r"c\.png does not lie in images/\{name\}, so its label is not known"),
        ("images/d.png labels/d.png", r"there is no image .*/images/d\.png with"),
        ("/images/d.png /labels/d.png", r"'/images/d\.png /labels/d\.png' leads out of the data set"),
        ("../images/a.png ../labels/a.png", "leads out of the data set"),
        ("images/a.png ../labels/a.png", "there is no label"),
    ],
)
def test_what_is_not_there_is_named(line: str, match: str, tmp_path: Path) -> None:
    for path in ("images/a.png", "labels/a.png", "images/b.png", "other/c.png"):
        save(tmp_path / "data" / path, picture(0))
    save(tmp_path / "images" / "a.png", picture(0))
    with pytest.raises(DataError, match=match):
        find_images(tmp_path / "data", "folder", [line], labelled=True)


def test_an_absolute_path_of_other_data_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "data" / "images" / "a.png", picture(0))
    other = save(tmp_path / "other" / "images" / "a.png", picture(0))
    with pytest.raises(DataError, match="leads out of the data set"):
        find_images(tmp_path / "data", "folder", [str(other)], labelled=False)


@pytest.mark.parametrize("lines", [["a", "a"], ["a", "images/a.png"], ["a", "./a"], ["a", "link"], ["a.png", "a"]])
def test_an_image_that_is_listed_twice_is_refused(lines: list[str], tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", picture(0))
    (tmp_path / "images" / "link.png").symlink_to("a.png")
    with pytest.raises(DataError, match="is listed"):
        find_images(tmp_path, "folder", lines, labelled=False)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("labelTrainIds", (0, 13, 18, 255), TRAIN_IDS),
        ("labelIds", (7, 26, 33, 0), cityscapes.LABEL_MAP),
        ("mine", (0, 13, 18, 255), TRAIN_IDS),
        ("mine", (7, 26, 33, 0), cityscapes.LABEL_MAP),
    ],
)
def test_train_ids_of_cityscapes_are_not_taken_for_its_ids(
    kind: str, values: tuple[int, ...], expected: object, tmp_path: Path
) -> None:
    lines = []
    for name in ("ulm_000034_000019", "ulm_000035_000019"):
        image = f"leftImg8bit/train/ulm/{name}_leftImg8bit.png"
        label = f"gtFine/train/ulm/{name}_gtFine_{kind}.png"
        save(tmp_path / image, picture(0))
        save(tmp_path / label, ids(*values))
        lines.append(f"{image} {label}\n")
    (tmp_path / "l.txt").write_text(lines[0])
    (tmp_path / "v.txt").write_text(lines[1])
    lists = {"labelled": str(tmp_path / "l.txt"), "val": str(tmp_path / "v.txt")}
    data = SemiSupervisedData(19, str(tmp_path), **lists, layout="cityscapes")
    assert data.label_map == expected
    (frame,) = data.images("val")
    assert read_label(frame.label or Path(), data.label_map)[0].unique_consecutive().tolist() == [0, 13, 18, 255]


def test_labels_of_both_kinds_of_ids_are_refused(tmp_path: Path) -> None:
    for name in ("a_000000_000000", "b_000000_000000"):
        save(tmp_path / "leftImg8bit" / f"{name}_leftImg8bit.png", picture(0))
        for kind in ("labelIds", "labelTrainIds"):
            save(tmp_path / "gtFine" / f"{name}_gtFine_{kind}.png", ids(7))
    pair = "leftImg8bit/b_000000_000000_leftImg8bit.png gtFine/b_000000_000000_gtFine_labelTrainIds.png"
    (tmp_path / "l.txt").write_text("a_000000_000000\n")
    (tmp_path / "v.txt").write_text(pair)
    lists = {"labelled": str(tmp_path / "l.txt"), "val": str(tmp_path / "v.txt")}
    with pytest.raises(DataError, match="holds train ids, .* the ids of Cityscapes; list labels of one kind"):
        _ = SemiSupervisedData(19, str(tmp_path), **lists, layout="cityscapes").label_map


def paired(lists: dict[str, str]) -> None:
    """Write the names in lists as pairs of paths, separated by tabs, in UTF-8 with a mark and Windows' line ends."""
    for which in ("labelled", "unlabelled", "val"):
        names = Path(lists[which]).read_text().split()
        pairs = "".join(f"images/{name}.png\tlabels/{name}.png\r\n" for name in names)
        Path(lists[which]).write_bytes(b"\xef\xbb\xbf" + pairs.encode())


def test_a_run_takes_lists_of_pairs(lists: dict[str, str], tmp_path: Path) -> None:
    paired(lists)
    assert main(command("supervised", lists, tmp_path / "out")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("system", ["st++", "three-stage"])
def test_a_run_with_pseudo_labels_takes_lists_of_pairs(system: str, lists: dict[str, str], tmp_path: Path) -> None:
    paired(lists)
    assert main(command(system, lists, tmp_path / "out")) == 0
    written = {path.stem for path in (tmp_path / "out" / "pseudo").glob("*/*.png")}
    assert {f"train-view{i}" for i in (2, 3, 4)} <= written


SAME = {
    "the same text": "train/view{}",
    "a suffix": "train/view{}.png",
    "a path": "images/train/view{}.png",
    "a pair": "images/train/view{0}.png labels/train/view{0}.png",
    "a link": "link{}",
    "a hard link": "hard{}",
    "a folder that is a link": "again/view{}",
}


@pytest.mark.parametrize("which", ["labelled", "unlabelled"])
@pytest.mark.parametrize("other", SAME)
def test_an_image_that_is_trained_on_is_not_scored_on(
    other: str, which: str, lists: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = {"labelled": 1, "unlabelled": 3}[which]
    images, labels = tmp_path / "data" / "images", tmp_path / "data" / "labels"
    shutil.copy(labels / "train" / "view0.png", labels / "train" / "view3.png")
    for name in (f"link{number}", f"hard{number}"):
        shutil.copy(labels / "train" / "view0.png", labels / f"{name}.png")
    (images / f"link{number}.png").symlink_to(images / "train" / f"view{number}.png")
    os.link(images / "train" / f"view{number}.png", images / f"hard{number}.png")
    for folder in (images, labels):
        (folder / "again").symlink_to(folder / "train")
    Path(lists["val"]).write_text("val/view0\n" + SAME[other].format(number) + "\n")
    assert main(command("supervised", lists, tmp_path / "out")) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("wrp: error"))
    assert f"is in both {lists[which]} and {lists['val']}; remove it from one" in line
    assert any(f"{name}{number} is in both" in line for name in ("view", "link", "hard"))
    assert not (tmp_path / "out" / "settings.json").exists()
    paths = {name: lists[name] for name in ("labelled", "unlabelled", "val")}
    data = SemiSupervisedData(3, lists["root"], **paths)
    for loader in (data.train_dataloader, data.val_dataloader):
        with pytest.raises(DataError, match=r"is in both|are trained on as well"):
            loader()


def test_an_image_that_is_labelled_is_not_unlabelled_as_well(
    lists: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(lists["unlabelled"]).write_text("./train/view2\nimages/train/view1.png\n")
    assert main(command("supervised", lists, tmp_path / "out")) == 2
    assert f"train-view1 is in both {lists['labelled']} and {lists['unlabelled']}" in capsys.readouterr().err


def test_a_list_to_score_on_is_not_empty(
    lists: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(lists["val"]).write_text("# none yet\n")
    assert main(command("supervised", lists, tmp_path / "out")) == 2
    assert f"{lists['val']} lists no images" in capsys.readouterr().err


def test_a_list_is_named_in_front_of_what_is_wrong_in_it(
    lists: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(lists["val"]).write_text("images/val/view0.png masks/val/view0.png\n")
    assert main(command("supervised", lists, tmp_path / "out")) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("wrp: error"))
    assert line.startswith(f"wrp: error: {lists['val']}: there is no label {lists['root']}/masks/val/view0.png of")


def test_labels_of_unlabelled_images_need_not_be_there(lists: dict[str, str]) -> None:
    paired(lists)
    paths = {name: lists[name] for name in ("labelled", "unlabelled", "val")}
    frames = SemiSupervisedData(3, lists["root"], **paths).images("unlabelled")
    assert [(frame.stem, frame.label) for frame in frames] == [(f"train-view{i}", None) for i in (2, 3, 4)]


def test_images_of_a_split_are_not_linked_to_by_another(tmp_path: Path) -> None:
    make_images(tmp_path, {"train": 2, "val": 2})
    (tmp_path / "classes.yaml").write_text(CLASSES_YAML)
    path = tmp_path / "images" / "val" / "view1.png"
    path.unlink()
    path.symlink_to(tmp_path / "images" / "train" / "view0.png")
    save(tmp_path / "labels" / "val" / "view1.png", np.zeros((24, 40), np.uint8))
    with pytest.raises(DataError, match=r"val/view1\.png is trained on as well, under another label"):
        ImageData(3, str(tmp_path)).val_dataloader()
