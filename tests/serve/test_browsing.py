"""Pages over the images: what they show, how they are searched, and what hostile input does to them."""

from __future__ import annotations

import html
import io
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock
from urllib.parse import quote

import pytest
from PIL import Image

from pipeline.core.workspace import Workspace
from pipeline.serve.catalogue import loader
from tests.helpers.dedupe import RawStore, dedupe, kept, photo_png, rejected
from tests.serve.conftest import Serve, Served, serving
from tests.serve.images import QUOTES, RIGHT_TO_LEFT, write_images


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return write_images(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture
def images(made: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(made.root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


@pytest.fixture(scope="module")
def served(made: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for all tests that don't change what it serves."""
    with serving(made.root, index=tmp_path_factory.mktemp("index")) as started:
        yield started


@pytest.fixture(scope="module")
def without_index(made: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose index is never made."""
    with serving(made.root, index=tmp_path_factory.mktemp("index")) as started:
        with mock.patch.object(loader, "multiprocessing"):
            started.page("/browse")
        yield started


def keys(page: str) -> list[str]:
    """The keys of the images that a page shows, in order."""
    return re.findall(r'class="card" href="/sample/([^"]+)"', page)


def total(page: str) -> int:
    found = re.search(r"of ([\d,]+) (?:images|clusters)</p>", page)
    return int(found[1].replace(",", "")) if found else 0


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def wait_for_index(served: Served) -> None:
    wait_until(lambda: "index is being made" not in served.page("/browse").text)


# --- Browsing ------------------------------------------------------------------------------------


def test_pages_show_every_kept_image_once_in_the_order_of_keys(
    served: Served, made: Workspace
) -> None:
    first = served.page("/browse").text
    second = served.page("/browse?start=60").text
    assert len(keys(first)) == 60
    assert keys(first) + keys(second) == sorted(kept(made))
    assert total(first) == len(kept(made))


@pytest.mark.parametrize("start", ["-1", "99999999999999999999", "x", "%D9%A3", "61", "1e3"])
def test_a_start_that_is_no_page_shows_the_page_around_it(start: str, served: Served) -> None:
    answer = served.page(f"/browse?start={start}")
    assert answer.status == 200
    assert keys(answer.text)


def test_filters_and_orders_are_those_of_the_tables(served: Served, made: Workspace) -> None:
    rows = kept(made)
    things = sorted(key for key, row in rows.items() if row["section"] == "things")
    page = served.page("/browse?section=things&order=down").text
    assert keys(page) == things[::-1][:60]
    by_bytes = keys(served.page("/browse?sort=bytes&order=down").text)
    sizes = [rows[key]["bytes"] for key in by_bytes]
    assert sizes == sorted((row["bytes"] for row in rows.values()), reverse=True)[:60]
    val = {key for key, row in rows.items() if row["split"] == "val"}
    assert set(keys(served.page("/browse?split=val").text)) == val
    by_caption = keys(served.page("/browse?sort=caption&section=things").text)
    captions = [rows[key]["caption"] for key in by_caption]
    assert captions == sorted(captions)


def test_a_rejected_image_is_shown_with_its_reason(served: Served, made: Workspace) -> None:
    rows = rejected(made)
    page = served.page("/browse?state=rejected").text
    assert sorted(keys(page)) == sorted(rows)
    broken = served.page("/browse?reason=not_decodable&state=rejected").text
    assert set(keys(broken)) == {"broken-0", "svg-0"}
    assert "not decodable" in broken
    twin = next(key for key, row in rows.items() if row["reason"] == "near_duplicate")
    sample = served.page(f"/sample/{twin}").text
    assert "Rejected: near duplicate" in sample
    assert f'href="/sample/{rows[twin]["stands_for"]}"' in sample


# --- Searching -----------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("another twin", {"twin-2"}),
        ("TWIN", {"twin-0", "twin-1", "twin-2"}),
        ("thing 3", {f"plain-{n:03d}" for n in range(3, 70, 7)}),
        ("hoto", {f"plain-{n:03d}" for n in range(70)}),
        ("أحمر", {"hostile-1"}),
        ("<script>", {"hostile-0"}),
        ('"blue"', {"hostile-3"}),
        ("%", set()),
        ("_", set()),
        ("*", set()),
        ('" OR text:x', set()),
        ("eb", {"webp-0"}),
    ],
)
def test_a_search_finds_the_captions_with_all_words(
    query: str, found: set[str], indexed: bool, served: Served, without_index: Served
) -> None:
    if indexed:
        wait_for_index(served)
    server = served if indexed else without_index
    shown: set[str] = set()
    for start in (0, 60):
        page = server.page(f"/browse?state=all&q={quote(query)}&start={start}").text
        assert ("index is being made" in page) is not indexed
        shown |= set(keys(page))
    assert shown == found


def test_every_caption_of_an_image_is_searched(serve: Serve, tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    raw.add("both", photo_png(1), "first words", captions='["first words", "second words"]')
    raw.add("other", photo_png(2), "third words")
    workspace = raw.write(finished=True)
    dedupe(workspace)
    served = serve(workspace=workspace.root, index=tmp_path / "index")
    wait_for_index(served)
    assert keys(served.page("/browse?q=second").text) == ["both"]


def test_the_index_is_made_once_and_a_damaged_one_is_made_again(
    serve: Serve, made: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    wait_for_index(serve(workspace=made.root, index=folder))
    (index,) = folder.glob("*.sqlite")
    before = index.stat().st_mtime_ns
    again = serve(workspace=made.root, index=folder)
    assert "index is being made" not in again.page("/browse").text
    assert index.stat().st_mtime_ns == before
    index.write_bytes(b"not a database" * 1000)
    third = serve(workspace=made.root, index=folder)
    assert keys(third.page("/browse?q=another&state=all").text) == ["twin-2"]


# --- Hostile captions ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/browse?section=%22%3E%3Ci%3Esection", "/sample/hostile-0"])
def test_captions_are_escaped_and_no_inline_script_may_run(path: str, served: Served) -> None:
    answer = served.page(path)
    assert "<script>document" not in answer.text
    assert "&lt;script&gt;document" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy


def test_queries_and_keys_are_escaped_where_they_come_back(served: Served) -> None:
    attack = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"
    for path in (
        f"/browse?q={attack}&section={attack}&split={attack}&sort={attack}",
        f"/sample/{attack}",
        f"/compare?a={attack}&b={attack}",
        f"/generate?prompt={attack}&model={attack}",
    ):
        assert "<script>alert" not in served.page(path).text


def test_control_characters_are_visible_and_right_to_left_text_is_isolated(served: Served) -> None:
    page = served.page("/sample/hostile-2").text
    assert "\x1b" not in page
    assert "\x07" not in page
    assert "a red\u2407 cube\u241b[31m" in page
    assert (
        f'<bdi dir="auto">{html.escape(RIGHT_TO_LEFT)}</bdi>'
        in served.page("/sample/hostile-1").text
    )
    assert html.escape(QUOTES) in served.page("/sample/hostile-3").text


# --- Images --------------------------------------------------------------------------------------


def test_thumbnails_and_originals(served: Served, made: Workspace) -> None:
    thumb = served.get("/thumb/plain-000")
    assert (thumb.status, thumb.headers["content-type"]) == (200, "image/jpeg")
    assert max(Image.open(io.BytesIO(thumb.body)).size) == 64  # never larger than the image
    original = served.get("/image/plain-000")
    assert original.body == photo_png(0)
    assert original.headers["content-type"] == "image/png"
    assert "sandbox" in original.headers["content-security-policy"]
    assert original.headers["x-content-type-options"] == "nosniff"
    converted = served.get("/image/webp-0")
    assert converted.headers["content-type"] == "image/png"


@pytest.mark.parametrize("key", ["broken-0", "svg-0", "missing-0", "no-such-key"])
@pytest.mark.parametrize("kind", ["thumb", "image"])
def test_bytes_that_are_no_image_are_never_sent(kind: str, key: str, served: Served) -> None:
    answer = served.get(f"/{kind}/{key}")
    assert answer.status == 404
    assert b"<svg" not in answer.body


@pytest.mark.parametrize(
    "path",
    [
        "/image/..%2f..%2f..%2fetc%2fpasswd",
        "/image/%2fetc%2fpasswd",
        "/thumb/..%2f..%2fworkspace.json",
        "/static/..%2fsite.py",
        "/static/%2e%2e/config.py",
        "/sample/..%2f..%2fanother-workspace%2fraw",
        "/training/..%2f..%2fetc",
        "/training/dalle/grid/..%2f..%2f1",
        "//etc/passwd",
        "/image/" + "a" * 7000,
    ],
)
def test_no_path_of_a_request_reaches_the_disk(path: str, served: Served) -> None:
    answer = served.page(path)
    assert answer.status == 404
    assert b"root:" not in answer.body


def test_images_are_made_for_a_page_and_kept_within_the_limit(
    serve: Serve, made: Workspace
) -> None:
    served = serve(workspace=made.root, thumbnail_mb=1)
    assert served.server.site is not None
    thumbnails = served.server.site.thumbnails
    thumbnails._limit = 20_000

    def page_is_ready() -> bool:
        return served.page("/browse").text.count("data:image/jpeg") > 0

    wait_until(page_is_ready)
    for start in (0, 60, 0):
        served.page(f"/browse?start={start}")
    assert 0 < thumbnails.kept_bytes <= 20_000


# --- Clusters and pairs --------------------------------------------------------------------------


def test_clusters_hold_kept_and_rejected_images_that_look_alike(served: Served) -> None:
    page = served.page("/clusters").text
    assert total(page) == 1
    assert keys(page)[0] == "twin-0"
    assert set(keys(page)) == {"twin-0", "twin-1", "twin-2"}


def test_two_images_are_compared_column_by_column(served: Served) -> None:
    page = served.page("/compare?a=plain-000&b=plain-007").text
    differs, same = page.split("<h2>Same</h2>")
    assert "bytes_sha256" in differs
    assert "a photo of thing 0" in same
    assert "of 64 bits" in differs
    assert "no image with the key" in served.page("/compare?a=plain-000&b=nothing").text


# --- A workspace that changes --------------------------------------------------------------------


def test_a_missing_stage_says_what_to_run(serve: Serve, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "empty").open("a source")
    served = serve(workspace=workspace.root)
    for path, command in (
        ("/browse", "pipeline dedupe"),
        ("/clusters", "pipeline dedupe"),
        ("/generate", "pipeline train"),
        ("/training", "pipeline train"),
    ):
        answer = served.page(path)
        assert answer.status == 200
        assert command in answer.text


def test_new_tables_are_shown_and_the_old_ones_until_then(
    serve: Serve, images: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "CHECK_EVERY_S", 0.0)
    served = serve(workspace=images.root, index=tmp_path / "index")
    before = total(served.page("/browse").text)
    moved = images.dedupe.with_name("moved")
    images.dedupe.rename(moved)
    assert total(served.page("/browse").text) == before
    moved.rename(images.dedupe)
    dedupe(images, near_duplicates="flag")
    after = len(kept(images))
    assert after != before
    wait_until(lambda: total(served.page("/browse").text) == after)


def test_a_damaged_table_is_reported_and_the_server_goes_on(
    serve: Serve, images: Workspace, tmp_path: Path
) -> None:
    (table,) = (images.dedupe / "kept").glob("*.parquet")
    table.write_bytes(table.read_bytes()[:-10])
    served = serve(workspace=images.root, index=tmp_path / "index")
    answer = served.page("/browse")
    assert answer.status == 503
    assert "pipeline verify --repair" in answer.text
    assert served.get("/healthz").status == 200


def test_an_image_whose_segment_is_gone_is_a_gap_in_its_page(
    serve: Serve, images: Workspace, tmp_path: Path
) -> None:
    served = serve(workspace=images.root, index=tmp_path / "index")
    assert served.page("/browse").status == 200
    shutil.rmtree(images.segments)
    assert served.page("/browse?start=60").status == 200
    assert served.get("/image/plain-069").status == 404
