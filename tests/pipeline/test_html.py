"""report.html: what is in it, and what it does in a real browser."""

from __future__ import annotations

import base64
import configparser
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

import wrp
from tests.clips import CLASSES_YAML, bare_clip, id_picture, make_folder, save
from wrp.cli import main
from wrp.data.datasets.generated import generate_folder
from wrp.pipeline import html
from wrp.pipeline.html import FrameRow, choose_frames

# No folder can be named </script>, but a class can.
CLIP = "<img src=x onerror=alert(1)>"
CLASS = "</script><script>alert(2)</script>"
COLORS = {0: (10, 20, 30), 3: (40, 50, 60), 7: (70, 80, 90)}
FRAMES = {"walk": 9, CLIP: 5}

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two tiny clips, with markup for names; every fourth label is an anchor, the others are hidden.

    The truth of two hidden frames is another's, so that there are errors to show.
    """
    folder = tmp_path_factory.mktemp("run")
    root, out = make_folder(folder / "clips", FRAMES), folder / "<b>out</b>".replace("/", "")
    for wrong in (2, 3):
        save(root / f"labels/walk/{wrong:05d}.png", id_picture(wrong + 2 * wrong))
    (root / "classes.yaml").write_text(CLASSES_YAML.replace("sky", json.dumps(CLASS)))
    assert main(["autolabel", str(root), "--out", str(out), "--label-every", "4", "--methods", "copy,motion"]) == 0
    return out


def data_of(out: Path) -> dict[str, Any]:
    """The data block of a page."""
    text = (out / "report.html").read_text(encoding="utf-8")
    block = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    data: dict[str, Any] = json.loads(block)
    return data


def pixels(webp: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(webp))) as image:
        assert image.format == "WEBP"
        return np.array(image.convert("RGB"))


def ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def indices(values: np.ndarray) -> np.ndarray:
    """Class indices of ids."""
    table = np.full(256, 255, np.uint8)
    table[list(COLORS)] = range(len(COLORS))
    return table[values]


def test_the_pictures_are_those_of_the_run(run: Path) -> None:
    data = data_of(run)
    clips = {clip["name"]: clip for clip in data["clips"]}
    assert set(clips) == set(FRAMES)
    frames = clips["walk"]["frames"]
    assert [frame["index"] for frame in frames] == list(range(9))
    assert clips["walk"]["anchors"] == [0, 4, 8]
    truth = run.parent / "clips/labels/walk"
    for frame in frames:
        name = f"{frame['stem']}.png"
        assert np.array_equal(pixels(frame["labels"])[..., 0], indices(ids(run / "labels/walk" / name)))
        certainty = pixels(frame["certainty"])[..., 0].astype(float)
        assert np.abs(certainty - ids(run / "confidence/walk" / name)).mean() < 12
        shown = pixels(frame["image"]).astype(float)
        assert np.abs(shown - ids(run.parent / "clips/frames/walk" / name)).mean() < 25
        anchor = frame["index"] in (0, 4, 8)
        assert frame["method"] == ("anchor" if anchor else "motion")
        assert (frame["truth"] is None) == (frame["miou"] is None) == (frame["source"] is None) == anchor
        if not anchor:
            assert np.array_equal(pixels(frame["truth"])[..., 0], indices(ids(truth / name)))
            assert np.array_equal(pixels(frame["source"])[..., 0], ids(run / "source/walk" / name))


def test_the_score_of_a_frame_is_that_of_its_classes(run: Path) -> None:
    walk = next(clip for clip in data_of(run)["clips"] if clip["name"] == "walk")
    for frame in walk["frames"]:
        if frame["miou"] is not None:
            name = f"{frame['stem']}.png"
            given, right = ids(run / "labels/walk" / name), ids(run.parent / "clips/labels/walk" / name)
            pairs = [((given == i) & (right == i), (given == i) | (right == i)) for i in COLORS]
            wanted = np.mean([both.sum() / either.sum() for both, either in pairs if either.any()])
            assert frame["miou"] == pytest.approx(100 * wanted, abs=0.01)
    assert walk["miou"] == [frame["miou"] for frame in walk["frames"]]
    assert walk["confidence"] == [frame["confidence"] for frame in walk["frames"]]


def test_the_page_is_one_file(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "mIoU by method and distance" in text
    assert "IoU by class" in text
    assert "mIoU by clip" in text
    assert 'class="reliability"' in text
    assert "pytorch-lightning" in text
    assert "thinned" not in text
    for address in ("http://", "https://", "@import", "url("):
        assert address not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_data_travel_with_the_package() -> None:
    setup = configparser.ConfigParser()
    root = Path(wrp.__file__).parent
    setup.read(root.parent / "setup.cfg")
    named = {
        path
        for package, patterns in setup["options.package_data"].items()
        for pattern in patterns.split()
        for path in root.parent.joinpath(*package.split(".")).glob(pattern)
    }
    others = {p for p in root.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert others
    assert named == others


def row(index: int, miou: float | None, confidence: float = 0.9) -> FrameRow:
    return FrameRow(index, f"{index:05d}", "motion", 1, confidence, miou)


def test_long_clips_keep_their_worst_frames_and_anchors() -> None:
    clip = bare_clip(1000, anchors=range(0, 1000, 10))
    rows = [row(i, None if i % 10 == 0 else 90.0) for i in range(1000)]
    for worst in (333, 334, 777):
        rows[worst] = row(worst, 1.0)
    chosen = choose_frames(clip, rows, 40)
    assert len(chosen) == 40
    assert chosen == sorted(set(chosen))
    assert {333, 334, 777, 0, 990} <= set(chosen)
    assert len([i for i in chosen if i % 10 == 0]) >= 10
    assert max(np.diff(chosen)) < 120
    assert choose_frames(clip, rows, 1000) == list(range(1000))
    assert len(choose_frames(clip, rows, 1)) == 1


def test_frames_without_truth_are_ranked_by_confidence() -> None:
    rows = [row(0, None, 0.2), row(1, 95.0), row(2, None, 0.1), row(3, 50.0)]
    assert [r.index for r in sorted(rows, key=lambda r: r.rank)] == [3, 1, 2, 0]


def test_what_is_left_out_is_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(run, tmp_path / "out"))
    monkeypatch.setattr(html, "FRAMES_PER_CLIP", 4)
    monkeypatch.setattr(html, "LONGEST", 20)
    assert main(["report", str(out)]) == 0
    text = (out / "report.html").read_text()
    assert "It holds the pictures of 8 of 14 frames" in text
    assert [len(clip["frames"]) for clip in data_of(out)["clips"]] == [4, 4]
    assert [len(clip["miou"]) for clip in data_of(out)["clips"]] == [5, 9]
    assert pixels(data_of(out)["clips"][0]["frames"][0]["labels"]).shape == (12, 20, 3)
    monkeypatch.setattr(html, "CLIPS", 1)
    assert main(["report", str(out)]) == 0
    assert "The page shows the 1 worst of 2 clips" in (out / "report.html").read_text()
    means = {
        clip: scores["motion"]["miou"]
        for clip, scores in json.loads((out / "metrics.json").read_text())["clips"].items()
    }
    assert [clip["name"] for clip in data_of(out)["clips"]] == [min(means, key=means.__getitem__)]


def test_a_run_without_hidden_labels_has_no_scores(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "clips", {"walk": 5}, labelled=(2,))
    assert main(["autolabel", str(root), "--out", str(tmp_path / "out"), "--methods", "motion"]) == 0
    text = (tmp_path / "out/report.html").read_text()
    assert "no labels were hidden" in text
    assert "Scores on hidden frames" not in text
    assert data_of(tmp_path / "out")["clips"][0]["miou"] == [None] * 5


def test_report_is_written_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(shutil.copytree(run, tmp_path / run.name))
    before = {name: (out / name).read_bytes() for name in ("report.html", "report.md", "metrics.json")}
    (out / "report.html").unlink()
    (out / "report.md").unlink()
    assert main(["report", str(out)]) == 0
    assert str(out / "report.html") in capsys.readouterr().out
    assert {name: (out / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("settings.json", "expected the output of `wrp autolabel`"),
        ("metrics.json", "the labels are there, but have not been scored; run the command that made them again"),
        ("labels/walk/00003.png", "is not finished: 1 of 14 labels are missing, the first is"),
        ("confidence/walk/00003.png", "there is no file"),
        ("manifest.jsonl", "there is no"),
        ("metrics.json=", "metrics.json cannot be used"),
        ("metrics.json={}", "metrics.json cannot be used"),
        ("settings.json=[", "settings.json is damaged"),
        ("manifest.jsonl=", "manifest.jsonl lacks frame 00000 of clip"),
    ],
)
def test_a_run_that_is_not_whole_is_refused(
    run: Path, tmp_path: Path, broken: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(run, tmp_path / "out"))
    (out / "report.html").unlink()
    name, damaged, content = broken.partition("=")
    (out / name).unlink()
    if damaged:
        (out / name).write_text(content)
    assert main(["report", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert name.rpartition("/")[2] in error
    assert not (out / "report.html").exists()


@pytest.mark.slow
def test_the_page_of_a_clip_of_vga_size_stays_small(tmp_path: Path) -> None:
    root = generate_folder(tmp_path / "scene", num_frames=51, height=360, width=480)
    out, random = tmp_path / "out", np.random.default_rng(0)
    for path in sorted((root / "frames/street0").iterdir()):  # the noise of a camera, which compresses badly
        noisy = ids(path) + random.normal(0, 5, (360, 480, 3))
        save(path, noisy.clip(0, 255).astype(np.uint8))
    assert main(["autolabel", str(root), "--out", str(out), "--label-every", "25", "--methods", "copy"]) == 0
    for path in (out / "labels/street0").iterdir():  # sources could not be worse
        save(out / "source/street0" / path.name, random.integers(0, 8, (360, 480), np.uint8))
    assert main(["report", str(out)]) == 0
    assert all(frame["source"] for frame in data_of(out)["clips"][0]["frames"])
    assert 2e6 < (out / "report.html").stat().st_size < 15e6


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, run: Path) -> Iterator[Page]:
    """The page, opened from the disk; a message in the console, a dialog or a request to elsewhere is a failure."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    address = (run / "report.html").as_uri()
    page.on("request", lambda request: request.url.startswith("data:") or faults.append(request.url))
    page.goto(address)
    expect(page.locator("#facts")).to_contain_text("frame")
    yield page
    page.close()
    assert faults == [address]


