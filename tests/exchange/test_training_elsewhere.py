"""Shards of WebDataset and Parquet files of Hugging Face, which their own libraries read back."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.exports import CLASSES, export, ids, make_run
from wrp.cli.main import main
from wrp.exchange import parquet, webdataset
from wrp.io.images import read_image
from wrp.io.label_map import read_label_map

Samples = dict[str, tuple[np.ndarray, np.ndarray]]
"""Image (H, W, 3) and ids (H, W) of each frame by its name."""


def check(folder: Path, found: Samples) -> None:
    names = sorted(path.relative_to(folder / "run/labels").as_posix() for path in folder.glob("run/labels/*/*.png"))
    assert sorted(found) == [name.removesuffix(".png") for name in names]
    for name in names:
        image, label = found[name.removesuffix(".png")]
        assert np.array_equal(image, read_image(folder / "root/frames" / name).permute(1, 2, 0).numpy())
        assert np.array_equal(label, ids(folder / "run/labels" / name))
    assert read_label_map(folder / "out/classes.yaml").names == CLASSES.names


def pixels(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)))


def test_shards_are_read_by_webdataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("webdataset", reason="webdataset is not installed")
    make_run(tmp_path)
    monkeypatch.setattr(webdataset, "SHARD_FRAMES", 4)
    assert export(tmp_path, "webdataset") == 0
    shards = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    assert len(shards) == 2
    found: Samples = {}
    for sample in library.WebDataset(shards, shardshuffle=False):
        about = json.loads(sample["json"])
        found[f"{about['clip']}/{about['frame']}"] = pixels(sample["png"]), pixels(sample["label.png"])
    check(tmp_path, found)


def test_shards_are_plain_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)
    monkeypatch.setattr(webdataset, "SHARD_BYTES", 1)
    assert export(tmp_path, "webdataset", "--images", "none") == 0
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert [path.name for path in shards] == [f"train-{number:06d}.tar" for number in range(6)]
    with tarfile.open(shards[4]) as archive:
        assert archive.getnames() == ["000000004.json", "000000004.label.png"]
        member = archive.extractfile("000000004.label.png")
        assert member is not None
        assert member.read() == (tmp_path / "run/labels/walk/00001.png").read_bytes()


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_is_read_by_datasets(tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    library = pytest.importorskip("datasets", reason="datasets is not installed")
    make_run(tmp_path)
    monkeypatch.setattr(parquet, "FILE_ROWS", 4)
    monkeypatch.setattr(parquet, "ROWS", 2)
    assert export(tmp_path, "parquet") == 0
    assert len(list((tmp_path / "out/data").glob("train-*.parquet"))) == 2
    rows = library.load_dataset(
        str(tmp_path / "out"), split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")
    )
    check(tmp_path, {f"{row['clip']}/{row['frame']}": (np.array(row["image"]), np.array(row["label"])) for row in rows})


def test_what_is_written_alone_is_not_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path)
    command = ["import", str(tmp_path), "--format", "webdataset", "--into", str(tmp_path / "root")]
    assert main([*command, "--changed-from", str(tmp_path / "run")]) == 2
    assert "webdataset is written, not read" in capsys.readouterr().err
