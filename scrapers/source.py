"""What a source is: something that yields captions and, per caption, the addresses of its images.

The crawler knows sources only through this module: it fetches `start_url` if there is one, hands
the bytes to `discover`, and asks for what the plans name. Sources are opened by name and imported
only then, so that `pipeline --help` stays light.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

from pipeline.core.errors import ConfigError
from pipeline.core.suggestions import name_choices

KeyKind = Literal["base64", "hex128", "uint32", "name"]
Origin = Literal["page", "catalogue", "both"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionForm:
    """One spelling of a caption and how its images are addressed.

    `url_template` holds `{rank}` once, in its last part, or not at all if the image has no rank;
    any other brace of an address is percent-encoded.
    """

    caption: str
    url_template: str

    def url(self, rank: int) -> str:
        """The address of the image of this rank."""
        head, found, tail = self.url_template.rpartition("{rank}")
        return f"{head}{rank}{tail}" if found else tail


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionPlan:
    """A caption to fetch.

    `forms` are tried in order; the first whose image of rank 0 (then 1) exists is the caption.
    `ranks` are 0 to 31 where a caption has its 32 images, else those that the source names.
    `masked` says that a part of each picture was given and only the rest sampled.
    """

    section: str
    forms: tuple[CaptionForm, ...]
    ranks: tuple[int, ...]
    masked: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionSummary:
    """A section of a source: captions to fetch, how its images are named, who named it.

    `catalogue_captions` is how many captions the built-in catalogue knows, fetchable or not.
    """

    name: str
    captions: int
    key: KeyKind = "name"
    origin: Origin = "page"
    catalogue_captions: int = 0


@dataclass(frozen=True, kw_only=True)
class StartPage:
    """A page as it came: its bytes, the URL where the redirects ended, and its `Content-Type`."""

    body: bytes
    url: str
    content_type: str | None = None


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """What a source offers, as far as it was asked for.

    `plans` is lazy and can be iterated again, in the same order. `num_captions` counts its plans
    and `num_urls` the addresses of their first forms. `differences` are sentences for the report:
    where the page and the catalogue disagree, and what could not be used; `warnings` are those of
    them that cost something. `page_sections` are all that the page has, whatever was asked for; empty
    without a page. `page_meta` are names (in lower case) and contents of its `<meta>` elements.
    `credentials` are user and password by origin (`http://host:port`): for the requests alone, and in
    none of the URLs.
    """

    plans: Iterable[CaptionPlan]
    num_captions: int
    num_urls: int
    sections: tuple[SectionSummary, ...] = ()
    differences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    page_sections: tuple[SectionSummary, ...] = ()
    page_meta: tuple[tuple[str, str], ...] = ()
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)


class Source(Protocol):
    """A source of captions and images.

    `start_url` is the page to fetch first; None if there is nothing to fetch.
    """

    name: str
    start_url: str | None

    def discover(self, page: StartPage | None) -> Discovery:
        """What there is to fetch, `page` being that of `start_url` (None if it has none).

        Raises SourceError if nothing can be read from it, ConfigError if the options ask for what
        the source does not have.
        """


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What the user chose: which source, from where, and which of its captions.

    `page_file` is a saved page, read in place of `page_url`. `cdn_url` is the folder above
    `samples/`. `sections` and `limit` (a number of captions) choose; so does `captions_file`, a
    caption or `section<TAB>caption` per line. `use_page` False: only what is built in.
    """

    name: str
    page_url: str | None = None
    page_file: Path | None = None
    cdn_url: str | None = None
    sections: tuple[str, ...] = ()
    limit: int | None = None
    captions_file: Path | None = None
    use_page: bool = True


# A source by its name: the module and its function `(SourceOptions) -> Source`. A new source is a line here.
_OPENERS = {
    "dalleblog": ("scrapers.sources.dalleblog.source", "open_dalleblog"),
}


def source_names() -> tuple[str, ...]:
    """The sources that `open_source` knows, sorted."""
    return tuple(sorted(_OPENERS))


def open_source(options: SourceOptions) -> Source:
    """The source of this name. Raises ConfigError if there is none."""
    if options.name not in _OPENERS:
        choices = name_choices(options.name, source_names())
        raise ConfigError(f"There is no source {options.name!r}. {choices}")
    module, opener = _OPENERS[options.name]
    source: Source = getattr(import_module(module), opener)(options)
    return source
