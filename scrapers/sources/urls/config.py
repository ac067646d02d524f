"""The options of the source urls. Imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.core.config import option
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import ConfigError
from scrapers.config import ScrapeConfig
from scrapers.resizing.rule import EncodeFormat, ResizeMode, ResizeRule

PresetName = Literal[
    "cc3m", "cc12m", "yfcc15m", "wit", "sbu", "redcaps", "laion", "relaion", "coyo", "datacomp",
    "recap-datacomp",
]  # fmt: skip
_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")
_HASH = re.compile(r"(sha256|md5)=(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class UrlsConfig(ScrapeConfig):
    """Which lists, which of their columns, and which of their rows."""

    inputs: tuple[str, ...] = option(
        (),
        "Lists of URLs: CSV, TSV, JSON, JSONL, Parquet or txt, also .gz, .bz2, .zst; folders, globs, URLs.",
        runtime=True,
        remember=True,
        metavar="LIST",
    )
    preset: PresetName | None = option(None, "The form of a published list.")
    list_format: Literal["csv", "tsv", "json", "jsonl", "parquet", "txt"] | None = option(
        None, "Format of the lists (default: by their names)."
    )
    url_column: str | None = option(None, "Column of the URL (default: guessed).")
    caption_column: tuple[str, ...] = option(
        (), "Column of a caption; repeat it to keep several captions per image (default: guessed)."
    )
    keep_columns: tuple[str, ...] = option(
        (), "Column to keep as `extra` beside the image. Repeatable."
    )
    where: str | None = option(
        None, "Only rows for which this holds, such as \"width >= 256 and lang = 'en'\"."
    )
    verify_hash: str | None = option(
        None, "Store only images whose hash is that of a column: sha256=COLUMN or md5=COLUMN."
    )
    shard: str | None = option(
        None, "Only shard I of N, cut by a hash of the URL: I/N, from 0/N to N-1/N."
    )
    max_bad_rows: int | None = option(
        None,
        "Stop before the first request if more rows than this are broken.",
        low=0,
        runtime=True,
    )
    allow_host: tuple[str, ...] = option(
        (),
        "Host at a private address to allow even if the lists contain public hosts. Repeatable.",
        runtime=True,
        remember=True,
    )
    max_side: int | None = option(
        None,
        "Scale larger images down to this many pixels on arrival (default: store them as served).",
        low=8,
        high=16384,
        omit_default=True,
    )
    resize_mode: ResizeMode = option(
        "keep_ratio_largest",
        "With --max-side: which side it limits, as in img2dataset: the longer (keep_ratio_largest) or the "
        "shorter one (keep_ratio); center_crop and border make squares.",
        omit_default=True,
    )
    enlarge: bool = option(
        False, "With --max-side: also enlarge smaller images.", omit_default=True
    )
    encode_format: EncodeFormat = option(
        "jpg", "With --max-side: format of the resized images.", omit_default=True
    )
    encode_quality: int = option(
        95, "With --max-side: JPEG or WebP quality.", low=1, high=100, omit_default=True
    )
    engine: Literal["local", "ray", "img2dataset"] = option(
        "local",
        "Downloader: our own crawler (local), which can resize images on a Ray cluster (ray, extra ray), or "
        "img2dataset for bulk downloads, which ignores robots.txt and has no rate limit per host.",
        runtime=True,
        remember=True,
    )
    ray_address: str | None = option(
        None,
        "With --engine ray: address of a running cluster, such as auto or ray://HOST:10001 (default: start "
        "Ray on this machine).",
        runtime=True,
    )
    distributor: Literal["multiprocessing", "pyspark", "ray"] = option(
        "multiprocessing",
        "With --engine img2dataset: its distributor. For ray, RAY_ADDRESS selects a cluster.",
        runtime=True,
        remember=True,
    )
    img2dataset_python: Path | None = option(
        None,
        "With --engine img2dataset: the Python interpreter of its environment (Python below 3.13).",
        runtime=True,
        remember=True,
    )
    dry_run: bool = option(
        False,
        "Only print the columns that would be used and three rows. Requests nothing, writes nothing.",
        runtime=True,
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for options that can't be read."""
        super().__post_init__()
        _ = self.shard_of, self.hash_column
        if self.max_side is None and self._resize_options() != self._resize_options(UrlsConfig):
            raise ConfigError(
                "--resize-mode, --enlarge, --encode-format and --encode-quality need --max-side."
            )
        if self.ray_address is not None and self.engine != "ray":
            raise ConfigError("--ray-address needs --engine ray: give both, or neither.")
        if self.engine == "ray" and self.max_side is None:
            raise ConfigError(
                "--engine ray resizes images on a cluster: give --max-side, or leave it out."
            )
        if self.engine == "img2dataset":
            self._check_bulk()

    def _resize_options(self, of: Any = None) -> tuple[Any, ...]:
        names = ("resize_mode", "enlarge", "encode_format", "encode_quality")
        return tuple(getattr(of or self, name) for name in names)

    def resize_rule(self) -> ResizeRule | None:
        """See `ScrapeConfig.resize_rule`."""
        if self.max_side is None:
            return None
        return ResizeRule(
            size=self.max_side,
            mode=self.resize_mode,
            enlarge=self.enlarge,
            format=self.encode_format,
            quality=self.encode_quality,
        )

    def resize_engine(self) -> Engine:
        """See `ScrapeConfig.resize_engine`."""
        return Engine(name="ray", address=self.ray_address) if self.engine == "ray" else LOCAL

    def _check_bulk(self) -> None:
        if self.img2dataset_python is None:
            raise ConfigError(
                "--engine img2dataset needs --img2dataset-python, the python of an environment that has it: "
                "its requirements exclude ours."
            )
        for flag, given in (
            ("--verify-hash", self.verify_hash),
            ("--refresh", self.refresh),
            ("--via", self.via),
            ("--proxy", self.proxy),
            ("--header", self.header),
            ("--cookie-file", self.cookie_file),
            ("--opt-outs", self.opt_outs),
        ):
            if given:
                raise ConfigError(f"{flag} can't be used with --engine img2dataset. Leave one out.")

    @property
    def shard_of(self) -> tuple[int, int] | None:
        """--shard as (I, N)."""
        if self.shard is None:
            return None
        match = _SHARD.fullmatch(self.shard)
        if match is None or not int(match[1]) < int(match[2]):
            raise ConfigError(
                f"--shard is {self.shard!r}; expected I/N with 0 <= I < N, as in 0/4."
            )
        return int(match[1]), int(match[2])

    @property
    def hash_column(self) -> tuple[str, str] | None:
        """--verify-hash as (algorithm, column)."""
        if self.verify_hash is None:
            return None
        match = _HASH.fullmatch(self.verify_hash)
        if match is None:
            raise ConfigError(
                f"--verify-hash is {self.verify_hash!r}; expected sha256=COLUMN or md5=COLUMN."
            )
        return match[1], match[2]

    @property
    def only_shows(self) -> bool:
        """See `ScrapeConfig.only_shows`."""
        return self.dry_run

    def named_hosts(self) -> frozenset[str]:
        """See `ScrapeConfig.named_hosts`."""
        return frozenset(host.strip().lower() for host in self.allow_host)

    def extent(self) -> dict[str, Any]:
        """See `ScrapeConfig.extent`."""
        return {**super().extent(), "where": self.where, "shard": self.shard}
