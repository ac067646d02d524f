"""`pipeline merge`: one raw store of those of several workspaces, such as the shards of a list.

Reads `raw/` of each; writes `raw/` of a new workspace: segments first (closed ones as hard links where that
is possible), then the ledger under a temporary name, and the manifest last. Killed at any moment, the same
command goes on: segments that are there are not copied again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.contracts import FileEntry, Manifest, StageReport
from pipeline.core.errors import ConfigError, ContractError, WorkspaceError
from pipeline.core.locks import hold_folders
from pipeline.core.parsing import parse_json_file
from pipeline.core.progress import Progress, no_progress
from pipeline.core.storage import (
    MANIFEST_NAME,
    input_digest,
    make_manifest,
    read_manifest,
    storage_error,
    sync_folder,
    write_json,
    write_manifest,
)
from pipeline.core.workspace import Workspace, read_marker
from scrapers.merging.config import MergeConfig
from scrapers.merging.ledgers import LedgerMerge
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.segments import SegmentState, segment_name
from scrapers.rawstore.summary import counts_of, describe_ledger

_NOTE, _LEDGER = "merge.json", "merge.sqlite"


@dataclass(frozen=True, kw_only=True)
class Input:
    """A workspace to merge; its segments get the numbers from `first_segment` on."""

    workspace: Workspace
    source: str
    manifest: Manifest
    closed: frozenset[str]
    first_segment: int

    def segments(self) -> Iterator[tuple[int, FileEntry]]:
        """Its segments by their number in the ledger."""
        for entry in self.manifest.files:
            yield int(Path(entry.path).stem), entry


def merge(config: MergeConfig, progress: Progress = no_progress) -> StageReport:
    """Merge the inputs into a new workspace; nothing to do if it is their merge already.

    Raises ConfigError without two inputs of one source, ContractError for one that isn't finished,
    WorkspaceError if the workspace holds something else, LockedError while one of them is written.
    """
    roots = [Path(given).expanduser() for given in config.inputs]
    _check_roots(roots, config.workspace)
    with contextlib.ExitStack() as held:
        for root in roots:
            Workspace(root).open()
            held.enter_context(hold_folders(root, reads=("raw",)))
        inputs = list(_open_inputs(roots))
        workspace = Workspace(config.workspace).open(source=inputs[0].source)
        held.enter_context(hold_folders(workspace.root, writes=("raw",)))
        digests = _digests(inputs)
        if (found := _merged_already(workspace, digests)) is not None:
            return _report("unchanged", workspace, found)
        _begin(workspace, digests)
        total = len(inputs) + sum(len(each.manifest.files) for each in inputs)
        done = 0
        for each in inputs:
            for number, entry in each.segments():
                _take_segment(each, number, entry, workspace.segments)
                progress(done := done + 1, total)
        sync_folder(workspace.segments)
        _merge_ledgers(inputs, workspace)
        manifest = _finish(inputs, workspace, digests)
        progress(total, total)
    return _report("done", workspace, manifest)


def _report(outcome: Any, workspace: Workspace, manifest: Manifest) -> StageReport:
    return StageReport(
        stage="merge",
        outcome=outcome,
        counts=manifest.counts,
        outputs=(str(workspace.raw),),
        details=manifest.details,
    )


# --- The inputs -----------------------------------------------------------------------------------


def _check_roots(roots: list[Path], target: Path) -> None:
    places = [root.resolve() for root in roots]
    if len(places) < 2 or len(set(places)) < len(places):
        raise ConfigError(
            "Merging needs two or more different workspaces: pipeline merge W1 W2 … --workspace NEW."
        )
    if target.resolve() in places:
        raise ConfigError(f"{target} can't be merged into itself. Give a new --workspace.")


def _open_inputs(roots: Iterable[Path]) -> Iterator[Input]:
    first, sources = 0, set()
    for root in roots:
        workspace = Workspace(root)
        manifest = read_manifest(workspace.raw, "raw")
        sources.add(source := str(read_marker(root)["source"]))
        if len(sources) > 1:
            raise ConfigError(
                f"Only workspaces of one source can be merged, found {' and '.join(sorted(sources))}."
            )
        found = Input(
            workspace=workspace,
            source=source,
            manifest=manifest,
            closed=_closed_segments(workspace),
            first_segment=first,
        )
        first += max((number for number, _ in found.segments()), default=-1) + 1
        yield found


def _closed_segments(workspace: Workspace) -> frozenset[str]:
    """The segments that no later scrape appends to. Raises ContractError for an earlier ledger."""
    ledger = Ledger(workspace.ledger)
    try:
        if not ledger.is_of_this_version():
            raise ContractError(
                f"{workspace.ledger} is of an earlier version. Run `pipeline scrape` there once: it brings "
                "the ledger up to date."
            )
        states = ledger.segment_states()
    finally:
        ledger.close()
    return frozenset(segment_name(state.number) for state in states if state.sha256 is not None)


def _digests(inputs: list[Input]) -> dict[str, str]:
    return {
        f"merged/{number}": input_digest(each.workspace.raw) for number, each in enumerate(inputs)
    }


# --- The new workspace ----------------------------------------------------------------------------


def _merged_already(workspace: Workspace, digests: Mapping[str, str]) -> Manifest | None:
    """The manifest of this merge, if it is finished. Raises WorkspaceError for any other raw store."""
    if (workspace.raw / MANIFEST_NAME).exists():
        manifest = read_manifest(workspace.raw, "raw")
        if dict(manifest.inputs) == dict(digests):
            return manifest
    elif not workspace.raw.exists() or (workspace.raw / _NOTE).exists():
        return None
    raise WorkspaceError(
        f"{workspace.root} has a raw store of its own. Nothing was touched; give a new --workspace."
    )


def _begin(workspace: Workspace, digests: Mapping[str, str]) -> None:
    """Note what is merged; segments of an interrupted merge of other inputs are removed."""
    note = workspace.raw / _NOTE
    try:
        same = parse_json_file(note, dict[str, str]) == dict(digests)
    except ContractError:
        same = False
    workspace.segments.mkdir(parents=True, exist_ok=True)
    if not same:
        for path in workspace.segments.iterdir():
            path.unlink()
        write_json(note, dict(digests))


def _take_segment(source: Input, number: int, entry: FileEntry, folder: Path) -> None:
    """Link or copy a segment; one that is there already is kept.

    The last one of a raw store is copied: a later scrape would append to it.
    """
    path = source.workspace.raw / entry.path
    target = folder / segment_name(source.first_segment + number)
    try:
        if target.exists():
            return
        if path.stat().st_size != entry.bytes:
            raise ContractError(
                f"{path} has {path.stat().st_size:,} bytes, expected {entry.bytes:,}. Run `pipeline verify "
                f"--workspace {source.workspace.root}`."
            )
        if path.name in source.closed:
            with contextlib.suppress(OSError):  # another file system, or one without links
                os.link(path, target)
                return
        _copy(path, target)
    except OSError as error:
        raise storage_error(error, target) from error


def _copy(path: Path, target: Path) -> None:
    partial = target.with_suffix(".partial")
    with path.open("rb") as source, partial.open("wb") as copy:
        shutil.copyfileobj(source, copy, 2**20)
        copy.flush()
        os.fsync(copy.fileno())
    partial.replace(target)


def _merge_ledgers(inputs: list[Input], workspace: Workspace) -> None:
    path = workspace.raw / _LEDGER
    for old in (path, path.with_name(f"{_LEDGER}-journal")):
        old.unlink(missing_ok=True)
    with LedgerMerge(path, inputs[0].source) as merged:
        for each in inputs:
            merged.add(each.workspace.ledger, first_segment=each.first_segment)
            merged.add_segments(
                SegmentState(each.first_segment + number, entry.bytes, entry.sha256)
                for number, entry in each.segments()
            )
    path.replace(workspace.ledger)
    sync_folder(workspace.raw)


def _finish(inputs: list[Input], workspace: Workspace, digests: Mapping[str, str]) -> Manifest:
    ledger = Ledger(workspace.ledger)
    try:
        manifest = make_manifest(
            "raw",
            config={**inputs[0].manifest.config, "shard": None},
            inputs=digests,
            counts=counts_of(ledger, sum(map(_never_asked, inputs))),
            files=tuple(_files(inputs)),
            details=describe_ledger(ledger),
        )
    finally:
        ledger.close()
    _remember_options(inputs[0], workspace)
    write_manifest(workspace.raw, manifest)
    (workspace.raw / _NOTE).unlink()
    return manifest


def _never_asked(source: Input) -> int:
    """The URLs that a scrape planned and left for another run: the ledger doesn't know them."""
    ledger = Ledger(source.workspace.ledger)
    try:
        pending = ledger.count_states()["pending"]
    finally:
        ledger.close()
    return max(0, source.manifest.counts.get("pending", 0) - pending)


def _files(inputs: list[Input]) -> Iterator[FileEntry]:
    for each in inputs:
        for number, entry in each.segments():
            name = segment_name(each.first_segment + number)
            yield FileEntry(path=f"segments/{name}", bytes=entry.bytes, sha256=entry.sha256)


def _remember_options(source: Input, workspace: Workspace) -> None:
    """Take over the options of the first workspace, without its shard."""
    kept = json.loads(json.dumps(read_marker(source.workspace.root).get("options", {})))
    for options in kept.get("scrape", {}).values():
        options.pop("shard", None)
    marker = {**read_marker(workspace.root), "options": {"scrape": kept.get("scrape", {})}}
    write_json(workspace.marker, marker)
