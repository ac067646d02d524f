"""Map a function over parts: in this process, over processes of this machine, or on Ray.

The stages divide their work into independent parts; this module runs a function on each and returns the
results in order. If a worker dies (because a decoder crashes, or the system kills it for memory), only its
part is lost: the part is reported as failed and a new worker takes over. Exceptions of the function are
raised here, as if it had been called directly.

The pool is our own. With pebble's (5.2), a worker that is killed while it sends its answer leaves the pipe
that all workers share locked, and no other part is ever answered; in exchange it is three times as fast with
parts that take no time (21,000 a second on two cores), though not with answers of 100 kB (3,000, ours 4,200).
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from queue import LifoQueue
from typing import Any, Generic, Literal, Protocol, TypeVar

from pipeline.core.part_result import PartResult

P = TypeVar("P")
R = TypeVar("R")

# The variable that tells a worker its number, counted from 0, on this machine.
WORKER = "PIPELINE_WORKER"
# How many finished parts may wait for an earlier one, per worker.
_WINDOW = 4
# How often a worker is started that dies at its start.
_STARTS = 3


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where parts run; `address` is that of a Ray cluster (None: Ray is started on this machine).

    On Ray each part gets `gpus` GPUs.
    """

    name: Literal["local", "ray"]
    address: str | None = None
    gpus: int = 0


LOCAL = Engine(name="local")


def count_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Pool(Protocol):
    """Starts single calls, in the manner of `concurrent.futures`."""

    def submit(self, function: Callable[..., R], /, *args: Any) -> Future[R]:
        """Start `function(*args)` and return its future."""


@contextlib.contextmanager
def open_pool(engine: Engine, workers: int | None) -> Iterator[Pool]:
    """A pool of `workers` threads of this process (None: one per core), or of tasks on Ray."""
    if engine.name == "ray":
        from pipeline.core.ray_engine import open_ray_pool

        with open_ray_pool(engine.address, workers) as pool:
            yield pool
        return
    with ThreadPoolExecutor(workers or count_cores()) as threads:
        yield threads


def map_parts(
    function: Callable[[P], R],
    parts: Iterable[P],
    *,
    workers: int | None = None,
    timeout_s: float | None = None,
    engine: Engine = LOCAL,
) -> Iterator[PartResult[P, R]]:
    """Yield `function(part)` for each part, in the order of `parts`.

    `parts` is read as workers become free, so it may be a generator of more parts than fit in memory.
    `workers` is the number of processes; 0 calls the function in this process (without protection from
    crashes), None starts one process per core. `function` must be a function of a module; parts and values
    must be picklable. If a part takes longer than `timeout_s` seconds (None: no limit; ignored with
    `workers=0`), its worker is killed and the part counts as failed. On Ray, `workers` limits the tasks that
    run at once, and a part whose worker dies is tried a second time.

    Raises what `function` raises, after ending the other workers.
    """
    if engine.name == "ray":
        from pipeline.core.ray_engine import map_on_ray

        yield from map_on_ray(
            function,
            parts,
            address=engine.address,
            workers=workers,
            timeout_s=timeout_s,
            gpus=engine.gpus,
        )
        return
    count = count_cores() if workers is None else workers
    if count == 0:
        for part in parts:
            yield PartResult(part=part, value=function(part))
        return
    with contextlib.closing(_Pool(function, workers=count, timeout_s=timeout_s)) as pool:
        yield from pool.run(parts)