def show(page: Page, index: int) -> None:
    page.locator("#scrub").fill(str(index))
    expect(page.locator("#facts")).to_contain_text(f"{index:05d}: frame {index + 1} of")


def canvas(page: Page, name: str) -> np.ndarray:
    """What a canvas shows, (H, W, 4) uint8 RGBA."""
    script = """name => {
        const { width, height } = document.getElementById(name);
        const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(document.getElementById(name), 0, 0);
        return [height, width, ...copy.getImageData(0, 0, width, height).data];
    }"""
    height, width, *values = page.evaluate(script, name)
    return np.array(values, np.uint8).reshape(height, width, 4)


def choose(page: Page, clip: str) -> None:
    page.locator("#clip").select_option(label=clip)
    expect(page.locator("#scrub")).to_have_attribute("max", str(FRAMES[clip] - 1))


def test_scrubbing_shows_the_labels_of_each_frame(page: Page, run: Path) -> None:
    choose(page, "walk")
    addresses = set()
    for index in range(9):
        show(page, index)
        labels = ids(run / f"labels/walk/{index:05d}.png")
        for name in ("labels", "overlay"):
            seen = canvas(page, name)
            for value, color in COLORS.items():
                assert (seen[labels == value] == (*color, 255)).all()
            assert (seen[labels == 255] == 0).all()
        addresses.add(page.locator("#image").get_attribute("src"))
        assert page.locator("#no-source").is_visible() == (index in (0, 4, 8))
    assert len(addresses) == 9
    source = ids(run / "source/walk/00003.png")
    show(page, 3)
    for value in np.unique(source):
        assert (canvas(page, "source")[source == value, :3] == [255 * (value >> bit & 1) for bit in range(3)]).all()


