"""Lists of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clips import make_images


@pytest.fixture
def lists(tmp_path: Path) -> dict[str, str]:
    """Two labelled images, three others of which none has a label, two to score on."""
    make_images(tmp_path / "data", {"train": 5, "val": 2}, labelled=(0, 1))
    names = {"labelled": ["train/view0", "train/view1"], "val": ["val/view0", "val/view1"]}
    names["unlabelled"] = [f"train/view{i}" for i in (2, 3, 4)]
    paths = {}
    for which, content in names.items():
        path = tmp_path / f"{which}.txt"
        path.write_text("\n".join(content) + "\n")
        paths[which] = str(path)
    return {"root": str(tmp_path / "data"), **paths}
