"""Damaged frames that a run meets while it is at work, and frames that change between two calls."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import make_folder, picture
from wrp.cli.main import main
from wrp.data import checking, items
from wrp.data.checking import check_files, check_training_frames, file_hashes
from wrp.data.items import IntervalItems, LazyFrames
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.flow.hashing import content_hash
from wrp.io.images import read_image
from wrp.io.manifest import broken_clips, note_broken
from wrp.propagation.module import PropagationModule

MOTION = ["--methods=motion"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two clips, each of two intervals, and too few labels to calibrate with."""
    return make_folder(tmp_path / "data", {"ride": 9, "walk": 9}, labelled=(0, 4))


def autolabel(root: Path, *more: str) -> int:
    return main(["autolabel", str(root), "--out=out", *MOTION, *more])


def labels(out: str = "out") -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(Path(out, "labels").rglob("*.png"))}


def damage(frame: Path) -> bytes:
    """Cut the end of a file off, so that its header is whole; return what it was."""
    whole = frame.read_bytes()
    frame.write_bytes(whole[:-200])
    return whole


def watch(monkeypatch: pytest.MonkeyPatch, *homes: ModuleType) -> list[Path]:
    """Return a list that gets the path of each frame which these modules decode."""
    read: list[Path] = []

    for home in homes:
        name = "image_array" if home is checking else "read_image"
        work = getattr(home, name)

        def reading(path: Path, work: Callable[[Path], Any] = work) -> Any:
            read.append(path)
            return work(path)

        monkeypatch.setattr(home, name, reading)
    return read


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_with_a_broken_frame_is_skipped_and_its_other_intervals_stay(
    lazily: bool, workers: int, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if lazily:
        monkeypatch.setattr(items, "STRETCH_BYTES", 0)
    copy = "--methods=copy"  # it reads no frame before it has the label of the first one
    assert autolabel(root, copy, "--out=whole") == 0
    frame = root / "frames/ride/00006.png"
    whole = damage(frame)
    assert autolabel(root, copy, "--on-error=skip", f"--workers={workers}") == 3
    said = capsys.readouterr()
    assert f"skipped ride: {frame}" in said.out
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert list(metrics["skipped"]) == list(broken_clips(Path("out"))) == ["ride"]
    done = {name for name in labels() if name.startswith("labels/walk/") or name < "labels/ride/00004.png"}
    assert len(done) == 9 + 4
    if not lazily:  # what is read at once is refused before anything is written
        assert set(labels()) == done
        assert not list(Path("out").rglob("*.begun"))
    assert [part.name for part in Path("out/manifest.parts/ride").glob("*.jsonl")] == ["000000.jsonl"]
    frame.write_bytes(whole)
    assert autolabel(root, copy, "--on-error=skip") == 0
    assert labels() == labels("whole")
    assert not broken_clips(Path("out"))
    assert "skipped" not in json.loads(Path("out/metrics.json").read_text())


def test_a_broken_frame_stops_a_run_which_goes_on_when_it_is_mended(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert autolabel(root, "--out=whole") == 0
    frame = root / "frames/walk/00002.png"
    whole = damage(frame)
    for _ in range(2):  # the second time before anything else is done
        assert autolabel(root) == 2
        error = capsys.readouterr().err
        assert f"wrp: error: {frame} cannot be read as an image" in error
        assert "Traceback" not in error
    assert not list(Path("out/manifest.parts").glob("walk/000000.jsonl"))
    frame.write_bytes(whole)
    assert autolabel(root) == 0
    assert labels() == labels("whole")


def test_a_run_that_goes_on_reads_no_frame_of_what_is_done(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert autolabel(root) == 0
    read = watch(monkeypatch, items, checking)
    assert autolabel(root) == 0
    assert not read
    os.utime(root / "frames/walk/00002.png", ns=(1, 1))  # copied, say
    assert autolabel(root) == 0
    assert {path.parent.name for path in read} == {"walk"}
    read.clear()
    assert autolabel(root) == 0
    assert not read


@pytest.mark.parametrize(
    ("name", "limit", "changed"),
    [("ride", "1", True), ("walk", "1", False), ("walk", "4", True)],
    ids=["labelled", "not labelled yet", "all labelled"],
)
def test_a_frame_that_has_changed_since_it_was_labelled_is_refused(
    name: str, limit: str, changed: bool, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / "frames").rglob("*.png"):  # of one size in bytes, whatever they show
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    assert autolabel(root, f"--limit={limit}") == 0
    frame = root / "frames" / name / "00002.bmp"
    pixels = np.array(Image.open(frame))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(frame)
    assert autolabel(root) == (2 if changed else 0)
    assert (f"out holds labels of clip {name} that were made of other frames" in capsys.readouterr().err) == changed


@pytest.mark.parametrize("change", ["added", "removed", "of another size"])
def test_frames_that_were_exchanged_before_they_were_labelled_are_refused(
    change: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert autolabel(root, "--limit=1") == 0
    frame = root / "frames/walk/00008.png"
    if change == "added":
        shutil.copy(frame, frame.with_name("00009.png"))
    elif change == "removed":
        frame.unlink()
    else:
        Image.fromarray(picture(8)).save(frame, compress_level=1)
    assert autolabel(root) == 2
    assert "labels of clip walk, whose frames have changed since" in capsys.readouterr().err


def test_a_shard_reads_its_own_clips_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [(number, 4) for number in range(4)]
    index = open_index(root)
    clips = [
        {one.clip.name for one in IntervalItems(index.clips, index.label_map, shard=one).intervals} for one in shards
    ]
    read: set[str] = set()
    for name in ("read_size", "image_array", "label_array"):
        work = getattr(checking, name)

        def reading(path: Path, *more: Any, work: Any = work) -> Any:
            read.add(path.parent.name)
            return work(path, *more)

        monkeypatch.setattr(checking, name, reading)
    for number, mine in enumerate(clips, 1):
        read.clear()
        assert autolabel(root, f"--shard={number}/4") == 0
        assert read == mine
        assert len(mine) == 1
    assert len(labels()) == 18


def test_only_headers_of_frames_are_read_before_a_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = watch(monkeypatch, checking)
    for frame in (root / "frames").rglob("*.png"):
        damage(frame)
    checked = check_files(open_index(root), teacher=True)
    assert checked.clips == ["ride", "walk"]
    assert checked.shown == {(clip, keyframe) for clip in ("ride", "walk") for keyframe in (0, 4)}
    assert not read


def test_an_orientation_behind_the_pixels_is_no_other_size(tmp_path: Path) -> None:
    """Where the header does not tell the orientation, the frame is decoded before it is refused."""
    root = make_folder(tmp_path / "clips", {"walk": 3}, labelled=(0, 2))
    turned = Image.Exif()
    turned[0x0112] = 6
    for path in (root / "frames/walk").iterdir():
        image = Image.open(path)
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=turned)
        content = path.read_bytes()
        at, end = content.index(b"eXIf") - 4, content.index(b"IDAT") - 4
        path.write_bytes(content[:at] + content[end:-12] + content[at:end] + content[-12:])
    frame = next((root / "frames/walk").iterdir())
    assert read_image(frame).shape == (3, 24, 40)
    assert checking.read_size(frame) == (40, 24)
    check_files(open_index(root), teacher=False)


def test_labelled_frames_are_decoded_before_a_training(root: Path, tmp_path: Path) -> None:
    index = open_index(root)
    assert check_training_frames(index, tmp_path / "run", skip=False) == {}
    damage(root / "frames/ride/00001.png")  # without a label
    assert check_training_frames(index, tmp_path / "run", skip=False) == {}
    damage(root / "frames/ride/00004.png")
    assert list(check_training_frames(index, tmp_path / "run", skip=True)) == ["ride"]
    assert list(broken_clips(tmp_path / "run")) == ["ride"]
    with pytest.raises(DataError, match=r"ride/00004.png cannot be read"):
        check_training_frames(index, tmp_path / "run", skip=False)
    damage(root / "frames/walk/00000.png")
    with pytest.raises(DataError, match="every clip of .* has a broken file"):
        check_training_frames(index, tmp_path / "run", skip=True)


def test_hashes_of_files_tell_names_sizes_and_times(root: Path) -> None:
    index = open_index(root)
    before = file_hashes(index.clips)
    os.utime(root / "frames/walk/00002.png", ns=(1, 1))
    after = file_hashes(index.clips)
    assert before["ride"] == after["ride"]
    assert before["walk"].split()[0] == after["walk"].split()[0]
    assert before["walk"].split()[1] != after["walk"].split()[1]
    damage(root / "frames/walk/00002.png")
    assert file_hashes(index.clips)["walk"].split()[0] != before["walk"].split()[0]


@pytest.mark.parametrize("lazily", [False, True])
def test_frames_are_hashed_when_they_are_decoded(lazily: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if lazily:
        monkeypatch.setattr(items, "STRETCH_BYTES", 0)
    index = open_index(root)
    batch = IntervalItems(index.clips, index.label_map)[1]
    assert isinstance(batch.frames, LazyFrames) == lazily
    frames = {i: batch.frame(i) for i in range(batch.first, batch.ends[1] + 1)}
    assert batch.hashes == {i: content_hash(frame) for i, frame in frames.items()}


@pytest.mark.parametrize("label", [False, True])
def test_what_is_wrong_with_a_frame_is_told_where_it_is_used(label: bool, root: Path) -> None:
    index = open_index(root)
    damage(root / "frames/ride" / ("00004.png" if label else "00002.png"))
    batch = IntervalItems(index.clips, index.label_map)[0]
    assert len(batch.frames) == 5
    with pytest.raises(DataError, match="cannot be read as an image"):
        list(PropagationModule(3, ["copy"]).session(batch))


def test_each_frame_of_an_interval_is_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = watch(monkeypatch, items)
    index = open_index(root)
    intervals = IntervalItems(index.clips[:1], index.label_map)
    batches = [intervals[number] for number in range(len(intervals))]
    assert len(read) == len(set(read)) == 9  # the frame between two intervals, too
    for batch in batches:
        for i in range(batch.first, batch.ends[1] + 1):
            assert torch.equal(batch.frame(i), read_image(index.clips[0].frames[i].image))


def test_a_note_of_a_clip_that_can_be_read_is_deleted(root: Path) -> None:
    assert autolabel(root, "--limit=0") == 0
    note_broken(Path("out"), "walk", "its file is damaged")
    assert autolabel(root) == 0
    assert not broken_clips(Path("out"))
