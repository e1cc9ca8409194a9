"""Strange and broken inputs, as a user meets them: one message and nothing written, or a result that is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import CLASSES_YAML, id_picture, make_davis, make_folder, make_video, picture, save
from tests.exports import make_run
from tests.fuzz.damage import png
from tests.io.videos import index_first, rotate_metadata, write_plainly, write_video
from wrp import SegmentationModule
from wrp.cli.main import main
from wrp.io.checkpoints import CLASS_KEY, FORMAT, FORMAT_KEY, class_name
from wrp.options import NetworkArgs

MOTION = ["--methods", "motion"]


def autolabel(root: Path, *more: str) -> int:
    return main(["autolabel", str(root), "--out", "out", *(more or MOTION)])


def refused(root: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The message with which a run is refused; nothing is written then."""
    capsys.readouterr()
    assert autolabel(root, *more) == 2
    error = capsys.readouterr().err
    assert "wrp: error: " in error
    assert "Traceback" not in error
    assert not Path("out").exists()
    return error


def written(clip: str = "walk") -> list[np.ndarray]:
    """The labels of a run, in order."""
    return [np.array(Image.open(path)) for path in sorted(Path("out/labels", clip).glob("*.png"))]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_in_a_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 3}, labelled=(0, 2))
    label = root / "labels/walk/00002.png"
    image = Image.fromarray(id_picture(2))
    image.putpalette([value % 256 for value in range(768)])  # indices are stored without a filter
    image.save(label, compress_level=0)
    flip(label, label.read_bytes().index(bytes([3, 3, 3])))  # 3 becomes 7, which is a class as well
    assert f"{label} cannot be read as an image" in refused(root, capsys)


@pytest.mark.parametrize("end", [b"", b"\xff\xd9", bytes(4000)], ids=["cut", "cut and closed", "cut and zeros"])
def test_a_truncated_jpeg_is_never_grey(tmp_path: Path, end: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 3}, labelled=(0, 2))
    for number, path in enumerate(sorted((root / "frames/walk").iterdir())):
        Image.fromarray(picture(number)).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    frame = root / "frames/walk/00001.jpg"
    frame.write_bytes(frame.read_bytes()[:-300] + end)
    assert autolabel(root) == 2
    error = capsys.readouterr().err
    assert f"wrp: error: {frame}" in error
    assert "Traceback" not in error
    assert not list(Path("out").rglob("*.png"))


def video_folder(folder: Path, count: int = 24, suffix: str = ".mp4") -> Path:
    """A data set of one video with two labels; returns the video."""
    video = folder / "frames" / f"walk{suffix}"
    write_plainly(video, count) if suffix == ".avi" else write_video(video, count)
    if suffix == ".mp4":
        index_first(video)
    for number in (0, count - 1):
        save(folder / "labels/walk" / f"{number}.png", id_picture(0, height=48, width=64))
    (folder / "classes.yaml").write_text(CLASSES_YAML)
    return video


