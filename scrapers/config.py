"""The options of `pipeline scrape` that every source has. Imports nothing that fetches or stores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipeline.core.config import WorkConfig, option, plain_value
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import ConfigError
from scrapers.resizing.rule import ResizeRule

# Our product token, by which robots.txt and other signals may name us.
USER_AGENT = "dalle-pipeline"


@dataclass(frozen=True, kw_only=True)
class ScrapeConfig(WorkConfig):
    """What to fetch, how politely, and what to request again. A source's options are in a subclass."""

    # Names of options in a manifest's `inputs`, where they differ.
    INPUT_NAMES: ClassVar[Mapping[str, str]] = {}

    source: str = option("dalleblog", "The source to scrape; `pipeline scrape` alone lists them.")
    inputs: tuple[str, ...] = option(
        (),
        "What the source reads: files, folders or URLs. `pipeline scrape SOURCE --help` says which.",
        runtime=True,
        remember=True,
        metavar="INPUT",
    )
    limit: int | None = option(None, "Maximum number of captions.", low=1)
    via: Literal["wayback"] | None = option(
        None, "Fetch from a web archive instead of the site: wayback."
    )
    archive_url: str = option("https://web.archive.org", "With --via: URL of the web archive.")
    ignore_opt_out: bool = option(
        False,
        "Fetch even what robots.txt and other opt-out signals disallow. Recorded in the manifest.",
        remember=False,
    )
    opt_outs: Path | None = option(
        None,
        "Leave out what this file lists: one domain, URL prefix or SHA-256 of an image file per line.",
        runtime=True,
        remember=True,
    )
    keep_refused: bool = option(
        False,
        "Keep responses that are not a complete image in raw/refused/.",
        runtime=True,
        remember=True,
    )

    retry_failed: bool = option(False, "Only retry failed URLs.", runtime=True)
    refresh: bool = option(
        False, "Check every URL again and download only what has changed.", runtime=True
    )

    update: bool = option(
        False, "Fetch the page again and download only images that are new on it.", runtime=True
    )
    gone_after: int = option(
        3,
        "With --refresh: treat an image as removed after this many consecutive refreshes without it.",
        low=1,
        runtime=True,
    )

    plan: bool = option(
        False,
        "Only fetch the page; report its sections and what has changed.",
        runtime=True,
    )
    list_urls: bool = option(
        False,
        "Only list section, caption, rank and URL of each image. No network access.",
        runtime=True,
    )
    out: Path | None = option(
        None,
        "With --list-urls: write the list to this Parquet file instead of stdout.",
        runtime=True,
    )
    export: Path | None = option(
        None, "Only export the ledger of an earlier run to this Parquet file.", runtime=True
    )

    contact: str | None = option(
        None,
        "E-mail address or URL for the User-Agent header, so that site operators can reach you.",
        runtime=True,
        remember=True,
    )
    header: tuple[str, ...] = option(
        (),
        "Request header 'Name: value', sent only to the hosts that the options name. Repeatable.",
        secret=True,
    )
    header_host: tuple[str, ...] = option(
        (),
        "Another HOST or HOST:PORT that may receive --header and --client-cert. Repeatable.",
        runtime=True,
    )
    cookie_file: Path | None = option(
        None, "Cookie file in Netscape format, as exported by curl and browsers.", runtime=True
    )
    proxy: str | None = option(
        None,
        "Proxy for all requests, http(s)://[user:password@]host:port (default: from HTTP_PROXY etc.).",
        secret=True,
    )
    ca_file: Path | None = option(
        None, "Extra CA certificates to trust, in PEM format.", runtime=True
    )
    client_cert: Path | None = option(
        None, "Client certificate in PEM format, for hosts that require one.", runtime=True
    )
    client_key: Path | None = option(
        None, "Private key of --client-cert, if it is in a separate file.", runtime=True
    )
    rate: float | None = option(
        None,
        "Maximum requests per second per host.",
        low=0.001,
        runtime=True,
        remember=True,
    )
    concurrency: int = option(
        32,
        "Maximum concurrent requests per host.",
        low=1,
        high=1024,
        runtime=True,
        remember=True,
    )
    archive_rate: float = option(
        10.0, "With --via: maximum captures per second.", low=0.001, runtime=True
    )
    archive_index_rate: float = option(
        0.5, "With --via: maximum requests to the index per second.", low=0.001, runtime=True
    )
    archive_concurrency: int = option(
        2, "With --via: maximum concurrent requests.", low=1, high=64, runtime=True
    )
    attempts: int = option(
        6, "Attempts per image before it counts as failed.", low=1, high=100, runtime=True
    )
    timeout_s: float = option(60.0, "Timeout of one request, in seconds.", low=0.05, runtime=True)
    backoff_s: float = option(
        0.5,
        "Delay before the first retry, in seconds; it doubles with each retry.",
        low=0.0,
        runtime=True,
    )
    max_backoff_s: float = option(
        60.0, "Maximum delay between retries, in seconds.", low=0.0, runtime=True
    )
    max_outage_s: float = option(
        300.0,
        "Give up on a host for this run if it is down, or asks to wait, for longer than this many seconds.",
        low=0.0,
        runtime=True,
    )
    segment_mb: int = option(
        512, "Size at which a tar of the raw store is closed, in MiB.", low=1, runtime=True
    )
    connect_to: str | None = option(
        None,
        "Send every request to this HOST:PORT, whatever host its URL names (a mirror or the mock server).",
        runtime=True,
        remember=True,
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for options that contradict each other."""
        if self.client_key is not None and self.client_cert is None:
            raise ConfigError("--client-key is the key of --client-cert: give both, or neither.")
        if self.proxy is not None and self.connect_to is not None:
            raise ConfigError(
                "--proxy and --connect-to both decide where requests go: give only one."
            )
        if self.out is not None and not self.list_urls:
            raise ConfigError(
                "--out names the file that --list-urls writes: give both, or neither."
            )
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

    def input_files(self) -> dict[str, Path]:
        """The local files that decide what is fetched, by the names of their options.

        They are the list of opt-outs and those of the source's own options that are paths.
        """
        shared = ScrapeConfig.__dataclass_fields__
        own = (f.name for f in dataclasses.fields(self) if f.name not in shared)
        paths = {name: getattr(self, name) for name in (*own, "opt_outs")}
        return {name: path for name, path in paths.items() if isinstance(path, Path)}

    def own_urls(self) -> dict[str, str]:
        """The URLs that the user gave, by flag: their hosts may be private and receive --header."""
        return {} if self.via is None else {"--archive-url": self.archive_url}

    @property
    def only_shows(self) -> bool:
        """Whether only what the source would read is shown: no request, no workspace."""
        return False

    def named_hosts(self) -> frozenset[str]:
        """Hosts that the user named: they may be private, but receive no --header."""
        return frozenset()

    def saved_from(self) -> str | bool:
        """Where a saved page that names the images comes from: its URL, True if that is not known.

        If it is on the public internet, images on private hosts are refused. False: there is no such page.
        """
        return False

    def resize_rule(self) -> ResizeRule | None:
        """How images are resized when they arrive; None: they are stored as they come."""
        return None

    def resize_engine(self) -> Engine:
        """Where images are resized."""
        return LOCAL

    def extent(self) -> dict[str, Any]:
        """The options that limit what is fetched, for runs.jsonl."""
        return {"limit": self.limit}


def plain_url(url: str) -> str:
    """A URL of the user's as it may be kept and printed: no user, the scheme in lower case."""
    scheme, colon, rest = str(plain_value(url)).partition(":")
    return f"{scheme.lower()}{colon}{rest}"
