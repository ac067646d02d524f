"""The folder of one dataset: its layout and its marker."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.core.contracts import WORKSPACE_VERSION
from pipeline.core.errors import ContractError, WorkspaceError
from pipeline.core.names import check_name
from pipeline.core.parsing import parse_json_file
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import UNFINISHED_NAME, write_json

LEDGER_NAME = "ledger.sqlite"
_REMEDY = "Give another --workspace, or restore the file."


@dataclass(frozen=True)
class Workspace:
    """The folder of one dataset; provides the paths of `contracts`.

    `Workspace.open` creates or checks it; the constructor touches nothing.
    """

    root: Path

    @property
    def marker(self) -> Path:
        """The file that marks the folder as ours and holds the version that wrote it."""
        return self.root / "workspace.json"

    @property
    def raw(self) -> Path:
        """The raw store: `ledger.sqlite` and `segments/`."""
        return self.root / "raw"

    @property
    def ledger(self) -> Path:
        """A database with one row per URL."""
        return self.raw / LEDGER_NAME

    @property
    def segments(self) -> Path:
        """The bytes as fetched, in append-only tars."""
        return self.raw / "segments"

    @property
    def dedupe(self) -> Path:
        """The tables of kept and rejected images and of captions."""
        return self.root / "dedupe"

    @property
    def codecs(self) -> Path:
        """The codecs of this workspace, one folder each."""
        return self.root / "codecs"

    def codec(self, name: str) -> Path:
        """A codec trained here."""
        return self.codecs / check_name(name, option="the codec")

    def tokenizer(self, name: str) -> Path:
        """A tokenizer trained here."""
        return self.root / "tokenizers" / check_name(name, option="the tokenizer")

    def codes(self, codec: str, fingerprint: str) -> Path:
        """The codes of one codec; `fingerprint` is its full hash."""
        return self.root / "codes" / check_name(f"{codec}-{fingerprint[:12]}", option="the codec")

    def shards(self, name: str, *, option: str = "--name") -> Path:
        """One set of WebDataset shards; `option` is what gave its name."""
        return self.root / "shards" / check_name(name, option=option)

    def run(self, name: str, *, option: str = "--name") -> Path:
        """One training run; `name` may have two levels, as taming/12L_64HD_…."""
        return (
            self.root
            / "runs"
            / check_name(name, option=option, levels=CONTRACTS["run"].name_levels)
        )

    def generated(self, name: str) -> Path:
        """Images generated from prompts."""
        return self.root / "generated" / check_name(name)

    def check_place(self) -> None:
        """Raise WorkspaceError for a path that is not UTF-8, which pyarrow can't write to, and for a URL."""
        _check_encoding(self.root)
        _refuse_url(self.root)

    def latest(self, contract: str) -> str | None:
        """The name of the folder of a contract (codec, tokenizer, codes) that was made last, if known."""
        name = (
            read_marker(self.root).get("latest", {}).get(contract) if self.marker.exists() else None
        )
        return name if isinstance(name, str) else None

    def open(self, source: str | None = None) -> Workspace:
        """Check that this is a workspace; with `source`, create it if the folder is new or empty.

        Raises WorkspaceError for a folder with other content, another version or another source, for an
        unfinished download, and what `check_place` raises.
        """
        self.check_place()
        if os.path.lexists(self.root / UNFINISHED_NAME):
            raise WorkspaceError(
                f"{self.root} is the beginning of a download. Run the same `pipeline download` again to "
                "finish it."
            )
        if os.path.lexists(self.marker):
            _check_source(self.root, source)
            return self
        if source is None:
            raise WorkspaceError(
                f"{self.root} is not a workspace: it has no {self.marker.name}. "
                f"Start with `pipeline scrape --workspace {shlex.quote(str(self.root))}`, or give the right "
                "--workspace."
            )
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise WorkspaceError(
                f"{self.root} is not empty, but is not a workspace (it has no {self.marker.name}). "
                "Nothing was touched; give an empty or a new folder as --workspace."
            )
        write_json(
            self.marker,
            {
                "format": "dalle-pipeline/workspace",
                "version": WORKSPACE_VERSION,
                "source": source,
                "options": {"scrape": {}},  # kept from the start; see `remembered`
            },
        )
        return self


def _refuse_url(root: Path) -> None:
    """As a path, `s3://bucket/x` would be the folder `s3:/bucket/x`."""
    if match := re.match(r"([a-z][a-z0-9+.-]+):/", str(root)):
        raise WorkspaceError(
            "A workspace must be a folder of a file system, because its ledger is a database, and not a "
            f"{match[1]} URL. `pipeline upload` and `pipeline download` copy one to a store and back; lists, "
            "tars and shards are used there in place (docs/engines.md)."
        )


def _check_encoding(root: Path) -> None:
    try:
        str(root.absolute()).encode()
    except UnicodeEncodeError as error:
        raise WorkspaceError(
            f"{root} can't hold a workspace: its path is not valid UTF-8. Give another --workspace."
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The fields of `workspace.json` in any version."""

    format: Literal["dalle-pipeline/workspace"]
    version: int


@dataclass(frozen=True, kw_only=True)
class _Marker(_Head):
    """The fields of `workspace.json` in this version."""

    source: str
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    latest: Mapping[str, str] = field(default_factory=dict)
    last_named: Mapping[str, str] = field(default_factory=dict)


def read_marker(root: Path) -> dict[str, Any]:
    """The content of `workspace.json`. Raises WorkspaceError if it isn't one of this version."""
    marker = Workspace(root).marker
    try:
        version = parse_json_file(marker, _Head, remedy=_REMEDY).version
        if version == WORKSPACE_VERSION:
            parse_json_file(marker, _Marker, remedy=_REMEDY)
            return parse_json_file(marker, dict[str, Any], remedy=_REMEDY)
    except ContractError as error:
        raise WorkspaceError(f"{root} can't be read as a workspace: {error}") from error
    raise WorkspaceError(
        f"{root} was written by workspace version {version}; this pipeline reads version "
        f"{WORKSPACE_VERSION}. Use the pipeline that wrote it, or a new --workspace."
    )


def _check_source(root: Path, source: str | None) -> None:
    found = read_marker(root)["source"]
    if source is not None and found != source:
        raise WorkspaceError(
            f"{root} belongs to the source {found!r}, not {source!r}. "
            "One workspace holds one source: give another --workspace."
        )