def cut(video: Path) -> None:
    content = video.read_bytes()
    video.write_bytes(content[: len(content) * 2 // 3])


def scratch(video: Path) -> None:
    content = video.read_bytes()
    begin, end = len(content) // 3, len(content) * 2 // 3
    video.write_bytes(content[:begin] + bytes((7 * i) % 251 for i in range(end - begin)) + content[end:])


def promise_more(video: Path) -> None:
    """Let an AVI's header say that there are more frames than there are."""
    content = bytearray(video.read_bytes())
    at = content.index(b"strh") + 8 + 32
    content[at : at + 4] = (int.from_bytes(content[at : at + 4], "little") + 10).to_bytes(4, "little")
    video.write_bytes(content)


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        (".mp4", cut, "walk.mp4"),
        (".mkv", scratch, "walk.mkv"),
        (".avi", promise_more, "declares 34 frames, but holds 24"),
    ],
)
def test_a_video_that_is_not_whole(
    tmp_path: Path, suffix: str, damage: Callable[[Path], None], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    video = video_folder(tmp_path / "clips", suffix=suffix)
    damage(video)
    assert message in refused(tmp_path / "clips", capsys)


def test_a_rotated_video_has_rotated_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, one = tmp_path / "clips", 1 << 16
    rotate_metadata(video_folder(root, 3), (0, -one, 0, one, 0, 0, 0, 0, 1 << 30))
    assert "the label is 64×48 pixels, its frame is 48×64" in refused(root, capsys)
    for number in (0, 2):
        save(root / "labels/walk" / f"{number}.png", id_picture(0, height=64, width=48))
    assert autolabel(root) == 0
    assert [label.shape for label in written()] == [(64, 48)] * 3


@pytest.mark.parametrize("what", ["frames", "labels"])
@pytest.mark.parametrize("classes", [True, False], ids=["classes.yaml", "palettes"])
def test_a_bomb_is_not_decoded(
    tmp_path: Path, what: str, classes: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 3}, labelled=(0, 2))
    for path in root.glob("labels/walk/*.png"):
        image = Image.open(path)
        image.putpalette([value % 256 for value in range(768)])
        image.save(path)
    if not classes:
        (root / "classes.yaml").unlink()
    bomb = root / what / "walk/00002.png"
    bomb.write_bytes(png(9000, 9000, 8, 3, b"", palette=bytes(768)))
    decoded = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda image: decoded.append(image.size) or load(image))
    error = refused(root, capsys)
    assert f"{bomb}: 9000×9000 pixels are more than the 64,000,000" in error
    assert (9000, 9000) not in decoded


def as_rgb(values: np.ndarray) -> Image.Image:
    colors = {0: (10, 20, 30), 3: (40, 50, 60), 7: (70, 80, 90)}
    return Image.fromarray(np.array([[colors[int(v)] for v in row] for row in values], np.uint8))


def with_alpha(values: np.ndarray) -> Image.Image:
    """Ids beside an alpha channel that hides nothing."""
    image = Image.fromarray(values)
    image.putalpha(255)
    return image


@pytest.mark.parametrize("make", [as_rgb, with_alpha, Image.fromarray], ids=["RGB", "LA", "L"])
def test_labels_of_other_modes_give_the_same_result(tmp_path: Path, make: Callable[[np.ndarray], Image.Image]) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 3}, labelled=(0, 2))
    for number in (0, 2):
        make(id_picture(number)).save(root / f"labels/walk/0000{number}.png")
    assert autolabel(root) == 0
    assert np.array_equal(written()[0], id_picture(0))
    assert np.array_equal(written()[2], id_picture(2))


def sixteen_bits(values: np.ndarray, color: int) -> bytes:
    """A PNG of 16-bit values: Pillow has no modes for colours and alpha of this depth, and cuts off the lower half."""
    channels = {0: 1, 2: 3, 4: 2}[color]
    rows = np.repeat(values, channels, 1).astype(">u2")
    return png(values.shape[1], values.shape[0], 16, color, b"".join(b"\0" + row.tobytes() for row in rows))


def two_bits(values: np.ndarray, _: int) -> bytes:
    """A grey PNG of 2-bit values, which Pillow stretches to 0 … 255."""
    bits = (values.reshape(values.shape[0], -1, 4) & 3 << 0) << (6, 4, 2, 0)
    rows = bits.sum(-1).astype(np.uint8)
    return png(values.shape[1], values.shape[0], 2, 0, b"".join(b"\0" + row.tobytes() for row in rows))


@pytest.mark.parametrize(
    ("make", "color"),
    [(sixteen_bits, 0), (sixteen_bits, 2), (sixteen_bits, 4), (two_bits, 0)],
    ids=["16-bit grey", "16-bit RGB", "16-bit grey with alpha", "2-bit grey"],
)
def test_labels_of_other_depths_are_refused(
    tmp_path: Path, make: Callable[[np.ndarray, int], bytes], color: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 3}, labelled=(0, 2))
    label = root / "labels/walk/00002.png"
    label.write_bytes(make(id_picture(2, (0, 3)), color))
    error = refused(root, capsys)
    assert str(label) in error
    assert "the label has the mode" in error


