"""Index the images of a source on disk: lazily listed items in, rows of the ledger out.

    items (lazy) → chunk → decide by the ledger → read and hash in threads → rows, in the order of the items

What the ledger has with the same file, length and time is skipped, so a run continues where another was
killed. No more than a few chunks are in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from pipeline.core.engine import count_cores
from pipeline.core.original_files import FileState
from pipeline.core.progress import Progress, no_progress
from scrapers.crawl.recorder import Tally, WallClock
from scrapers.local.deciding import Action, Wish, decide
from scrapers.local.looking import FindRefusal, Looked, find_gone, is_still_there, look_at_all
from scrapers.local.rows import Keyed, RowWriter, keyed
from scrapers.rawstore.batch_writer import Store
from scrapers.rawstore.file_rows import KnownFile, all_files, known_files
from scrapers.source import Item

CHUNK_ITEMS = 512
_CHUNK_BYTES = 32 * 2**20
_FILES_AT_ONCE = 10_000
_PROGRESS_EVERY_S = 0.5
_KNOWN_STATES = 1024


@dataclass(frozen=True, slots=True)
class _Decided:
    """An item, what the ledger knows of it, and what is done with it."""

    each: Keyed
    known: KnownFile | None
    action: Action


class Indexer:
    """One pass over the items of a source. Create it inside the event loop that runs it."""

    def __init__(
        self,
        store: Store,
        wish: Wish,
        *,
        heed: FindRefusal,
        progress: Progress = no_progress,
        clock: WallClock = time.time,
    ) -> None:
        """`heed` finds opt-outs in the bytes of an image."""
        self.tally = Tally()
        self.repeated = 0
        self.left = self.left_new = 0
        self._store = store
        self._wish = wish
        self._heed = heed
        self._progress = progress
        self._rows = RowWriter(store, self.tally, wish, clock)
        self._threads = max(2, count_cores())
        self._readers = ThreadPoolExecutor(self._threads, thread_name_prefix="read")
        # Keys whose rows are not on disk yet.
        self._open: set[str] = set()
        self._waiting: deque[tuple[list[_Decided], Awaitable[list[Looked]]]] = deque()
        self._states: dict[str, tuple[FileState, bool]] = {}
        self._num_done = 0
        self._reported_at = 0.0
        self._stopped = False
        self._error: BaseException | None = None
        store.failed = self._fail

    @property
    def wrote(self) -> bool:
        """Whether this run changed the raw store, other than the times of checks."""
        tally = self.tally
        changes = tally.stored, tally.gone, tally.captions, tally.withdrawn, tally.failures
        return any(changes) or self._rows.moved > 0

    def stop(self) -> None:
        """Read no more: `run` writes what it has and returns."""
        self._stopped = True

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self.stop()

    async def run(self, items: Iterable[Item]) -> None:
        """Index all items, and mark what can't be found any more.

        Raises the errors of the source, after writing what it listed before, and StorageError.
        """
        loop = asyncio.get_running_loop()
        chunks = in_chunks(items)
        # One thread for the source: it may hold connections and open files.
        with ThreadPoolExecutor(1, thread_name_prefix="list") as lister, self._readers:
            try:
                while not self._stopped:
                    chunk = await loop.run_in_executor(lister, next, chunks, None)
                    if chunk is None:
                        break
                    await self._take(chunk)
            finally:
                await self._settle_all()
            if not self._stopped:
                await self._conclude()
        if self._error is not None:
            raise self._error
        self._report()

    async def _take(self, chunk: list[Item]) -> None:
        """Start reading a chunk; before a key comes again, its first row is written."""
        part: list[Keyed] = []
        for item in chunk:
            each = keyed(item)
            if each.key in self._open:
                await self._start(part)
                await self._settle_all()
                part = []
            self._open.add(each.key)
            part.append(each)
        await self._start(part)

    async def _start(self, part: list[Keyed]) -> None:
        if not part:
            return
        decided = self._decide(part)
        wanted = [one.each.item for one in decided if one.action == "read"]
        self._waiting.append((decided, self._look(wanted)))
        while len(self._waiting) > self._threads:
            await self._settle_next()
        if self._store.is_full:
            await self._store.room()

    def _look(self, items: list[Item]) -> Awaitable[list[Looked]]:
        work = partial(look_at_all, items, self._heed, copy=self._wish.copy)
        return asyncio.get_running_loop().run_in_executor(self._readers, work)

    def _decide(self, part: list[Keyed]) -> list[_Decided]:
        self._rows.note_files([each.item for each in part])
        known = known_files(self._store.reader, [each.key for each in part])
        return [self._decide_one(each, known.get(each.key)) for each in part]

    def _decide_one(self, each: Keyed, known: KnownFile | None) -> _Decided:
        action = decide(each.item, known, self._wish, self._is_still_there)
        if action == "move":
            assert known is not None
            action = "keep" if self._rows.move(each, known) else "read"
        return _Decided(each, known, action)

    def _is_still_there(self, path: str, state: FileState) -> bool:
        """Whether a file has this state; the last answers are kept."""
        before = self._states.get(path)
        if before is not None and before[0] == state:
            return before[1]
        if len(self._states) >= _KNOWN_STATES:
            self._states.clear()
        self._states[path] = state, is_still_there(path, state)
        return self._states[path][1]

    # --- Writing ----------------------------------------------------------------------------------

    async def _settle_all(self) -> None:
        while self._waiting:
            await self._settle_next()
        await self._store.flush()

    async def _settle_next(self) -> None:
        decided, reading = self._waiting.popleft()
        looked = iter(await reading)
        before = len(self._store.batch), self._rows.moved
        for one in decided:
            self._settle(one, looked)
        keys = [one.each.key for one in decided]
        if before == (len(self._store.batch), self._rows.moved):
            self._open.difference_update(keys)  # nothing was to be written
        else:
            self._store.when_committed(partial(self._open.difference_update, keys))
        self._num_done += len(decided)
        if time.monotonic() - self._reported_at > _PROGRESS_EVERY_S:
            self._report()

    def _settle(self, one: _Decided, looked: Iterator[Looked]) -> None:
        if one.action == "read":
            self._rows.write(one.each, one.known, next(looked))
        elif one.action == "fail":
            self._rows.fail(one.each, one.known)
        elif one.known is not None and one.action == "repeat":
            self.repeated += 1
            self._rows.repeat(one.each, one.known)
        elif one.known is not None:
            self._rows.keep(one.each, one.known)

    def _report(self) -> None:
        self._reported_at = time.monotonic()
        self._progress(self._num_done, None, dict(self.tally.failures))

    async def _conclude(self) -> None:
        """Everything was listed: images that can't be found any more are missing."""
        loop = asyncio.get_running_loop()
        before = self._store.ledger.count_states()["missing"]
        last = 0
        while rows := all_files(self._store.reader, after=last, limit=_FILES_AT_ONCE):
            gone = await loop.run_in_executor(self._readers, find_gone, rows)
            self._store.batch.files.gone += gone
            last = rows[-1].number
        self._store.batch.files.ends = True
        await self._store.flush()
        self.tally.gone += self._store.ledger.count_states()["missing"] - before


def in_chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in lists that are short and small enough to be in memory with their bytes."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += item.place.size if item.place is not None else 0
        if len(chunk) >= CHUNK_ITEMS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
