"""The protocol of a source: what the crawler knows of it, and the registry of sources.

A source yields images and their captions. The crawler fetches the page at its `start_url`, if it has one,
passes the page to `discover`, and requests what the discovery names. A source declares itself with a
`SourceKind` named `SOURCE`, with options of its own; its other code is imported only when it is opened, so
that `pipeline --help` stays fast.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pipeline.core.contracts import UrlState
from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.progress import Progress
from pipeline.core.remembered import flag_of
from pipeline.core.suggestions import name_choices
from scrapers.config import ScrapeConfig
from scrapers.fetch.page_urls import resolve_url, without_credentials
from scrapers.sources.remarks import Remarks


class Failure(NamedTuple):
    """Why another tool has no image of a URL: the state and reason of its row, and what that tool said."""

    state: UrlState
    reason: str
    text: str


class FilePlace(NamedTuple):
    """Where bytes are: `size` of them from `offset` in the file at `path`, which is absolute or an address.

    `file_bytes` and `mtime` (in nanoseconds) are those of the whole file.
    """

    path: str
    offset: int
    size: int
    file_bytes: int
    mtime: int


# Hosts that are counted; more of them make no difference.
_MANY_HOSTS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """An image at `url` with one or more captions.

    `group` is a part of the source, such as a page or an album; `rank` orders images of one caption, 0 is the
    best; `extra` holds JSON values to keep beside it in the ledger. The same URL may come several times: its
    captions are collected.

    The other fields are for a `LocalSource`. `place` is where the bytes are already; `body` are the bytes, if
    no file holds them as they are: these are copied. `name` identifies the item in its source, whatever the
    path of the source is; without it, the URL does. `failure` is why another tool could not fetch it, and
    `original_sha256` the hash of what it fetched, before it resized it, perhaps.
    """

    url: str
    captions: tuple[str, ...]
    group: str = "images"
    rank: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    place: FilePlace | None = None
    body: bytes | None = field(default=None, repr=False)
    failure: Failure | None = None
    original_sha256: bytes | None = None

    def plan(self) -> CaptionPlan:
        """The image as a plan. Raises SourceError without a caption or an absolute http(s) URL."""
        is_local = self.place is not None or self.name is not None
        url = self.url if is_local else resolve_url(self.url, "")
        if url is None:
            shown = without_credentials(self.url)
            raise SourceError(f"{shown!r} is not a URL of an image; expected http:// or https://.")
        if not self.captions:
            raise SourceError(f"The image {without_credentials(url)} has no caption.")
        return CaptionPlan(
            section=self.group,
            forms=(CaptionForm(caption=self.captions[0], url_template=url),),
            ranks=(0,),
            masked=False,
            captions=self.captions[1:],
            rank=self.rank,
            extra=self.extra_json(),
        )

    def extra_json(self) -> str | None:
        """`extra` as the ledger keeps it."""
        if not self.extra:
            return None
        options: dict[str, Any] = {"sort_keys": True, "ensure_ascii": False, "default": str}
        try:
            return json.dumps(dict(self.extra), allow_nan=False, **options)
        except ValueError:  # NaN, which JSON doesn't have
            return json.dumps(_without_nan(dict(self.extra)), **options)


def _without_nan(value: Any) -> Any:
    """JSON values with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionForm:
    """One spelling of a caption and the URLs of its images.

    `url_template` contains `{rank}` once, in its last part, or not at all if the image has no rank; any other
    brace of a URL is percent-encoded.
    """

    caption: str
    url_template: str

    def url(self, rank: int) -> str:
        """The URL of the image with this rank."""
        head, found, tail = self.url_template.rpartition("{rank}")
        return f"{head}{rank}{tail}" if found else tail


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionPlan:
    """A caption to fetch with all of its images, for sources whose URLs follow a pattern.

    `forms` are tried in order; the first whose image of rank 0 (then 1) exists is the caption. `ranks` are
    those of its images. `masked` means that a part of each image was given and only the rest sampled.
    `captions` are further captions of the same images. `rank` is that of an image whose URL contains none;
    `extra` is a JSON object. `key_prefix` is what the keys of the images begin with instead of the section:
    a URL that several sections name is one image then. `expected_hash` is that of the image's bytes, such as
    ``sha256:ab12…``; others are not stored.
    """

    section: str
    forms: tuple[CaptionForm, ...]
    ranks: tuple[int, ...]
    masked: bool
    captions: tuple[str, ...] = ()
    rank: int | None = None
    extra: str | None = None
    key_prefix: str | None = None
    expected_hash: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionSummary:
    """A section of a source with its number of captions to fetch.

    `shown` is False for a section that the page itself doesn't show.
    """

    name: str
    captions: int
    shown: bool = True