def test_a_jpeg_is_no_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 3}, labelled=(0, 2))
    Image.fromarray(np.zeros_like(id_picture(0))).save(root / "labels/walk/00002.png", "JPEG")
    assert "the label is a JPEG, expected a PNG" in refused(root, capsys)


def test_labels_with_nothing_in_them(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 4, "run": 3}, labelled=(0, 2))
    save(root / "labels/walk/00002.png", np.full_like(id_picture(0), 255))
    for number in (0, 2):
        save(root / f"labels/run/0000{number}.png", np.full_like(id_picture(0), 255))
    assert autolabel(root) == 0
    assert (written("walk")[2] == 255).all()
    assert (written("walk")[1] != 255).any()
    assert all((label == 255).all() for label in written("run"))
    assert all((np.array(Image.open(path)) == 0).all() for path in Path("out/confidence/run").glob("*.png"))


def test_an_empty_mask_of_an_object(tmp_path: Path) -> None:
    root = make_davis(tmp_path / "davis", {"bear": 5})
    assert autolabel(root, *MOTION, "--label-every", "4") == 0
    assert (written("bear")[4] == 0).all()


@pytest.mark.parametrize("line", ["../walk/00000", "/etc/passwd", "walk/../../x", "walk/00009"])
def test_a_list_of_anchors_stays_inside(tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 3})
    Path("keyframes.txt").write_text(f"walk/00000\n{line}\n")
    assert line in refused(root, capsys, *MOTION, "--keyframes", "keyframes.txt")


@pytest.mark.parametrize("line", ["../walk", "/etc"])
def test_a_list_of_clips_stays_inside(tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 3})
    (root / "splits").mkdir()
    (root / "splits/val.txt").write_text(line)
    assert "leads out of the data set" in refused(root, capsys, *MOTION, "--split", "val")


@pytest.mark.parametrize("label", ["../run/labels/walk/00000.png", "/elsewhere/x.png", "labels/../../x.png"])
def test_a_manifest_stays_inside(tmp_path: Path, label: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path) / "run"
    lines = [json.loads(line) for line in (run / "manifest.jsonl").read_text().splitlines()]
    lines[1]["label"] = label
    (run / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for command in (["export", str(run), "--format=voc", "--out=exported"], ["suggest", str(run)]):
        assert main(command) == 2
        assert f"line 2 has the label {label!r}, expected one below labels/" in capsys.readouterr().err
    assert not Path("exported").exists()


@pytest.mark.parametrize("out", ["JPEGImages/480p/bear", "JPEGImages/480p/new", "Annotations/480p/bear/x", "."])
def test_nothing_is_written_among_the_files_of_a_data_set(
    tmp_path: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_davis(tmp_path / "davis", {"bear": 3})
    before = sorted(root.rglob("*"))
    assert main(["autolabel", str(root), "--out", str(root / out), *MOTION]) == 2
    assert "which is read from; choose another" in capsys.readouterr().err
    assert sorted(root.rglob("*")) == before
    assert main(["autolabel", str(root), "--out", str(root / "out"), *MOTION]) == 0


@pytest.mark.parametrize("video", [False, True], ids=["folder", "video"])
def test_a_clip_of_one_frame(tmp_path: Path, video: bool) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 1})
    if video:
        (root / "frames/walk/00000.png").unlink()
        (root / "frames/walk").rmdir()
        make_video(root / "frames/walk.mp4", [picture(0)])
    assert autolabel(root) == 0
    assert len(written()) == 1
    assert np.array_equal(written()[0], id_picture(0))
    assert Path("out/report.html").is_file()


