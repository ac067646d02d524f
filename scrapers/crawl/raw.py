"""The folder `raw/` as a whole: opened for a run, marked as finished at its end, described in a report."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.config import resolved
from pipeline.core.contracts import FileEntry, Manifest, Outcome, StageReport
from pipeline.core.errors import ConfigError
from pipeline.core.remembered import flag_of
from pipeline.core.storage import (
    MANIFEST_NAME,
    find_current,
    make_manifest,
    sha256_bytes,
    sha256_file,
    sync_folder,
    write_manifest,
)
from pipeline.core.workspace import Workspace
from scrapers.config import ScrapeConfig
from scrapers.crawl.recorder import Tally, WallClock
from scrapers.rawstore.batch_writer import Store
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.segments import segment_name
from scrapers.rawstore.summary import counts_of, describe_ledger, is_unfinished
from scrapers.source import ReadsFiles, Source
from scrapers.sources.differences import describe_differences

_REFRESH = "refresh_since"
# The part of `run_details` that is kept in `runs.jsonl`.
NUMBERS_KEPT = ("stored", "unchanged", "changed", "absent", "gone", "failures")


def begin_refresh(ledger: Ledger, clock: WallClock = time.time) -> int:
    """When the current refresh began, in seconds; rows requested later are fresh.

    Never earlier than the time of a row: if the clock was set back, rows would be skipped.
    """
    found = ledger.meta(_REFRESH)
    if found is None:
        found = str(max(int(clock()), ledger.last_time()))
        ledger.set_meta(_REFRESH, found)
    return int(found)


def end_refresh(ledger: Ledger) -> None:
    """Everything was requested: the next refresh starts from the beginning."""
    ledger.set_meta(_REFRESH, None)


class Work(Protocol):
    """What a run did: a crawl, or the indexing of files.

    `left` URLs are for another run; `left_new` of them have no row in the ledger.
    """

    tally: Tally
    left: int
    left_new: int

    @property
    def wrote(self) -> bool:
        """Whether it changed the raw store, other than the times of requests."""

    def stop(self) -> None:
        """Start nothing more."""


@dataclass
class RawStore:
    """The raw store of one workspace and the options of this run."""

    config: ScrapeConfig
    workspace: Workspace
    source: Source | None = None

    def find_finished(self, page: bytes | None) -> StageReport | None:
        """The report of a run with nothing to do, from the manifest; None if there may be work."""
        folder = self.workspace.raw
        manifest = find_current(
            folder, "raw", config=resolved(self.config), inputs=self._inputs(page)
        )
        if manifest is None or is_unfinished(dict(manifest.counts)):
            return None
        present = self.workspace.ledger.exists() and all(
            _has_length(folder / entry.path, entry.bytes) for entry in manifest.files
        )
        return self._report("unchanged", manifest) if present else None

    @contextlib.contextmanager
    def open(self, source: str) -> Iterator[Store]:
        """The store for one run; from its first write on, the folder counts as unfinished."""
        store = Store(self.workspace, source, segment_bytes=self.config.segment_mb * 2**20)
        store.first_write = self._unfinish
        try:
            yield store
        finally:
            store.close()

    def _unfinish(self) -> None:
        (self.workspace.raw / MANIFEST_NAME).unlink(missing_ok=True)
        sync_folder(self.workspace.raw)

    def finish(
        self,
        store: Store,
        work: Work,
        page: bytes | None,
        *,
        repeated: int,
        differences: Sequence[str],
    ) -> StageReport:
        """Close the segments, write the manifest if it differs, and report."""
        files = self._files(store)
        counts = counts_of(store.ledger, work.left_new)
        manifest = make_manifest(
            "raw",
            config=resolved(self.config),
            inputs=self._inputs(page),
            counts=counts,
            files=files,
            details={
                **describe_ledger(store.ledger),
                **describe_differences(differences),
            },
        )
        self._write_if_new(manifest)
        return self._report(
            _outcome(counts, work), manifest, **run_details(work.tally, repeated=repeated)
        )

    def _files(self, store: Store) -> tuple[FileEntry, ...]:
        sealed = store.segments.seal()
        folder = self.workspace.segments.name
        files = [
            FileEntry(
                path=f"{folder}/{segment_name(state.number)}",
                bytes=state.bytes,
                sha256=state.sha256,
            )
            for state in store.ledger.segment_states()
            if state.sha256 is not None
        ]
        if sealed is not None:
            name, size, digest = sealed
            files.append(FileEntry(path=f"{folder}/{name}", bytes=size, sha256=digest))
        return tuple(files)

    def _write_if_new(self, manifest: Manifest) -> None:
        found = find_current(
            self.workspace.raw, "raw", config=manifest.config, inputs=manifest.inputs
        )
        if found is None or dataclasses.asdict(found) != dataclasses.asdict(manifest):
            write_manifest(self.workspace.raw, manifest)

    def _inputs(self, page: bytes | None) -> dict[str, str]:
        inputs = {} if page is None else {"page": sha256_bytes(page)}
        for name, path in self.config.input_files().items():
            inputs[self.config.INPUT_NAMES.get(name, name)] = _file_hash(path, name)
        source: object = self.source
        if isinstance(source, ReadsFiles):
            inputs.update(source.input_digests())
        return inputs

    def _report(self, outcome: Outcome, manifest: Manifest, **details: Any) -> StageReport:
        return StageReport(
            stage="scrape",
            outcome=outcome,
            counts=manifest.counts,
            outputs=(str(self.workspace.raw),),
            details={**manifest.details, **details},
        )


def run_details(tally: Tally, *, repeated: int) -> dict[str, Any]:
    """What this run did, for its report."""
    return {
        "requests": tally.requests,
        "stored": tally.stored,
        **({"resized": tally.resized} if tally.resized else {}),
        "bytes": tally.bytes,
        "unchanged": tally.unchanged,
        "changed": tally.changed,
        "absent": tally.absent,
        "gone": tally.gone,
        "withdrawn": tally.withdrawn,
        "kept": tally.kept,
        "repeated_captions": repeated,
        "retries": dict(sorted(tally.retries.items())),
        "failures": dict(sorted(tally.failures.items())),
    }


def _outcome(counts: dict[str, int], work: Work) -> Outcome:
    if is_unfinished(counts) or work.tally.kept or work.left:
        return "incomplete"
    return "done" if work.wrote else "unchanged"


def _has_length(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _file_hash(path: Path, name: str) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise ConfigError(f"{flag_of(name)} {path} can't be read: {error.strerror}.") from error
