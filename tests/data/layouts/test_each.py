"""What every layout has to fulfil, for each of the package's own."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.clips import CLASSES_YAML, id_picture, make_camvid, make_davis, make_folder, picture, save
from tests.layouts import ids, make_cityscapes, make_davis2017, make_kitti, make_nyuv2, make_vspw, make_youtubevos
from wrp.data.layouts import (
    apolloscape,
    camvid,
    camvid32,
    cityscapes,
    clip,
    davis,
    davis2017,
    folder,
    kitti,
    nyuv2,
    vspw,
    youtubevos,
)
from wrp.data.layouts.base import Layout
from wrp.data.layouts.registry import LAYOUTS, open_index
from wrp.testing import LayoutTester


class TestFolder(LayoutTester):
    layout: Layout = folder

    def write(self, root: Path) -> None:
        make_folder(root, {"walk": 4, "ride": 12}, labelled=(0, 3))


class TestClip(LayoutTester):
    layout: Layout = clip

    def write(self, root: Path) -> None:
        for i in range(4):
            save(root / f"{i}.jpg", picture(i))
        save(root / "labels" / "2.png", id_picture(2))
        (root / "classes.yaml").write_text(CLASSES_YAML)


class TestFolderWithSplit(TestFolder):
    split = "mine"

    def write(self, root: Path) -> None:
        super().write(root)
        (root / "splits").mkdir()
        (root / "splits" / "mine.txt").write_text("walk\n")


class TestCamVid(LayoutTester):
    layout: Layout = camvid
    split = "val"

    def write(self, root: Path) -> None:
        make_camvid(root)


class TestCamVid32(LayoutTester):
    layout: Layout = camvid32

    def write(self, root: Path) -> None:
        for i in range(3):
            stem = f"0016E5_{7959 + 30 * i:05d}"
            save(root / "701_StillsRaw_full" / f"{stem}.png", picture(i, 24, 40))
            sky = np.full((24, 40, 3), 128, np.uint8)
            save(root / "LabeledApproved_full" / f"{stem}_L.png", sky)


class TestCityscapes(LayoutTester):
    layout: Layout = cityscapes
    split = "val"

    def write(self, root: Path) -> None:
        make_cityscapes(root)


class TestKitti(LayoutTester):
    layout: Layout = kitti
    split = "training"

    def write(self, root: Path) -> None:
        make_kitti(root)


class TestNyuV2(LayoutTester):
    layout: Layout = nyuv2
    split = "train"

    def write(self, root: Path) -> None:
        make_nyuv2(root)


class TestApolloScape(LayoutTester):
    layout: Layout = apolloscape

    def write(self, root: Path) -> None:
        for stem in ("170908_061502408_Camera_5", "170908_061502547_Camera_5"):
            save(root / "road01_ins/ColorImage/Record001/Camera 5" / f"{stem}.jpg", picture(0))
            save(root / "road01_ins/Label/Record001/Camera 5" / f"{stem}_bin.png", ids(17, 161, 33))


class TestDavis(LayoutTester):
    layout: Layout = davis
    split = "train"

    def write(self, root: Path) -> None:
        make_davis(root, {"bear": 4, "swing": 3})


class TestDavis2017(LayoutTester):
    layout: Layout = davis2017
    split = "val"

    def write(self, root: Path) -> None:
        make_davis2017(root, {"dogs": [(1, 2)] * 3})


class TestYouTubeVos(LayoutTester):
    layout: Layout = youtubevos
    split = "valid"

    def write(self, root: Path) -> None:
        make_youtubevos(root)


class TestYouTubeVosWithoutMeta(TestYouTubeVos):
    split = "train"

    def write(self, root: Path) -> None:
        make_youtubevos(root, meta=False)


class TestVspw(LayoutTester):
    layout: Layout = vspw
    split = "val"

    def write(self, root: Path) -> None:
        make_vspw(root)


TESTED: dict[str, type[LayoutTester]] = {
    name: kind for name, kind in list(globals().items()) if isinstance(kind, type) and hasattr(kind, "layout")
}


# A folder of DAVIS 2017 may be read as one of DAVIS 2016 where somebody says so, as its masks lie alike.
BOTH = {("davis2017", "davis")}


@pytest.mark.parametrize("other", LAYOUTS)
@pytest.mark.parametrize("name", TESTED)
def test_no_layout_takes_the_folder_of_another(name: str, other: str, tmp_path: Path) -> None:
    TESTED[name]().write(tmp_path)
    mine = next(own for own, layout in LAYOUTS.items() if layout is TESTED[name].layout)
    assert open_index(tmp_path).layout == mine
    assert LAYOUTS[other].matches(tmp_path) == (other == mine or (mine, other) in BOTH)


class TestEveryLayoutIsTested:
    tested: ClassVar[list[Layout]] = [kind.layout for kind in TESTED.values()]

    def test_that_none_is_missing(self) -> None:
        assert {id(layout) for layout in LAYOUTS.values()} == {id(layout) for layout in self.tested}