def test_doubt_is_bright(page: Page, run: Path) -> None:
    choose(page, "walk")
    show(page, 3)
    confidence = ids(run / "confidence/walk/00003.png")
    assert confidence.std() > 0
    brightness = canvas(page, "certainty")[..., :3].sum(-1)
    assert np.corrcoef(brightness.ravel(), confidence.ravel())[0, 1] < -0.5


def test_keys_and_play_move_through_the_clip(page: Page) -> None:
    choose(page, "walk")
    page.locator("body").press("Home")
    facts = page.locator("#facts")
    expect(facts).to_contain_text("00000: frame 1 of 9 · labelled by hand")
    page.locator("body").press("ArrowRight")
    expect(facts).to_contain_text("00001: frame 2 of 9 · by motion · 1 from the nearest anchor")
    page.locator("body").press("End")
    expect(facts).to_contain_text("frame 9 of 9")
    page.locator("body").press("ArrowRight")
    page.locator("body").press("ArrowLeft")
    expect(facts).to_contain_text("frame 8 of 9")
    page.locator("#scrub").press("ArrowLeft")
    expect(facts).to_contain_text("frame 7 of 9")
    page.locator("#play").click()
    expect(page.locator("#play")).to_have_text("Pause")
    expect(facts).to_contain_text("frame 2 of 9")
    page.locator("#play").press("Space")
    expect(page.locator("#play")).to_have_text("Play")
    page.wait_for_timeout(300)
    stopped = facts.inner_text()
    page.wait_for_timeout(500)
    assert facts.inner_text() == stopped


def test_the_blend_follows_its_slider(page: Page) -> None:
    opacity = "document.getElementById('overlay').computedStyleMap().get('opacity').value"
    for value in (0, 75, 100):
        page.get_by_label("Blend of labels over the frame").fill(str(value))
        assert page.evaluate(opacity) == pytest.approx(value / 100)
        expect(page.locator("#blend-value")).to_have_text(f"{value} %")


