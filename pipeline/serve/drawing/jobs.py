"""What a request for images asks for, and what it gets back while it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Prime:
    """An image that every drawn image starts with: a decoded raster, uint8 [height, width, 3].

    `digest` identifies the file; `rows` is the number of rows of codes to take, None for
    DALLE-pytorch's share.
    """

    digest: str
    pixels_HWC: Pixels = field(compare=False, repr=False)
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How images of a job are drawn, whatever their prompt and seed."""

    model: str
    top_k: float = 0.9
    temperature: float = 1.0
    cond_scale: float = 1.0
    prime: Prime | None = None


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The upper part of an image that is being drawn, uint8 [rows, W, 3] of `height` rows in all."""

    index: int
    pixels_HWC: Pixels
    height: int


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A finished image, uint8 [H, W, 3], its seed, and its CLIP score if it was ranked."""

    index: int
    seed: int
    pixels_HWC: Pixels
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Begun:
    """The first image of the job is being drawn; `cut` if the prompt is longer than the model's text."""

    cut: bool


@dataclass(frozen=True, kw_only=True)
class Finished:
    """All images are delivered."""

    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The job failed; no further image comes."""

    error: Exception


Event = Begun | Preview | Drawn | Finished | Failed


@dataclass(eq=False, kw_only=True)
class Job:
    """One request: `count` images of a prompt, of which the `best` by CLIP are delivered if that is given.

    `listener` is called from the drawing thread with each event. With `previews`, unfinished images are
    delivered too.
    """

    recipe: Recipe
    prompt: str
    seed: int
    count: int
    listener: Callable[[Event], None]
    best: int | None = None
    previews: bool = False
    given: int = field(default=0, init=False)  # images handed to the batch so far
    drawn: list[Drawn] = field(default_factory=list, init=False)
    is_over: bool = field(default=False, init=False)  # cancelled, failed or finished

    @property
    def waiting(self) -> int:
        """Images that the batch does not have yet."""
        return 0 if self.is_over else self.count - self.given


@dataclass(frozen=True)
class Item:
    """An image of a batch: the `index`-th of its job."""

    job: Job
    index: int
