"""The pictures of the report in docs/, taken in a headless Chromium.

    python docs/screenshots.py [WORKSPACE]     default: data/demo, as `pipeline demo` leaves it

Needs what the browser tests need: Debian's `chromium`, and the extra `dev`.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.helpers.browser import DESKTOP, Visit, start_browser, why_no_browser

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Take both pictures of a workspace's report."""
    if reason := why_no_browser():
        sys.exit(reason)
    page = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "data/demo") / "report.html"
    if not page.exists():
        sys.exit(f"{page} does not exist. Run `pipeline demo`, or give the folder of a workspace.")
    with start_browser() as browser:
        with browser.visit(page) as visit:
            save(visit, "report.png", height=bottom(visit, "#at-a-glance") + 12)
        with browser.visit(page, dark=True) as visit:
            visit.page.locator("#training").scroll_into_view_if_needed()
            visit.page.evaluate("document.getElementById('training').scrollIntoView()")
            save(visit, "report-training.png", height=760)
        with browser.visit(page) as visit:
            visit.page.evaluate("document.getElementById('kept').scrollIntoView()")
            visit.page.locator("#kept button.shot").nth(2).click()
            save(visit, "report-sample.png", height=760)


def bottom(visit: Visit, selector: str) -> int:
    """The last pixel of an element, from the top of the window."""
    return int(visit.page.locator(selector).evaluate("e => e.getBoundingClientRect().bottom"))


def save(visit: Visit, name: str, *, height: int) -> None:
    """The top `height` pixels of the window as a PNG with a palette of its own."""
    shot = visit.page.screenshot(clip={"x": 0, "y": 0, "width": DESKTOP, "height": height})
    image = Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, kmeans=2)
    image.save(ROOT / "docs" / name, optimize=True)


if __name__ == "__main__":
    main()
