"""The drawing thread: takes waiting images of several jobs, draws them in one batch, and delivers them.

Requests are served in the order of their arrival. The batch begins with the oldest job and takes every other
waiting image with the same recipe (model, sampling options, prime image), so images of different prompts and
seeds share it. A batch whose clients have all left is abandoned after the current row of codes.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.core.errors import PipelineError
from pipeline.serve.drawing.jobs import Begun, Drawn, Failed, Finished, Job, Pixels, Preview, Recipe

logger = logging.getLogger(__name__)

# A preview is decoded only if previews have taken at most this share of the time so far.
PREVIEW_SHARE = 0.15
_FIRST_GUESS_S = 2.0  # seconds per image before any was drawn
_SMOOTHING = 0.3  # weight of the last batch in the estimate


class QueueFullError(Exception):
    """Too many images wait; try again after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"The queue is full. Try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class ClosedError(Exception):
    """The server is stopping."""


class AbandonedError(Exception):
    """Nobody waits for this batch any more."""


@dataclass(frozen=True)
class Item:
    """An image of a batch: the `index`-th of its job."""

    job: Job
    index: int


class LoadedModel(Protocol):
    """A loaded model."""

    checkpoint: str

    def is_cut(self, prompt: str) -> bool:
        """Whether the prompt is longer than what the model reads."""

    def seed_of(self, job: Job, index: int) -> int:
        """The seed of a job's image."""

    def draw(
        self,
        recipe: Recipe,
        items: Sequence[Item],
        watch: Callable[[Sequence[Item], Callable[[], tuple[Sequence[Pixels], int]]], None],
    ) -> Sequence[Pixels]:
        """The images. `watch` is called after each row of codes; what it raises ends the drawing.

        It gets the items and a function that decodes their rows so far and says how high an image will be.
        """

    def score(self, prompt: str, images: Sequence[Pixels]) -> Sequence[float]:
        """The CLIP scores of images."""


