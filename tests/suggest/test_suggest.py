"""Which frames to label next: the choice by hand-made confidence, what is written, and the replay with known labels."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import bare_clip, id_picture, make_folder, save
from wrp import PropagationModule
from wrp.cli.main import main
from wrp.data.index import intervals, select_clips
from wrp.data.layouts.registry import open_index
from wrp.data.synthetic.folder import generate_folder
from wrp.errors import WrpError
from wrp.flow.dis import DIS
from wrp.io.outputs import RUN, claim
from wrp.options import SelectArgs
from wrp.runs.simulate import Replay, curve_table, curves, spread
from wrp.structures import Clip
from wrp.suggest.suggestions import Gap, choose, doubt, drift_length, gaps_of, ranked


def gaps_by(clip: Clip, wrong: list[float]) -> list[Gap]:
    return gaps_of(clip, {i: (error, 0.0) for i, error in enumerate(wrong)}, set(range(len(wrong))))


def chosen(clip: Clip, wrong: list[float], count: int) -> list[int]:
    """Indices of the suggestions, best first."""
    gaps = gaps_by(clip, wrong)
    return [index for _, index, _ in ranked(gaps, choose(gaps, count))]


def test_drift_is_that_of_a_walk_held_at_both_ends() -> None:
    assert drift_length(range(7), [1, 5]).tolist() == [1, 0, 0.75, 1, 0.75, 0, 1]
    assert drift_length([4, 0], [4]).tolist() == [0, 4]


def test_a_label_scales_the_errors_of_its_own_gap_alone() -> None:
    near, far = gaps_by(bare_clip(9, [0, 4, 8]), [0, 0.1, 0.2, 0.1, 0, 0.1, 0.3, 0.1, 0])
    # Frame 1 lay 1 from a keyframe and 3 from the other, now it is one from both: (1/2) / (3/4).
    assert near.remaining([2]) == pytest.approx([0, 0.1 * (2 / 3) ** 0.5, 0, 0.1 * (2 / 3) ** 0.5])
    assert near.remaining([6]).sum() == pytest.approx(0.4)
    assert far.remaining([]) == pytest.approx([0, 0.1, 0.3, 0.1, 0])


def test_the_bad_frames_are_chosen_within_an_interval() -> None:
    clip = bare_clip(21, [0, 20])
    assert chosen(clip, [0, *[0.1] * 19, 0], 1) == [10]
    late = [0, *[0.01] * 13, *[0.4] * 4, *[0.01] * 2, 0]
    assert chosen(clip, late, 1)[0] in (14, 15, 16)


def test_the_worse_of_two_gaps_gets_the_label() -> None:
    clip = bare_clip(21, [0, 10, 20])
    assert chosen(clip, [0, *[0.1] * 9, 0, *[0.2] * 9, 0], 1) == [15]


def test_two_equal_gaps_get_one_each_before_either_gets_two() -> None:
    clip = bare_clip(21, [0, 10, 20])
    wrong = [0, *[0.1] * 9, 0, *[0.1] * 9, 0]
    assert sorted(chosen(clip, wrong, 2)) == [5, 15]
    assert sorted(index > 10 for index in chosen(clip, wrong, 4)) == [False, False, True, True]


def test_frames_of_one_gap_make_room_for_each_other() -> None:
    walk = np.sqrt(drift_length(range(31), [0, 30])) / 10
    assert sorted(chosen(bare_clip(31, [0, 30]), walk.tolist(), 2)) == [10, 20]
    # Behind the last keyframe nothing holds the labels: the new one goes past the middle.
    assert 10 < chosen(bare_clip(21, [0]), [0, *[0.1] * 20], 1)[0] < 20


def test_no_keyframe_and_no_frame_twice_whatever_the_budget() -> None:
    clip = bare_clip(9, [0, 4])
    found = chosen(clip, [0.0, 0.1, 0.2, 0.1, 0.9, 0.0, 0.0, 0.0, 0.0], 50)
    assert sorted(found) == [1, 2, 3, 5, 6, 7, 8]
    gaps = gaps_by(clip, [0.1] * 9)
    gains = [gain for _, _, gain in ranked(gaps, choose(gaps, 50))]
    assert sum(gains) == pytest.approx(0.7)
    assert gains == sorted(gains, reverse=True)


def test_what_people_left_blank_is_no_error() -> None:
    confidence = torch.tensor([[0.5, 1.0], [0.0, 0.75]])
    assert doubt(confidence) == pytest.approx((0.75 / 4, 0.25))
    doubts = {0: (0.0, 0.25), 1: (0.1, 0.2), 2: (0.1, 0.45), 3: (0.0, 0.05)}
    [gap] = gaps_of(bare_clip(4, [0, 3]), doubts, {1, 2})
    assert gap.errors == pytest.approx([0, 0.1, 0.3, 0])


def test_even_spacing() -> None:
    def spaced(clip: Clip, count: int) -> list[list[int]]:
        return [sorted(indices) for indices in spread(intervals(clip), count)]

    held_out = [i for i in range(31) if i not in (0, 20)]
    clip = bare_clip(31, [0, 20], held_out)
    assert spaced(clip, 1) == [[10], []] or spaced(clip, 1) == [[], [27]]
    assert spaced(clip, 2) == [[10], [27]]
    assert spaced(clip, 3) == [[7, 13], [27]]
    assert spaced(bare_clip(21, [20], range(20)), 2) == [[4, 12]]
    assert spaced(bare_clip(21, [0, 20], [3, 4, 5]), 2) == [[4, 5]]
    assert spaced(bare_clip(5, [0, 4], [1, 2, 3]), 9) == [[1, 2, 3]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set with two clips of 24×40 and a motion-only run on it."""
    folder = tmp_path_factory.mktemp("suggest")
    root = make_folder(folder / "clips", {"walk": 9, "run": 6}, labelled=(0, 5))
    assert main(["autolabel", str(root), "--out", str(folder / "out"), "--methods", "motion"]) == 0
    return root, folder / "out"


