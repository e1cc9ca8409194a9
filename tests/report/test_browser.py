"""report.html in a real browser: it scrubs, switches and filters, and nothing in it can do more than it should."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.reports import CLASS, CLIP, COLORS, FRAMES, ids

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, reported: Path) -> Iterator[Page]:
    """The page, opened from the disk; a message in the console, a dialog or a request to elsewhere is a failure."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    address = (reported / "report.html").as_uri()
    page.on("request", lambda request: request.url.startswith("data:") or faults.append(request.url))
    page.goto(address)
    expect(page.locator("#facts")).to_contain_text("frame")
    yield page
    page.close()
    assert faults == [address]


def show(page: Page, index: int) -> None:
    page.locator("#scrub").fill(str(index))
    expect(page.locator("#facts")).to_contain_text(f"{index:05d}: index {index} of")


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


def test_scrubbing_shows_the_labels_of_each_frame(page: Page, reported: Path) -> None:
    choose(page, "walk")
    addresses = set()
    for index in range(9):
        show(page, index)
        labels = ids(reported / f"labels/walk/{index:05d}.png")
        for name in ("labels", "overlay"):
            seen = canvas(page, name)
            for value, color in COLORS.items():
                assert (seen[labels == value] == (*color, 255)).all()
            assert (seen[labels == 255] == 0).all()
        addresses.add(page.locator("#image").get_attribute("src"))
        assert page.locator("#no-provenance").is_visible() == (index in (0, 4, 8))
    assert len(addresses) == 9
    source = ids(reported / "provenance/walk/00003.png")
    show(page, 3)
    for value in np.unique(source):
        assert (canvas(page, "provenance")[source == value, :3] == [255 * (value >> bit & 1) for bit in range(3)]).all()


def test_certainty_is_bright(page: Page, reported: Path) -> None:
    choose(page, "walk")
    show(page, 3)
    confidence = ids(reported / "confidence/walk/00003.png")
    assert confidence.std() > 0
    brightness = canvas(page, "certainty")[..., :3].sum(-1)
    assert np.corrcoef(brightness.ravel(), confidence.ravel())[0, 1] > 0.5


def test_keys_and_play_move_through_the_clip(page: Page) -> None:
    choose(page, "walk")
    page.locator("body").press("Home")
    facts = page.locator("#facts")
    expect(facts).to_contain_text("00000: index 0 of 0 … 8 · labelled by hand")
    page.locator("body").press("ArrowRight")
    expect(facts).to_contain_text("00001: index 1 of 0 … 8 · by motion · 1 frame from the nearest keyframe")
    page.locator("body").press("End")
    expect(facts).to_contain_text("index 8 of 0 … 8")
    page.locator("body").press("ArrowRight")
    page.locator("body").press("ArrowLeft")
    expect(facts).to_contain_text("index 7 of 0 … 8")
    page.locator("#scrub").press("ArrowLeft")
    expect(facts).to_contain_text("index 6 of 0 … 8")
    page.locator("#play").click()
    expect(page.locator("#play")).to_have_text("Pause")
    expect(facts).to_contain_text("index 1 of 0 … 8")
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


def test_classes_are_switched_off_and_on(page: Page, reported: Path) -> None:
    choose(page, "walk")
    show(page, 2)
    labels = ids(reported / "labels/walk/00002.png")
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


def test_errors_alone_are_shown(page: Page, reported: Path) -> None:
    choose(page, "walk")
    show(page, 2)
    labels, truth = (
        ids(folder / "walk/00002.png") for folder in (reported / "labels", reported.parent / "clips/labels")
    )
    assert (labels != truth).any()
    page.get_by_label("only where they are wrong").check()
    assert np.array_equal(canvas(page, "labels")[..., 3] > 0, (labels != truth) & (labels != 255))
    show(page, 4)
    expect(page.get_by_label("only where they are wrong")).to_be_hidden()
    assert canvas(page, "labels")[..., 3].all()


