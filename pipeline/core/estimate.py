"""What a stage is about to do and what it will take, announced before anything is spent.

A stage describes its work and calls `announce`: a line names the work, its disk, its memory and, where they
are known before, its times. A disk that can't hold what will be written ends the stage here. Otherwise the
time is judged by the first items, which have to be done anyway, so that nothing is done only to be measured.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import StorageError
from pipeline.core.progress import Progress
from pipeline.core.quantities import rough_duration, size

logger = logging.getLogger(__name__)

MEASURED_S = 1.0  # of work, before the rest is judged by it
WORTH_SAYING_S = 10.0  # a shorter rest is over before the line is read


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The work of a stage in words, and what it takes.

    `folder` is where `disk_bytes` are written, on top of what is there. `memory_bytes` is the peak of memory,
    of the GPU if the work is done there; None if it is not known. `times` are times in words that were found
    without doing any of the work.
    """

    stage: str
    work: str
    folder: Path
    disk_bytes: float
    memory_bytes: float | None = None
    times: str = ""

    def line(self, free_bytes: int) -> str:
        """The line for people."""
        memory = "" if self.memory_bytes is None else f", {size(self.memory_bytes)} of memory"
        times = f"{self.times}; " if self.times else ""
        disk = f"{size(self.disk_bytes)} of disk ({size(free_bytes)} free)"
        return f"{self.stage}: {self.work}. Estimate: {times}{disk}{memory}."


@dataclass(kw_only=True)
class Announced:
    """The progress of an announced stage, which says how long the rest takes once some of it is done."""

    stage: str
    progress: Progress
    measured_s: float = MEASURED_S
    clock: Callable[[], float] = time.monotonic
    _start: float | None = field(default=None, init=False)
    _warm: tuple[float, float] | None = field(default=None, init=False)
    _is_said: bool = field(default=False, init=False)

    def __call__(
        self, done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        """Report progress (a `Progress`)."""
        self.progress(done, total, notes)
        if total:
            self.measure(done / total)

    def measure(self, share: float) -> None:
        """Note that this share of the work is done, 0 to 1; the first call is the beginning.

        What is done first does not count: it takes longer, since libraries and workers start with it.
        """
        now = self.clock()
        if self._start is None:
            self._start = share
        elif self._warm is None and share > self._start:
            self._warm = now, share
        if self._warm is None or self._is_said:
            return
        passed_s, did = now - self._warm[0], share - self._warm[1]
        if passed_s < self.measured_s or did <= 0:
            return
        self._is_said = True
        left_s = passed_s * (1 - share) / did
        if left_s >= WORTH_SAYING_S:
            logger.info(
                "%s: about %s for the rest, judged by %s of work.",
                self.stage,
                rough_duration(left_s),
                rough_duration(passed_s),
            )


def announce(
    estimate: Estimate, progress: Progress, *, force: bool, measured_s: float = MEASURED_S
) -> Announced:
    """Log what will be done and return the progress to report to from now on.

    The first `measured_s` of work are what the rest is judged by.

    Raises StorageError with the numbers if the disk can't hold what will be written, unless `force` is set.
    """
    check_room(estimate.stage, estimate.folder, estimate.disk_bytes, force=force)
    logger.info("%s", estimate.line(free_bytes(estimate.folder)))
    return Announced(stage=estimate.stage, progress=progress, measured_s=measured_s)


def check_room(stage: str, folder: Path, needed_bytes: float, *, force: bool) -> None:
    """Raise StorageError if the disk of `folder` has less room than that, unless `force` is set."""
    free = free_bytes(folder)
    if needed_bytes > free and not force:
        raise StorageError(
            f"{stage} would write about {size(needed_bytes)} into {folder}, and only {size(free)} are free "
            "there. Free some space, give another folder as --workspace, or start all the same with --force."
        )


def free_bytes(folder: Path) -> int:
    """What a user without special rights may still write where the folder is or will be."""
    found = os.statvfs(existing_folder(folder))
    return found.f_bavail * found.f_frsize


def existing_folder(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    absolute = path.expanduser().absolute()
    return next(each for each in (absolute, *absolute.parents) if each.exists())


def memory_so_far() -> int:
    """The peak memory of this process in bytes: what is loaded before the work begins."""
    unit = 1024 if sys.platform == "linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
