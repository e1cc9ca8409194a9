"""Make the pictures of the pages on the loop, from clips that are generated.

    python docs/images/loop.py

It needs Playwright and a Chromium, as the tests of the report do (extra `test`; `apt-get install chromium`).
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

from wrp.cli.main import main as wrp
from wrp.data.index import read_list

HERE = Path(__file__).parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def run(*command: object) -> None:
    """Run a command of `wrp`; raise RuntimeError if it fails."""
    if code := wrp([str(part) for part in command]):
        raise RuntimeError(f"`wrp {' '.join(map(str, command))}` ended with exit code {code}")


def label(truth: Path, mine: Path, names: list[str]) -> None:
    """Give frames of a data set their labels, as if an annotator had drawn them."""
    for name in names:
        path = mine / "labels" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(truth / "labels" / f"{name}.png", path)


def save(picture: bytes, name: str, width: int) -> None:
    """Save a picture as a small PNG, at most `width` pixels wide."""
    with Image.open(io.BytesIO(picture)) as image:
        image = image.convert("RGB")
        image.thumbnail((width, image.height))
        image.quantize(128, dither=Image.Dither.NONE).save(HERE / name, optimize=True)
    print(f"{HERE / name}: {(HERE / name).stat().st_size // 1000} kB, {image.width}×{image.height}")


def section(page: Page, title: str) -> Locator:
    """Return the section of a report that a heading begins."""
    return page.locator("section", has=page.locator(f"#{title}"))


def photograph(folder: Path, name: str) -> None:
    """Take the pictures of the suggestions, of the frame that is suggested first, and of what has changed."""
    save((folder / "first/suggest.png").read_bytes(), "loop-suggest.png", 900)
    stem = name.rpartition("/")[2]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 1000})
        page.goto((folder / "first/report.html").as_uri())
        page.locator("#scrub").fill(str(int(stem)))
        expect(page.locator("#facts")).to_contain_text(f"{stem}: index")
        save(section(page, "frames-title").screenshot(), "loop-frame.png", 1000)
        page.goto((folder / "second/report.html").as_uri())
        expect(page.locator("#facts")).to_contain_text("frame")
        changed = section(page, "continued-title")
        changed.evaluate("(node, folder) => { node.innerHTML = node.innerHTML.replace(folder, ''); }", f"{folder}/")
        save(changed.screenshot(), "loop-changed.png", 1000)
        browser.close()


def go_round(folder: Path) -> list[str]:
    """Go once through the loop in a folder; return the names of the frames that were suggested, and then corrected."""
    truth, mine = folder / "truth", folder / "mine"
    run("data", "synthetic", truth, "--frames", 21, "--size", "256x144")
    shutil.copytree(truth, mine, ignore=shutil.ignore_patterns("labels"))
    (clip,) = (path.name for path in (mine / "frames").iterdir())
    label(truth, mine, [f"{clip}/{number:05d}" for number in (0, 10, 20)])
    how = ("--methods", "motion", "--flow", "dis-fast")
    run("autolabel", mine, "--out", folder / "first", *how)
    run("suggest", folder / "first", "-n", 1)
    suggested = read_list(folder / "first/suggest.txt")
    label(truth, mine, suggested)
    run("autolabel", mine, "--out", folder / "second", *how, "--continue", folder / "first")
    return suggested


def main() -> None:
    """Go once through the loop, and take its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        photograph(Path(folder), go_round(Path(folder))[0])


if __name__ == "__main__":
    main()