def test_the_worst_frames_come_first_and_lead_to_the_picture(page: Page) -> None:
    rows = page.locator("#worst tbody tr")
    expect(rows).to_have_count(9)  # frames of both clips that are no keyframes
    scores = [float(text) for text in page.locator("#worst tbody td:last-child").all_inner_texts()]
    assert scores == sorted(scores)
    expect(page.locator("#facts")).to_contain_text("mIoU")
    for number in (8, 0):
        stem, clip = rows.nth(number).locator("th, td").all_inner_texts()[:2]
        rows.nth(number).get_by_role("button").click()
        expect(page.locator("#facts")).to_contain_text(f"mIoU {scores[number]:.1f}")
        expect(page.locator("#facts")).to_contain_text(f"{stem}: index")
        assert page.locator("#clip").evaluate("select => select.selectedOptions[0].text") == clip
        expect(rows.nth(number)).to_have_attribute("aria-current", "true")


def test_a_click_on_the_timeline_goes_there(page: Page) -> None:
    choose(page, "walk")
    expect(page.locator("#timeline .mark")).to_have_count(3)
    for mark, index in ((1, 4), (0, 0), (2, 8)):
        page.locator("#timeline .mark").nth(mark).click()
        expect(page.locator("#facts")).to_contain_text(f"index {index} of 0 … 8 · labelled by hand")
    first, last = (page.locator("#timeline .mark").nth(i).bounding_box() for i in (0, 2))
    assert first is not None
    assert last is not None
    page.mouse.click(first["x"] + first["width"] / 2 + (last["x"] - first["x"]) * 6 / 8, first["y"] - 30)
    expect(page.locator("#facts")).to_contain_text("index 6 of 0 … 8")
    for kind in ("confidence", "miou"):
        assert page.locator(f"#timeline path.{kind}").get_attribute("d")


def test_clips_are_filtered_by_name(page: Page) -> None:
    options = page.locator("#clip option")
    expect(options).to_have_text([CLIP, "walk"])
    page.get_by_label("Filter").fill("WAL")
    expect(options).to_have_text(["walk"])
    expect(page.locator("#worst tbody tr")).to_have_count(6)
    expect(page.locator("#facts")).to_contain_text("of 0 … 8")
    page.get_by_label("Filter").fill("onerror")
    expect(options).to_have_text([CLIP])
    expect(page.locator("#worst tbody tr")).to_have_count(3)
    expect(page.locator("#facts")).to_contain_text("of 0 … 4")
    page.get_by_label("Filter").fill("nothing")
    expect(page.locator("#matches")).to_have_text("0 of 2 clips")
    page.get_by_label("Filter").fill("")
    expect(options).to_have_count(2)


def test_names_are_text(page: Page) -> None:
    expect(page.locator("h1")).to_have_text("<b>out<b>")
    expect(page.locator("#classes button").nth(1)).to_have_text(CLASS)
    expect(page.locator("main").get_by_role("rowheader", name=CLASS, exact=True)).to_have_count(2)  # scores, estimates
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


def test_black_classes_are_labels_but_do_not_darken_the_frame(browser: Browser, reported: Path, tmp_path: Path) -> None:
    head, rest = (reported / "report.html").read_text().split('<script type="application/json" id="data">')
    block, tail = rest.split("</script>", 1)
    data = json.loads(block)
    assert all(one["blended"] for one in data["classes"])
    data["classes"][0] |= {"color": [0, 0, 0], "blended": False}
    block = json.dumps(data).replace("<", "\\u003c")
    other = tmp_path / "black.html"
    other.write_text(f'{head}<script type="application/json" id="data">{block}</script>{tail}')
    with browser.new_page() as black:
        black.goto(other.as_uri())
        choose(black, "walk")
        show(black, 4)
        labels = ids(reported / "labels/walk/00004.png")
        assert (canvas(black, "labels")[labels == 0] == (0, 0, 0, 255)).all()
        assert (canvas(black, "overlay")[labels == 0] == 0).all()
        assert (canvas(black, "overlay")[labels == 3] == (*COLORS[3], 255)).all()