def test_every_frame_is_labelled_already(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 4})
    assert autolabel(root) == 0
    for number, label in enumerate(written()):
        assert np.array_equal(label, id_picture(number))


def test_no_frame_is_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 4}, labelled=())
    assert "clip walk" in refused(root, capsys)
    assert "has no labelled frame" in refused(root, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5)])
@pytest.mark.parametrize("methods", ["motion,vote", "motion,semantic,inpaint,refine"])
def test_tiny_frames(tmp_path: Path, height: int, width: int, methods: str) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 5}, labelled=(0, 4))
    for number in range(5):
        save(root / f"frames/walk/0000{number}.png", picture(number, height, width))
    for number in (0, 4):
        save(root / f"labels/walk/0000{number}.png", id_picture(0, height=height, width=width))
    quick = ["--weights=none", "--teacher-steps=1", "--refiner-steps=1"]
    assert autolabel(root, "--methods", methods, *quick) == 0
    assert [label.shape for label in written()] == [(height, width)] * 5
    assert {int(value) for label in written() for value in np.unique(label)} <= {0, 3, 7, 255}
    assert np.array_equal(written()[4], id_picture(0, height=height, width=width))


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign", "empty"])
def test_a_flow_cache_that_is_not_what_it_was(tmp_path: Path, damage: str) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 5}, labelled=(0, 4))
    command = ["autolabel", str(root), *MOTION, "--flow-cache", "flow", "--out"]
    assert main([*command, "out"]) == 0
    flows = {flow: flow.read_bytes() for flow in Path("flow").glob("*.flow")}
    assert len(flows) == 2  # between neighbours, and direct
    for flow, whole in flows.items():
        if damage == "flip":
            flip(flow, 4096 + 64 + 100)
        else:
            flow.write_bytes({"cut": whole[:-100], "foreign": b"PIEH" * 5000, "empty": b""}[damage])
    assert main([*command, "again"]) == 0
    for path in sorted(Path("out/labels/walk").iterdir()):
        assert path.read_bytes() == (Path("again/labels/walk") / path.name).read_bytes()
    assert all(flow.stat().st_size >= len(whole) for flow, whole in flows.items())


def test_a_flipped_bit_in_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PyTorch writes checksums and does not look at them."""
    root = make_folder(tmp_path / "clips", {"walk": 3}, labelled=(0, 2))
    network = SegmentationModule(3, NetworkArgs(encoder_name="tu-test_resnet"))
    content = {"state_dict": network.state_dict(), "hyper_parameters": dict(network.hparams)}
    network.on_save_checkpoint(content)
    torch.save(content | {"pytorch-lightning_version": "2.6.6"}, "teacher.ckpt")
    flip(Path("teacher.ckpt"), Path("teacher.ckpt").stat().st_size // 2)
    error = capsys.readouterr().err
    assert autolabel(root, "--methods=semantic", "--teacher=teacher.ckpt") == 2
    error = capsys.readouterr().err
    assert "teacher.ckpt cannot be read as a checkpoint: its part " in error
    assert not list(Path(".").rglob("labels/walk/00001.png"))


def test_a_checkpoint_that_is_resumed_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    Path("evil.py").write_text("open('ran', 'w')\nfrom torch.nn import Identity as Net\n")
    named = {"_class_path": "wrp.SegmentationModule", "num_classes": 3, "net": {"class_path": "evil.Net"}}
    content = {"state_dict": {}, "hyper_parameters": named, "pytorch-lightning_version": "2.6.6"}
    torch.save(content | {CLASS_KEY: class_name(SegmentationModule), FORMAT_KEY: FORMAT}, "evil.ckpt")
    command = ["predict", "--model=SegmentationModule", "--data=SegmentationData", "--data.num_classes=3"]
    assert main([*command, "--ckpt_path=evil.ckpt"]) == 2
    assert "evil.Net, which is imported only where you allow it" in capsys.readouterr().err
    assert not Path("ran").exists()
