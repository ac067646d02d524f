"""A crawl of the mock server with planted defects of each kind, and unusual but intact images."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.core.workspace import Workspace
from pipeline.demo.replica.config import FaultPlan, ReplicaConfig
from pipeline.demo.replica.faults import FaultKind
from pipeline.demo.replica.server import Replica
from scrapers.scrape import scrape
from scrapers.source import CaptionPlan, Discovery, Source, StartPage, open_source
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.dedupe.fragile import KILLER
from tests.helpers.dedupe import encode

SECTION = "emojis"
CAPTIONS = 8
SLOT = "a professional high quality emoji of a {}"  # the last caption, as our source gives it
FAULTS = FaultPlan(
    seed=3, corrupt=0.04, html=0.04, missing=0.04, opted_out=0.04, cut_short=0.04, permanent=1.0
)
# The outcome for a URL with a permanent fault: reason and start of the detail.
FATES: Mapping[FaultKind, tuple[str, str]] = {
    "corrupt": ("not_decodable", "wrong CRC in PNG chunk IDAT"),
    "html": ("not_fetched", "not_an_image: html"),
    "missing": ("not_fetched", "missing: http_404"),
    "opted_out": ("not_fetched", "opted_out: x_robots_noai"),
    "cut_short": ("not_fetched", "truncated: ends_early"),
}


class Expected(NamedTuple):
    """The expected rejected row: its reason, the start of its detail, the URL that represents it."""

    reason: str
    detail: str
    stands_for: str | None = None


class Shown(NamedTuple):
    """The expected kept row of an image."""

    format: str
    mode: str
    size: tuple[int, int]
    has_alpha: bool = False


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(_: bytes) -> bytes:
    """A complete PNG of 30,000×30,000 pixels by its header."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def not_deflated(data: bytes) -> bytes:
    """A PNG with intact chunks, but pixel data that can't be decompressed."""
    at = data.index(b"IDAT")
    return data[: at - 4] + chunk(b"IDAT", b"\xff" * 100) + chunk(b"IEND", b"")


