"""Sample image codes, or the rest of a caption, from a DALL·E, one position at a time.

Every image has its own stream of random numbers, so it depends only on its seed and not on the rest of the
batch. A caption is processed once, however many images it gets.

Shapes: U captions, B images, T text positions, N codes of an image, P given codes, V ids of a vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.core.contracts import PADDING_ID
from pipeline.core.errors import ModelError
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.static_decoder import FixedShapes
from pipeline.models.devices import fill_rows

ASK_EVERY = 16  # words, after which a device is asked whether all captions have ended
NOT_FINITE = (
    "The model's logits are not finite (NaN or infinity), so no codes can be sampled. fp16 may "
    "overflow: use --precision bf16 or fp32. With --cond-scale, give a smaller one. Otherwise the "
    "training has diverged: use an earlier checkpoint."
)
MOST_FILLED = (
    1.25  # rows per image up to which captions are given equally many rows, to share their keys
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Sampling parameters, named as in DALLE-pytorch's `generate_images`.

    The top (1 - `filter_thres`) share of the joint vocabulary is kept, at least one id, and the logits are
    divided by `temperature` (> 0). `cond_scale` (≥ 1) is the scale of classifier-free guidance (arXiv
    2207.12598); 1 means no guidance.
    """

    filter_thres: float = 0.9
    temperature: float = 1.0
    cond_scale: float = 1.0

    def draw(self, logits_BV: Tensor, uniform_B: Tensor, *, total_tokens: int) -> Tensor:
        """Sample an id per row from logits over part of a vocabulary of `total_tokens`."""
        kept = kept_ids(self.filter_thres, total_tokens=total_tokens, allowed=logits_BV.shape[-1])
        # In float32: dividing by a low temperature would overflow half precision.
        return draw(logits_BV.float() / self.temperature, uniform_B, kept=kept)


