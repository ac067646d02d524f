"""A batch that images of different prompts join and leave while it is drawn, as a server needs.

    batch = ContinuousBatch(model, rows=32)
    ids = batch.admit(tokens_T, seeds=[1, 2, 3], choice=Choice())   # as long as batch.free allows
    while batch.ids:
        batch.step()                                # one code of every image
        for image in batch.take_finished():         # image.id, image.codes_N or image.error
            ...

An image gets the codes that `sample_codes` draws with the same seed, whatever else is in the batch. The
class is not thread-safe. If `step` runs out of memory, its images can be continued in another batch, from
their `drawn_codes`.

Shapes: B rows, G rows of images with the same sampling parameters, T text positions, N codes of an image, P
given codes, V ids of the codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.contracts import PADDING_ID
from pipeline.core.errors import ModelError
from pipeline.models.dalle.attention import KeyValueCache
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import (
    NOT_FINITE,
    Choice,
    are_finite,
    guide,
    uniform_streams,
)
from pipeline.models.dalle.static_cache import StaticCache
from pipeline.models.dalle.static_decoder import FixedShapes, StaticDecoder
from pipeline.models.devices import MIN_ROWS


@dataclass(frozen=True, kw_only=True)
class FinishedImage:
    """The codes of an image (int64 [N], on the CPU), or why it has none."""

    id: int
    codes_N: Tensor | None = None
    error: ModelError | None = None


@dataclass(kw_only=True)
class _Image:
    """An image in the batch: its row, that of the empty caption it is guided by, and its drawn codes."""

    id: int
    choice: Choice
    row: int
    null_row: int | None
    drawn: int

    @property
    def rows(self) -> list[int]:
        return [self.row] if self.null_row is None else [self.row, self.null_row]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """The rows of images with the same sampling parameters."""

    choice: Choice
    rows_G: Tensor
    null_rows_G: Tensor | None


class ContinuousBatch:
    """Draws images of a model in at most `rows` rows; an image with guidance takes two of them.

    The cache is allocated at once: `static_cache.row_bytes` for each row. `fixed` is as for `sample_codes`.
    """

    @torch.inference_mode()
    def __init__(self, model: Dalle, *, rows: int, fixed: FixedShapes | None = None) -> None:
        config = model.config
        self.model = model
        self.rows = max(rows, MIN_ROWS)
        self._device = model.to_logits.weight.device
        fixed = fixed or FixedShapes()
        starts = [(_empty_captions(model, self.rows), 1)]
        joined = self._device.type == "cpu" and not fixed.compile
        self._cache = StaticCache(model, starts, joined=joined)
        self._decoder = StaticDecoder(model, self._cache, fixed)
        self._images: list[_Image] = []
        self._owners: list[_Image] = []  # of the rows in use, which are the first ones
        self._groups: list[_Group] | None = None
        self._finished: list[FinishedImage] = []
        self._next_id = 0
        count = config.image_seq_len
        ints = torch.empty(0, dtype=torch.int64, device=self._device)
        self._codes_BN = ints.new_zeros(self.rows, count)
        self._last_B = ints.new_zeros(self.rows)
        self._positions_B = ints.new_zeros(self.rows)  # of the code to be drawn next
        self._uniform_BN = torch.zeros(self.rows, count, dtype=torch.float64, device=self._device)
        self._finite_B = torch.ones(self.rows, dtype=torch.bool, device=self._device)
        self._logits_BV = model.to_logits.weight.new_zeros(self.rows, config.num_image_tokens)

    @property
    def ids(self) -> list[int]:
        """The images that are being drawn."""
        return [image.id for image in self._images]

    @property
    def free(self) -> int:
        """The rows that are not in use."""
        return self.rows - len(self._owners)

    @torch.inference_mode()
    def admit(
        self,
        tokens_T: Tensor,
        *,
        seeds: Sequence[int],
        choice: Choice,
        first_codes_P: Tensor | None = None,
    ) -> list[int]:
        """Begin an image of a caption for each of `seeds` (0..2^63-1); returns their ids.

        The caption, int64 ids padded with 0, is processed once for all of them. With `first_codes_P` (int64,
        0 < P < N) the images start with these codes.

        Raises ModelError, and changes nothing, for more images than `free` rows hold, as many first codes as
        an image has, or a caption of another length than the model's.
        """
        guided, count = choice.cond_scale != 1, self.model.config.image_seq_len
        given = 0 if first_codes_P is None else len(first_codes_P)
        needed = len(seeds) * (1 + guided)
        if needed > self.free:
            raise ModelError(
                f"{len(seeds)} images need {needed} rows of the batch, but only {self.free} of {self.rows} "
                "are free. Wait for others to finish."
            )
        if given >= count:
            raise ModelError(
                f"{given} first codes are given, but an image has only {count}. Give fewer."
            )
        tokens_UT = tokens_T[None].to(self._device)
        if guided:
            tokens_UT = torch.cat((tokens_UT, torch.full_like(tokens_UT, PADDING_ID)))
        codes_UP = None
        if first_codes_P is not None:
            codes_UP = first_codes_P.to(self._device).expand(len(tokens_UT), -1)
        logits_UV, start = self.model.start_images(tokens_UT, codes_UP, whole=False)
        images = [self._add(choice, guided=guided, drawn=given) for _ in seeds]
        rows_G = self._tensor([image.row for image in images])
        self._uniform_BN[rows_G] = uniform_streams(seeds, count).to(self._device)
        self._finite_B[rows_G] = True
        if codes_UP is not None:
            self._codes_BN[rows_G, :given] = codes_UP[0]
        columns = [[image.rows[caption] for image in images] for caption in range(len(tokens_UT))]
        for caption, rows in enumerate(columns):
            rows_G = self._tensor(rows)
            self._cache.put(start, caption, rows_G)
            self._logits_BV[rows_G] = logits_UV[caption]
            self._positions_B[rows_G] = given
        return [image.id for image in images]

    @torch.inference_mode()
    def step(self) -> None:
        """Draw the next code of every image; those that are complete leave the batch."""
        if not self._images:
            return
        for group in self._group():
            self._draw(group)
        for image in self._images:
            image.drawn += 1
        count = self.model.config.image_seq_len
        for image in [image for image in self._images if image.drawn == count]:
            self._finished.append(self._result(image))
            self._remove(image)
        self._advance()

    def take_finished(self) -> list[FinishedImage]:
        """The images completed since the last call. An image whose logits were not finite has an error."""
        finished, self._finished = self._finished, []
        return finished

    def drawn(self, id: int) -> int:  # noqa: A002
        """The number of codes that an image has so far; raises KeyError if it is not being drawn."""
        return self._find(id).drawn

    def drawn_codes(self, id: int) -> Tensor:  # noqa: A002
        """The codes of an image so far, int64, on the CPU; raises KeyError if it is not being drawn."""
        image = self._find(id)
        return self._codes_BN[image.row, : image.drawn].clone().cpu()

    @torch.inference_mode()
    def cancel(self, id: int) -> None:  # noqa: A002
        """Drop an image; raises KeyError if it is not being drawn."""
        self._remove(self._find(id))

    def _find(self, id: int) -> _Image:  # noqa: A002
        for image in self._images:
            if image.id == id:
                return image
        raise KeyError(id)

    def _add(self, choice: Choice, *, guided: bool, drawn: int) -> _Image:
        row = len(self._owners)
        image = _Image(
            id=self._next_id,
            choice=choice,
            row=row,
            null_row=row + 1 if guided else None,
            drawn=drawn,
        )
        self._next_id += 1
        self._images.append(image)
        self._owners += [image] * len(image.rows)
        self._groups = None
        return image

    def _remove(self, image: _Image) -> None:
        """Free the rows of an image; the last rows take their places."""
        self._images.remove(image)
        self._groups = None
        for row in sorted(image.rows, reverse=True):
            last = len(self._owners) - 1
            if row != last:
                self._move(last, row)
            self._owners.pop()
            self._positions_B[last] = 0

    def _move(self, source: int, target: int) -> None:
        owner = self._owners[source]
        if owner.row == source:
            owner.row = target
        else:
            owner.null_row = target
        self._owners[target] = owner
        self._cache.copy_row(source, target)
        for part in (
            self._codes_BN,
            self._last_B,
            self._positions_B,
            self._uniform_BN,
            self._finite_B,
            self._logits_BV,
        ):
            part[target] = part[source]

    def _group(self) -> list[_Group]:
        """The images by their sampling parameters; computed anew when an image has come or gone."""
        if self._groups is None:
            found: dict[Choice, list[_Image]] = {}
            for image in self._images:
                found.setdefault(image.choice, []).append(image)
            self._groups = [
                _Group(
                    choice=choice,
                    rows_G=self._tensor([image.row for image in images]),
                    null_rows_G=self._tensor([image.rows[1] for image in images])
                    if choice.cond_scale != 1
                    else None,
                )
                for choice, images in found.items()
            ]
        return self._groups

    def _draw(self, group: _Group) -> None:
        rows_G, choice = group.rows_G, group.choice
        logits_GV = self._logits_BV[rows_G]
        if group.null_rows_G is not None:
            both = torch.cat((logits_GV, self._logits_BV[group.null_rows_G]))
            logits_GV = guide(both.float(), choice.cond_scale)
        self._finite_B[rows_G] &= are_finite(logits_GV, dim=1)
        positions_G = self._positions_B[rows_G]
        drawn_G = choice.draw(
            logits_GV,
            self._uniform_BN[rows_G, positions_G],
            total_tokens=self.model.config.total_tokens,
        )
        self._codes_BN[rows_G, positions_G] = drawn_G
        self._last_B[rows_G] = drawn_G
        if group.null_rows_G is not None:
            self._last_B[group.null_rows_G] = drawn_G

    def _advance(self) -> None:
        """Compute the logits after the codes just drawn."""
        used = len(self._owners)
        if not used:
            return
        rows = self._computed_rows(used)
        logits_BV = self._decoder.next_logits(
            self._last_B[:rows],
            self._positions_B[:rows],
            last=max(image.drawn for image in self._images) - 1,
        )
        self._logits_BV[:used] = logits_BV[:used]
        self._positions_B[:used] += 1

    def _computed_rows(self, used: int) -> int:
        """The rows to compute for `used` ones. On CUDA a power of two: each number is a graph."""
        if self._device.type == "cuda":
            return min(self.rows, 1 << (used - 1).bit_length())
        return max(used, MIN_ROWS)

    def _result(self, image: _Image) -> FinishedImage:
        if not bool(self._finite_B[image.row]):
            return FinishedImage(id=image.id, error=ModelError(NOT_FINITE))
        return FinishedImage(id=image.id, codes_N=self._codes_BN[image.row].clone().cpu())

    def _tensor(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self._device)


def _empty_captions(model: Dalle, rows: int) -> KeyValueCache:
    """A cache of `rows` captions, all zeros."""
    length = model.config.text_seq_len + 1
    cache = model.transformer.new_cache(batch_size=rows, max_length=length)
    for part in (*cache.keys, *cache.values):
        part.zero_()
    cache.length = length
    return cache
