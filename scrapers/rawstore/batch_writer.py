"""The raw store: segments and ledger together, written in batches by one thread.

Order of a batch: bytes are appended and synced, then the rows are committed. So a kill at any moment leaves
at most a torn tail, which the next start cuts off.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.workspace import Workspace
from scrapers.rawstore.file_rows import FileChanges
from scrapers.rawstore.latency_counts import Answered
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import FormRow, Touch, UrlRow
from scrapers.rawstore.segment_hash import hash_segment
from scrapers.rawstore.segments import (
    Pieces,
    SegmentState,
    SegmentWriter,
    check_segments,
    refuse_unknown,
    segment_name,
)

logger = logging.getLogger(__name__)

BATCH_BYTES = 16 * 2**20
BATCH_ROWS = 2000
BATCH_SECONDS = 1.0
_BEGUN = "last_segment_begun"


@dataclass(slots=True)
class WriteBatch:
    """Rows that wait for their bytes to be on disk, and callbacks for when they are committed."""

    forms: list[FormRow] = field(default_factory=list)
    changed: list[tuple[int, int]] = field(default_factory=list)
    rows: list[UrlRow] = field(default_factory=list)
    touched: list[Touch] = field(default_factory=list)
    captions: list[tuple[int, str]] = field(default_factory=list)
    absences: list[tuple[int, int, int]] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    files: FileChanges = field(default_factory=FileChanges)
    bytes: int = 0
    committed: list[Callable[[], None]] = field(default_factory=list)

    def __len__(self) -> int:
        rows = len(self.rows) + len(self.touched) + len(self.captions) + len(self.files)
        return rows + len(self.committed)


class Store:
    """Takes outcomes on the event loop's thread and writes them in the background."""

    def __init__(self, workspace: Workspace, source: str, *, segment_bytes: int) -> None:
        self.folder = workspace.segments
        if not workspace.ledger.exists():
            refuse_unknown(self.folder, -1)
        self.ledger = Ledger(workspace.ledger, source)
        self.reader = Ledger(workspace.ledger)
        try:
            self.segments = self._open_segments(segment_bytes)
        except BaseException:
            self.reader.close()
            self.ledger.close()
            raise
        self.batch = WriteBatch()
        self.seconds_s = BATCH_SECONDS
        self._next_form = self.ledger.next_form_id()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing_bytes = 0
        self.failed: Callable[[BaseException], None] | None = None
        # Called whenever a batch is on disk.
        self.written: Callable[[], None] | None = None
        # Called once, before the first write: from now on the raw store is unfinished.
        self.first_write: Callable[[], None] | None = None

    def _open_segments(self, max_bytes: int) -> SegmentWriter:
        last = max((state.number for state in self.ledger.segment_states()), default=-1)
        self._begun = max(last, int(self.ledger.meta(_BEGUN) or -1))
        refuse_unknown(self.folder, self._begun)
        states = repair_segments(self.ledger, self.folder)
        return SegmentWriter(self.folder, states[-1] if states else None, max_bytes=max_bytes)

    # --- Called by the crawl -----------------------------------------------------------------------

    def new_form_id(self) -> int:
        """An id that no form has."""
        self._next_form += 1
        return self._next_form - 1

    def add_form(self, row: FormRow) -> None:
        """Add a form whose first URL is about to be written."""
        self.batch.forms.append(row)

    def add_bytes(self, size: int) -> None:
        """Count an image that was placed in the segments."""
        self.batch.bytes += size

    def add_row(self, row: UrlRow) -> None:
        """Add the outcome of a URL; its bytes, if any, were placed just before."""
        self.batch.rows.append(row)
        self._added()

    def add_touch(self, touch: Touch) -> None:
        """Add the outcome of a URL that was requested again and whose bytes are kept."""
        self.batch.touched.append(touch)
        self._added()

    def add_caption(self, form: int, caption: str) -> None:
        """Add another caption of a form that was added before."""
        self.batch.captions.append((form, caption))
        self._added()

    def add_absence(self, form: int, rank: int, refreshes: int) -> None:
        """Note how many consecutive refreshes missed an image; 0: it is there. Written with the next row."""
        self.batch.absences.append((form, rank, refreshes))

    def add_latency(self, answered: Answered) -> None:
        """Count the latency of a response. Written with the row that was just added."""
        self.batch.answered.append(answered)

    def when_committed(self, call: Callable[[], None]) -> None:
        """Call it when everything that was added so far is on disk."""
        self.batch.committed.append(call)

    def _added(self) -> None:
        batch = self.batch
        num_rows = len(batch.rows) + len(batch.touched) + len(batch.captions)
        if batch.bytes >= BATCH_BYTES or num_rows >= BATCH_ROWS:
            self._start_writing()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.seconds_s, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._start_writing()

    @property
    def is_full(self) -> bool:
        """A batch is being written and the next one is full: wait for `room`."""
        return self._writing is not None and (
            self.batch.bytes >= 2 * BATCH_BYTES or len(self.batch) >= 2 * BATCH_ROWS
        )

    def pending_bytes(self) -> int:
        """Bytes of images that arrived and are not on disk yet."""
        return self.batch.bytes + self._writing_bytes

    async def room(self) -> None:
        """Wait for the batch that is being written."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    # --- Writing ----------------------------------------------------------------------------------

    def _start_writing(self) -> None:
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_batch())

    async def _write_batch(self) -> None:
        batch, self.batch = self.batch, WriteBatch()
        self._writing_bytes = batch.bytes
        pieces = self.segments.take()
        loop = asyncio.get_running_loop()
        try:
            if self.first_write is not None:
                self.first_write()
                self.first_write = None
            await loop.run_in_executor(self._thread, self._write, batch, pieces)
        except BaseException as error:
            if self.failed is None:
                raise
            self.failed(error)
            return
        finally:
            self._writing = None
            self._writing_bytes = 0
        for call in batch.committed:
            call()
        if self.written is not None:
            self.written()
        if self.batch.bytes >= BATCH_BYTES or len(self.batch) >= BATCH_ROWS:
            self._start_writing()

    def _write(self, batch: WriteBatch, pieces: list[Pieces]) -> None:
        self._begin_segments(pieces)
        states = self.segments.write(pieces)
        self.ledger.commit(
            forms=batch.forms,
            changed=batch.changed,
            rows=batch.rows,
            touched=batch.touched,
            captions=batch.captions,
            absences=batch.absences,
            segments=states,
            answered=batch.answered,
            files=batch.files if len(batch.files) else None,
        )

    def _begin_segments(self, pieces: list[Pieces]) -> None:
        """Note in the ledger which segments may exist from now on, before they do."""
        last = max((part.segment for part in pieces if part.buffers), default=-1)
        if last > self._begun:
            self.ledger.set_meta(_BEGUN, str(last))
            self._begun = last

    async def flush(self) -> None:
        """Write and commit everything that was added."""
        while self._writing is not None or len(self.batch):
            self._start_writing()
            await self.room()

    def close(self) -> None:
        """Stop the thread and close the files; what was not flushed is dropped."""
        if self._timer is not None:
            self._timer.cancel()
        self.ledger.give_up_waiting()
        self._thread.shutdown(wait=True)
        self.segments.release()
        self.reader.close()
        self.ledger.close()


def repair_segments(ledger: Ledger, folder: Path) -> list[SegmentState]:
    """Make ledger and segments agree after bytes were lost that the ledger refers to.

    A kill or a power cut can't cause that; an incomplete copy or a deleted file can. Rows whose bytes are
    gone become pending again.
    """
    states = ledger.segment_states()
    short = check_segments(folder, states)
    for number, size in short.items():
        lost = ledger.forget_lost(number, size)
        logger.warning(
            "%s is shorter than the ledger says: %d images of it will be fetched again.",
            folder / segment_name(number),
            lost,
        )
    if not short:
        return states
    for state in ledger.segment_states():
        if state.number in short:
            _close_again(ledger, folder, state)
    return ledger.segment_states()


def _close_again(ledger: Ledger, folder: Path, state: SegmentState) -> None:
    path = folder / segment_name(state.number)
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.truncate(state.bytes)
        file.seek(0, os.SEEK_END)
        file.write(bytes(1024))
        file.flush()
        os.fsync(file.fileno())
    ledger.commit(segments=[SegmentState(state.number, state.bytes + 1024, hash_segment(path))])
