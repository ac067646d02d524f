"""A loaded model and the images that it draws, each of which joins and leaves its batch on its own.

Legend: T text positions, P codes so far, N codes of an image, H rows, W columns of pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.generate.prompts import Prompt
from pipeline.generate.sampler import ImageSampler, encode_prime
from pipeline.models.codecs.pixels import square_pixels
from pipeline.models.dalle.continuous import ContinuousBatch, FinishedImage
from pipeline.models.dalle.sampling import Choice, image_seed
from pipeline.models.devices import MIN_ROWS, is_out_of_memory
from pipeline.serve.drawing.jobs import Item, Job, Pixels, Prime, Recipe

if TYPE_CHECKING:
    from pipeline.models.clip import Clip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Start:
    """What images begin with; those of a job share it until memory runs out."""

    tokens_T: Tensor
    choice: Choice
    first_codes_P: Tensor | None


@dataclass(frozen=True, kw_only=True)
class _Image:
    item: Item
    start: _Start


class LoadedDalle:
    """A loaded model; `checkpoint` is the hash of its checkpoint.

    Its batch has a row for each image, two for one with guidance, and is kept for the next images.
    """

    def __init__(
        self,
        sampler: ImageSampler,
        *,
        checkpoint: str,
        is_current: Callable[[], bool],
        find_clip: Callable[[], Clip | None],
    ) -> None:
        self._sampler, self.checkpoint, self.is_current = sampler, checkpoint, is_current
        self._find_clip = find_clip
        self._rows = max(sampler.batch_size, MIN_ROWS)
        self._batch: ContinuousBatch | None = None
        self._drawn: dict[int, _Image] = {}  # by their ids in the batch
        self._next: list[_Image] = []  # that are not in the batch yet
        self._begun: tuple[Job, _Start] | None = None  # the last job that was admitted

    @property
    def items(self) -> list[Item]:
        """The images that have been admitted and are not finished."""
        return [image.item for image in self._images]

    def is_cut(self, prompt: str) -> bool:
        """Whether the prompt has more tokens than the model reads."""
        return self._sampler.too_long([Prompt(text=prompt)])[0]

    def seed_of(self, item: Item) -> int:
        """The seed of an image: that of `pipeline generate --seed`."""
        return image_seed(item.job.seed, item.job.prompt, item.index)

    def room(self, recipe: Recipe) -> int:
        """How many more images of a recipe can be admitted."""
        used = sum(_rows_of(image.start.choice) for image in self._images)
        return max(0, self._rows - used) // _rows_of(_choice_of(recipe))

    def admit(self, items: Sequence[Item]) -> None:
        """Begin images of one job with the next step; there must be `room` for them."""
        job = items[0].job
        if self._begun is None or self._begun[0] is not job:
            self._begun = job, self._start_of(job)
        self._next += [_Image(item=item, start=self._begun[1]) for item in items]

    def step(self) -> list[tuple[Item, Pixels | ModelError]]:
        """Draw a code of every image; returns those that are finished, or the reason why one can't be.

        If memory runs out, the batch shrinks to half of its rows, and images continue from their codes.
        Raises ModelError if it can't shrink.
        """
        try:
            batch = self._fill()
            batch.step()
            finished = batch.take_finished()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            finished = self._shrink(error)
        results = iter(
            self._decode([image.codes_N for image in finished if image.codes_N is not None])
        )
        return [
            (self._drawn.pop(image.id).item, image.error or next(results)) for image in finished
        ]

    def previews(self) -> list[tuple[Item, Pixels, int]]:
        """The upper part of images that have completed a row of codes, and the height of an image."""
        columns, found = self._sampler.codec.grid[1], []
        for id_, image in self._drawn.items():
            if self._batch is not None and image.item.job.previews:
                drawn = self._batch.drawn(id_)
                if drawn and drawn % columns == 0:
                    part = self._decode_part(self._batch.drawn_codes(id_))
                    found += [] if part is None else [(image.item, *part)]
        return found

    def drop(self, job: Job) -> None:
        """Free the rows of a job's images."""
        for id_, image in list(self._drawn.items()):
            if self._batch is not None and image.item.job is job:
                self._batch.cancel(id_)
                del self._drawn[id_]
        self._next = [image for image in self._next if image.item.job is not job]

    def clear(self) -> None:
        """Drop all images and the batch, after an error."""
        self._batch = None
        self._begun = None
        self._drawn.clear()
        self._next.clear()

    def score(self, prompt: str, images: Sequence[Pixels]) -> Sequence[float]:
        """The CLIP scores of images; raises ModelError without a CLIP."""
        clip = self._find_clip()
        if clip is None:
            raise ModelError("Choosing the best needs a CLIP model: start the server with --clip.")
        return clip.score([prompt] * len(images), np.stack(images))

    @property
    def _images(self) -> list[_Image]:
        return [*self._drawn.values(), *self._next]

    def _fill(self) -> ContinuousBatch:
        """The batch, with as many of the next images as it has rows for."""
        if self._batch is None:
            self._batch = ContinuousBatch(self._sampler.model, rows=self._rows)
        while self._next:
            start = self._next[0].start
            fitting = self._batch.free // _rows_of(start.choice)
            same = list(takewhile(lambda image: image.start is start, self._next))[:fitting]  # noqa: B023
            if not same:
                break
            ids = self._batch.admit(
                start.tokens_T,
                seeds=[self.seed_of(image.item) for image in same],
                choice=start.choice,
                first_codes_P=start.first_codes_P,
            )
            self._drawn |= zip(ids, same, strict=True)
            del self._next[: len(same)]
        return self._batch

    def _shrink(self, error: Exception) -> list[FinishedImage]:
        """Give up the batch for one of half the rows; returns the images that it had finished."""
        if self._rows == MIN_ROWS:
            raise ModelError(
                f"Out of memory with {MIN_ROWS} images at once ({error}). Use --precision bf16, or another "
                "--device."
            ) from error
        rows, self._rows = self._rows, max(self._rows // 2, MIN_ROWS)
        logger.warning("Out of memory with %d images at once; trying %d.", rows, self._rows)
        batch, self._batch = self._batch, None
        if batch is None:
            return []
        begun = []
        for id_ in batch.ids:
            if id_ not in self._drawn:
                continue  # memory ran out while it was admitted: it is still to come
            image = self._drawn.pop(id_)
            codes_P = batch.drawn_codes(id_) if batch.drawn(id_) else None
            begun.append(replace(image, start=replace(image.start, first_codes_P=codes_P)))
        self._next = begun + self._next
        return batch.take_finished()

    def _decode(self, codes: Sequence[Tensor]) -> Sequence[Pixels | ModelError]:
        if not codes:
            return ()
        try:
            return list(self._sampler.decode(torch.stack(list(codes)).to(self._sampler.device)))
        except ModelError as error:
            return [error] * len(codes)

    def _start_of(self, job: Job) -> _Start:
        sampler, prime = self._sampler, job.recipe.prime
        tokens_1T = sampler.tokenizer.encode_batch([job.prompt], sampler.model.config.text_seq_len)
        return _Start(
            tokens_T=torch.from_numpy(tokens_1T[0]).to(torch.int64),
            choice=_choice_of(job.recipe),
            first_codes_P=None if prime is None else self._first_codes(prime),
        )

    @torch.inference_mode()
    def _first_codes(self, prime: Prime) -> Tensor:
        """The codes of the upper part of an uploaded image, int64 [P]."""
        codec, device = self._sampler.codec, self._sampler.device
        rows = None if prime.rows is None else min(prime.rows, codec.grid[0] - 1)
        square_HWC = square_pixels(Image.fromarray(prime.pixels_HWC), codec.image_size)
        return encode_prime(square_HWC, codec, device, rows=rows)

    def _decode_part(self, codes_P: Tensor) -> tuple[Pixels, int] | None:
        """The rows of an unfinished image, uint8 [rows, W, 3], and its height; None if memory runs out.

        The codes that are still missing are filled with the last row's: only the rows above are shown.
        """
        rows, columns = self._sampler.codec.grid
        done = len(codes_P) // columns
        codes_N = torch.cat((codes_P, codes_P[-columns:].repeat(rows - done)))
        (pixels_HWC,) = self._decode([codes_N])
        if isinstance(pixels_HWC, ModelError):
            return None
        height = len(pixels_HWC)
        return pixels_HWC[: height * done // rows], height


def _choice_of(recipe: Recipe) -> Choice:
    return Choice(
        filter_thres=recipe.top_k,
        temperature=recipe.temperature,
        cond_scale=recipe.cond_scale,
    )


def _rows_of(choice: Choice) -> int:
    """The rows of the batch that an image takes."""
    return 1 if choice.cond_scale == 1 else 2
