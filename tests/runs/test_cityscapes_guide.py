"""The guide to Cityscapes on eight GPUs can be followed: its own commands, in its order, on a tiny tree and a CPU."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.clips import id_picture, picture, save
from wrp.cli.main import main
from wrp.io.manifest import read_manifest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cityscapes.md").read_text(encoding="utf-8")

# What replaces eight GPUs, ImageNet's weights, RAFT's weights and days of training, by command. It stands behind the
# page's own flags, and so overrides them.
REPLACED = {
    "data": [],
    "fit": [
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.precision=32",
        "--trainer.max_epochs=30",
        "--trainer.max_steps=2",
        "--trainer.check_val_every_n_epoch=1",
        "--model.network.encoder_name=tu-convnext_atto",
        "--model.network={encoder_weights: null}",
        "--data.sampling.crop_size=[64, 64]",
        "--data.sampling.epoch_length=4",
        "--data.workers=0",
    ],
    "autolabel": [
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.precision=32",
        "--flow=dis-fast",
        "--refiner-steps=2",
        "--train_refiner.crop=[32, 48]",
        "--train_refiner.batch=2",
        "--workers=0",
    ],
    "test": ["--trainer.accelerator=cpu", "--trainer.devices=1", "--data.workers=0"],
}


def commands(page: str) -> list[list[str]]:
    """The lines of a page's shell blocks as words, from the launcher of `wrp`, if there is one, on."""
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, re.S | re.M)).replace("\\\n", " ").splitlines()
    return [words for line in lines if "wrp" in (words := shlex.split(line, comments=True))]


def make_tree(root: Path) -> None:
    """Three snippets of train in two cities and one of val in another; six frames each, of which one has a label."""
    for split, city, sequence in (
        ("train", "aachen", 0),
        ("train", "aachen", 1),
        ("train", "bochum", 0),
        ("val", "munster", 0),
    ):
        for number in range(17, 23):
            stem = f"{city}_{sequence:06d}_{number:06d}"
            moved = number + 40 * sequence
            save(root / "leftImg8bit_sequence" / split / city / f"{stem}_leftImg8bit.png", picture(moved, 64, 128))
            if number == 19:
                label = id_picture(moved, (7, 26, 0, 33), 64, 128)
                save(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", label)


@pytest.mark.slow
def test_the_guide_can_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRP_DATA", "")
    make_tree(tmp_path / "cityscapes")
    done = []
    for launcher, *words in commands(PAGE):
        if launcher == "wrp":
            capsys.readouterr()
            assert main([*words, *REPLACED[words[0]]]) == 0, words
            done.append(words[0])
    assert done == ["data", "data", "fit", "autolabel", "fit", "test", "test"]
    assert "test/miou" in capsys.readouterr().out
    written = {(entry.clip, entry.frame) for entry in read_manifest(tmp_path / "runs" / "cityscapes")}
    assert len(written) == 18  # all frames of train, and none of val
    assert not [clip for clip, _ in written if clip.startswith("munster")]


def test_launchers_start_the_same_command() -> None:
    [plain] = [words for words in commands(PAGE) if words[:2] == ["wrp", "autolabel"]]
    launched = [words for words in commands(PAGE) if words[0] in ("srun", "torchrun")]
    assert {words[0] for words in launched} == {"srun", "torchrun"}
    for words in launched:
        own = words[words.index("wrp") :]
        nodes = ["--trainer.num_nodes", "2"]
        assert own in (plain, [*plain, *nodes]), words
        assert (own[-2:] == nodes) == ("--nnodes" in words or words[0] == "srun"), words
