"""Configuration of the mock server: contents, page design and faults. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.core.config import option

PageDesign = Literal["2021", "next", "plain"]
RobotsAnswer = Literal["allow", "disallow", "missing", "error"]


@dataclass(frozen=True, kw_only=True)
class FaultPlan:
    """Faults of the mock server: the share of image URLs (0..1) that each kind of fault affects.

    A URL has at most one fault, so the shares add up to at most 1. A fault disappears after one to
    `passing_attempts` requests, unless the URL is in the `permanent` share of affected ones; `missing`,
    `corrupt` and `opted_out` never disappear.
    """

    seed: int = 0
    slow: float = 0.0  # responds after `slow_s`
    truncated: float = 0.0  # body shorter than its Content-Length
    cut_short: float = 0.0  # a PNG that ends early, in a complete response
    busy: float = 0.0  # 429, Retry-After in seconds
    busy_until: float = 0.0  # 429, Retry-After as a date
    error: float = 0.0  # 500
    unavailable: float = 0.0  # 503
    corrupt: float = 0.0  # a PNG with damaged bytes
    html: float = 0.0  # HTML with status 200
    missing: float = 0.0  # 404
    reset: float = 0.0  # the connection is reset
    silent: float = 0.0  # no response for `hang_s`
    opted_out: float = 0.0  # X-Robots-Tag: noai
    redirected: float = 0.0  # 302 to the same image at another path
    redirect_loop: float = 0.0  # 302 to itself
    redirect_away: float = 0.0  # 302 to `away`
    gzip_bomb: float = 0.0  # 1 GiB of zeros, gzipped to 1 MiB
    huge: float = 0.0  # Content-Length of 10 GB, sent until the other side closes
    slow_loris: float = 0.0  # a byte every `drip_s`
    passing_attempts: int = 2
    permanent: float = 0.0
    slow_s: float = 0.2
    hang_s: float = 60.0
    drip_s: float = 1.0
    retry_after_s: int = 1
    away: str = "http://127.0.0.2:9/"


@dataclass(frozen=True, kw_only=True)
class ReplicaConfig:
    """One mock server: the same config serves the same bytes on every machine.

    `sections`: names from the catalogue, all if empty. `missing_ranks`, `missing_captions`: shares (0..1)
    that never existed. `as_written`: of the captions with two spellings, the share that exists with the
    template's article instead of the agreeing one. `shown_captions`: how many captions the page shows of a
    section with hashed keys. `page_status`: the HTTP status of the page.
    """

    seed: int = 0
    sections: tuple[str, ...] = ()
    design: PageDesign = "2021"
    size: int = 256
    missing_ranks: float = 0.0
    missing_captions: float = 0.0
    as_written: float = 0.1
    shown_captions: int = 64
    robots: RobotsAnswer = "allow"
    page_status: int = 200
    faults: FaultPlan = field(default_factory=FaultPlan)
    cache_dir: Path | None = None
    port: int = 0


@dataclass(frozen=True, kw_only=True)
class ReplicaServeConfig:
    """Options of `pipeline replica`."""

    port: int = option(0, "Port to listen on; 0 picks a free one.", low=0, high=65535)
    seed: int = option(0, "Seed of keys, missing images and faults.")
    sections: tuple[str, ...] = option(
        (), "Sections of the catalogue to serve (default: all). Repeatable."
    )
    design: PageDesign = option("2021", "HTML design of the page.")
    size: int = option(256, "Image width and height in pixels.", low=16, high=1024)
    cache_dir: Path | None = option(None, "Folder that caches drawn images between runs.")
    robots: RobotsAnswer = option("allow", "How the server answers requests for robots.txt.")
    missing: float = option(0.0, "Fraction of images that don't exist (404).", low=0, high=1)
    slow: float = option(0.0, "Fraction of responses that are delayed.", low=0, high=1)
    truncated: float = option(
        0.0, "Fraction of responses truncated on the first attempts.", low=0, high=1
    )
    busy: float = option(
        0.0,
        "Fraction of requests answered with 429 and Retry-After on the first attempts.",
        low=0,
        high=1,
    )
    error: float = option(
        0.0, "Fraction of requests answered with 500 on the first attempts.", low=0, high=1
    )
    reset: float = option(
        0.0, "Fraction of connections reset on the first attempts.", low=0, high=1
    )
    corrupt: float = option(0.0, "Fraction of PNGs with corrupted bytes.", low=0, high=1)
    html: float = option(
        0.0,
        "Fraction of requests answered with HTML and status 200 on the first attempts.",
        low=0,
        high=1,
    )
    opted_out: float = option(
        0.0, "Fraction of images sent with the header X-Robots-Tag: noai.", low=0, high=1
    )

    def replica(self) -> ReplicaConfig:
        """The configuration that these options describe."""
        kinds = ("slow", "truncated", "busy", "error", "reset", "corrupt", "html", "opted_out")
        shares: dict[str, float] = {kind: getattr(self, kind) for kind in kinds}
        return ReplicaConfig(
            seed=self.seed,
            sections=self.sections,
            design=self.design,
            size=self.size,
            missing_ranks=self.missing,
            robots=self.robots,
            faults=replace(FaultPlan(seed=self.seed), **shares),  # type: ignore[arg-type]
            cache_dir=self.cache_dir,
            port=self.port,
        )