@dataclass(frozen=True, kw_only=True)
class StartPage:
    """A page as it was sent: its bytes, the URL after redirects, and its `Content-Type`."""

    body: bytes
    url: str
    content_type: str | None = None


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """What a source has, as far as its options ask for it.

    `plans` is lazy and can be iterated several times, in the same order. `num_captions` counts its plans and
    `num_urls` the URLs of their first forms. `differences` are sentences for the report, such as what could
    not be used; `warnings` are those of them that cost something. `page_sections` are all sections of the
    page, whatever was asked for; empty without a page. `page_meta` are names (in lower case) and contents of
    its `<meta>` elements; `page_name` is what messages call a page that was not fetched. `credentials` are
    user and password by origin (`http://host:port`): for requests only, and in none of the URLs.
    `is_foreign` means that a file of somebody else's names public hosts: its private hosts are refused.
    `busiest` is the origin with the most of `num_urls` and their number, None if there is only one host.
    `num_hosts` is how many hosts there are, or at least how many were counted: with more than one, the crawl
    reads ahead so that each has work.
    `names_all`: a URL of an earlier run that no plan names has left the source.
    """

    plans: Iterable[CaptionPlan]
    num_captions: int
    num_urls: int
    sections: tuple[SectionSummary, ...] = ()
    differences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    page_sections: tuple[SectionSummary, ...] = ()
    page_meta: tuple[tuple[str, str], ...] = ()
    page_name: str | None = None
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    is_foreign: bool = False
    busiest: tuple[str, int] | None = None
    num_hosts: int = 1
    names_all: bool = False

    @classmethod
    def of(cls, items: Callable[[], Iterable[Item]], *, limit: int | None = None) -> Discovery:
        """The discovery of the images that `items()` yields, the same at each call; at most `limit`."""
        plans = _Plans(items=items, limit=limit)
        sections: Counter[str] = Counter()
        origins: set[str] = set()
        for plan in plans:
            sections[plan.section] += 1
            if len(origins) < _MANY_HOSTS:
                origins.add("/".join(plan.forms[0].url_template.split("/", 3)[:3]))
        return cls(
            plans=plans,
            num_captions=sections.total(),
            num_urls=sections.total(),
            sections=tuple(SectionSummary(name=n, captions=c) for n, c in sections.items()),
            num_hosts=max(1, len(origins)),
        )


@dataclass(frozen=True, kw_only=True)
class _Plans:
    items: Callable[[], Iterable[Item]]
    limit: int | None

    def __iter__(self) -> Iterator[CaptionPlan]:
        return (item.plan() for item in islice(self.items(), self.limit))


class Source(Protocol):
    """A source of captions and images.

    `start_url` is the page to fetch first; None if there is nothing to fetch.
    """

    name: str
    start_url: str | None

    def discover(self, page: StartPage | None) -> Discovery:
        """What there is to fetch, `page` being that of `start_url` (None if it has none).

        Raises SourceError if nothing can be read from it, ConfigError if the options ask for what the source
        doesn't have.
        """


@runtime_checkable
class ReadsFiles(Protocol):
    """A source whose positional arguments are files; they decide what is fetched."""

    def input_digests(self) -> Mapping[str, str]:
        """A digest of each file by its name, for the manifest. The same until the source is opened again."""


@runtime_checkable
class ReadsLong(Protocol):
    """A source that may read for minutes before it knows what there is to fetch."""

    reading: Progress

    def discover(self, page: StartPage | None) -> Discovery:
        """See `Source.discover`; reports to `reading`."""


@runtime_checkable
class LocalSource(Protocol):
    """A source whose images are on disk already. Its `discover` is only for lists and plans.

    `items_on_disk` yields them lazily, the same ones in the same order each time, and notes in `remarks` what
    it leaves out. Raises SourceError if there is nothing to read, ConfigError for options that make no sense.
    """

    name: str
    start_url: str | None

    def discover(self, page: StartPage | None) -> Discovery:
        """See `Source.discover`."""

    def items_on_disk(self, remarks: Remarks) -> Iterator[Item]:
        """The images."""


@runtime_checkable
class PreparedSource(LocalSource, Protocol):
    """A source that another program brings onto the disk."""

    def prepare(self, progress: Progress) -> None:
        """Run that program, until all is there. Called before the event loop; an interrupt ends it."""


@dataclass(frozen=True, kw_only=True)
class SourceKind:
    """The declaration of a source: a line for the help, its options, and `module:callable` that opens it.

    The callable takes the config and returns a `Source`.
    """

    name: str
    help: str
    config: type[ScrapeConfig] = ScrapeConfig
    opener: str


# The modules that declare the sources, by name. A new source is a file and a line here.
_MODULES = {
    "dalleblog": "scrapers.sources.dalleblog",
    "urls": "scrapers.sources.urls",
    "folder": "scrapers.sources.folder",
    "img2dataset": "scrapers.sources.img2dataset",
    "tars": "scrapers.sources.tars",
}


@cache
def source_kinds() -> Mapping[str, SourceKind]:
    """The declarations of all sources by name, sorted."""
    return {name: import_module(_MODULES[name]).SOURCE for name in sorted(_MODULES)}


def find_source(name: str) -> SourceKind:
    """The declaration of a source. Raises ConfigError if there is none of this name."""
    kinds = source_kinds()
    if name not in kinds:
        raise ConfigError(f"There is no source {name!r}. {name_choices(name, tuple(kinds))}")
    return kinds[name]


def reads_files(config: ScrapeConfig) -> bool:
    """Whether the source that the options name has its images on disk."""
    return isinstance(open_source(config), LocalSource)


def open_source(config: ScrapeConfig) -> Source:
    """The source that the options name. Raises ConfigError if there is none, or for wrong options."""
    module, _, name = find_source(config.source).opener.partition(":")
    source: Source = getattr(import_module(module), name)(config)
    return source


def source_to_open(config: ScrapeConfig) -> str | None:
    """The source for which a workspace may be created; None if the workspace must exist already.

    Raises ConfigError for options with which no source can be opened, before a workspace is created.
    """
    if config.export is not None:
        return None
    for name, path in config.input_files().items():
        if not path.is_file():
            raise ConfigError(f"{flag_of(name)} {path} is not a readable file.")
    open_source(config)
    return config.source
