"""Run parts as tasks on Ray, with the results and the order of `pipeline.core.engine`.

There is one plain task per part: it costs 0.6 ms, a block of Ray Data 25 ms. If a worker dies, Ray runs
its part a second time, perhaps on another machine; if it dies again, the part counts as failed, as here.
A part can therefore run twice and must be idempotent.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import Any, Generic, TypeVar

from pipeline.core.errors import ConfigError, PipelineError
from pipeline.core.extras import missing_package
from pipeline.core.part_result import PartResult

P = TypeVar("P")
R = TypeVar("R")

_RETRIES = 1
_CONNECT_S = 10.0
# On a machine with much other work, Ray may need more than its 30 s to start; what such a try leaves ends
# with this process.
_STARTS = 3
# Parts that are submitted ahead, per CPU.
_AHEAD = 2


def map_on_ray(
    function: Callable[[P], R],
    parts: Iterable[P],
    *,
    address: str | None,
    workers: int | None,
    timeout_s: float | None,
    gpus: int = 0,
) -> Iterator[PartResult[P, R]]:
    """Yield `function(part)` for each part, in the order of `parts`; see `pipeline.core.engine.map_parts`.

    `address` is that of a running cluster; None starts Ray on this machine and ends it afterwards. `workers`
    limits the parts that run at once (None: one per CPU of the cluster, or per `gpus` GPUs). Raises
    DependencyError without the package, ConfigError if there is no cluster at `address` or it has no GPU, and
    what `function` raises.
    """
    with _connected(address, workers) as ray:
        slots = workers or _slots(ray, gpus)
        task = ray.remote(_call).options(
            num_cpus=1, num_gpus=gpus, max_retries=_RETRIES, name=function.__name__
        )
        waiting = iter(parts)
        running: deque[tuple[P, Any]] = deque()
        try:
            while True:
                for part in islice(waiting, slots * _AHEAD - len(running)):
                    running.append((part, task.remote(function, part, timeout_s)))
                if not running:
                    return
                part, answer = running[0]
                result = _result(ray, part, functools.partial(ray.get, answer))
                running.popleft()
                yield result
        finally:
            for _, answer in running:
                with contextlib.suppress(Exception):
                    ray.cancel(answer, force=True)


class RayPool:
    """Runs single calls as tasks on Ray, in the manner of `concurrent.futures`."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._task = ray.remote(_apply).options(num_cpus=1, max_retries=_RETRIES)

    def submit(self, function: Callable[..., R], /, *args: Any) -> Future[R]:
        """Start `function(*args)` and return its future, whose errors are those of the function.

        If the worker dies, the call runs a second time; then it fails with a PipelineError.
        """
        answer: Future[R] = Future()
        task: Future[R] = self._task.remote(function, args).future()
        task.add_done_callback(functools.partial(self._hand_over, answer))
        return answer

    def _hand_over(self, answer: Future[R], task: Future[R]) -> None:
        error = task.exception()
        if error is None:
            answer.set_result(task.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            answer.set_exception(_cause(error))
        else:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            answer.set_exception(
                PipelineError(f"A task on Ray failed: {first} Run the command again.")
            )


class RayParts(Generic[P, R]):
    """Runs a function as tasks on Ray, for parts that come one by one; see `engine.ProcessPool`.

    Errors of the constructor are those of `map_on_ray`.
    """

    def __init__(
        self, function: Callable[[P], R], *, address: str | None, timeout_s: float | None
    ) -> None:
        self._function, self._timeout_s = function, timeout_s
        self._connection = contextlib.ExitStack()
        self._ray = self._connection.enter_context(_connected(address, None))
        self._task = self._ray.remote(_call).options(
            num_cpus=1, max_retries=_RETRIES, name=function.__name__
        )

    def submit(self, part: P) -> Future[PartResult[P, R]]:
        """Start `function(part)`; the future raises what the function raises."""
        answer: Future[PartResult[P, R]] = Future()
        task: Future[R] = self._task.remote(self._function, part, self._timeout_s).future()
        task.add_done_callback(functools.partial(self._hand_over, answer, part))
        return answer

    def _hand_over(self, answer: Future[PartResult[P, R]], part: P, task: Future[R]) -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            answer.set_result(_result(self._ray, part, task.result))
        except Exception as error:
            answer.set_exception(error)

    def close(self) -> None:
        """Disconnect; tasks that run are dropped."""
        self._connection.close()


@contextlib.contextmanager
def open_ray_pool(address: str | None, workers: int | None) -> Iterator[RayPool]:
    """A pool on the cluster at `address`; None starts Ray on this machine. Errors as in `map_on_ray`."""
    with _connected(address, workers) as ray:
        yield RayPool(ray)


def _apply(function: Callable[..., R], args: tuple[Any, ...]) -> R:
    return function(*args)


def _cause(error: Any) -> Exception:
    """The error that the function raised."""
    cause = error.cause
    return cause if isinstance(cause, Exception) else RuntimeError(str(error))


def _call(function: Callable[[P], R], part: P, timeout_s: float | None) -> R:
    """One part, in a worker: a decoder that hangs is ended by a signal, which needs no cooperation."""
    if timeout_s is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        return function(part)
    finally:
        if timeout_s is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _result(ray: Any, part: P, wait: Callable[[], R]) -> PartResult[P, R]:
    """What `wait` returns; raises what the function raised."""
    try:
        return PartResult(part=part, value=wait())
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        tries = 1 + _RETRIES
        return PartResult(part=part, failure=f"its process died {tries} times on Ray ({lines[0]})")


def _slots(ray: Any, gpus: int) -> int:
    """How many parts the cluster can run at once."""
    have = ray.cluster_resources()
    if not gpus:
        return max(1, int(have.get("CPU", 1)))
    count = int(have.get("GPU", 0) // gpus)
    if not count:
        raise ConfigError(
            "The Ray cluster has no GPU. Give --device cpu, or start its workers with --num-gpus."
        )
    return count


@contextlib.contextmanager
def _connected(address: str | None, workers: int | None) -> Iterator[Any]:
    """Ray, connected. What was started here ends here."""
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    if address is not None:
        _check_address(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with _own_handlers(handlers):
        _start(ray, address, workers)
    try:
        yield ray
    finally:
        with _own_handlers(handlers):
            ray.shutdown()


def _start(ray: Any, address: str | None, workers: int | None) -> None:
    """Connect, or start Ray here; again if that takes longer than the half minute that Ray allows for it."""
    for attempt in range(_STARTS):
        try:
            ray.init(
                address=address,
                num_cpus=None if address else workers,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level="error",
            )
            return
        except Exception as error:  # Ray's own have no class of theirs
            if "timed out during startup" not in str(error) or attempt + 1 == _STARTS:
                raise _no_cluster(address, error) from error
            ray.shutdown()


def _check_address(address: str) -> None:
    """Ask whether anything listens at HOST:PORT: Ray itself would wait for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\]]+?)\]?:(\d{1,5})", address)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> ConfigError:
    where = f"No Ray cluster answers at {address}" if address else "Ray can't be started"
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return ConfigError(f"{where}: {first}. Check --ray-address and `ray status`.")


@contextlib.contextmanager
def _own_handlers(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    """Take back the signal handlers, which Ray replaces."""
    try:
        yield
    finally:
        for number, handler in handlers.items():
            with contextlib.suppress(ValueError):  # not in the main thread: nothing was replaced
                signal.signal(number, handler)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise missing_package("--engine ray", "ray") from error
    return ray
