from pathlib import Path

import pytest
from PIL import Image

from tests.clips import id_picture, make_camvid, make_folder, picture, save
from tests.io.videos import write_video
from wrp.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["data", *arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_sound_data_set_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path, {"run": 3, "walk": 9}, labelled=(0, 4))
    code, out, _ = run(capsys, "check", str(root))
    assert code == 0
    assert "Everything can be used." in out
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert ["run", "3", "1", "1", "3", "40×24"] in cells
    assert ["walk", "9", "2", "2", "5", "40×24"] in cells
    shares = {row[0]: float(row[1]) for row in cells if row[0] in ("road", "sky", "car", "(none)")}
    assert sum(shares.values()) == pytest.approx(100, abs=0.1)
    assert shares["(none)"] == 0


def test_labelled_images_beside_the_clips_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", str(make_camvid(tmp_path, val=4, train=3)))
    assert code == 0
    assert "3 labelled images outside of the clips" in out


def test_every_problem_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path, {"run": 3, "walk": 9, "bare": 2}, labelled=(0, 4))
    (root / "labels" / "bare" / "00000.png").unlink()
    damaged = root / "frames" / "walk" / "00002.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    unknown = save(root / "labels" / "walk" / "00004.png", id_picture(0, (0, 77)))
    save(root / "frames" / "run" / "00001.png", picture(0, 30, 40))
    code, out, err = run(capsys, "check", str(root))
    assert code == 2
    for text in (str(damaged), str(unknown), "77 (", "clip run: all frames", "clip bare: none of its 2 frames"):
        assert text in out
    assert "4 problems" in err


def test_a_video_and_three_labels_are_all_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with one video and three indexed labels: check, then autolabel, with no other file."""
    root = tmp_path / "mine"
    write_video(root / "frames" / "drive.mp4", 13)
    for number in (0, 6, 12):
        label = Image.fromarray(id_picture(number, (0, 1), 48, 64))
        label.putpalette([0, 0, 200, 200, 100, 0])
        path = root / "labels" / "drive" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        label.save(path)
    code, out, _ = run(capsys, "check", str(root))
    assert code == 0
    assert "class 1" in out
    small = ["--teacher-steps=1", "--refiner-steps=1", "--weights=none"]
    assert main(["autolabel", str(root), f"--out={tmp_path / 'out'}", *small]) == 0
    assert len(list((tmp_path / "out" / "labels" / "drive").glob("*.png"))) == 13
    with Image.open(tmp_path / "out" / "labels" / "drive" / "000003.png") as written:
        assert written.mode == "P"
        assert written.getpalette()[:6] == [0, 0, 200, 200, 100, 0]


def test_generated_clips_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clips"
    code, _, _ = run(capsys, "synthetic", str(out), "--clips=2", "--frames=2", "--size=128x64", "--seed=3")
    assert code == 0
    code, text, _ = run(capsys, "check", str(out))
    assert code == 0
    assert "street3" in text
    assert "street4" in text
    assert "128×64" in text
    code, _, err = run(capsys, "synthetic", str(out))
    assert code == 2
    assert "holds other generated clips" in err
    code, _, err = run(capsys, "synthetic", str(tmp_path / "x"), "--size=big")
    assert "WIDTHxHEIGHT" in err


def test_layouts_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "layouts")
    assert code == 0
    assert {line.split(":")[0] for line in out.splitlines()} >= {"folder", "cityscapes", "nyuv2"}