class DrawingQueue:
    """The queue and the thread that empties it; `find_model` loads the model of a recipe, in that thread.

    At most `queue` images wait and `batch_size` are drawn at once. `on_batch` gets the number of images and
    the seconds of each batch.
    """

    def __init__(
        self,
        find_model: Callable[[str], LoadedModel],
        *,
        queue: int,
        batch_size: int,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        self._find_model, self._on_batch = find_model, on_batch
        self._queue, self._batch_size = queue, batch_size
        self._jobs: list[Job] = []
        self._active: list[Job] = []
        self._image_s: float | None = None
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="drawing", daemon=True)
        self._thread.start()

    # --- For other threads -----------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Images that wait."""
        with self._changed:
            return sum(job.waiting for job in self._jobs)

    def submit(self, job: Job) -> int:
        """Add a job; returns the number of images before it.

        Raises QueueFullError if its images don't fit into the queue, ClosedError if the server is stopping.
        """
        with self._changed:
            if self._is_closed:
                raise ClosedError
            before = sum(each.waiting for each in self._jobs)
            if before + job.count > self._queue:
                raise QueueFullError(self._seconds_for(before))
            self._jobs.append(job)
            self._changed.notify()
            return before

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, and out of the batch as far as possible."""
        with self._changed:
            job.is_cancelled = True
            self._jobs = [each for each in self._jobs if each is not job]

    def close(self, timeout_s: float = 10.0) -> None:
        """Abandon what is being drawn, fail what waits, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _seconds_for(self, images: int) -> int:
        """Estimated seconds until this many images are drawn, at least 1."""
        each = _FIRST_GUESS_S if self._image_s is None else self._image_s
        return max(1, math.ceil(each * images))

    # --- The thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                self._draw(batch)
            except AbandonedError:
                pass
            except Exception as error:  # whatever it is, the next batch must still be drawn
                if not isinstance(error, PipelineError):
                    logger.exception("Drawing failed")
                for job in {id(item.job): item.job for item in batch}.values():
                    self._end(job, Failed(error=error))
        for job in self._jobs:
            job.listener(Failed(error=ClosedError()))

    def _next_batch(self) -> list[Item] | None:
        """Wait for images; None when the drawing_queue closes."""
        with self._changed:
            self._active = []
            while not self._is_closed and not any(job.waiting for job in self._jobs):
                self._changed.wait()
            if self._is_closed:
                return None
            batch = self._take()
            self._active = [item.job for item in batch]
            return batch

    def _take(self) -> list[Item]:
        """The images of the next batch, oldest job first."""
        first = next(job for job in self._jobs if job.waiting)
        batch: list[Item] = []
        for job in self._jobs:
            if job.recipe == first.recipe:
                take = min(job.waiting, self._batch_size - len(batch))
                batch += [Item(job, job.given + number) for number in range(take)]
                job.given += take
        return batch

    def _draw(self, batch: list[Item]) -> None:
        recipe = batch[0].job.recipe
        loaded = self._find_model(recipe.model)
        for job in {id(item.job): item.job for item in batch if item.index == 0}.values():
            job.listener(Begun(cut=loaded.is_cut(job.prompt)))
        began_s = time.monotonic()
        images = loaded.draw(recipe, batch, _Watch(self._is_wanted, began_s))
        seconds = time.monotonic() - began_s
        self._learn(seconds / len(batch))
        if self._on_batch is not None:
            self._on_batch(len(batch), seconds)
        for item, pixels_HWC in zip(batch, images, strict=True):
            seed = loaded.seed_of(item.job, item.index)
            self._deliver(item, Drawn(index=item.index, seed=seed, pixels_HWC=pixels_HWC), loaded)

    def _deliver(self, item: Item, drawn: Drawn, loaded: LoadedModel) -> None:
        job = item.job
        if job.is_cancelled:
            return
        job.drawn.append(drawn)
        if job.best is None:
            job.listener(drawn)
        if len(job.drawn) < job.count:
            return
        if job.best is not None:
            for best in _rank(job, loaded):
                job.listener(best)
        self._end(job, Finished(checkpoint=loaded.checkpoint))

    def _is_wanted(self, items: Sequence[Item]) -> bool:
        return not self._is_closed and any(not item.job.is_cancelled for item in items)

    def _end(self, job: Job, event: Finished | Failed) -> None:
        with self._changed:
            self._jobs = [each for each in self._jobs if each is not job]
            job.given = job.count
        job.drawn.clear()
        if not job.is_cancelled:
            job.listener(event)

    def _learn(self, seconds: float) -> None:
        before = self._image_s
        self._image_s = seconds if before is None else before + _SMOOTHING * (seconds - before)


class _Watch:
    """Ends a batch that nobody waits for, and shows unfinished images as long as that is cheap."""

    def __init__(self, is_wanted: Callable[[Sequence[Item]], bool], began_s: float) -> None:
        self._is_wanted, self._began_s, self._spent_s = is_wanted, began_s, 0.0

    def __call__(
        self, items: Sequence[Item], decode: Callable[[], tuple[Sequence[Pixels], int]]
    ) -> None:
        if not self._is_wanted(items):
            raise AbandonedError
        shown = [item for item in items if item.job.previews and not item.job.is_cancelled]
        now_s = time.monotonic()
        if not shown or self._spent_s > PREVIEW_SHARE * (now_s - self._began_s):
            return
        images, height = decode()
        for item, pixels_HWC in zip(items, images, strict=True):
            if item.job.previews and not item.job.is_cancelled:
                preview = Preview(index=item.index, pixels_HWC=pixels_HWC, height=height)
                item.job.listener(preview)
        self._spent_s += time.monotonic() - now_s


def _rank(job: Job, loaded: LoadedModel) -> list[Drawn]:
    """The best images of a job by their CLIP score."""
    scores = loaded.score(job.prompt, [drawn.pixels_HWC for drawn in job.drawn])
    ranked = sorted(zip(scores, job.drawn, strict=True), key=lambda pair: (-pair[0], pair[1].index))
    return [
        Drawn(index=d.index, seed=d.seed, pixels_HWC=d.pixels_HWC, score=round(float(score), 4))
        for score, d in ranked[: job.best]
    ]
