"""The pages in a real browser: no error, no foreign request, no violation of axe, the keyboard alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.workspace import Workspace
from tests.helpers.browser import DESKTOP, PHONE, Browser, browser
from tests.helpers.generate import write_codec, write_run
from tests.serve.conftest import Served, serving
from tests.serve.images import write_images

__all__ = ["browser"]  # a fixture

PAGES = (
    "/",
    "/browse",
    "/browse?section=%22%3E%3Ci%3Esection",
    "/browse?state=rejected",
    "/browse?q=nothing-has-this",
    "/clusters",
    "/sample/hostile-0",
    "/sample/twin-1",
    "/sample/missing-0",
    "/compare?a=twin-0&b=plain-000",
    "/compare",
    "/training",
    "/training/runs/dalle",
    "/generate",
    "/nothing",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Images with hostile captions, and a tiny model with a log."""
    workspace = write_images(tmp_path_factory.mktemp("browser") / "data")
    run = write_run(workspace, codec=write_codec(workspace, "mine", seed=2))
    log(run, 20)
    return workspace


def log(run: Path, steps: int) -> None:
    lines = (
        json.dumps({"step": n, "loss": 5 / n, "val_loss": 6 / n, "lr": 0.001}) + "\n"
        for n in range(1, steps + 1)
    )
    (run / "log.jsonl").write_text("".join(lines))