@torch.inference_mode()
def sample_codes(
    model: Dalle,
    captions_UT: Tensor,
    *,
    rows: Sequence[int],
    image_seeds: Sequence[int],
    choice: Choice,
    first_codes_P: Tensor | None = None,
    fixed: FixedShapes | None = None,
    drawn: list[Tensor] | None = None,
    watch: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Sample images as codes_BN (int64), one for each of `rows`, which are indices of `captions_UT`.

    `image_seeds` holds a seed in 0..2^63-1 for each image. If `first_codes_P` (int64, 0 < P < N) is given,
    every image starts with these codes; as [B, P] they are those of each image. `fixed` draws by operators
    of fixed shapes, as CUDA wants; the logits are the same but for rounding. `drawn` receives the codes_B of
    each position, so that a caller whose memory runs out keeps them. `watch` is called with
    the codes_BP so far after each row of codes but the last; what it raises ends the sampling.

    Raises ModelError if there are as many first codes as an image has, or more, and if the model's logits
    are not finite.
    """
    count, images = model.config.image_seq_len, len(rows)
    given = 0 if first_codes_P is None else first_codes_P.shape[-1]
    if given >= count:
        raise ModelError(
            f"{given} first codes are given, but an image has only {count}. Give fewer."
        )
    device = captions_UT.device
    guided = choice.cond_scale != 1
    batch = Batch.of(rows, captions_UT, first_codes_P)
    if fixed is None:
        logits_BV, next_logits = _start_growing(model, batch, guided=guided)
    else:
        batch = batch.sorted()
        logits_BV, next_logits = _start_fixed(model, batch, fixed, guided=guided)
    uniform_BN = uniform_streams(fill_rows(image_seeds), count)[batch.images].to(device)
    row_of_image = torch.tensor(batch.rows_of(images), device=device)
    codes = [] if drawn is None else drawn
    finite = torch.ones((), dtype=torch.bool, device=device)
    for position in range(given, count):
        if guided:
            logits_BV = guide(logits_BV.float(), choice.cond_scale)
        finite &= are_finite(logits_BV)
        codes_B = choice.draw(
            logits_BV, uniform_BN[:, position], total_tokens=model.config.total_tokens
        )
        codes.append(codes_B.index_select(0, row_of_image))
        if position == count - 1:
            break
        if watch is not None and (position + 1) % model.config.image_fmap_size == 0:
            watch(with_first_codes(codes, first_codes_P))
        logits_BV = next_logits(codes_B.repeat(2) if guided else codes_B, position)
    check_finite(finite)
    return with_first_codes(codes, first_codes_P)


def with_first_codes(codes: Sequence[Tensor], first_codes_P: Tensor | None) -> Tensor:
    """The codes_B of each position as codes_BP, after the first codes ([P] or [B, P]) if there are any."""
    codes_BP = torch.stack(list(codes), dim=1)
    if first_codes_P is None:
        return codes_BP
    return torch.cat((first_codes_P.expand(len(codes_BP), -1), codes_BP), dim=1)


NextLogits = Callable[[Tensor, int], Tensor]  # of codes_B at a position


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of a batch: `captions` (indices of `captions_UT`) have `each` rows, one after another.

    `images` are the numbers of the images in the rows; some are drawn twice, to fill it up. `nulls` is the
    number of empty captions that guidance needs: one if all images have the same first codes.
    """

    captions_UT: Tensor
    first_codes_UP: Tensor | None
    nulls: int
    captions: Sequence[int]
    each: int
    images: Sequence[int]

    @classmethod
    def of(cls, rows: Sequence[int], captions_UT: Tensor, first_codes_P: Tensor | None) -> Batch:
        """The rows in the order of the images; with first codes of its own, each has a caption to itself."""
        nulls, captions, first_codes_UP = 1, fill_rows(rows), None
        if first_codes_P is not None and first_codes_P.dim() == 2:
            captions_UT = captions_UT[torch.tensor(rows, device=captions_UT.device)]
            nulls, captions = len(rows), fill_rows(range(len(rows)))
        if first_codes_P is not None:
            first_codes_UP = first_codes_P.expand(len(captions_UT), -1)
        return cls(
            captions_UT=captions_UT,
            first_codes_UP=first_codes_UP,
            nulls=nulls,
            captions=captions,
            each=1,
            images=fill_rows(range(len(rows))),
        )

    def sorted(self) -> Batch:
        """The same sorted by caption, if most captions have about as many images."""
        found: dict[int, list[int]] = {}
        for caption, image in zip(self.captions, self.images, strict=True):
            found.setdefault(caption, []).append(image)
        each = max(map(len, found.values()))
        if len(found) * each > MOST_FILLED * len(self.images):
            return self
        return replace(
            self,
            captions=list(found),
            each=each,
            images=[
                image
                for images in found.values()
                for image in (*images, *[images[-1]] * (each - len(images)))
            ],
        )

    @property
    def empty_captions(self) -> Tensor:
        """The `nulls` empty captions."""
        return torch.full_like(self.captions_UT[: self.nulls], PADDING_ID)

    def rows_of(self, images: int) -> list[int]:
        """The row of each of the images."""
        rows = {image: row for row, image in reversed(list(enumerate(self.images)))}
        return [rows[image] for image in range(images)]


def _start_growing(model: Dalle, batch: Batch, *, guided: bool) -> tuple[Tensor, NextLogits]:
    """Process each caption once. With guidance, the batch has a second half with the empty caption."""
    captions_UT, first_codes_UP = batch.captions_UT, batch.first_codes_UP
    rows_B = torch.tensor(batch.captions, device=captions_UT.device)
    if guided:
        null_rows_B = len(captions_UT) + (rows_B if batch.nulls > 1 else torch.zeros_like(rows_B))
        captions_UT = torch.cat((captions_UT, batch.empty_captions))
        if first_codes_UP is not None:
            first_codes_UP = torch.cat((first_codes_UP, first_codes_UP[: batch.nulls]))
        rows_B = torch.cat((rows_B, null_rows_B))
    logits_UV, start = model.start_images(captions_UT, first_codes_UP)
    cache = start.select(rows_B)

    def next_logits(codes_B: Tensor, position: int) -> Tensor:
        return model.next_logits(codes_B, position=position, cache=cache)

    return logits_UV.index_select(0, rows_B), next_logits


def _start_fixed(
    model: Dalle, batch: Batch, fixed: FixedShapes, *, guided: bool
) -> tuple[Tensor, NextLogits]:
    """The same with a static cache, in which the images of a caption share it."""
    order_U = torch.tensor(batch.captions, device=batch.captions_UT.device)
    codes_UP = batch.first_codes_UP
    groups = [(batch.captions_UT[order_U], None if codes_UP is None else codes_UP[order_U])]
    sizes = [batch.each]
    if guided and batch.nulls > 1:
        groups.append((torch.full_like(groups[0][0], PADDING_ID), groups[0][1]))
        sizes.append(batch.each)
    elif guided:
        groups.append((batch.empty_captions, None if codes_UP is None else codes_UP[:1]))
        sizes.append(len(batch.images))
    begun = [model.start_images(*group, whole=False) for group in groups]
    parts = [
        logits_UV.repeat_interleave(n, 0) for (logits_UV, _), n in zip(begun, sizes, strict=True)
    ]
    logits_BV = torch.cat(parts)
    starts = [(cache, n) for (_, cache), n in zip(begun, sizes, strict=True)]
    decoder = fixed.decoder(model, starts)
    positions_B = torch.empty(len(logits_BV), dtype=torch.int64, device=logits_BV.device)

    def next_logits(codes_B: Tensor, position: int) -> Tensor:
        return decoder.next_logits(codes_B, positions_B.fill_(position), last=position)

    return logits_BV, next_logits


def guide(logits_BV: Tensor, cond_scale: float) -> Tensor:
    """Classifier-free guidance; the first half of the logits is conditional, the second unconditional."""
    captioned_BV, null_BV = logits_BV.chunk(2)
    return null_BV + (captioned_BV - null_BV) * cond_scale


@torch.inference_mode()
def complete_captions(
    model: Dalle, beginnings: Sequence[Sequence[int]], *, seeds: Sequence[int], choice: Choice
) -> list[list[int]]:
    """Complete captions: the ids of each beginning with their continuation, at most `text_seq_len`.

    A caption ends where the model samples padding, as captions end in training. (DALLE-pytorch's
    `generate_texts` continues after it, and processes given words without the BOS used in training.) Raises
    ModelError if the model's logits are not finite.
    """
    config = model.config
    device = next(model.parameters()).device
    lengths_U = torch.tensor(fill_rows([len(words) for words in beginnings]), device=device)
    tokens_UT = lengths_U.new_full((len(lengths_U), config.text_seq_len), PADDING_ID)
    for row_T, words in zip(tokens_UT, beginnings, strict=False):
        row_T[: len(words)] = torch.tensor(words[: config.text_seq_len], device=device)
    uniform_UT = uniform_streams(fill_rows(seeds), config.text_seq_len).to(device)
    ended_U = torch.zeros_like(lengths_U, dtype=torch.bool)
    finite = torch.ones((), dtype=torch.bool, device=device)
    cache = model.transformer.new_cache(batch_size=len(lengths_U), max_length=config.text_seq_len)
    # Asking the device waits for it: on a CPU that costs nothing.
    ask_every = 1 if device.type == "cpu" else ASK_EVERY
    for position in range(min(map(len, beginnings)), config.text_seq_len):
        logits_UV = model.next_text_logits(tokens_UT, position, cache)
        finite &= are_finite(logits_UV)
        drawn_U = choice.draw(logits_UV, uniform_UT[:, position], total_tokens=config.total_tokens)
        is_word_U = (drawn_U != PADDING_ID) & (drawn_U < config.num_text_tokens)
        open_U = (lengths_U <= position) & ~ended_U
        ended_U |= open_U & ~is_word_U
        tokens_UT[:, position] = torch.where(open_U & is_word_U, drawn_U, tokens_UT[:, position])
        if position % ask_every == 0 and bool(ended_U.all()):
            break
    check_finite(finite)
    return [[word for word in row if word != PADDING_ID] for row in tokens_UT.tolist()][
        : len(beginnings)
    ]


def are_finite(logits_BV: Tensor, *, dim: int | None = None) -> Tensor:
    """Whether all logits are finite, as a bool tensor on their device, without synchronisation.

    With `dim`, for each row along the other. Checks minimum and maximum, which NaN propagates to: one pass,
    without a mask.
    """
    least, greatest = torch.aminmax(logits_BV, dim=dim)
    return least.isfinite() & greatest.isfinite()


def check_finite(finite: Tensor) -> None:
    """Raise ModelError if a logit was not finite; synchronises with the device once per batch."""
    if not bool(finite):
        raise ModelError(NOT_FINITE)


def kept_ids(filter_thres: float, *, total_tokens: int, allowed: int) -> int:
    """The number of top ids to sample from: at least 1, at most the ids `allowed` at a position."""
    return min(max(int((1 - filter_thres) * total_tokens), 1), allowed)


def uniform_streams(image_seeds: Sequence[int], count: int) -> Tensor:
    """`count` numbers in [0, 1) for each seed, float64, one row per image."""
    generators = [torch.Generator().manual_seed(seed) for seed in image_seeds]
    return torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in generators])


def draw(logits_BV: Tensor, uniform_B: Tensor, *, kept: int) -> Tensor:
    """Sample one of the top `kept` ids by inverting the cumulative distribution at `uniform_B`."""
    logits_BV = logits_BV.float()
    if kept < logits_BV.shape[-1]:
        # Unsorted takes a third of the time, and only the threshold is needed.
        threshold_B1 = logits_BV.topk(kept, sorted=False).values.amin(dim=-1, keepdim=True)
        logits_BV = logits_BV.masked_fill(logits_BV < threshold_B1, float("-inf"))
    cumulative_BV = logits_BV.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    target_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
    ids_B = torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]
    return ids_B.clamp(max=logits_BV.shape[-1] - 1)


def image_seed(seed: int, prompt: str, index: int) -> int:
    """The seed of a prompt's `index`-th image, in 0..2^63-1, independent of batch and machine."""
    digest = hashlib.sha256(f"{seed}\n{index}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
