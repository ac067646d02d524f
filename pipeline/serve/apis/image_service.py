"""From a request's values to a job, and from the drawing thread's events to the handler.

Everything that a request may set is checked here, so that all APIs have the same limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import NoReturn

from pipeline.core.errors import DependencyError, PipelineError
from pipeline.serve.config import ServeConfig
from pipeline.serve.drawing.drawing_queue import ClosedError, DrawingQueue, QueueFullError
from pipeline.serve.drawing.jobs import Drawn, Event, Failed, Finished, Job, Preview, Prime, Recipe
from pipeline.serve.drawing.models import Models
from pipeline.serve.errors import RequestError
from pipeline.serve.measures import Measures

MAX_SEED = 2**63 - 1
MAX_COND_SCALE = 100.0
_RANDOM_SEEDS = 2**53  # a browser's numbers are exact up to here


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """What a client wants; None means the default."""

    prompt: str
    count: int = 1
    model: str | None = None
    seed: int | None = None
    top_k: float | None = None
    temperature: float | None = None
    cond_scale: float | None = None
    best: int | None = None


class ImageService:
    """Takes what clients ask for and yields the events of its drawing."""

    def __init__(
        self, config: ServeConfig, models: Models, drawing_queue: DrawingQueue, measures: Measures
    ) -> None:
        self.config, self.models, self.drawing_queue = config, models, drawing_queue
        self._measures = measures

    async def names(self) -> list[str]:
        """The models by name, the default first."""
        runs = await asyncio.to_thread(lambda: self.models.runs)
        default = self.models.default()
        return sorted(runs, key=lambda name: (name != default, name))

    @contextlib.asynccontextmanager
    async def drawing(
        self, wanted: ImageRequest, *, prime: Prime | None = None, previews: bool = False
    ) -> AsyncIterator[Mailbox]:
        """Queue what is asked for; yields the mailbox of its events, and cancels it at the end of the block.

        Images begin with `prime`; with `previews` there are events for unfinished images.
        Raises RequestError for values out of range, an unknown model, or a full queue.
        """
        await self.names()
        mailbox = Mailbox(asyncio.get_running_loop())
        job = self._job(wanted, prime=prime, previews=previews, listener=mailbox.post)
        try:
            mailbox.before = self.drawing_queue.submit(job)
        except QueueFullError as error:
            self._measures.refused.inc()
            raise RequestError(
                429,
                str(error),
                code="rate_limit_exceeded",
                retry_after_s=error.retry_after_s,
            ) from error
        except ClosedError:
            raise RequestError(503, "The server is stopping.") from None
        mailbox.seed = job.seed
        try:
            yield mailbox
        except asyncio.CancelledError:
            self._measures.abandoned.inc()
            raise
        finally:
            self.drawing_queue.cancel(job)

    async def draw(self, wanted: ImageRequest) -> list[Drawn]:
        """All images of what is asked for; raises RequestError as `drawing` does, and if drawing fails."""
        async with self.drawing(wanted) as mailbox:
            return [event async for event in mailbox if isinstance(event, Drawn)]

    def _job(
        self,
        wanted: ImageRequest,
        *,
        prime: Prime | None,
        previews: bool,
        listener: Callable[[Event], None],
    ) -> Job:
        self._check(wanted)
        recipe = Recipe(
            model=self._model(wanted.model),
            top_k=_number("top_k", wanted.top_k, 0.9, low=0, high=1),
            temperature=_number("temperature", wanted.temperature, 1.0, low=0.001, high=100),
            cond_scale=_number("cond_scale", wanted.cond_scale, 1.0, low=0, high=MAX_COND_SCALE),
            prime=prime,
        )
        return Job(
            recipe=recipe,
            prompt=wanted.prompt,
            seed=secrets.randbelow(_RANDOM_SEEDS) if wanted.seed is None else wanted.seed,
            count=wanted.count,
            best=wanted.best,
            previews=previews,
            listener=listener,
        )

    def _check(self, wanted: ImageRequest) -> None:
        most = min(self.config.max_images, self.config.queue)
        if not 1 <= wanted.count <= most:
            raise RequestError(
                400, f"{wanted.count} images were asked for. Expected 1 to {most}.", param="n"
            )
        if wanted.best is not None and self.config.clip is None:
            raise RequestError(
                400,
                "Choosing the best images needs a CLIP model: start the server with --clip.",
                param="best",
            )
        if wanted.best is not None and not 1 <= wanted.best <= wanted.count:
            raise RequestError(
                400,
                f"best is {wanted.best}. Expected 1 to {wanted.count}, the images drawn.",
                param="best",
            )
        if wanted.seed is not None and not 0 <= wanted.seed <= MAX_SEED:
            raise RequestError(
                400, f"The seed is {wanted.seed}. Expected 0 to {MAX_SEED}.", param="seed"
            )
        self._check_prompt(wanted.prompt)

    def _check_prompt(self, prompt: str) -> None:
        if not prompt.strip():
            raise RequestError(400, "The prompt is empty.", param="prompt")
        if len(prompt) > self.config.max_prompt:
            raise RequestError(
                400,
                f"The prompt has {len(prompt):,} characters. At most {self.config.max_prompt:,} are "
                "accepted.",
                param="prompt",
                code="string_above_max_length",
            )
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise RequestError(400, "The prompt is not valid Unicode.", param="prompt") from None
        if "\0" in prompt:
            raise RequestError(400, "The prompt contains a NUL character.", param="prompt")

    def _model(self, name: str | None) -> str:
        """The name of a run that exists; a name that is not in the list never becomes a path."""
        found = self.models.default() if name is None else name
        if found in self.models.runs:
            return found
        known = ", ".join(list(self.models.runs)[:12]) or "none yet: run pipeline train first"
        asked = "" if name is None else f" {name[:100]!r}"
        raise RequestError(
            404,
            f"There is no model{asked}. Models: {known}.",
            param="model",
            code="model_not_found",
        )


class Mailbox:
    """The events of one job, carried from the drawing thread to a handler.

    Only the newest preview of an image is kept, so that a slow client costs no memory. Iteration ends with
    the job; a failure raises RequestError.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.before, self.seed = 0, 0
        self._loop, self._events = loop, dict[object, Event]()
        self._arrived = asyncio.Event()

    def post(self, event: Event) -> None:
        """Add an event, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: Event) -> None:
        if isinstance(event, Preview | Drawn):
            self._events.pop(("preview", event.index), None)
        key = ("preview", event.index) if isinstance(event, Preview) else object()
        self._events[key] = event
        self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._events:
                event = self._events.pop(next(iter(self._events)))
                if isinstance(event, Failed):
                    _refuse(event.error)
                yield event
                if isinstance(event, Finished):
                    return


def _refuse(error: Exception) -> NoReturn:
    if isinstance(error, ClosedError):
        raise RequestError(503, "The server is stopping.") from error
    if isinstance(error, DependencyError | PipelineError):
        raise RequestError(503, str(error)) from error
    raise RequestError(500, "Drawing failed; the server's log says why.") from error


def _number(name: str, given: float | None, default: float, *, low: float, high: float) -> float:
    value = default if given is None else float(given)
    if not (math.isfinite(value) and low <= value <= high):
        raise RequestError(400, f"{name} is {value}. Expected {low:g} to {high:g}.", param=name)
    return value
