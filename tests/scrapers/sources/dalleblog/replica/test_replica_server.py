"""The mock server over real sockets: URLs, conditional requests, counts, and changes on request."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from pipeline.core.errors import SourceError
from pipeline.demo.replica.config import PageDesign, ReplicaConfig
from pipeline.demo.replica.drawing import draw
from pipeline.demo.replica.server import Replica
from scrapers.sources.dalleblog.captions import load_catalogue
from scrapers.sources.dalleblog.page import read_page
from scrapers.sources.dalleblog.urls import image_prompt_url, sample_url


class Answer:
    """Status, headers and body of one request on a separate connection."""

    def __init__(
        self, url: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        self.status, self.headers, self.body = response.status, response.headers, response.read()
        connection.close()


@pytest.fixture(scope="module")
def replica() -> Iterator[Replica]:
    sections = ("unusual_media", "bedroom_design", "im2im_object", "rpm", "emojis")
    config = ReplicaConfig(size=64, sections=sections, missing_ranks=0.2, shown_captions=12)
    with Replica(config) as replica:
        yield replica


def first_url(replica: Replica, section: str = "unusual_media") -> str:
    return next(replica.urls(section))


# --- Content ----------------------------------------------------------------------------------------


def test_an_image_is_the_drawing_of_its_caption_and_rank(replica: Replica) -> None:
    caption = "a bag of chips with an image of a black artichoke"
    entry = next(iter(replica.site.holdings.entries("unusual_media")))
    assert entry.caption == caption
    rank = entry.ranks[-1]
    answer = Answer(sample_url(replica.cdn, "unusual_media", entry.key, rank))
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    with Image.open(io.BytesIO(answer.body)) as image:
        assert image.tobytes() == draw(caption, rank, size=64).tobytes()


def test_the_expected_hashes_are_those_of_the_served_images(replica: Replica) -> None:
    for section in ("unusual_media", "bedroom_design", "rpm", "im2im_object"):
        for url, digest in replica.expected(section, limit=1).items():
            assert hashlib.sha256(Answer(url).body).hexdigest() == digest


def test_ranks_that_are_missing_answer_404(replica: Replica) -> None:
    entries = list(replica.site.holdings.entries("unusual_media"))[:10]
    gaps = [(entry, rank) for entry in entries for rank in range(32) if rank not in entry.ranks]
    assert gaps
    for entry, rank in gaps[:20]:
        assert Answer(sample_url(replica.cdn, "unusual_media", entry.key, rank)).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/dall-e/v2/samples/unusual_media/bm90aGluZw==_0.png",
        "/dall-e/v2/samples/no_such_section/bm90aGluZw==_0.png",
        "/dall-e/v2/samples/bedroom_design/00000000000000000000000000000000_0.png",
        "/dall-e/v2/samples/unusual_media/../../../etc/passwd",
        "/dall-e/v2/samples/unusual_media/",
        "/dall-e/v2/image_prompts/unusual_media.png",
        "/dall-e/v2/image_prompts/no_such_section.png",
    ],
)
def test_unknown_paths_answer_404(replica: Replica, path: str) -> None:
    assert Answer(replica.url + path).status == 404


def test_rank_32_does_not_exist(replica: Replica) -> None:
    assert Answer(first_url(replica).replace("_0.png", "_32.png")).status == 404


def test_the_real_page_s_keys_open_their_captions(replica: Replica) -> None:
    key = "612f04083eb75a32a167e6d26e89e650"
    statuses = {Answer(sample_url(replica.cdn, "bedroom_design", key, r)).status for r in range(32)}
    assert statuses == {200, 404}


def test_the_image_prompt_is_the_upper_part_of_the_sections_images(replica: Replica) -> None:
    prompt = Answer(image_prompt_url(replica.cdn, "bedroom_design"))
    assert prompt.status == 200
    tops = set()
    for body in (prompt.body, Answer(first_url(replica, "bedroom_design")).body):
        with Image.open(io.BytesIO(body)) as image:
            tops.add(image.crop((0, 0, 64, 12)).tobytes())
    assert len(tops) == 1


# --- Conditional requests ---------------------------------------------------------------------------


def test_head_has_the_headers_and_no_body(replica: Replica) -> None:
    get, head = Answer(first_url(replica)), Answer(first_url(replica), "HEAD")
    assert (head.status, head.body) == (200, b"")
    for name in ("ETag", "Last-Modified", "Content-Length", "Content-Type"):
        assert head.headers[name] == get.headers[name]


def test_the_etag_is_strong_and_the_date_fixed(replica: Replica) -> None:
    answer = Answer(first_url(replica))
    assert re.fullmatch(r'"[0-9a-f]{32}"', answer.headers["ETag"])
    assert answer.headers["Last-Modified"] == "Tue, 05 Jan 2021 17:00:00 GMT"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("If-None-Match", "{etag}", 304),
        ("If-None-Match", 'W/{etag}, "other"', 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", '"other"', 200),
        ("If-Modified-Since", "Tue, 05 Jan 2021 17:00:00 GMT", 304),
        ("If-Modified-Since", "Mon, 04 Jan 2021 17:00:00 GMT", 200),
        ("If-Modified-Since", "yesterday", 200),
    ],
)
def test_what_the_client_has_is_not_sent_again(
    replica: Replica, name: str, value: str, status: int
) -> None:
    url = first_url(replica)
    etag = Answer(url).headers["ETag"]
    answer = Answer(url, headers={name: value.format(etag=etag)})
    assert answer.status == status
    assert answer.headers["ETag"] == etag
    assert bool(answer.body) == (status == 200)


def test_a_changed_image_has_another_etag_and_date_and_a_removed_one_is_gone() -> None:
    with Replica(ReplicaConfig(size=64, sections=("emojis",))) as replica:
        url = first_url(replica, "emojis")
        before = Answer(url)
        replica.change(url)
        after = Answer(url, headers={"If-None-Match": before.headers["ETag"]})
        assert after.status == 200
        assert after.body == replica.true_bytes(url) != before.body
        dates = [parsedate_to_datetime(a.headers["Last-Modified"]) for a in (before, after)]
        assert dates[0] < dates[1]
        replica.remove(url)
        assert Answer(url).status == 404
        assert url not in replica.expected("emojis", limit=1)


# --- The page, robots.txt, counts -------------------------------------------------------------------


@pytest.mark.parametrize("design", ["2021", "next", "plain"])
def test_the_scraper_reads_each_design_without_a_wrong_key(design: PageDesign) -> None:
    with Replica(ReplicaConfig(design=design, shown_captions=12, size=64)) as replica:
        body = Answer(replica.page_url).body
        assert Answer(replica.url + "/").body == body
        content = read_page(body, base_url=replica.page_url, catalogue=load_catalogue())
    assert content.cdn == replica.cdn
    found = {
        (page.section.name, given.caption): given.address.key
        for page in content.sections
        for given in page.section.given
    }
    for section in replica.site.holdings.sections:
        if section.key in ("hex128", "uint32"):
            shown = {e.caption: e.key for e in replica.site.holdings.shown(section.name)}
            got = {caption: key for (name, caption), key in found.items() if name == section.name}
            assert got == shown, section.name


@pytest.mark.parametrize(
    ("robots", "status", "text"),
    [
        ("allow", 200, b"Allow: /"),
        ("disallow", 200, b"Disallow: /dall-e/"),
        ("missing", 404, b""),
        ("error", 500, b""),
    ],
)
def test_robots_txt_follows_the_config(robots: str, status: int, text: bytes) -> None:
    config = ReplicaConfig(robots=robots, sections=("shape",))  # type: ignore[arg-type]
    with Replica(config) as replica:
        answer = Answer(replica.url + "/robots.txt")
    assert answer.status == status
    assert text in answer.body


def test_the_page_can_be_unreachable() -> None:
    with Replica(ReplicaConfig(page_status=503, sections=("shape",))) as replica:
        assert Answer(replica.page_url).status == 503


def test_requests_and_statuses_are_counted() -> None:
    with Replica(ReplicaConfig(size=64, sections=("shape",))) as replica:
        url = first_url(replica, "shape")
        Answer(url)
        Answer(url)
        Answer(replica.url + "/nothing")
        assert replica.requests[replica.path_of(url)] == 2
        assert replica.statuses == {200: 2, 404: 1}


def test_images_cached_in_a_folder_are_the_same_and_are_reused(tmp_path: Path) -> None:
    config = ReplicaConfig(size=64, sections=("shape",), cache_dir=tmp_path)
    with Replica(config) as replica:
        url = first_url(replica, "shape")
        drawn = Answer(url).body
    (kept,) = tmp_path.rglob("*.png")
    assert kept.read_bytes() == drawn
    kept.write_bytes(drawn + b"kept")
    with Replica(config) as replica:
        assert Answer(first_url(replica, "shape")).body == drawn + b"kept"


def test_a_taken_port_is_an_error_that_names_it() -> None:
    config = ReplicaConfig(sections=("shape",))
    with Replica(config) as first:
        port = urlsplit(first.url).port
        assert port is not None
        with (
            pytest.raises(SourceError, match=f"port {port}"),
            Replica(ReplicaConfig(sections=("shape",), port=port)),
        ):
            pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_forever_announces_its_url_and_ends_on_a_signal(number: signal.Signals) -> None:
    code = (
        "import json\n"
        "from pipeline.demo.replica.config import ReplicaServeConfig\n"
        "from pipeline.demo.replica.server import run_forever\n"
        "config = ReplicaServeConfig(size=64, sections=('shape',))\n"
        "run_forever(config, lambda address: print(json.dumps(address), flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    ) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())
        assert Answer(address + "/robots.txt").status == 200
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
