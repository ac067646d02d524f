"""The drawing thread: draws images of several jobs in one batch, and delivers each when it is finished.

Requests are served in the order of their arrival. An image joins the batch as soon as it has a free row,
whatever the others' prompts, seeds and sampling options are, and leaves it when it is finished or its client
has left. Images of another model wait until the batch is empty.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from pipeline.core.errors import PipelineError
from pipeline.serve.drawing.jobs import (
    Begun,
    Drawn,
    Failed,
    Finished,
    Item,
    Job,
    Pixels,
    Preview,
    Recipe,
)

logger = logging.getLogger(__name__)

# A preview is decoded only if previews have taken at most this share of the time so far.
PREVIEW_SHARE = 0.15
_FIRST_GUESS_S = 2.0  # seconds per image before any was drawn
_REMEMBERED_S = 60.0  # of drawing, for the share of previews
_SMOOTHING = 0.3  # weight of the last images in the estimate


class QueueFullError(Exception):
    """Too many images wait; try again after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"The queue is full. Try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class ClosedError(Exception):
    """The server is stopping."""


class LoadedModel(Protocol):
    """A loaded model."""

    checkpoint: str

    def is_cut(self, prompt: str) -> bool:
        """Whether the prompt is longer than what the model reads."""

    def is_current(self) -> bool:
        """Whether its run has no later checkpoint."""

    def seed_of(self, item: Item) -> int:
        """The seed of an image."""

    @property
    def items(self) -> Sequence[Item]:
        """The images that are being drawn."""

    def room(self, recipe: Recipe) -> int:
        """How many more images of a recipe can be admitted."""

    def admit(self, items: Sequence[Item]) -> None:
        """Begin images of one job."""

    def step(self) -> Sequence[tuple[Item, Pixels | PipelineError]]:
        """Draw the next code of all images; returns those that are finished, or why one can't be."""

    def previews(self) -> Sequence[tuple[Item, Pixels, int]]:
        """What can be shown of images that are being drawn, and how high they will be."""

    def drop(self, job: Job) -> None:
        """Stop drawing the images of a job."""

    def clear(self) -> None:
        """Stop drawing all images, after an error."""

    def score(self, prompt: str, images: Sequence[Pixels]) -> Sequence[float]:
        """The CLIP scores of images."""


