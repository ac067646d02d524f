"""Map a function over parts: in this process, or over processes of this machine.

Floor 2. The stages cut their work into parts that know nothing of each other; this module runs a
function on each and hands the results back in order. A worker that dies (a decoder that crashes, the
system that kills it for memory) costs its part and nothing else: the part comes back as failed and a
fresh worker takes its place. What the function raises is raised here, as if it had been called here.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Generic, TypeVar

P = TypeVar("P")
R = TypeVar("R")

# Parts that may be finished and wait for an earlier one, for each worker.
_WINDOW = 4


@dataclass(frozen=True)
class PartResult(Generic[P, R]):
    """What became of a part: its value, or why its worker died (`failure`)."""

    part: P
    value: R | None = None
    failure: str | None = None

    @property
    def result(self) -> R:
        """The value of a part that did not fail."""
        assert self.failure is None, self.failure
        return self.value  # type: ignore[return-value]


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def map_parts(
    function: Callable[[P], R],
    parts: Iterable[P],
    *,
    workers: int | None = None,
    timeout_s: float | None = None,
) -> Iterator[PartResult[P, R]]:
    """Yield `function(part)` for each part, in the order of `parts`.

    `parts` is read as workers become free, so it may be a generator over more than memory holds.
    `workers` is the number of processes; 0 calls the function in this process (nothing protects it
    from a crash then), None starts one process a core. `function` is a function of a module, parts
    and values can be pickled. A part that takes longer than `timeout_s` seconds (None: no limit; not
    watched with `workers=0`) has its worker killed and counts as failed.

    Raises what `function` raises; the other workers are ended first.
    """
    count = count_cores() if workers is None else workers
    if count == 0:
        for part in parts:
            yield PartResult(part=part, value=function(part))
        return
    with contextlib.closing(_Pool(function, workers=count, timeout_s=timeout_s)) as pool:
        yield from pool.run(parts)


@dataclass
class _Worker(Generic[P]):
    process: BaseProcess
    pipe: Connection
    index: int | None = None
    part: P | None = None
    is_ready: bool = False  # it has imported what it needs: the clock runs from here
    since: float = 0.0


class _Pool(Generic[P, R]):
    """The processes of one `map_parts` and what they are at."""

    def __init__(
        self, function: Callable[[P], R], *, workers: int, timeout_s: float | None
    ) -> None:
        self._function = function
        self._count = workers
        self._timeout_s = timeout_s
        self._context = _context()
        self._workers: list[_Worker[P]] = []
        # Before multiprocessing's own exit function, which asks workers to end and waits for them.
        atexit.register(self.close)

    def run(self, parts: Iterable[P]) -> Iterator[PartResult[P, R]]:
        waiting = enumerate(parts)
        finished: dict[int, PartResult[P, R]] = {}
        order: deque[int] = deque()
        exhausted = False
        while True:
            while not exhausted and len(order) < self._count * _WINDOW and self._can_take():
                item = next(waiting, None)
                if item is None:
                    exhausted = True
                else:
                    order.append(item[0])
                    self._hand_out(self._take_worker(), *item)
            while order and order[0] in finished:
                yield finished.pop(order.popleft())
            if exhausted and not order:
                return
            finished.update(self._collect())

    def close(self) -> None:
        """End the workers, whatever they are at."""
        atexit.unregister(self.close)
        for worker in self._workers:
            _end(worker)
        self._workers.clear()

    def _can_take(self) -> bool:
        return len(self._workers) < self._count or any(w.index is None for w in self._workers)

    def _take_worker(self) -> _Worker[P]:
        """An idle worker, or one more: none is started before there is a part for it."""
        for worker in self._workers:
            if worker.index is None:
                return worker
        self._workers.append(self._start())
        return self._workers[-1]

    def _start(self) -> _Worker[P]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._function), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process=process, pipe=ours)

    def _hand_out(self, worker: _Worker[P], index: int, part: P) -> None:
        worker.index, worker.part, worker.since = index, part, time.monotonic()
        # A worker that died while idle is noticed when its answer is collected.
        with contextlib.suppress(OSError):
            worker.pipe.send(part)

    def _collect(self) -> list[tuple[int, PartResult[P, R]]]:
        """Wait for workers to answer or to die."""
        busy = {w.pipe: w for w in self._workers if w.index is not None}
        if not busy:
            return []
        ready = wait(list(busy), timeout=self._patience(list(busy.values())))
        answers = [self._receive(busy[pipe]) for pipe in ready if isinstance(pipe, Connection)]
        return [answer for answer in answers if answer is not None] + [
            self._give_up(w) for w in list(busy.values()) if self._overdue(w)
        ]

    def _receive(self, worker: _Worker[P]) -> tuple[int, PartResult[P, R]] | None:
        assert worker.index is not None
        index, part = worker.index, worker.part
        try:
            value, error = worker.pipe.recv()
        except (EOFError, OSError):  # it died, perhaps in the middle of its answer
            return index, self._bury(worker, None)
        if not worker.is_ready:
            worker.is_ready, worker.since = True, time.monotonic()
            return None
        if error is not None:
            raise error
        worker.index = worker.part = None
        return index, PartResult(part=part, value=value)  # type: ignore[arg-type]

    def _patience(self, busy: list[_Worker[P]]) -> float | None:
        started = [worker.since for worker in busy if worker.is_ready]
        if self._timeout_s is None or not started:
            return None
        first = min(started)
        return max(0.0, first + self._timeout_s - time.monotonic())

    def _overdue(self, worker: _Worker[P]) -> bool:
        if self._timeout_s is None or worker.index is None or not worker.is_ready:
            return False
        return time.monotonic() - worker.since >= self._timeout_s

    def _give_up(self, worker: _Worker[P]) -> tuple[int, PartResult[P, R]]:
        assert worker.index is not None
        return worker.index, self._bury(worker, f"no answer in {self._timeout_s:g} s")

    def _bury(self, worker: _Worker[P], reason: str | None) -> PartResult[P, R]:
        """Take a dead or stuck worker out; its part failed."""
        _end(worker, gently=reason is None)
        self._workers.remove(worker)
        worker.index = None
        failure = reason or _cause_of_death(worker.process.exitcode)
        return PartResult(part=worker.part, failure=failure)  # type: ignore[arg-type]


def _context() -> ForkServerContext | SpawnContext:
    """Fork from a clean server where there is one: a fork of a process with threads can deadlock."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


def _serve(pipe: Connection, function: Callable[[P], R]) -> None:
    """The life of a worker: take a part, answer, until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent's to handle: it ends us
        signal.signal(number, signal.SIG_IGN)
    pipe.send((None, None))  # ready
    while True:
        try:
            part = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send_bytes(_answer(function, part))


def _answer(function: Callable[[P], R], part: P) -> bytes:
    """The value of a part, or the error that the parent raises, as the bytes of a pickle."""
    try:
        return bytes(ForkingPickler.dumps((function(part), None)))
    except Exception as error:
        try:
            data = bytes(ForkingPickler.dumps((None, error)))
            pickle.loads(data)  # some errors can be written and not read
        except Exception:
            data = bytes(ForkingPickler.dumps((None, RuntimeError(repr(error)))))
        return data


def _end(worker: _Worker[P], *, gently: bool = False) -> None:
    worker.pipe.close()
    if gently:
        worker.process.join(timeout=5)
    worker.process.kill()
    worker.process.join()


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"its process died of {signal.Signals(-exit_code).name}"
    return f"its process ended with exit code {exit_code}"
