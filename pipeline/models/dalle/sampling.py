"""Draw image codes, or the rest of a caption, from a DALL·E, one position at a time. Layer 3.

Every image has its own stream of random numbers, so what is drawn depends on its seed alone and not
on what else is in the batch. A caption is read once, however many images it gets.

Shapes: U captions, B images, T text positions, N codes an image, P codes given, V ids of a vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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
    """How an id is chosen from logits, in the terms of DALLE-pytorch's `generate_images`.

    The best (1 - `filter_thres`) share of the joint vocabulary is kept, at least one id, then the logits
    are divided by `temperature` (> 0). `cond_scale` (≥ 1) is that of classifier-free guidance
    (arXiv 2207.12598): 1 draws by the caption alone, more moves away from what would be drawn without.
    """

    filter_thres: float = 0.9
    temperature: float = 1.0
    cond_scale: float = 1.0

    def draw(self, logits_BV: Tensor, uniform_B: Tensor, *, total_tokens: int) -> Tensor:
        """Choose an id for each row, of logits of a part of a vocabulary of `total_tokens`."""
        kept = kept_ids(self.filter_thres, total_tokens=total_tokens, allowed=logits_BV.shape[-1])
        # In float32: a low temperature would make infinities of half precision.
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
) -> Tensor:
    """Images of captions, as codes_BN (int64), one for each of `rows`, indices of `captions_UT`.

    `image_seeds` holds a seed in 0..2^63-1 for each. Every image begins with `first_codes_P` (int64,
    0 < P < N) where they are given.

    Raises ModelError for as many first codes as an image has, or more, and where the model's logits are
    not finite.
    """
    count = model.config.image_seq_len
    device = captions_UT.device
    uniform_BN = uniform_streams(fill_rows(image_seeds), count).to(device)
    rows_B = torch.tensor(fill_rows(rows), device=device)
    drawn = [] if first_codes_P is None else list(first_codes_P.expand(len(rows_B), -1).unbind(1))
    if len(drawn) >= count:
        raise ModelError(
            f"{len(drawn)} codes are given, and an image has {count}. Give fewer: the rest is drawn."
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
        if len(drawn) == count:
            check_finite(finite)
            return torch.stack(drawn, dim=1)[: len(rows)]
        codes_B = codes_B.repeat(2) if guided else codes_B
        logits_BV = model.next_logits(codes_B, position=len(drawn) - 1, cache=cache)


def _start(
    model: Dalle, captions_UT: Tensor, rows_B: Tensor, first_codes_P: Tensor | None, *, guided: bool
) -> tuple[Tensor, KeyValueCache]:
    """Read each caption once; for guidance, the empty one too, whose images stand in a second half."""
    if guided:
        captions_UT = torch.cat((captions_UT, torch.full_like(captions_UT[:1], PADDING_ID)))
        rows_B = torch.cat((rows_B, torch.full_like(rows_B, len(captions_UT) - 1)))
    first_codes_UP = None if first_codes_P is None else first_codes_P.expand(len(captions_UT), -1)
    logits_UV, cache = model.start_images(captions_UT, first_codes_UP)
    return logits_UV.index_select(0, rows_B), cache.select(rows_B)


def guide(logits_BV: Tensor, cond_scale: float) -> Tensor:
    """Logits of the images whose captioned logits are the first half, uncaptioned ones the second."""
    captioned_BV, null_BV = logits_BV.chunk(2)
    return null_BV + (captioned_BV - null_BV) * cond_scale


@torch.inference_mode()
def complete_captions(
    model: Dalle, beginnings: Sequence[Sequence[int]], *, seeds: Sequence[int], choice: Choice
) -> list[list[int]]:
    """The ids of each beginning and the model's continuation of it, `text_seq_len` in all at most.

    A caption ends where the model puts padding, as captions ended in training. (DALLE-pytorch's
    `generate_texts` draws on behind it, and reads given words without the BOS that training had.)
    Raises ModelError where the model's logits are not finite.
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
    """Whether no logit is NaN or infinite, a bool on their device: nothing waits for it.

    Over the extremes, of which NaN is both: one pass, without a tensor of answers.
    """
    least, greatest = torch.aminmax(logits_BV)
    return least.isfinite() & greatest.isfinite()


def check_finite(finite: Tensor) -> None:
    """Raise ModelError where one of a batch's logits was not finite: one answer from the device a batch."""
    if not bool(finite):
        raise ModelError(
            "The model's logits are not finite (NaN or infinity), so nothing can be drawn from them. In fp16 "
            "weights can be too large: use --precision bf16 or fp32. With --cond-scale, give a smaller one. "
            "Else the checkpoint is of a training that diverged: use an earlier one."
        )


def kept_ids(filter_thres: float, *, total_tokens: int, allowed: int) -> int:
    """How many of the best ids may be drawn: at least 1, at most the `allowed` of a position."""
    return min(max(int((1 - filter_thres) * total_tokens), 1), allowed)


def uniform_streams(image_seeds: Sequence[int], count: int) -> Tensor:
    """`count` numbers in [0, 1) for each seed, float64, one row an image."""
    generators = [torch.Generator().manual_seed(seed) for seed in image_seeds]
    return torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in generators])


def draw(logits_BV: Tensor, uniform_B: Tensor, *, kept: int) -> Tensor:
    """Draw an id among the `kept` best by inverting the cumulative distribution at `uniform_B`."""
    logits_BV = logits_BV.float()
    if kept < logits_BV.shape[-1]:
        # Unsorted takes a third of the time; only the threshold is wanted.
        threshold_B1 = logits_BV.topk(kept, sorted=False).values.amin(dim=-1, keepdim=True)
        logits_BV = logits_BV.masked_fill(logits_BV < threshold_B1, float("-inf"))
    cumulative_BV = logits_BV.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    target_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
    ids_B = torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]
    return ids_B.clamp(max=logits_BV.shape[-1] - 1)


def image_seed(seed: int, prompt: str, index: int) -> int:
    """The seed of a prompt's `index`-th image, in 0..2^63-1; the same wherever it is drawn."""
    digest = hashlib.sha256(f"{seed}\n{index}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
