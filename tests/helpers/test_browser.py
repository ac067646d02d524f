"""The browser of the tests reports requests, problems in the console, sideways scroll and what axe finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import browser as browsers
from tests.helpers.browser import PHONE, Browser, browser, why_no_browser

__all__ = ["browser"]

PAGE = """<!doctype html><html lang="en"><title>t</title><main><h1>t</h1>%s</main></html>"""


def write(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "page.html"
    path.write_text(PAGE % body)
    return path


def test_a_good_page_has_no_problem(browser: Browser, tmp_path: Path) -> None:
    path = write(tmp_path, "<p>text")
    with browser.visit(path) as visit:
        assert visit.requests == [path.as_uri()]
        assert (visit.problems, visit.violations(), visit.overflow()) == ([], [], 0)


def test_problems_of_a_page_are_reported(browser: Browser, tmp_path: Path) -> None:
    body = (
        '<img src="absent.png"><div style="width:500px">wide</div>'
        "<script>console.error('said'); undefined.thrown</script>"
    )
    path = write(tmp_path, body)
    with browser.visit(path, width=PHONE) as visit:
        assert visit.requests == [path.as_uri(), (tmp_path / "absent.png").as_uri()]
        assert any("said" in problem for problem in visit.problems)
        assert any("thrown" in problem for problem in visit.problems)
        assert [line.split()[0] for line in visit.violations()] == ["image-alt"]
        assert visit.overflow() > 100


def test_the_colour_scheme_is_the_one_asked_for(browser: Browser, tmp_path: Path) -> None:
    asks = "matchMedia('(prefers-color-scheme: dark)').matches"
    for dark in (False, True):
        with browser.visit(write(tmp_path, ""), dark=dark) as visit:
            assert visit.page.evaluate(asks) is dark


def test_a_page_is_looked_at_in_other_widths_and_colours(browser: Browser, tmp_path: Path) -> None:
    hidden = "p {width: 500px} @media (prefers-color-scheme: dark) {p {color: #ddd}}"
    with browser.visit(write(tmp_path, f"<style>{hidden}</style><p>text<p><img>")) as visit:
        assert (visit.overflow(), visit.violations(of_colour=True)) == (0, [])
        visit.look(width=PHONE, dark=True)
        assert visit.overflow() > 100
        assert [line.split()[0] for line in visit.violations(of_colour=True)] == ["color-contrast"]
        assert len(visit.violations()) == 2


def test_a_missing_chromium_is_a_reason_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("playwright")
    monkeypatch.delenv("DALLE_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install chromium" in (why_no_browser() or "")
    monkeypatch.setenv("DALLE_CHROMIUM", "/opt/chromium")
    assert browsers.find_chromium() == "/opt/chromium"
    assert why_no_browser() is None