def test_classes_are_switched_off_and_on(page: Page, run: Path) -> None:
    choose(page, "walk")
    show(page, 2)
    labels = ids(run / "labels/walk/00002.png")
    page.get_by_role("button", name="car", exact=True).click()
    expect(page.get_by_role("button", name="car", exact=True)).to_have_attribute("aria-pressed", "false")
    for name in ("labels", "overlay"):
        assert np.array_equal(canvas(page, name)[..., 3] > 0, (labels != 7) & (labels != 255))
    page.get_by_role("button", name="Hide all").click()
    assert not canvas(page, "labels").any()
    page.get_by_role("button", name="car", exact=True).click()
    assert np.array_equal(canvas(page, "labels")[..., 3] > 0, labels == 7)
    page.get_by_role("button", name="Show all").click()
    assert np.array_equal(canvas(page, "labels")[..., 3] > 0, labels != 255)


def test_errors_alone_are_shown(page: Page, run: Path) -> None:
    choose(page, "walk")
    show(page, 2)
    labels, truth = (ids(folder / "walk/00002.png") for folder in (run / "labels", run.parent / "clips/labels"))
    assert (labels != truth).any()
    page.get_by_label("only where they are wrong").check()
    assert np.array_equal(canvas(page, "labels")[..., 3] > 0, (labels != truth) & (labels != 255))
    show(page, 4)
    expect(page.get_by_label("only where they are wrong")).to_be_hidden()
    assert canvas(page, "labels")[..., 3].all()


def test_the_worst_frames_come_first_and_lead_to_the_picture(page: Page) -> None:
    rows = page.locator("#worst tbody tr")
    expect(rows).to_have_count(9)  # frames of both clips that are no anchors
    scores = [float(text) for text in page.locator("#worst tbody td:last-child").all_inner_texts()]
    assert scores == sorted(scores)
    expect(page.locator("#facts")).to_contain_text("mIoU")
    for number in (8, 0):
        stem, clip = rows.nth(number).locator("th, td").all_inner_texts()[:2]
        rows.nth(number).get_by_role("button").click()
        expect(page.locator("#facts")).to_contain_text(f"mIoU {scores[number]:.1f}")
        expect(page.locator("#facts")).to_contain_text(f"{stem}: frame")
        assert page.locator("#clip").evaluate("select => select.selectedOptions[0].text") == clip
        expect(rows.nth(number)).to_have_attribute("aria-current", "true")


def test_a_click_on_the_timeline_goes_there(page: Page) -> None:
    choose(page, "walk")
    expect(page.locator("#timeline .mark")).to_have_count(3)
    for mark, frame in ((1, 5), (0, 1), (2, 9)):
        page.locator("#timeline .mark").nth(mark).click()
        expect(page.locator("#facts")).to_contain_text(f"frame {frame} of 9 · labelled by hand")
    first, last = (page.locator("#timeline .mark").nth(i).bounding_box() for i in (0, 2))
    assert first is not None
    assert last is not None
    page.mouse.click(first["x"] + first["width"] / 2 + (last["x"] - first["x"]) * 6 / 8, first["y"] - 30)
    expect(page.locator("#facts")).to_contain_text("frame 7 of 9")
    for kind in ("confidence", "miou"):
        assert page.locator(f"#timeline path.{kind}").get_attribute("d")


def test_clips_are_filtered_by_name(page: Page) -> None:
    options = page.locator("#clip option")
    expect(options).to_have_text([CLIP, "walk"])
    page.get_by_label("Filter").fill("WAL")
    expect(options).to_have_text(["walk"])
    expect(page.locator("#worst tbody tr")).to_have_count(6)
    expect(page.locator("#facts")).to_contain_text("of 9")
    page.get_by_label("Filter").fill("onerror")
    expect(options).to_have_text([CLIP])
    expect(page.locator("#worst tbody tr")).to_have_count(3)
    expect(page.locator("#facts")).to_contain_text("of 5")
    page.get_by_label("Filter").fill("nothing")
    expect(page.locator("#matches")).to_have_text("0 of 2 clips")
    page.get_by_label("Filter").fill("")
    expect(options).to_have_count(2)


def test_names_are_text(page: Page) -> None:
    expect(page.locator("h1")).to_have_text("<b>out<b>")
    expect(page.locator("#classes button").nth(1)).to_have_text(CLASS)
    expect(page.locator("main").get_by_role("rowheader", name=CLASS, exact=True)).to_be_attached()
    expect(page.get_by_role("rowheader", name=CLIP, exact=True)).to_be_attached()
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 1
    assert page.locator("h1 b").count() == 0


def test_it_follows_the_colour_scheme_and_the_width(page: Page) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) != light
    for width in (1400, 800, 400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name(page: Page) -> None:
    for control in page.locator("input:visible, select:visible, button:visible").all():
        name = control.evaluate("e => e.ariaLabel || [...(e.labels ?? [])].map(l => l.innerText).join() || e.innerText")
        assert name.strip()
