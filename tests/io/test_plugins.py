"""What other packages register is found by its name, and what cannot be used is named with its package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clips import make_folder, picture, save
from wrp.cli.main import main
from wrp.data.layouts.registry import layouts, open_index
from wrp.errors import WrpError
from wrp.io import plugins as module
from wrp.propagation.methods import known_methods, make_methods

LAYOUT = '''
"""Clips in ``video/``, masks in ``masks/``."""
from wrp.data.index import ClipIndex, list_images, make_clip
from wrp.structures import Frame, LabelMap

CLASSES = LabelMap((0, 3, 7), ("road", "sky", "car"), ((10, 20, 30), (40, 50, 60), (70, 80, 90)))


def matches(root):
    return (root / "video").is_dir()


def read_index(root, split=None):
    clips = []
    for folder in sorted((root / "video").iterdir()):
        masks = {path.stem: path for path in (root / "masks" / folder.name).glob("*.png")}
        clips.append(make_clip(folder.name, [Frame(p.stem, p, masks.get(p.stem)) for p in list_images(folder)]))
    return ClipIndex(root, "dashcam", CLASSES, tuple(clips))
'''
METHOD = """
import torch
from wrp import PropagationMethod


class Zero(PropagationMethod):
    works_from = frozenset()

    def predict(self, query, state):
        labels = torch.zeros(query.image.shape[1:], dtype=torch.uint8)
        return labels, torch.ones(labels.shape)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    module._registered.cache_clear()
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("mine"):
            del sys.modules[name]
    module._registered.cache_clear()


def install(site: Path, group: str, name: str, value: str, package: str = "mine", **sources: str) -> None:
    """Install a package with one entry point and some modules, as pip leaves it."""
    for file, content in sources.items():
        (site / f"{file}.py").write_text(content)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")


def write_clip(root: Path) -> Path:
    made = make_folder(root / "source", {"ride": 5}, labelled=(0, 4))
    (made / "frames").rename(root / "video")
    (made / "labels").rename(root / "masks")
    return root


def test_a_layout_is_known_by_its_name(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "wrp.layouts", "dashcam", "mine_layout", mine_layout=LAYOUT)
    root = write_clip(tmp_path / "data")
    assert list(layouts())[-2:] == ["dashcam", "clip"]
    assert open_index(root).layout == open_index(root, "dashcam").layout == "dashcam"
    assert main(["data", "layouts"]) == 0
    assert "dashcam: Clips in video/, masks in masks/" in capsys.readouterr().out
    assert main(["autolabel", str(root), f"--out={tmp_path / 'run'}", "--methods=copy"]) == 0
    assert len(list((tmp_path / "run/labels/ride").iterdir())) == 5


def test_a_method_is_known_by_its_name(site: Path, tmp_path: Path) -> None:
    install(site, "wrp.methods", "zero", "mine_method:Zero", mine_method=METHOD)
    assert "zero" in known_methods()
    assert list(make_methods(["motion", "zero"])) == ["motion", "zero"]
    root = make_folder(tmp_path / "data", {"ride": 5}, labelled=(0, 4))
    assert main(["autolabel", str(root), f"--out={tmp_path / 'run'}", "--methods=zero"]) == 0
    assert len(list((tmp_path / "run/labels/ride").iterdir())) == 5


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("davis", "mine_layout", "the package mine registers 'davis' in wrp.layouts, which is taken"),
        ("dashcam", "mine_gone", "the package mine registers 'mine_gone' in wrp.layouts, which cannot be imported"),
        ("dashcam", "mine_layout:gone", "has no attribute 'gone'; mend or uninstall it"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_package(
    site: Path, tmp_path: Path, name: str, value: str, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "wrp.layouts", name, value, mine_layout=LAYOUT)
    with pytest.raises(WrpError, match=match):
        layouts()
    save(tmp_path / "data/frames/ride/0.png", picture(0))
    assert main(["data", "check", str(tmp_path / "data")]) == 2
    assert "the package mine registers" in capsys.readouterr().err


def test_two_packages_with_one_name_are_refused(site: Path) -> None:
    install(site, "wrp.methods", "zero", "mine_method:Zero", mine_method=METHOD)
    install(site, "wrp.methods", "zero", "mine_method:Zero", package="other")
    with pytest.raises(WrpError, match="registers 'zero' in wrp.methods, which is taken"):
        known_methods()


def test_what_is_no_method_is_refused(site: Path) -> None:
    install(site, "wrp.methods", "zero", "mine_method:torch", mine_method=METHOD)
    with pytest.raises(WrpError, match="the entry point 'zero' in wrp.methods is .*, expected a"):
        known_methods()


def test_what_is_no_layout_is_refused(site: Path) -> None:
    install(site, "wrp.layouts", "dashcam", "mine_layout", mine_layout="def matches(root):\n    return True\n")
    with pytest.raises(WrpError, match="the entry point 'dashcam' in wrp.layouts is .*, which lacks read_index"):
        layouts()
