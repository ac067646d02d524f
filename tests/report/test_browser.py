"""The report in a real browser: loads nothing, finds captions, opens samples, works by keyboard alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.workspace import Workspace
from pipeline.report.config import ReportConfig
from pipeline.report.run import run
from tests.helpers.browser import DESKTOP, PHONE, Browser, Visit, browser, why_no_browser
from tests.helpers.dedupe import RawStore, dedupe, encode, photo, photo_png
from tests.report.test_card import declare

__all__ = ["browser"]

pytestmark = pytest.mark.skipif(why_no_browser() is not None, reason=why_no_browser() or "")

HOSTILE = (
    "<script>document.title = 'run'</script>",
    "<img src=http://elsewhere.test/x.png onerror=\"document.title = 'run'\">",
    '"><svg onload=document.title=1>',
    "</script><script>document.title = 'run'</script>",
    "a\x00b\x1b[31mred\x07",
    "\u202egnp.exe \u2066left",
    "\u05e9\u05dc\u05d5\u05dd \u0639\u0627\u0644\u0645",
    "{{7*7}} ${7*7} <%= 7*7 %>",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a workspace with hostile captions, rejected images, two sections, a run and a grid."""
    raw = RawStore(tmp_path_factory.mktemp("browser") / "data")
    for number, caption in enumerate(HOSTILE):
        raw.add(f"h{number}", photo_png(number), caption, section="hostile")
    for number in range(20, 32):
        png = encode(photo(number, 40, 120)) if number % 2 else photo_png(number)
        raw.add(f"k{number}", png, f"a cube number {number}", section="cubes", rank=number % 4)
    raw.add("copy", photo_png(20), "a copy", section="cubes", rank=9)
    raw.add("broken", b"\x89PNG not an image", "a broken image", section="cubes")
    raw.add("gone", None, "a missing image", section="cubes", reason="http_404")
    workspace = raw.write(finished=True)
    dedupe(workspace, val_fraction=0.2)
    write_run(workspace)
    run(ReportConfig(workspace=workspace.root))
    return workspace.root / "report.html"


def write_run(workspace: Workspace) -> None:
    """A run whose validation loss rises after step 40, and which has grids of two steps."""
    folder = workspace.run("dalle")
    declare(folder, "run", details={"val_loss": 3.0})
    lines = []
    for step in range(10, 101, 10):
        lines.append({"step": step, "loss": 5 - step / 25, "loss_text": 1.0, "lr": 0.001})
        if step % 20 == 0:
            lines.append({"step": step, "val_loss": 2.0 + abs(step - 40) / 60})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "samples").mkdir()
    for step in (50, 100):
        Image.fromarray(photo(step, 64, 64)).save(folder / f"samples/step-{step:06d}.png")


@pytest.fixture
def visit(page: Path, browser: Browser) -> Iterator[Visit]:
    """The page in a wide window; whatever a test does, nothing is requested and the console stays silent."""
    with browser.visit(page) as opened:
        yield opened
        assert opened.problems == []
        assert opened.requests == [page.resolve().as_uri()]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_is_accessible_and_fits_its_window(
    page: Path, browser: Browser, width: int, dark: bool
) -> None:
    with browser.visit(page, width=width, dark=dark) as visit:
        assert visit.overflow() == 0
        assert visit.violations() == []
        assert visit.problems == []
        assert visit.requests == [page.resolve().as_uri()]
        visit.page.locator("#kept button.shot").first.click()
        assert visit.violations() == []


def test_captions_run_nothing_and_are_shown_as_they_are(visit: Visit) -> None:
    texts = visit.page.locator("#kept .text").all_text_contents()
    assert HOSTILE[0] in texts
    assert "a\\x00b\\x1b[31mred\\x07" in texts or "ab\\x1b[31mred\\x07" in texts
    assert visit.page.title() != "run"
    for shot in visit.page.locator('#kept li[data-section="hostile"] button.shot').all():
        shot.click()
        visit.page.keyboard.press("Escape")
    assert visit.page.title() != "run"


def shown(visit: Visit, of: str) -> list[str]:
    """The captions of the items of a list that are not hidden."""
    return visit.page.locator(f"#{of} > li:visible .text").all_text_contents()


