"""Pages in a real headless browser: what it requests, what its console says, what axe finds.

Needs a Chromium (Debian's `chromium`, or the one that `DALLE_CHROMIUM` names), and Playwright from the extra
`dev`. Playwright keeps an event loop running in the thread of its tests, so a server that they visit needs
its own thread.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser as PlaywrightBrowser
    from playwright.sync_api import ConsoleMessage, Page, Request

PHONE, DESKTOP = 390, 1280
HEIGHT = 900
TIMEOUT_MS = 60_000
_ARGUMENTS = (
    "--no-sandbox",  # which root can't have
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers may have only 64 MB there
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# The rules of axe's category `cat.color` that are on unless asked for.
_COLOUR_RULES = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_chromium() -> str | None:
    """The path of a Chromium: `DALLE_CHROMIUM`, or one on the PATH."""
    named = os.environ.get("DALLE_CHROMIUM")
    return named or next((path for name in _NAMES if (path := shutil.which(name))), None)


def why_no_browser() -> str | None:
    """What to install before pages can be opened; None if everything is there."""
    try:
        import axe_playwright_python
        import playwright
    except ImportError as error:
        return f"{error.name} is not installed: pip install -e '.[dev]'"
    del axe_playwright_python, playwright
    if find_chromium() is None:
        return "there is no Chromium: apt-get install chromium, or set DALLE_CHROMIUM to its path"
    return None


@dataclass(frozen=True, kw_only=True)
class Visit:
    """An open page, the problems in its console, and the URLs it requested (without `data:` and `blob:`)."""

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def look(self, *, width: int, dark: bool) -> None:
        """Give the window another width, and the page another colour scheme."""
        self.page.set_viewport_size({"width": width, "height": HEIGHT})
        self.page.emulate_media(color_scheme="dark" if dark else "light")

    def violations(self, *, of_colour: bool = False) -> list[str]:
        """What axe finds: rule and elements, one line each. `of_colour`: by its rules about colours alone."""
        from axe_playwright_python.base import AXE_SCRIPT

        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if of_colour:
            options["runOnly"] = _COLOUR_RULES
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE_SCRIPT)
        found = self.page.evaluate("options => axe.run(options)", options)["violations"]
        return [
            f"{rule['id']} ({rule['impact']}): {[node['target'] for node in rule['nodes']]}"
            for rule in found
        ]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(script))


@dataclass(frozen=True, kw_only=True)
class Browser:
    """A running Chromium."""

    chromium: PlaywrightBrowser

    @contextmanager
    def visit(
        self, place: str | Path, *, width: int = DESKTOP, dark: bool = False
    ) -> Iterator[Visit]:
        """Open a URL or a file in a window of its own, `width` CSS pixels wide."""
        url = place.resolve().as_uri() if isinstance(place, Path) else place
        options: dict[str, Any] = {"color_scheme": "dark" if dark else "light"}
        context = self.chromium.new_context(viewport={"width": width, "height": HEIGHT}, **options)
        context.set_default_timeout(TIMEOUT_MS)
        try:
            visit = Visit(page=context.new_page())
            _watch(visit)
            visit.page.goto(url)
            yield visit
        finally:
            context.close()


def _watch(visit: Visit) -> None:
    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            visit.problems.append(f"{message.type}: {message.text}")

    def requested(request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")):
            visit.requests.append(request.url)

    visit.page.on("console", heard)
    visit.page.on("pageerror", lambda error: visit.problems.append(f"exception: {error}"))
    visit.page.on("request", requested)


@contextmanager
def start_browser() -> Iterator[Browser]:
    """A headless Chromium, closed at the end of the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=find_chromium(), args=list(_ARGUMENTS), timeout=TIMEOUT_MS
        )
        try:
            yield Browser(chromium=chromium)
        finally:
            chromium.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium for the tests of a file; skips them if it is not installed."""
    if reason := why_no_browser():
        pytest.skip(reason)
    with start_browser() as started:
        yield started