def test_suggestions_are_printed_listed_and_drawn(run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, out = run
    assert main(["suggest", str(out), "-n", "3"]) == 0
    printed = capsys.readouterr().out
    names = (out / "suggest.txt").read_text().split()
    assert len(set(names)) == 3
    assert not {"walk/00000", "walk/00005", "run/00000", "run/00005"} & set(names)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line[:3] == "| 1"]
    manifest = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    [entry] = [e for e in manifest if f"{e['clip']}/{e['frame']}" == names[0]]
    wanted = ["1", entry["clip"], entry["frame"], str(entry["index"]), str(entry["distance"])]
    assert rows[0][:5] == wanted
    assert float(rows[0][5]) == pytest.approx(entry["mean_confidence"], abs=6e-4)
    root = json.loads((out / "settings.json").read_text())["root"]
    assert f"next: label these frames in {root}/labels, as {names[0]}.png and so on, then" in printed.splitlines()[-1]
    sheet = Image.open(out / "suggest.png")
    legend = 2 * 18 + 4  # the columns, and the classes in one line
    assert sheet.size == (3 * 320, legend + 3 * (192 + 18))
    clip, stem = names[0].split("/")
    labels = np.array(Image.open(out / "labels" / clip / f"{stem}.png").convert("RGB"))
    rows_of_first = np.array(sheet)[legend + 18 : legend + 210]
    shown = rows_of_first[::8, 320:640:8]
    none = np.array(Image.open(out / "labels" / clip / f"{stem}.png")) == 255
    assert np.array_equal(shown[~none], labels[~none])
    assert set(np.unique(shown[none])) == {200, 230}  # a class may be black
    confidence = np.array(Image.open(out / "confidence" / clip / f"{stem}.png"))
    brightness = rows_of_first[4::8, 644::8].sum(-1, dtype=int)  # rises with confidence
    assert np.corrcoef(brightness.ravel(), confidence.ravel())[0, 1] > 0.8