def ends_early(data: bytes) -> bytes:
    """A PNG with intact chunks, but only the pixel data of its upper half."""
    at = data.index(b"IDAT")
    size = int.from_bytes(data[at - 4 : at])
    return data[: at - 4] + chunk(b"IDAT", data[at + 4 :][: size // 2]) + chunk(b"IEND", b"")


def empty(_: bytes) -> bytes:
    return b""


def drawing(_: bytes) -> bytes:
    return b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'


def deadly(data: bytes) -> bytes:
    """An intact PNG with a comment that crashes our fragile decoder."""
    return data[:-12] + chunk(b"tEXt", b"Comment\0" + KILLER) + data[-12:]


def frames(picture: Image.Image) -> dict[str, Any]:
    return {"save_all": True, "append_images": [picture.rotate(180)]}


def quarter_turn() -> Image.Exif:
    turned = Image.Exif()
    turned[0x0112] = 6
    return turned


def sixteen_bits(picture: Image.Image) -> bytes:
    return encode(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257))


def pixels_of(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def again(data: bytes) -> bytes:
    return encode(pixels_of(data), compress_level=0)


def nearly(data: bytes) -> bytes:
    """The same image except for one pixel, so with the same perceptual hash."""
    pixels = np.array(pixels_of(data))
    pixels[0, 0] ^= 1
    return encode(pixels)


def blank(data: bytes) -> bytes:
    return encode(Image.new("RGB", pixels_of(data).size, (9, 9, 9)))


def same(data: bytes) -> bytes:
    return data


# What is served at a URL, made from the image of another one (which may represent it).
COPIES: tuple[tuple[Callable[[bytes], bytes], str, str], ...] = (
    (same, "duplicate_bytes", "the same bytes"),
    (again, "duplicate_pixels", "the same pixels"),
)
SPOILT: tuple[tuple[Callable[[bytes], bytes], str, str], ...] = (
    (bomb, "too_large", "30000×30000"),
    (not_deflated, "not_decodable", "broken PNG"),
    (ends_early, "not_decodable", "broken PNG"),
    (empty, "not_fetched", "not_an_image: empty"),
    (drawing, "not_fetched", "not_an_image"),
    (deadly, "decoder_crashed", "its process died of SIGSEGV"),
)
# Images served as another intact file: how, and the format, mode and size that are kept.
UNUSUAL: tuple[tuple[Callable[[Image.Image], bytes], Shown], ...] = (
    (lambda p: encode(p, "GIF", **frames(p)), Shown("gif", "P", (64, 48))),
    (lambda p: encode(p, "WEBP", **frames(p)), Shown("webp", "RGB", (64, 48))),
    (lambda p: encode(p.convert("CMYK"), "JPEG"), Shown("jpeg", "CMYK", (64, 48))),
    (sixteen_bits, Shown("png", "I;16", (64, 48))),
    (lambda p: encode(p.quantize(16), transparency=0), Shown("png", "P", (64, 48), has_alpha=True)),
    (lambda p: encode(p, "JPEG", exif=quarter_turn()), Shown("jpeg", "RGB", (48, 64))),
    (lambda p: encode(p.resize((1, 1))), Shown("png", "RGB", (1, 1))),
)


@dataclass
class WithSlot:
    """The blog, except for one caption whose slot the page forgot to fill in."""

    inner: Source
    caption: str
    name: str = "dalleblog"

    def __post_init__(self) -> None:
        self.start_url = self.inner.start_url

    def discover(self, page: StartPage | None) -> Discovery:
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
    """What was planted, by URL: expected rejected rows, expected kept rows, two pairs."""

    expected: dict[str, Expected]
    unusual: dict[str, Shown]
    blanks: tuple[str, str]
    look_alikes: tuple[str, str]


@dataclass
class Crawl:
    """A crawled workspace with what was planted in it."""

    workspace: Workspace
    planted: Planted
    addresses: int


def plant(replica: Replica) -> Planted:
    """Change some URLs, among them two blank images and an image with a near duplicate."""
    urls = list(replica.urls(SECTION, limit=CAPTIONS))
    expected = dict.fromkeys(
        urls[-32:], Expected("bad_caption", f"a slot was never filled in: {SLOT}")
    )
    expected |= {url: Expected(*FATES[f.kind]) for url in urls if (f := replica.fault(url))}
    # Ranks 0 and 1 show whether a caption exists, and the lowest rank represents the others.
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
    unusual = {}
    for draw, shown in UNUSUAL:
        url = next(sound)
        bodies[url] = draw(pixels_of(replica.true_bytes(url)).resize((64, 48)))
        unusual[url] = shown
    removed = next(sound)
    replica.remove(removed)
    expected[removed] = Expected("not_fetched", "missing: http_404")
    blanks = next(sound), next(sound)
    bodies |= {url: blank(replica.true_bytes(url)) for url in blanks}
    expected[blanks[1]] = Expected("duplicate_bytes", "the same bytes", blanks[0])
    look_alikes = next(sound), next(sound)
    bodies[look_alikes[1]] = nearly(replica.true_bytes(look_alikes[0]))
    serve(replica, bodies)
    return Planted(expected, unusual, blanks, look_alikes)


def serve(replica: Replica, bodies: Mapping[str, bytes]) -> None:
    """Make the mock server respond with `bodies` for these URLs."""
    drawn = replica.site.true_bytes
    planted = {replica.path_of(url): body for url, body in bodies.items()}

    def answer(path: str) -> bytes | None:
        return planted[path] if path in planted else drawn(path)

    replica.site.true_bytes = answer  # type: ignore[method-assign]


def crawl_planted(root: Path) -> Crawl:
    """Scrape a mock server with everything planted into a workspace."""
    workspace = Workspace(root).open(source="dalleblog")
    with Replica(ReplicaConfig(sections=(SECTION,), size=64, faults=FAULTS)) as replica:
        planted = plant(replica)
        unfilled = list(replica.site.holdings.shown(SECTION))[CAPTIONS - 1]
        config = DalleBlogConfig(
            workspace=root, page_url=replica.page_url, cdn_url=replica.cdn,
            sections=(SECTION,), limit=CAPTIONS, attempts=2, backoff_s=0.01, max_backoff_s=0.02,
        )  # fmt: skip
        source = WithSlot(open_source(config), unfilled.caption)
        report = scrape(config, source=source)
        return Crawl(workspace, planted, report.counts["urls"])
