"""Modules as folders to publish: what is in them, and that they can be loaded again; no hub is asked."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import wrp
from wrp.errors import WrpError
from wrp.io import published
from wrp.options import NetworkArgs
from wrp.structures import LabelMap

LABEL_MAP = LabelMap((0, 7), ("road|<b>", "sky"), ((128, 64, 128), (70, 130, 180)))
IMAGE = torch.arange(3 * 32 * 48, dtype=torch.uint8).view(3, 32, 48)
ABOUT: dict[str, Any] = {"data": "Two streets.", "scores": {"val/miou": 71.25}}


@pytest.fixture
def module() -> wrp.SegmentationModule:
    torch.manual_seed(0)
    module = wrp.SegmentationModule(2, NetworkArgs("FPN", "tu-regnetx_002")).eval()
    module.label_map = LABEL_MAP
    module.labels_seen = frozenset({"a" * 16, "b" * 16})
    return module


def test_a_folder_holds_the_module_and_its_card(module: wrp.SegmentationModule, tmp_path: Path) -> None:
    folder = module.save_pretrained(tmp_path / "street", "cc-by-4.0", **ABOUT)
    module.save_pretrained(folder, "cc-by-4.0", **ABOUT)  # once more, over its own files
    card = (folder / "README.md").read_text()
    _, about, text = card.split("---\n", 2)
    assert yaml.safe_load(about)["license"] == "cc-by-4.0"
    assert yaml.safe_load(about)["pipeline_tag"] == "image-segmentation"
    for said in (
        "# street\n",
        "| road\\|\\<b\\> |  0 | #804080 |",
        "Two streets.",
        "71.2",
        "2 labels",
        "`cc-by-4.0`",
    ):
        assert said in text, said
    [code] = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    compile(code, "card", "exec")
    again = wrp.SegmentationModule.from_pretrained(folder)
    assert (again.label_map, again.labels_seen, again.training) == (LABEL_MAP, module.labels_seen, False)
    torch.testing.assert_close(again.probabilities(IMAGE[None]), module.probabilities(IMAGE[None]))


def test_a_copy_of_a_folder_labels_images(module: wrp.SegmentationModule, tmp_path: Path) -> None:
    folder = module.save_pretrained(tmp_path / "street", "mit")
    labels, _ = wrp.load(folder).predict(IMAGE)
    (folder / "wrp.json").unlink()  # as a hub gives it
    shutil.move(folder, tmp_path / "copy")
    labeler = wrp.load(tmp_path / "copy")
    assert labeler.names == LABEL_MAP.names
    assert torch.equal(labeler.predict(IMAGE)[0], labels)


def test_other_modules_have_a_card_without_classes(tmp_path: Path) -> None:
    folder = wrp.RefinementModule(3).save_pretrained(tmp_path / "refiner", "mit")
    card = (folder / "README.md").read_text()
    assert "## Classes" not in card
    assert "image-segmentation" not in card
    assert "do not say" in card
    assert wrp.RefinementModule.from_pretrained(folder).num_classes == 3
    with pytest.raises(WrpError, match=r"model\.safetensors holds a wrp\.refinement\.module\.RefinementModule"):
        wrp.SegmentationModule.from_pretrained(folder)


def test_mistakes_are_one_line(module: wrp.SegmentationModule, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(WrpError, match="holds files that this version of wrp has not written"):
        module.save_pretrained(tmp_path, "mit")
    with pytest.raises(WrpError, match="needs a licence"):
        module.save_pretrained(tmp_path / "new", " ")
    with pytest.raises(WrpError, match=r"holds no model\.safetensors"):
        wrp.SegmentationModule.from_pretrained(tmp_path)
    assert not (tmp_path / "new").exists()


class Hub:
    """A hub in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Any] = []
        self.errors = SimpleNamespace(HfHubHTTPError=ConnectionError)

    def HfApi(self, library_name: str) -> Hub:
        return self

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
        self.made.append((name, private, exist_ok))

    def upload_folder(self, repo_id: str, folder_path: Path, ignore_patterns: list[str]) -> str:
        shutil.copytree(folder_path, self.folder / repo_id, ignore=shutil.ignore_patterns(*ignore_patterns))
        return f"there/{repo_id}"

    def hf_hub_download(self, name: str, file: str, revision: str | None) -> str:
        if not (found := self.folder / name / file).is_file():
            raise OSError("there is no\nnetwork")
        return str(found)


def test_a_hub_gets_and_gives_a_module(
    module: wrp.SegmentationModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path)
    monkeypatch.setattr(published, "_hub", lambda: hub)
    assert module.push_to_hub("me/street", "mit") == "there/me/street"
    assert hub.made == [("me/street", True, True)]
    there = {path.name for path in (tmp_path / "me" / "street").iterdir()}
    assert there == {"README.md", "config.json", "model.safetensors"}
    assert 'from_pretrained("me/street")' in (tmp_path / "me" / "street" / "README.md").read_text()
    assert wrp.SegmentationModule.from_pretrained("me/street").label_map == LABEL_MAP
    with pytest.raises(WrpError, match="you/street is neither a folder nor can it be had .*: there is no network"):
        wrp.SegmentationModule.from_pretrained("you/street")


def test_the_hub_s_own_package_has_what_is_called(
    module: wrp.SegmentationModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    assert published._hub() is hub
    for name in ("create_repo", "upload_folder"):
        assert callable(getattr(hub.HfApi, name))
    assert issubclass(hub.errors.HfHubHTTPError, Exception)
    with pytest.raises(WrpError, match="neither a folder nor can it be had"):
        published.published_weights("no/such/name")  # refused by its form, before any network
    client = sys.modules[hub.errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]
    lost: type[Exception] = getattr(client, "ConnectError", None) or client.ConnectionError  # of httpx, or requests

    def create_repo(*_: Any, **how: Any) -> None:
        raise lost("no network")

    monkeypatch.setattr(hub.HfApi, "create_repo", create_repo)
    with pytest.raises(WrpError, match="me/street cannot be written on the Hugging Face Hub: no network"):
        module.push_to_hub("me/street", "mit")
