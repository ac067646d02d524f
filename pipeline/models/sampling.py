"""Draw image codes from a DALL·E, one position at a time. Floor 3.

Every image has its own stream of random numbers, so what is drawn depends on its seed alone and not
on what else is in the batch.

Shapes: B images, T text positions, N codes an image, V codes of the codebook.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.models.dalle import Dalle


@torch.inference_mode()
def sample_codes(
    model: Dalle,
    tokens_BT: Tensor,
    *,
    image_seeds: Sequence[int],
    filter_thres: float,
    temperature: float,
) -> Tensor:
    """Images of captions, as codes_BN (int64).

    `image_seeds` holds a seed in 0..2^63-1 for each caption; `filter_thres` and `temperature` as in
    DALLE-pytorch's `generate_images`: the best (1 - filter_thres) share of the joint vocabulary is
    kept, then the logits are divided by `temperature` (> 0).
    """
    count = model.config.image_seq_len
    kept = kept_codes(
        filter_thres,
        total_tokens=model.config.total_tokens,
        num_image_tokens=model.config.num_image_tokens,
    )
    uniform_BN = uniform_streams(image_seeds, count).to(tokens_BT.device)
    logits_BV, cache = model.start_images(tokens_BT)
    drawn = [draw(logits_BV / temperature, uniform_BN[:, 0], kept=kept)]
    for position in range(count - 1):
        logits_BV = model.next_logits(drawn[-1], position=position, cache=cache)
        drawn.append(draw(logits_BV / temperature, uniform_BN[:, position + 1], kept=kept))
    return torch.stack(drawn, dim=1)


def kept_codes(filter_thres: float, *, total_tokens: int, num_image_tokens: int) -> int:
    """How many of the best codes may be drawn: at least 1, at most all of the codebook."""
    return min(max(int((1 - filter_thres) * total_tokens), 1), num_image_tokens)


def uniform_streams(image_seeds: Sequence[int], count: int) -> Tensor:
    """`count` numbers in [0, 1) for each seed, float64, one row an image."""
    generators = [torch.Generator().manual_seed(seed) for seed in image_seeds]
    return torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in generators])


def draw(logits_BV: Tensor, uniform_B: Tensor, *, kept: int) -> Tensor:
    """Draw a code among the `kept` best by inverting the cumulative distribution at `uniform_B`."""
    threshold_B1 = logits_BV.topk(kept, dim=-1).values[:, -1:]
    filtered_BV = logits_BV.masked_fill(logits_BV < threshold_B1, float("-inf"))
    cumulative_BV = filtered_BV.double().softmax(dim=-1).cumsum(dim=-1)
    target_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
    codes_B = torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]
    return codes_B.clamp(max=logits_BV.shape[-1] - 1)


def image_seed(seed: int, prompt: str, index: int) -> int:
    """The seed of a prompt's `index`-th image, in 0..2^63-1; the same wherever it is drawn."""
    digest = hashlib.sha256(f"{seed}\n{index}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