def test_only_the_clips_asked_for_and_only_frames_there_are(
    run: tuple[Path, Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    _, out = run
    with caplog.at_level("INFO", "wrp"):
        assert main(["suggest", str(out), "-n", "30", "--clips", "run"]) == 0
    assert "only 4 frames have no label" in caplog.text
    assert sorted((out / "suggest.txt").read_text().split()) == [f"run/0000{i}" for i in range(1, 5)]
    assert Image.open(out / "suggest.png").size == (960, 40 + 4 * 210)
    assert main(["suggest", str(out), "--clips", "fly"]) == 2
    assert "has no clip 'fly'" in capsys.readouterr().err


def test_a_frame_that_is_doubtful_comes_first(run: tuple[Path, Path], tmp_path: Path) -> None:
    root, out = run
    copied = claim(tmp_path / "out", RUN)
    for name in ("settings.json", "manifest.jsonl"):
        (copied / name).write_bytes((out / name).read_bytes())
    for clip, index in (("walk", i) for i in range(9)):
        name = f"{clip}/{index:05d}.png"
        save(copied / "labels" / name, np.zeros((24, 40), np.uint8))
        save(copied / "confidence" / name, np.full((24, 40), 40 if index == 7 else 255, np.uint8))
    assert main(["suggest", str(copied), "-n", "1", "--clips", "walk"]) == 0
    assert (copied / "suggest.txt").read_text() == "walk/00007\n"


@pytest.mark.parametrize("arguments", [["-n", "0"], ["-n", "0", "--simulate"], ["--simulate"]])
def test_what_cannot_be_suggested(
    run: tuple[Path, Path], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = run
    assert main(["suggest", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert ("none of the labels" if "--simulate" in arguments else "must be at least 1, got 0") in error
    assert not (out / "suggest-simulated.json").exists()


def test_a_run_without_unlabelled_frames_or_of_other_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 4}, labelled=(0, 1, 2))
    out = tmp_path / "out"
    assert main(["suggest", str(out)]) == 2
    assert "expected the output of `wrp autolabel`" in capsys.readouterr().err
    assert main(["autolabel", str(root), "--out", str(out), "--methods", "motion"]) == 0
    save(root / "labels/walk/00003.png", id_picture(3))
    capsys.readouterr()
    assert main(["suggest", str(out)]) == 2
    assert "the label of walk/00003 was added or removed" in capsys.readouterr().err
    assert main(["autolabel", str(root), "--out", str(tmp_path / "full"), "--methods", "motion"]) == 0
    assert main(["suggest", str(tmp_path / "full")]) == 2
    assert "has a label already" in capsys.readouterr().err
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[:-1]))
    assert main(["suggest", str(out)]) == 2
    assert "has no label of walk/00003 (1 frames are missing)" in capsys.readouterr().err


def test_the_simulation_scores_the_same_frames_whoever_chooses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = generate_folder(tmp_path / "scene", num_classes=8, num_frames=9, height=64, width=96)
    out = tmp_path / "out"
    keyframes = tmp_path / "keyframes.txt"
    keyframes.write_text("street0/00000\nstreet0/00008\n")
    assert main(["autolabel", str(root), f"--out={out}", "--methods=motion", f"--keyframes={keyframes}"]) == 0
    scored = json.loads((out / "metrics.json").read_text())["overall"]["motion"]["miou"]
    capsys.readouterr()
    assert main(["suggest", str(out), "--simulate", "-n", "7"]) == 0
    result = json.loads((out / "suggest-simulated.json").read_text())
    assert result["start"] == scored  # nothing added: what the run itself was scored
    assert set(result["miou"]) == {"suggested", "one by one", "uniform", "random 0", "random 1", "random 2"}
    for way, curve in result["miou"].items():
        assert len(curve) == 7
        assert curve[-1] == 100  # every held-out frame has its label
        assert curve[3] > result["start"]
        assert [len(set(names)) for names in result["chosen"][way]] == list(range(1, 8))
    assert result["chosen"]["uniform"][0] == ["street0/00004"]
    assert "| 7 " in capsys.readouterr().out
    assert main(["suggest", str(out), "--simulate", "-n", "8"]) == 2
    assert "must be in 1 … 7" in capsys.readouterr().err


def test_a_replay_is_a_run_with_these_keyframes(tmp_path: Path) -> None:
    """Nothing that is remembered of another set of keyframes gets in."""
    root = generate_folder(tmp_path / "scene", num_classes=8, num_frames=9, height=64, width=96)
    index = select_clips(open_index(root), SelectArgs(label_every=4))
    replay = Replay(index, PropagationModule(8, ["motion"], flow=DIS("ultrafast")))
    replay.score([])
    replay.score([(0, 2)])
    warm = replay.score([(0, 2), (0, 6)])
    fresh = Replay(index, PropagationModule(8, ["motion"], flow=DIS("ultrafast")))
    assert fresh.score([(0, 6), (0, 2)]) == warm
    assert replay.score([(0, 2)]) < warm


def test_suggestions_go_where_the_hard_clip_is(tmp_path: Path) -> None:
    """Two clips of one length, one of which stands still: even spacing cannot know."""
    root = generate_folder(tmp_path / "scene", num_classes=8, num_frames=13, height=64, width=96)
    for folder in (root / "frames", root / "labels"):
        (folder / "still").mkdir()
        for i in range(13):
            shutil.copyfile(folder / "street0/00000.png", folder / "still" / f"{i:05d}.png")
    index = select_clips(open_index(root), SelectArgs(label_every=12))
    replay = Replay(index, PropagationModule(8, ["motion"], flow=DIS("medium", 1.0)))
    first = replay.suggested([], 1)
    assert [index.clips[number].name for number, _ in first] == ["street0"]
    result = curves(replay, 1, seeds=(0,))
    assert result["miou"]["suggested"][0] > result["miou"]["uniform"][0] + 1
    assert curve_table(result).count("\n") == 3


def test_a_replay_needs_hidden_labels(tmp_path: Path) -> None:
    index = open_index(make_folder(tmp_path / "clips", {"walk": 5}))
    with pytest.raises(WrpError, match="--label-every"):
        Replay(replace(index), PropagationModule(3, ["motion"]))
