"""Runs that are long, or made twice: the same result, in the same memory, with nothing left open."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
import torch

from tests.clips import CLASSES_YAML, id_picture, make_folder, picture, save
from tests.forked import wrp
from wrp.cli.main import main

PEAK = """
import resource, sys
from wrp.cli.main import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_labels_with_any_number_of_workers(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"ride": 9, "walk": 9}, labelled=(0, 4, 8))
    command = ["autolabel", str(root), "--weights=none", "--teacher-steps=3", "--refiner-steps=3", "--student"]
    outs = [tmp_path / name for name in ("first", "second", "helped")]
    for out, workers in zip(outs, (0, 0, 2), strict=True):
        assert main([*command, f"--out={out}", f"--workers={workers}"]) == 0
    for name in ("teacher.ckpt", "refiner.ckpt", "student.ckpt"):
        first, *others = (torch.load(out / name, weights_only=True)["state_dict"] for out in outs)
        assert all(torch.equal(first[key], other[key]) for other in others for key in first)
    assert len({(out / "manifest.jsonl").read_bytes() for out in outs}) == 1
    for folder in ("labels", "confidence", "provenance", "methods"):
        for path in sorted((outs[0] / folder).rglob("*.png")):
            for out in outs[1:]:
                assert (out / path.relative_to(outs[0])).read_bytes() == path.read_bytes()


def test_motion_gives_the_same_labels_with_any_number_of_threads(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"ride": 9}, labelled=(0, 4, 8))
    found = []
    for count in (1, 2):
        out, before = tmp_path / f"out-{count}", f"import torch; torch.set_num_threads({count})"
        done = wrp("autolabel", str(root), f"--out={out}", "--methods=copy,motion,vote", before=before)
        assert done.returncode == 0, done.stderr
        assert json.loads((out / "settings.json").read_text())["threads"] == count
        found.append((out / "manifest.jsonl").read_bytes())  # which has the checksums of all pictures
    assert found[0] == found[1]


def looped(folder: Path, frames: int) -> Path:
    """A clip of so many frames, of which every 50th has a label; the frames of a short one, to and fro."""
    size = {"height": 48, "width": 80}
    for i in range(50):
        save(folder / "short" / "frames" / f"{i}.png", picture(i, **size))
        save(folder / "short" / "labels" / f"{i}.png", id_picture(i, **size))
    for kind, step in (("frames", 1), ("labels", 50)):
        (folder / "long" / kind / "walk").mkdir(parents=True)
        for i in range(0, frames, step):
            source = folder / "short" / kind / f"{abs((i + 49) % 98 - 49)}.png"
            os.link(source, folder / "long" / kind / "walk" / f"{i:05d}.png")
    (folder / "long" / "classes.yaml").write_text(CLASSES_YAML)
    return folder / "long"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_memory_of_a_run_does_not_grow_with_its_clip(tmp_path: Path) -> None:
    peaks = []
    for frames in (250, 750):
        root, out = looped(tmp_path / str(frames), frames), tmp_path / f"out-{frames}"
        done = wrp("autolabel", str(root), f"--out={out}", "--methods=motion", before=PEAK)
        assert done.returncode == 0, done.stderr
        assert len(list((out / "labels" / "walk").iterdir())) == frames
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] < peaks[0] + 30, peaks  # MB; the names of files are part of it, and 4 MB a byte for each pixel


@pytest.mark.slow
def test_nothing_stays_open(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"ride": 9}, labelled=(0, 4, 8))
    command = ["autolabel", str(root), "--weights=none", "--teacher-steps=2", "--refiner-steps=2", "--workers=2"]
    counts = []
    for number in range(3):
        assert main([*command, f"--out={tmp_path / str(number)}"]) == 0
        gc.collect()
        files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
        counts.append((files, threading.active_count(), len(multiprocessing.active_children())))
    assert counts[2] == counts[1]  # the first has started what is kept: threads of torch and of the flow
    assert counts[2][2] == 0