@pytest.fixture(scope="module")
def served(made: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    index = tmp_path_factory.mktemp("index")
    with serving(made.root, index=index, allow_origin=("*",)) as started:
        yield Served(url=started.url.rstrip("/"), server=started.server)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_clean(path: str, served: Served, browser: Browser) -> None:
    with browser.visit(served.url + path, width=PHONE) as visit:
        for width in (PHONE, DESKTOP):
            for dark in (False, True):
                visit.look(width=width, dark=dark)
                assert visit.violations(of_colour=dark) == []
                assert visit.overflow() == 0
        expected = ["404"] if path == "/nothing" else []
        assert [p for p in visit.problems if not any(e in p for e in expected)] == []
        assert all(url.startswith(served.url) for url in visit.requests)
        assert visit.page.title().endswith(("· dalle-pipeline", "404"))  # no script has set it


def test_images_of_a_page_are_loaded(served: Served, browser: Browser) -> None:
    with browser.visit(f"{served.url}/browse") as visit:
        first = visit.page.locator(".grid img").first
        first.scroll_into_view_if_needed()
        assert first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 40


def test_a_search_by_keyboard_alone_reaches_a_sample(served: Served, browser: Browser) -> None:
    with browser.visit(f"{served.url}/browse") as visit:
        page = visit.page
        focused = "document.activeElement.name || document.activeElement.className"
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate(focused) == "q":
                break
        page.keyboard.type("another twin")
        page.keyboard.press("Enter")
        page.wait_for_url("**q=another+twin**")
        page.locator("select[name=state]").select_option("all")
        page.locator("input[name=q]").press("Enter")
        page.wait_for_url("**state=all**")
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(focused) == "card":
                break
        page.keyboard.press("Enter")
        page.wait_for_url("**/sample/twin-2")
        assert "Rejected: near duplicate" in page.inner_text("main")


def test_a_hostile_caption_is_text(served: Served, browser: Browser) -> None:
    with browser.visit(f"{served.url}/sample/hostile-0") as visit:
        assert visit.page.title().startswith("<script>document.title")
        assert visit.page.locator("main script").count() == 0
        assert visit.page.locator("h1 bdi").inner_text().startswith("<script>")


def test_images_are_drawn_remembered_and_recalled(served: Served, browser: Browser) -> None:
    with browser.visit(f"{served.url}/generate") as visit:
        page = visit.page
        page.locator("textarea").fill('a <b>red</b> "cube"')
        page.locator("input[name=count]").fill("2")
        page.locator("input[name=seed]").fill("5")
        page.keyboard.press("Enter")
        page.locator("#state", has_text="seed 5").wait_for()
        assert page.locator("#images img").count() == 2
        assert page.locator("#images img").first.evaluate("image => image.naturalWidth") == 64
        assert (
            page.locator("#images img").first.get_attribute("alt") == 'Image 1: a <b>red</b> "cube"'
        )
        assert page.locator("#images a[download]").count() == 2
        assert visit.violations() == []
        page.reload()
        page.locator("#history button").first.press("Enter")
        assert page.locator("textarea").input_value() == 'a <b>red</b> "cube"'
        assert page.locator("input[name=seed]").input_value() == "5"
        page.locator("#forget").click()
        assert page.locator("#history li").count() == 0
        assert visit.problems == []


def test_an_image_to_begin_with_is_uploaded(
    served: Served, browser: Browser, tmp_path: Path
) -> None:
    from tests.helpers.dedupe import photo_png

    (tmp_path / "prime.png").write_bytes(photo_png(1))
    (tmp_path / "text.png").write_bytes(b"no image at all")
    with browser.visit(f"{served.url}/generate?prompt=a+cube") as visit:
        page = visit.page
        page.locator("summary").click()
        page.locator("input[type=file]").set_input_files(tmp_path / "text.png")
        page.locator("button[type=submit]").click()
        page.locator("#state", has_text="not a PNG").wait_for()
        page.locator("input[type=file]").set_input_files(tmp_path / "prime.png")
        page.locator("button[type=submit]").click()
        page.locator("#state", has_text="images, seed").wait_for()
        assert page.locator("#images img").count() == 4


def test_a_running_training_is_followed(served: Served, made: Workspace, browser: Browser) -> None:
    with browser.visit(f"{served.url}/training/runs/dalle") as visit:
        page = visit.page
        assert "at step 20" in page.locator(".legend").first.inner_text()
        log(made.run("dalle"), 37)
        page.locator(".legend", has_text="step 37").first.wait_for()
        assert visit.problems == []
    log(made.run("dalle"), 20)


def test_the_overview_follows_the_workspace(
    served: Served, made: Workspace, browser: Browser
) -> None:
    with browser.visit(f"{served.url}/") as visit:
        page = visit.page
        page.locator("#live", has_text="Nothing").wait_for()
        generated = made.generated("later")
        generated.mkdir(parents=True)
        try:
            page.locator("#stages", has_text="generated/later").wait_for()
        finally:
            generated.rmdir()
        assert visit.problems == []


# --- dalle-service's front end -------------------------------------------------------------------

FRONT_END = """<!doctype html><meta charset=utf-8><title>front</title><input>
<script>
const back = new URLSearchParams(location.search).get("back");
const headers = {"Bypass-Tunnel-Reminder": "go"};
const ask = async (path, options) => JSON.parse(await (await fetch(back + path, options)).text());
const models = ask("/dalle-list", {headers});
document.querySelector("input").addEventListener("keyup", async (event) => {
  if (event.key !== "Enter") return;
  const body = JSON.stringify(
    {text: event.target.value, num_images: 4, dalle_name: (await models)[0]});
  const found = await ask("/dalle", {method: "POST", headers, body});
  document.body.append(...found.map((data) => {
    const image = document.createElement("img");
    image.src = "data:image/png;base64, " + data;
    return image;
  }));
  document.title = "done";
});
</script><body></body>"""


@pytest.fixture
def foreign_page() -> Iterator[str]:
    """The URL of a page of another origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = FRONT_END.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://localhost:{server.server_address[1]}/"
        server.shutdown()


def test_a_page_of_an_allowed_origin_draws_as_dalle_services_front_end_does(
    served: Served, foreign_page: str, browser: Browser
) -> None:
    """The published front end's code is not ours, so a page of our own sends what it sends.

    From another origin, both requests with a header that needs a preflight; the POST as text/plain, since
    the front end sets no type, with exactly these fields. The answer is parsed as text and must be an array:
    each item becomes a `data:` URL after a blank.
    """
    with browser.visit(f"{foreign_page}?back={served.url}") as visit:
        visit.page.locator("input").fill("pink shoes")
        with visit.page.expect_request("**/dalle") as asked:
            visit.page.locator("input").press("Enter")
        sent = asked.value.all_headers()
        assert (sent["content-type"], sent["bypass-tunnel-reminder"]) == (
            "text/plain;charset=UTF-8",
            "go",
        )
        visit.page.wait_for_function("document.title === 'done'")
        widths = visit.page.evaluate(
            "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
        )
        assert widths == [64, 64, 64, 64]
        assert [each for each in visit.problems if "favicon" not in each] == []