class DrawingQueue:
    """The queue and the thread that empties it; `find_model` loads the model of a recipe, in that thread.

    At most `queue` images wait. After each step `on_step` gets the number of images in the batch, how many
    of them are drawn, and the seconds that it took.
    """

    def __init__(
        self,
        find_model: Callable[[str], LoadedModel],
        *,
        queue: int,
        on_step: Callable[[int, int, float], None] | None = None,
    ) -> None:
        self._find_model, self._on_step, self._queue = find_model, on_step, queue
        self._jobs: list[Job] = []
        self._model: LoadedModel | None = None
        self._name = ""  # of the model
        self._image_s: float | None = None
        # Seconds of drawing since the batch was empty, of previews in them, and since the last image.
        self._busy_s = self._previews_s = self._image_busy_s = 0.0
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
        """Take a job out of the queue, and out of the batch before its next code."""
        with self._changed:
            job.is_over = True
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
        while self._wait():
            try:
                self._take_in()
                self._advance()
            except Exception as error:  # whatever it is, the next images must still be drawn
                self._fail({item.job for item in self._items}, error)
                if self._model is not None:
                    self._model.clear()
        for job in self._jobs:
            job.listener(Failed(error=ClosedError()))

    def _wait(self) -> bool:
        """Wait until there is something to draw; false when the queue closes."""
        with self._changed:
            while not self._is_closed and not self._items and self._oldest() is None:
                self._changed.wait()
            return not self._is_closed

    @property
    def _items(self) -> Sequence[Item]:
        return () if self._model is None else self._model.items

    def _oldest(self) -> Job | None:
        return next((job for job in self._jobs if job.waiting), None)

    def _take_in(self) -> None:
        """Free the rows of jobs that are over, and begin images of the oldest jobs in free rows."""
        for over in {item.job for item in self._items if item.job.is_over}:
            self._loaded.drop(over)
        while not self._is_closed and (job := self._oldest()) is not None:
            try:
                if self._items and not self._loaded.room(job.recipe):
                    return
                items = self._take(job) if self._is_ready(job.recipe.model) else ()
                if not items:
                    return
                if items[0].index == 0:
                    job.listener(Begun(cut=self._loaded.is_cut(job.prompt)))
                self._loaded.admit(items)
            except Exception as error:
                self._fail([job], error)

    @property
    def _loaded(self) -> LoadedModel:
        assert self._model is not None
        return self._model

    def _is_ready(self, name: str) -> bool:
        """Whether images of a model can join those that are drawn; loads it if none are."""
        if self._items:
            return self._name == name and self._loaded.is_current()
        if self._model is not None and self._name != name:
            self._model.clear()
        self._model = None  # its memory may be needed
        self._model, self._name = self._find_model(name), name
        with self._changed:  # those of the same model first, so that each is loaded once
            self._jobs.sort(key=lambda job: job.recipe.model != name)
        self._busy_s = self._previews_s = self._image_busy_s = 0.0
        return True

    def _take(self, job: Job) -> list[Item]:
        """As many of a job's waiting images as there is room for."""
        with self._changed:
            take = min(job.waiting, self._loaded.room(job.recipe))
            items = [Item(job, job.given + number) for number in range(take)]
            job.given += take
            return items

    def _advance(self) -> None:
        """Draw the next code of all images, and deliver what is finished."""
        images = len(self._items)
        if not images:
            return
        began_s = time.monotonic()
        finished = self._loaded.step()
        for item, result in finished:
            self._deliver(item, result)
        self._show()
        seconds = time.monotonic() - began_s
        self._busy_s += seconds
        self._image_busy_s += seconds
        if self._busy_s > _REMEMBERED_S:
            self._busy_s, self._previews_s = self._busy_s / 2, self._previews_s / 2
        drawn = sum(not isinstance(result, PipelineError) for _, result in finished)
        if drawn:
            self._learn(self._image_busy_s / drawn)
            self._image_busy_s = 0.0
        if self._on_step is not None:
            self._on_step(images, drawn, seconds)

    def _show(self) -> None:
        """Show unfinished images as long as that is cheap."""
        if self._previews_s > PREVIEW_SHARE * self._busy_s:
            return
        began_s = time.monotonic()
        for item, pixels_HWC, height in self._loaded.previews():
            if not item.job.is_over:
                item.job.listener(Preview(index=item.index, pixels_HWC=pixels_HWC, height=height))
        self._previews_s += time.monotonic() - began_s

    def _deliver(self, item: Item, result: Pixels | PipelineError) -> None:
        job, model = item.job, self._loaded
        if job.is_over:
            return
        if isinstance(result, PipelineError):
            self._fail([job], result)
            return
        drawn = Drawn(index=item.index, seed=model.seed_of(item), pixels_HWC=result)
        job.drawn.append(drawn)
        if job.best is None:
            job.listener(drawn)
        if len(job.drawn) < job.count:
            return
        try:
            for best in [] if job.best is None else _rank(job, model):
                job.listener(best)
        except Exception as error:
            self._fail([job], error)
            return
        self._end(job, Finished(checkpoint=model.checkpoint))

    def _fail(self, jobs: Iterable[Job], error: Exception) -> None:
        if not isinstance(error, PipelineError):
            logger.error("Drawing failed", exc_info=error)
        for job in jobs:
            self._end(job, Failed(error=error))

    def _end(self, job: Job, event: Finished | Failed) -> None:
        if not job.is_over:
            job.listener(event)
        self.cancel(job)
        job.drawn.clear()

    def _learn(self, seconds: float) -> None:
        before = self._image_s
        self._image_s = seconds if before is None else before + _SMOOTHING * (seconds - before)


def _rank(job: Job, loaded: LoadedModel) -> list[Drawn]:
    """The best images of a job by their CLIP score."""
    scores = loaded.score(job.prompt, [drawn.pixels_HWC for drawn in job.drawn])
    ranked = sorted(zip(scores, job.drawn, strict=True), key=lambda pair: (-pair[0], pair[1].index))
    return [
        Drawn(index=d.index, seed=d.seed, pixels_HWC=d.pixels_HWC, score=round(float(score), 4))
        for score, d in ranked[: job.best]
    ]
