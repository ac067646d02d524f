"""Check the raw store: the ledger against its manifest, segments and files outside against the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.core.contracts import URL_STATES
from pipeline.core.errors import ContractError, PipelineError
from pipeline.core.integrity import described_files
from pipeline.core.inventory import Folder
from pipeline.core.parsing import parse_json_file, read_small_file
from pipeline.core.storage import sha256_bytes
from pipeline.core.workspace import LEDGER_NAME
from pipeline.verify.faults import Fault
from pipeline.verify.folders import check_file, explain
from scrapers.rawstore.originals_check import Original, check_originals
from scrapers.rawstore.raw_check import (
    LedgerError,
    LedgerFacts,
    Segment,
    open_read_only,
    read_ledger,
    read_segments,
)
from scrapers.rawstore.segment_hash import hash_segment

PAGE, PAGE_NOTE = "page.html", "page.json"
_SHOWN = 10  # of files outside the workspace that have changed
_SCRAPE_AGAIN = (
    "Put it back as it was, or run `pipeline scrape` for its source again, then `pipeline dedupe`."
)


def check_raw(folder: Folder) -> list[Fault]:
    """The faults of a raw store: every image of it is read once and compared with the ledger.

    `Fault.lost` holds the segments and files outside the workspace whose bytes have changed.
    """
    faults = list(_check_page(folder))
    try:
        with open_read_only(folder.path / LEDGER_NAME) as ledger:
            facts = read_ledger(ledger)
            faults += _check_ledger(folder, facts)
            expected = _expected_hashes(folder, facts)
            hashes = {Path(name).name: sha256 for name, sha256 in expected.items()}
            for segment in read_segments(ledger, folder.path / "segments", hashes):
                hash_before = expected.pop(f"segments/{segment.name}", None)
                if segment.lost or hash_before not in (None, segment.sha256):
                    faults.append(_describe(folder, segment))
            originals = list(check_originals(ledger))
    except LedgerError as error:
        return [*faults, _ledger_fault(folder, explain(error))]
    except PipelineError as error:
        return [*faults, _ledger_fault(folder, f"names bytes: {error}")]
    for name in expected:  # segments that hold no image any more
        if name in (described := described_files(folder.path)):
            like = described[name].sha256
            faults += check_file(folder, described[name], hash_of=partial(hash_segment, like=like))
    return [*faults, *_describe_originals(folder, originals)]


def _ledger_fault(folder: Folder, found: str) -> Fault:
    remedy = (
        f"A ledger can't be rebuilt: restore it from a backup, or move {folder.path} away to fetch "
        "everything again."
    )
    return Fault(folder=folder.name, file=LEDGER_NAME, found=found, remedy=remedy)


def _expected_hashes(folder: Folder, facts: LedgerFacts) -> dict[str, str]:
    """The expected hashes of segments: from the manifest, or of closed segments during a crawl."""
    closed = {f"segments/{name}": sha256 for name, sha256 in facts.closed.items()}
    if folder.manifest is None:
        return closed
    return closed | {entry.path: entry.sha256 for entry in folder.manifest.files}


def _check_ledger(folder: Folder, facts: LedgerFacts) -> Iterator[Fault]:
    if folder.manifest is None:
        return
    if facts.content != folder.manifest.details.get("content"):
        found = "does not match its manifest: it was changed or replaced"
        yield _ledger_fault(folder, found)
    for state in URL_STATES:
        expected = folder.manifest.counts.get(state, 0)
        # A planned URL that was never requested is pending in the manifest, but has no row.
        if facts.states[state] > expected or (
            facts.states[state] < expected and state != "pending"
        ):
            found = f"has {facts.states[state]} URLs that are {state}, expected {expected}"
            yield _ledger_fault(folder, found)


def _describe(folder: Folder, segment: Segment) -> Fault:
    lost = f"{len(segment.lost)} images are lost" if segment.lost else "no image is lost"
    if segment.bytes is None:
        found = f"is missing: {lost}"
    elif segment.lost:
        found = f"has different bytes from those in the ledger: {lost}"
    else:
        found = f"has changed bytes between its images: {lost}"
    return Fault(folder=folder.name, file=f"segments/{segment.name}", found=found, lost=(segment,))


def _describe_originals(folder: Folder, originals: list[Original]) -> Iterator[Fault]:
    """A fault for each of the first files, and one for all others."""
    for each in originals[:_SHOWN]:
        lost = f"{each.lost} of its {each.images} images are" if each.lost else "no image is"
        lost = "its image is" if each.lost == each.images == 1 else lost
        found = f"{each.found} ({lost} lost)"
        yield Fault(
            folder=folder.name, file=each.path, found=found, remedy=_SCRAPE_AGAIN, lost=(each,)
        )
    if more := originals[_SHOWN:]:
        lost = f"{sum(each.lost for each in more)} more images lost"
        found = (
            f"names {len(more)} more files outside the workspace that were moved or changed: {lost}"
        )
        yield Fault(
            folder=folder.name, file="files", found=found, remedy=_SCRAPE_AGAIN, lost=tuple(more)
        )


@dataclass(frozen=True, kw_only=True)
class _PageNote:
    """The checked fields of `page.json`."""

    sha256: str


def _check_page(folder: Folder) -> Iterator[Fault]:
    """Check that the stored page matches its note, and is the page that the crawl read."""
    page, note = folder.path / PAGE, folder.path / PAGE_NOTE
    if not page.exists() and not note.exists():
        return
    try:
        expected = parse_json_file(note, _PageNote).sha256
        found = sha256_bytes(read_small_file(page))
    except ContractError as error:
        yield Fault(folder=folder.name, file=PAGE_NOTE, found=f"can't be read ({error})")
        return
    read = folder.manifest.inputs.get("page") if folder.manifest is not None else None
    if read not in (None, found):
        words = "is not the page that the crawl was made from"
        yield Fault(folder=folder.name, file=PAGE, found=words)
    if found != expected:
        file = PAGE if read is None else PAGE_NOTE
        yield Fault(
            folder=folder.name,
            file=file,
            found=f"doesn't match {PAGE_NOTE if file == PAGE else PAGE}",
        )
