"""Sample image codes, or the rest of a caption, from a DALL·E, one position at a time.

Every image has its own stream of random numbers, so it depends only on its seed and not on the rest of the
batch. A caption is processed once, however many images it gets.

Shapes: U captions, B images, T text positions, N codes of an image, P given codes, V ids of a vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.contracts import PADDING_ID
from pipeline.core.errors import ModelError
from pipeline.models.dalle.attention import KeyValueCache
from pipeline.models.dalle.model import Dalle
from pipeline.models.devices import fill_rows


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
    report: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Sample images as codes_BN (int64), one for each of `rows`, which are indices of `captions_UT`.

    `image_seeds` holds a seed in 0..2^63-1 for each image. If `first_codes_P` (int64, 0 < P < N) is given,
    every image starts with these codes. `report` is told after each code how many an image has by now.

    Raises ModelError if there are as many first codes as an image has, or more, and if the model's logits
    are not finite.
    """
    count = model.config.image_seq_len
    device = captions_UT.device
    uniform_BN = uniform_streams(fill_rows(image_seeds), count).to(device)
    rows_B = torch.tensor(fill_rows(rows), device=device)
    drawn = [] if first_codes_P is None else list(first_codes_P.expand(len(rows_B), -1).unbind(1))
    if len(drawn) >= count:
        raise ModelError(
            f"{len(drawn)} first codes are given, but an image has only {count}. Give fewer."
        )
    guided = choice.cond_scale != 1
    finite = torch.ones((), dtype=torch.bool, device=device)
    logits_BV, cache = _start(model, captions_UT, rows_B, first_codes_P, guided=guided)
    while True:
        if guided:
            logits_BV = guide(logits_BV.float(), choice.cond_scale)
        finite &= are_finite(logits_BV)
        codes_B = choice.draw(
            logits_BV, uniform_BN[:, len(drawn)], total_tokens=model.config.total_tokens
        )
        drawn.append(codes_B)
        report(len(drawn))
        if len(drawn) == count:
            check_finite(finite)
            return torch.stack(drawn, dim=1)[: len(rows)]
        codes_B = codes_B.repeat(2) if guided else codes_B
        logits_BV = model.next_logits(codes_B, position=len(drawn) - 1, cache=cache)


def _start(
    model: Dalle, captions_UT: Tensor, rows_B: Tensor, first_codes_P: Tensor | None, *, guided: bool
) -> tuple[Tensor, KeyValueCache]:
    """Process each caption once. With guidance, the batch has a second half with the empty caption."""
    if guided:
        captions_UT = torch.cat((captions_UT, torch.full_like(captions_UT[:1], PADDING_ID)))
        rows_B = torch.cat((rows_B, torch.full_like(rows_B, len(captions_UT) - 1)))
    first_codes_UP = None if first_codes_P is None else first_codes_P.expand(len(captions_UT), -1)
    logits_UV, cache = model.start_images(captions_UT, first_codes_UP)
    return logits_UV.index_select(0, rows_B), cache.select(rows_B)


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
    for position in range(int(lengths_U.min()), config.text_seq_len):
        logits_UV = model.next_text_logits(tokens_UT, position)
        finite &= are_finite(logits_UV)
        drawn_U = choice.draw(logits_UV, uniform_UT[:, position], total_tokens=config.total_tokens)
        is_word_U = (drawn_U != PADDING_ID) & (drawn_U < config.num_text_tokens)
        open_U = (lengths_U <= position) & ~ended_U
        ended_U |= open_U & ~is_word_U
        tokens_UT[:, position] = torch.where(open_U & is_word_U, drawn_U, tokens_UT[:, position])
        if bool(ended_U.all()):
            break
    check_finite(finite)
    return [[word for word in row if word != PADDING_ID] for row in tokens_UT.tolist()][
        : len(beginnings)
    ]


def are_finite(logits_BV: Tensor) -> Tensor:
    """Whether all logits are finite, as a bool tensor on their device, without synchronisation.

    Checks minimum and maximum, which NaN propagates to: one pass, without a mask.
    """
    least, greatest = torch.aminmax(logits_BV)
    return least.isfinite() & greatest.isfinite()


def check_finite(finite: Tensor) -> None:
    """Raise ModelError if a logit was not finite; synchronises with the device once per batch."""
    if not bool(finite):
        raise ModelError(
            "The model's logits are not finite (NaN or infinity), so no codes can be sampled. fp16 may "
            "overflow: use --precision bf16 or fp32. With --cond-scale, give a smaller one. Otherwise the "
            "training has diverged: use an earlier checkpoint."
        )


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
