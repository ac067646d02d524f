"""A crawl of the replica with a defect of each kind: the rejected table names exactly those."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from pipeline.storage import Workspace
from scrapers.config import ScrapeConfig, source_options
from scrapers.dalleblog.replica.config import FaultPlan, ReplicaConfig
from scrapers.dalleblog.replica.faults import FaultKind
from scrapers.dalleblog.replica.server import Replica
from scrapers.scrape import scrape
from scrapers.source import CaptionPlan, Discovery, Source, open_source
from tests.dedupe.conftest import dedupe, encode, kept, rejected

SECTION = "emojis"
CAPTIONS = 8
SLOT = "a professional high quality emoji of a {}"  # the last caption, as our source gives it
FAULTS = FaultPlan(
    seed=3, corrupt=0.04, html=0.04, missing=0.04, opted_out=0.04, cut_short=0.04, permanent=1.0
)
# What becomes of an address that the replica misbehaves at, for ever: reason and start of the detail.
FATES: Mapping[FaultKind, tuple[str, str]] = {
    "corrupt": ("not_decodable", "wrong CRC in PNG chunk IDAT"),
    "html": ("not_fetched", "not_an_image: html"),
    "missing": ("not_fetched", "missing: http_404"),
    "opted_out": ("not_fetched", "opted_out: x_robots_noai"),
    "cut_short": ("not_fetched", "truncated: ends_early"),
}


class Expected(NamedTuple):
    """What a rejected row says: its reason, how its detail starts, the address that stands for it."""

    reason: str
    detail: str
    stands_for: str | None = None


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(_: bytes) -> bytes:
    """A whole PNG of 30,000×30,000 pixels by its header."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def not_deflated(data: bytes) -> bytes:
    """A PNG whose chunks are whole, with pixel data that can't be inflated."""
    at = data.index(b"IDAT")
    return data[: at - 4] + chunk(b"IDAT", b"\xff" * 100) + chunk(b"IEND", b"")


