"""The screenshots in docs/ of the report and of `pipeline serve`, taken in a headless Chromium.

    python docs/screenshots.py [WORKSPACE [NAME.png …]]     default: data/demo, as `pipeline demo` leaves it

Needs what the browser tests need: Debian's `chromium`, and the extra `dev`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.serve.config import ServeConfig
from pipeline.serve.server import BackgroundServer
from tests.helpers.browser import DESKTOP, Browser, Visit, start_browser, why_no_browser

if TYPE_CHECKING:
    from playwright.sync_api import Locator

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Take the screenshots that are named, or all."""
    if reason := why_no_browser():
        sys.exit(reason)
    root = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "data/demo"
    names = sys.argv[2:] or list(_TAKEN)
    report = root / "report.html"
    if not report.exists():
        sys.exit(
            f"{report} does not exist. Run `pipeline demo`, or give the folder of a workspace."
        )
    with start_browser() as browser:
        for name in names:
            _TAKEN[name](browser, root, report).save(ROOT / "docs" / name, optimize=True)


def take_card(browser: Browser, _root: Path, report: Path) -> Image.Image:
    """The top of the report."""
    with browser.visit(report) as visit:
        return shoot(visit, height=bottom(visit, "#at-a-glance") + 12)


def take_training(browser: Browser, _root: Path, report: Path) -> Image.Image:
    """Curves in the dark."""
    with browser.visit(report, dark=True) as visit:
        visit.page.evaluate("document.getElementById('training').scrollIntoView()")
        return shoot(visit, height=760)


def take_sample(browser: Browser, _root: Path, report: Path) -> Image.Image:
    """An image of the report, opened."""
    with browser.visit(report) as visit:
        visit.page.evaluate("document.getElementById('kept').scrollIntoView()")
        visit.page.locator("#kept button.shot").nth(2).click()
        return shoot(visit, height=760)


def take_demo(browser: Browser, _root: Path, report: Path) -> Image.Image:
    """Scraped images of several sections, and below them generated ones."""
    with browser.visit(report, width=900) as visit:
        page = visit.page
        generated = page.get_by_role("heading", name="Generated: unseen")
        gallery = generated.locator("xpath=following-sibling::div[1]")
        page.locator("nav").evaluate("e => e.hidden = true")
        page.locator("#kept > *").evaluate_all(
            "all => all.forEach((e, n) => { e.hidden = n % 9 != 1 })"
        )
        gallery.locator("> *").evaluate_all("all => all.forEach((e, n) => { e.hidden = n >= 9 })")
        kept = page.get_by_role("heading", name="Kept images", exact=True)
        return stack([cut(e) for e in (kept, page.locator("#kept"), generated, gallery)])


def take_serve(browser: Browser, root: Path, _report: Path) -> Image.Image:
    """The best image of each caption, in the browser of `pipeline serve`."""
    with TemporaryDirectory() as index:
        config = ServeConfig(workspace=root, port=0, index=Path(index))
        with BackgroundServer(config) as url, browser.visit(f"{url}browse?sort=rank") as visit:
            while visit.page.locator(".hint", has_text="search index").count():
                visit.page.reload()
            visit.page.wait_for_load_state("networkidle")
            return shoot(visit, height=760)


_TAKEN = {
    "report.png": take_card,
    "report-training.png": take_training,
    "report-sample.png": take_sample,
    "demo.png": take_demo,
    "serve.png": take_serve,
}


def bottom(visit: Visit, selector: str) -> int:
    """The last pixel of an element, from the top of the window."""
    return int(visit.page.locator(selector).evaluate("e => e.getBoundingClientRect().bottom"))


def shoot(visit: Visit, *, height: int) -> Image.Image:
    """The top `height` pixels of the window."""
    data = visit.page.screenshot(clip={"x": 0, "y": 0, "width": DESKTOP, "height": height})
    return with_palette(Image.open(io.BytesIO(data)))


def cut(element: Locator) -> Image.Image:
    """An element."""
    return Image.open(io.BytesIO(element.screenshot()))


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Images below each other, as one."""
    whole = Image.new(
        "RGB", (max(p.width for p in parts), sum(p.height + 8 for p in parts)), "white"
    )
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height + 8
    return with_palette(whole)


def with_palette(image: Image.Image) -> Image.Image:
    """An image with 256 colours of its own, a third of the bytes."""
    return image.convert("RGB").quantize(256, kmeans=2)


if __name__ == "__main__":
    main()
