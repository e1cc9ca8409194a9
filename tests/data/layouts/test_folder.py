from pathlib import Path

import pytest

from tests.clips import LABEL_MAP, make_camvid, make_davis, make_folder, picture, save
from wrp.data.layouts import folder
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError


def test_clips_frames_and_labels_are_found(tmp_path: Path) -> None:
    index = open_index(make_folder(tmp_path, {"walk": 5, "run": 3}, labelled=(0, 2)))
    assert (index.layout, index.label_map, index.binary, index.images) == ("folder", LABEL_MAP, False, ())
    assert [clip.name for clip in index.clips] == ["run", "walk"]
    walk = index.clips[1]
    assert [frame.stem for frame in walk.frames] == [f"{i:05d}" for i in range(5)]
    assert walk.keyframes == (0, 2)
    assert walk.frames[2].label == tmp_path / "labels" / "walk" / "00002.png"
    assert walk.frames[1].label is None


def test_jpeg_frames_have_png_labels(tmp_path: Path) -> None:
    index = open_index(make_folder(tmp_path, {"walk": 2}, suffix=".jpg"))
    frame = index.clips[0].frames[0]
    assert (frame.image.suffix, frame.label.suffix if frame.label else None) == (".jpg", ".png")


def test_clips_without_labels_are_clips(tmp_path: Path) -> None:
    assert open_index(make_folder(tmp_path, {"walk": 2}, labelled=())).clips[0].keyframes == ()


def test_empty_folders_and_stray_files_are_no_clips(tmp_path: Path) -> None:
    make_folder(tmp_path, {"walk": 2})
    (tmp_path / "frames" / "nothing").mkdir()
    (tmp_path / "frames" / "readme.txt").touch()
    assert [clip.name for clip in open_index(tmp_path).clips] == ["walk"]


def test_a_label_of_no_frame_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"walk": 2})
    stray = save(tmp_path / "labels" / "walk" / "0000l.png", picture(0))
    with pytest.raises(DataError, match=f"{stray} is the label of no frame in {tmp_path / 'frames' / 'walk'}"):
        open_index(tmp_path)


def test_missing_classes_are_asked_for(tmp_path: Path) -> None:
    make_folder(tmp_path, {"walk": 2})
    (tmp_path / "classes.yaml").unlink()
    with pytest.raises(DataError, match=r"00000\.png is no indexed PNG \(mode 'L'\).*classes\.yaml"):
        open_index(tmp_path)
    make_folder(tmp_path / "unlabelled", {"walk": 2}, labelled=())
    (tmp_path / "unlabelled" / "classes.yaml").unlink()
    with pytest.raises(DataError, match=f"there is no {tmp_path / 'unlabelled' / 'classes.yaml'}"):
        open_index(tmp_path / "unlabelled")


def test_a_folder_of_labels_under_another_name_is_told(tmp_path: Path) -> None:
    make_folder(tmp_path, {"walk": 2})
    (tmp_path / "labels").rename(tmp_path / "masks")
    with pytest.raises(DataError, match=f"{tmp_path / 'masks'} is not read: labels are expected in .*; rename it"):
        open_index(tmp_path)


def test_no_clips_at_all_is_told(tmp_path: Path) -> None:
    make_folder(tmp_path, {})
    (tmp_path / "frames").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path / 'frames'} holds no clips"):
        open_index(tmp_path)


def test_a_split_needs_its_list(tmp_path: Path) -> None:
    make_folder(tmp_path, {"walk": 2})
    with pytest.raises(DataError, match=r"splits/val\.txt cannot be read"):
        folder.read_index(tmp_path, "val")


@pytest.mark.parametrize("layout", ["folder", "camvid", "davis"])
def test_the_layout_is_found_by_itself_or_named(tmp_path: Path, layout: str) -> None:
    makers = {
        "folder": lambda: make_folder(tmp_path, {"walk": 2}),
        "camvid": lambda: make_camvid(tmp_path, 2, 1),
        "davis": lambda: make_davis(tmp_path, {"bear": 3}),
    }
    makers[layout]()
    assert open_index(str(tmp_path)).layout == open_index(tmp_path, layout).layout == layout
    for other in set(makers) - {layout}:
        with pytest.raises(DataError, match=f"{tmp_path} does not have the layout '{other}'"):
            open_index(tmp_path, other)


def test_an_unknown_layout_or_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} has no layout that is known. Expected one of\n  folder: "):
        open_index(tmp_path)
    with pytest.raises(DataError, match="unknown layout 'coco', expected one of auto, folder, camvid, camvid32"):
        open_index(tmp_path, "coco")
    with pytest.raises(DataError, match=f"there is no file or folder {tmp_path / 'nowhere'}"):
        open_index(tmp_path / "nowhere")