def pixels_of(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def again(data: bytes) -> bytes:
    return encode(pixels_of(data), compress_level=0)


def nearly(data: bytes) -> bytes:
    """The same picture but for one pixel, and so with the same perceptual hash."""
    pixels = np.array(pixels_of(data))
    pixels[0, 0] ^= 1
    return encode(pixels)


def blank(data: bytes) -> bytes:
    return encode(Image.new("RGB", pixels_of(data).size, (9, 9, 9)))


def same(data: bytes) -> bytes:
    return data


# What is served at an address: made of the picture of another one (which may stand for it).
COPIES: tuple[tuple[Callable[[bytes], bytes], str, str], ...] = (
    (same, "duplicate_bytes", "the same bytes"),
    (again, "duplicate_pixels", "the same pixels"),
)
SPOILT: tuple[tuple[Callable[[bytes], bytes], str, str], ...] = (
    (bomb, "too_large", "30000×30000"),
    (not_deflated, "not_decodable", "broken PNG"),
)


@dataclass
class WithSlot:
    """The blog, but for one caption whose slot the page forgot to fill in."""

    inner: Source
    caption: str
    name: str = "dalleblog"

    def __post_init__(self) -> None:
        self.start_url = self.inner.start_url

    def discover(self, page: bytes | None) -> Discovery:
        found = self.inner.discover(page)
        return replace(found, plans=[self._forget(plan) for plan in found.plans])

    def _forget(self, plan: CaptionPlan) -> CaptionPlan:
        left = tuple(
            replace(form, caption=SLOT) if form.caption == self.caption else form
            for form in plan.forms
        )
        return replace(plan, forms=left)


@dataclass
class Planted:
    """A crawled workspace, what should be rejected of it by address, and two pairs of addresses."""

    workspace: Workspace
    expected: dict[str, Expected]
    blanks: tuple[str, str]
    look_alikes: tuple[str, str]
    addresses: int


def plant(replica: Replica) -> tuple[dict[str, Expected], tuple[str, str], tuple[str, str]]:
    """Spoil some addresses: what will be rejected, two that are blank, an image and its look-alike."""
    urls = list(replica.urls(SECTION, limit=CAPTIONS))
    expected = dict.fromkeys(
        urls[-32:], Expected("bad_caption", f"a slot was never filled in: {SLOT}")
    )
    expected |= {url: Expected(*FATES[f.kind]) for url in urls if (f := replica.fate(url))}
    # Ranks 0 and 1 tell whether a caption exists, and the lowest rank stands for the others.
    sound = iter([url for n, url in enumerate(urls) if n % 32 > 1 and url not in expected])
    bodies: dict[str, bytes] = {}
    for make, reason, detail in COPIES:
        original, copy = next(sound), next(sound)
        bodies[copy] = make(replica.true_bytes(original))
        expected[copy] = Expected(reason, detail, original)
    for make, reason, detail in SPOILT:
        url = next(sound)
        bodies[url] = make(replica.true_bytes(url))
        expected[url] = Expected(reason, detail)
    removed = next(sound)
    replica.remove(removed)
    expected[removed] = Expected("not_fetched", "missing: http_404")
    blanks = next(sound), next(sound)
    bodies |= {url: blank(replica.true_bytes(url)) for url in blanks}
    expected[blanks[1]] = Expected("duplicate_bytes", "the same bytes", blanks[0])
    look_alikes = next(sound), next(sound)
    bodies[look_alikes[1]] = nearly(replica.true_bytes(look_alikes[0]))
    serve(replica, bodies)
    return expected, blanks, look_alikes


def serve(replica: Replica, bodies: Mapping[str, bytes]) -> None:
    """Let the replica answer with `bodies` where there is one."""
    drawn = replica.site.true_bytes
    planted = {replica.path_of(url): body for url, body in bodies.items()}
    replica.site.true_bytes = lambda path: planted.get(path) or drawn(path)  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    workspace = tmp_path_factory.mktemp("crawl")
    with Replica(ReplicaConfig(sections=(SECTION,), size=64, faults=FAULTS)) as replica:
        expected, blanks, look_alikes = plant(replica)
        unfilled = list(replica.site.holdings.shown(SECTION))[CAPTIONS - 1]
        config = ScrapeConfig(
            workspace=workspace, page_url=replica.page_url, cdn_url=replica.cdn,
            sections=(SECTION,), limit=CAPTIONS, attempts=2, backoff_s=0.01, max_backoff_s=0.02,
        )  # fmt: skip
        source = WithSlot(open_source(source_options(config)), unfilled.caption)
        report = scrape(config, source=source)
        yield Planted(Workspace(workspace), expected, blanks, look_alikes, report.counts["urls"])


def found_in(workspace: Workspace) -> dict[str, Expected]:
    """The rejected rows by address."""
    address = {row["key"]: row["url"] for row in kept(workspace).values()}
    return {
        row["url"]: Expected(row["reason"], row["detail"], address.get(row["stands_for"]))
        for row in rejected(workspace).values()
    }


def test_the_rejected_are_exactly_what_was_planted(planted: Planted) -> None:
    report = dedupe(planted.workspace, workers=2)
    found = found_in(planted.workspace)
    assert set(found) == set(planted.expected)
    for url, expected in planted.expected.items():
        assert found[url].reason == expected.reason
        assert found[url].detail.startswith(expected.detail)
        assert found[url].stands_for == expected.stands_for
    assert planted.addresses == report.counts["rows"] == 32 * CAPTIONS
    assert set(report.counts) >= {expected.reason for expected in planted.expected.values()}


def test_of_look_alikes_the_best_stands_for_the_others(planted: Planted) -> None:
    dedupe(planted.workspace)
    leaders: list[dict[str, Any]] = []
    follow: dict[str, str] = {}
    rows = kept(planted.workspace).values()
    for row in sorted(rows, key=lambda r: (r["rank"], -r["width"] * r["height"], r["key"])):
        near = (one for one in leaders if (one["phash"] ^ row["phash"]).bit_count() <= 4)
        leader = next(near, None)
        if leader is None:
            leaders.append(row)
        else:
            follow[row["url"]] = leader["url"]
    dedupe(planted.workspace, near_duplicates="drop")
    found = found_in(planted.workspace)
    dropped = {u: e.stands_for for u, e in found.items() if e.reason == "near_duplicate"}
    assert dropped == follow
    original, copy = planted.look_alikes
    assert follow[copy] == follow.get(original, original)
    assert set(found) == set(planted.expected) | set(follow)


def test_blank_pictures_are_marked(planted: Planted) -> None:
    dedupe(planted.workspace)
    blanks = {row["url"] for row in kept(planted.workspace).values() if row["is_blank"]}
    assert blanks == {planted.blanks[0]}


def test_every_fault_was_met(planted: Planted) -> None:
    reasons = {(expected.reason, expected.detail) for expected in planted.expected.values()}
    assert set(FATES.values()) <= reasons
