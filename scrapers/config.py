"""What `pipeline scrape` is told. Light: imports nothing that asks or stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import StageConfig, option, plain_value
from pipeline.core.errors import ConfigError
from scrapers.source import SourceOptions

# Our product token, by which robots.txt and other signals may name us.
USER_AGENT = "dalle-pipeline"


@dataclass(frozen=True, kw_only=True)
class ScrapeConfig(StageConfig):
    """Options of the scrape: what to fetch, how politely, and what to ask again."""

    source: str = option("dalleblog", "Where the captions and images come from.")
    page_url: str | None = option(None, "Address of the page, if not the source's own.")
    page: Path | None = option(
        None,
        "A saved copy of the page, read instead of asking for it.",
        runtime=True,
        remember=True,
        instead_of=("no_page",),
    )
    no_page: bool = option(
        False, "Ask for no page: use the built-in catalogue alone.", instead_of=("page",)
    )
    cdn_url: str | None = option(
        None, "Address under which the images lie, if not the source's own."
    )
    sections: tuple[str, ...] = option((), "Only these sections of the page.")
    limit: int | None = option(None, "At most this many captions.", low=1)
    captions: Path | None = option(
        None, "Only the captions in this file, one a line.", runtime=True, remember=True
    )
    via: Literal["wayback"] | None = option(
        None, "Fetch the same captions from a web archive instead of the site: 'wayback'."
    )
    archive_url: str = option(
        "https://web.archive.org", "With --via: the address of the web archive."
    )
    ignore_opt_out: bool = option(
        False,
        "Fetch even what robots.txt and other opt-out signals refuse; recorded in the manifest.",
        remember=False,
    )
    opt_outs: Path | None = option(
        None,
        "Leave out what this file lists: a domain, a URL prefix or a SHA-256 of bytes a line.",
        runtime=True,
        remember=True,
    )
    keep_refused: bool = option(
        False,
        "Keep the bytes of what is no image, or none that is whole, in raw/refused/.",
        runtime=True,
        remember=True,
    )

    retry_failed: bool = option(False, "Ask again only for what failed.", runtime=True)
    refresh: bool = option(
        False, "Ask again for everything, and fetch only what has changed.", runtime=True
    )

    update: bool = option(
        False, "Ask for the page again, and fetch only the images that are new on it.", runtime=True
    )
    gone_after: int = option(
        3,
        "With --refresh: an image that was there is gone only after so many refreshes that miss it.",
        low=1,
        runtime=True,
    )

    plan: bool = option(
        False,
        "Only ask for the page; say which sections there are, and which have changed.",
        runtime=True,
    )
    list_urls: bool = option(
        False,
        "Only list section, caption, rank and address of what would be fetched; ask nothing.",
        runtime=True,
    )
    out: Path | None = option(
        None, "With --list-urls: a parquet file for the list, instead of lines.", runtime=True
    )
    export: Path | None = option(
        None, "Only write the ledger of an earlier run to this parquet file.", runtime=True
    )

    contact: str | None = option(
        None,
        "Mail or web address for the user agent, so that the host can reach you.",
        runtime=True,
        remember=True,
    )
    header: tuple[str, ...] = option(
        (),
        "A header field 'Name: value' for each request to the hosts of --page-url and --cdn-url.",
        secret=True,
    )
    header_host: tuple[str, ...] = option(
        (), "Another host (or HOST:PORT) that --header and --client-cert are for.", runtime=True
    )
    cookie_file: Path | None = option(
        None, "A file of cookies, as curl and browsers write it (Netscape).", runtime=True
    )
    proxy: str | None = option(
        None,
        "Proxy for all requests, http(s)://[user:password@]host:port (default: HTTP_PROXY and so on).",
        secret=True,
    )
    ca_file: Path | None = option(
        None, "Certificates (PEM) of authorities to trust beside the system's.", runtime=True
    )
    client_cert: Path | None = option(
        None, "Our certificate (PEM) for hosts that ask for one.", runtime=True
    )
    client_key: Path | None = option(
        None, "The key of --client-cert, if it stands in another file.", runtime=True
    )
    rate: float | None = option(
        None,
        "At most this many requests a second to a host.",
        low=0.001,
        runtime=True,
        remember=True,
    )
    concurrency: int = option(
        32,
        "At most this many requests at a time to a host.",
        low=1,
        high=1024,
        runtime=True,
        remember=True,
    )
    archive_rate: float = option(
        10.0,
        "With --via: at most this many captures a second are asked for.",
        low=0.001,
        runtime=True,
    )
    archive_index_rate: float = option(
        0.5,
        "With --via: at most this many questions a second to the archive's index.",
        low=0.001,
        runtime=True,
    )
    archive_concurrency: int = option(
        2, "With --via: at most this many requests at a time.", low=1, high=64, runtime=True
    )
    attempts: int = option(
        6, "Requests for one image before it counts as failed.", low=1, high=100, runtime=True
    )
    timeout_s: float = option(
        60.0, "Longest time for one answer, in seconds.", low=0.05, runtime=True
    )
    backoff_s: float = option(
        0.5,
        "First wait before an image is asked again, in seconds; it doubles.",
        low=0.0,
        runtime=True,
    )
    max_backoff_s: float = option(
        60.0, "Longest of those waits, in seconds.", low=0.0, runtime=True
    )
    max_outage_s: float = option(
        300.0,
        "A host that gives no answer for so long, or asks to wait longer, is left for another run.",
        low=0.0,
        runtime=True,
    )
    segment_mb: int = option(
        512, "Size at which a tar of the raw store is closed, in MiB.", low=1, runtime=True
    )
    connect_to: str | None = option(
        None,
        "Send every request to this HOST:PORT, whatever host its URL names (a mirror, a replica).",
        runtime=True,
        remember=True,
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for options that contradict each other."""
        if self.client_key is not None and self.client_cert is None:
            raise ConfigError("--client-key is the key of --client-cert: give both, or neither.")
        if self.proxy is not None and self.connect_to is not None:
            raise ConfigError("--proxy and --connect-to name different places: give one of them.")
        if self.out is not None and not self.list_urls:
            raise ConfigError("--out says where --list-urls writes to: give both, or neither.")
        chosen = [
            flag
            for flag, given in (
                ("--list-urls", self.list_urls),
                ("--export", self.export is not None),
                ("--retry-failed", self.retry_failed),
                ("--refresh", self.refresh),
                ("--update", self.update),
                ("--plan", self.plan),
            )
            if given
        ]
        if len(chosen) > 1:
            raise ConfigError(f"{' and '.join(chosen)} ask for different things: give one of them.")


def source_options(config: ScrapeConfig) -> SourceOptions:
    """What of the options concerns the source: URLs without their users and passwords."""
    return SourceOptions(
        name=config.source,
        page_url=config.page_url and plain_url(config.page_url),
        page_file=config.page,
        cdn_url=config.cdn_url and plain_url(config.cdn_url),
        sections=config.sections,
        limit=config.limit,
        captions_file=config.captions,
        use_page=not config.no_page,
    )


def plain_url(url: str) -> str:
    """A URL of the user's as it may be kept and printed: no user, the scheme in lower case."""
    scheme, colon, rest = str(plain_value(url)).partition(":")
    return f"{scheme.lower()}{colon}{rest}"