class ProcessPool(Generic[P, R]):
    """Calls a function in processes of this machine, for parts that come one by one.

    The arguments are those of `map_parts`. Processes are started when they are needed, and replaced when they
    die.
    """

    def __init__(
        self, function: Callable[[P], R], *, workers: int, timeout_s: float | None = None
    ) -> None:
        # A thread for each process, which waits for its answer; the last one used is used again first.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="process")
        self._pools: LifoQueue[_Pool[P, R]] = LifoQueue()
        for _ in range(workers):
            self._pools.put(_Pool(function, workers=1, timeout_s=timeout_s))

    def submit(self, part: P) -> Future[PartResult[P, R]]:
        """Start `function(part)` as soon as a process is free; the future raises what the function raises."""
        return self._threads.submit(self._call, part)

    def _call(self, part: P) -> PartResult[P, R]:
        pool = self._pools.get()
        try:
            (result,) = pool.run([part])
            return result
        finally:
            self._pools.put(pool)

    def close(self) -> None:
        """Drop the parts that wait, wait for those that have begun, and end the processes."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while not self._pools.empty():
            self._pools.get().close()


@dataclass
class _Worker(Generic[P]):
    number: int
    process: BaseProcess
    pipe: Connection
    index: int | None = None
    part: P | None = None
    is_ready: bool = False  # it has finished its imports; timeouts count from here
    since: float = 0.0


class _Pool(Generic[P, R]):
    """The processes of one `map_parts` call and their current parts."""

    def __init__(
        self, function: Callable[[P], R], *, workers: int, timeout_s: float | None
    ) -> None:
        self._function = function
        self._count = workers
        self._timeout_s = timeout_s
        self._context = _context()
        self._workers: list[_Worker[P]] = []
        # Registered before multiprocessing's own exit function, which waits for workers to end.
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
                    self._send_part(self._take_worker(), *item)
            while order and order[0] in finished:
                yield finished.pop(order.popleft())
            if exhausted and not order:
                return
            finished.update(self._collect())

    def close(self) -> None:
        """Kill the workers, whatever they are doing."""
        atexit.unregister(self.close)
        for worker in self._workers:
            _end(worker)
        self._workers.clear()

    def _can_take(self) -> bool:
        return len(self._workers) < self._count or any(w.index is None for w in self._workers)

    def _take_worker(self) -> _Worker[P]:
        """An idle worker or a new one; workers are only started when there is a part for them."""
        for worker in self._workers:
            if worker.index is None:
                return worker
        self._workers.append(self._start())
        return self._workers[-1]

    def _start(self) -> _Worker[P]:
        """Start a worker. One that is killed before it has read what to do has done nothing: try again."""
        for _ in range(_STARTS - 1):
            with contextlib.suppress(BrokenPipeError):
                return self._start_once()
        return self._start_once()

    def _start_once(self) -> _Worker[P]:
        ours, theirs = self._context.Pipe()
        taken = {worker.number for worker in self._workers}
        number = next(number for number in itertools.count() if number not in taken)
        process = self._context.Process(
            target=_serve, args=(theirs, self._function, number), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(number=number, process=process, pipe=ours)

    def _send_part(self, worker: _Worker[P], index: int, part: P) -> None:
        worker.index, worker.part, worker.since = index, part, time.monotonic()
        # If a worker died while idle, that is noticed when its answer is collected.
        with contextlib.suppress(OSError):
            worker.pipe.send(part)

    def _collect(self) -> list[tuple[int, PartResult[P, R]]]:
        """Wait for workers to answer or die."""
        busy = {w.pipe: w for w in self._workers if w.index is not None}
        if not busy:
            return []
        ready = wait(list(busy), timeout=self._wait_timeout_s(list(busy.values())))
        answers = [self._receive(busy[pipe]) for pipe in ready if isinstance(pipe, Connection)]
        return [answer for answer in answers if answer is not None] + [
            self._time_out(w) for w in list(busy.values()) if self._overdue(w)
        ]

    def _receive(self, worker: _Worker[P]) -> tuple[int, PartResult[P, R]] | None:
        assert worker.index is not None
        index, part = worker.index, worker.part
        try:
            value, error = worker.pipe.recv()
        except (EOFError, OSError):  # it died, perhaps in the middle of its answer
            return index, self._remove_worker(worker, None)
        if not worker.is_ready:
            worker.is_ready, worker.since = True, time.monotonic()
            return None
        worker.index = worker.part = None
        if error is not None:
            raise error
        return index, PartResult(part=part, value=value)  # type: ignore[arg-type]

    def _wait_timeout_s(self, busy: list[_Worker[P]]) -> float | None:
        started = [worker.since for worker in busy if worker.is_ready]
        if self._timeout_s is None or not started:
            return None
        first = min(started)
        return max(0.0, first + self._timeout_s - time.monotonic())

    def _overdue(self, worker: _Worker[P]) -> bool:
        if self._timeout_s is None or worker.index is None or not worker.is_ready:
            return False
        return time.monotonic() - worker.since >= self._timeout_s

    def _time_out(self, worker: _Worker[P]) -> tuple[int, PartResult[P, R]]:
        assert worker.index is not None
        return worker.index, self._remove_worker(worker, f"no answer in {self._timeout_s:g} s")

    def _remove_worker(self, worker: _Worker[P], reason: str | None) -> PartResult[P, R]:
        """Remove a dead or stuck worker; its part failed."""
        _end(worker, gently=reason is None)
        self._workers.remove(worker)
        worker.index = None
        failure = reason or _cause_of_death(worker.process.exitcode)
        return PartResult(part=worker.part, failure=failure)  # type: ignore[arg-type]


def _context() -> ForkServerContext | SpawnContext:
    """Fork from a clean server if available: forking a process with threads can deadlock."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


def _serve(pipe: Connection, function: Callable[[P], R], number: int) -> None:
    """The main loop of a worker: receive a part, answer, until the pipe closes."""
    os.environ[WORKER] = str(number)
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent handles them and ends us
        signal.signal(number, signal.SIG_IGN)
    pipe.send((None, None))  # ready
    while True:
        try:
            part = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send_bytes(_answer(function, part))


def _answer(function: Callable[[P], R], part: P) -> bytes:
    """The pickled value of a part, or the pickled error for the parent to raise."""
    try:
        return bytes(ForkingPickler.dumps((function(part), None)))
    except Exception as error:
        try:
            data = bytes(ForkingPickler.dumps((None, error)))
            pickle.loads(data)  # some errors can be pickled but not unpickled
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