def test_search_finds_a_caption_and_filters_narrow_it(visit: Visit) -> None:
    everything = shown(visit, "kept")
    search = visit.page.locator("form[data-of=kept] input[type=search]")
    search.fill("CUBE 21")
    assert shown(visit, "kept") == ["a cube number 21"]
    assert visit.page.locator("form[data-of=kept] output").text_content() == (
        f"1 of {len(everything)} shown"
    )
    search.fill("cube")
    visit.page.locator("form[data-of=kept] select[name=section]").select_option("hostile")
    assert shown(visit, "kept") == []
    visit.page.locator("form[data-of=kept] button").click()
    visit.page.wait_for_function(
        "n => document.querySelectorAll('#kept > li:not([hidden])').length === n",
        arg=len(everything),
    )


def test_a_rejected_image_shows_its_reason_and_what_represents_it(visit: Visit) -> None:
    visit.page.locator("form[data-of=rejected] select[name=reason]").select_option(
        "duplicate_bytes"
    )
    (item,) = visit.page.locator("#rejected > li:visible").all()
    assert "duplicate bytes" in (item.text_content() or "")
    assert item.locator("button.shot").count() == 2
    item.locator("button.shot").first.click()
    facts = visit.page.locator("dialog dl").text_content() or ""
    assert re.search(r"reasonduplicate_bytes", facts)
    assert "represented byk20" in facts
    visit.page.keyboard.press("Escape")
    visit.page.locator("form[data-of=rejected] select[name=reason]").select_option("not_decodable")
    (item,) = visit.page.locator("#rejected > li:visible").all()
    assert "can't be decoded" in (item.text_content() or "")


def test_the_keyboard_alone_opens_samples_moves_between_them_and_returns(visit: Visit) -> None:
    page = visit.page
    first = page.locator("#kept button.shot").first
    first.focus()
    page.keyboard.press("Enter")
    title = page.locator("dialog h2")
    before = title.text_content()
    page.keyboard.press("ArrowRight")
    assert title.text_content() != before
    page.keyboard.press("ArrowLeft")
    assert title.text_content() == before
    page.keyboard.press("Escape")
    assert not page.locator("dialog").evaluate("dialog => dialog.open")
    assert page.evaluate("document.activeElement.dataset.sample") == first.get_attribute(
        "data-sample"
    )


def test_every_control_can_be_reached_with_the_tab_key(visit: Visit) -> None:
    page = visit.page
    wanted = page.evaluate("document.querySelectorAll('a, button, input, select').length")
    reached = page.evaluate(
        "[...document.querySelectorAll('a, button, input, select')].filter(e => e.tabIndex >= 0).length"
    )
    assert reached == wanted
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#at-a-glance"


def points(visit: Visit) -> str:
    return str(visit.page.locator("figure.curves polyline.s0").first.get_attribute("points"))


def test_a_curve_has_values_under_the_cursor_a_log_axis_and_smoothing(visit: Visit) -> None:
    figure = visit.page.locator("#training figure.curves").first
    svg = figure.locator("svg.plot")
    svg.focus()
    visit.page.keyboard.press("End")
    values = figure.locator(".values")
    assert values.text_content() == "step 100: training 1, validation 3"
    visit.page.keyboard.press("Home")
    assert (values.text_content() or "").startswith("step 10: training 4.6")
    plain = points(visit)
    figure.locator("input[name=log]").check()
    in_log = points(visit)
    assert in_log != plain
    assert figure.locator("g.linear").is_hidden()
    figure.locator("input[name=log]").uncheck()
    assert points(visit) == plain
    figure.locator("select").select_option("0.9")
    assert points(visit) not in (plain, in_log)


def test_the_best_step_is_marked_and_overfitting_is_said_in_words(visit: Visit) -> None:
    words = visit.page.locator("#training").text_content() or ""
    assert "Overfitting: validation loss was lowest at step 40 (2.000)" in words
    assert "has risen by 50 %" in words
    assert visit.page.locator("#training .best").count() == 1
    steps = visit.page.locator("#training figcaption").all_text_contents()
    assert steps == ["step 50", "step 100"]
