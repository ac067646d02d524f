"""Attention in blocks of queries: torch's results and gradients for any mask and length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.dalle import attention
from pipeline.models.dalle.attention_blocks import (
    MAX_POSITIONS,
    ROWS,
    attend_in_blocks,
    fits_blocks,
)
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle

HEADS, WIDTH = 3, 16


def inputs(length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Query, key and value BHLK, in memory by position as the products leave them."""
    generator = torch.Generator().manual_seed(length)
    flat = torch.randn(3, 2, length, HEADS, WIDTH, generator=generator).to(dtype)
    return [part.transpose(1, 2).requires_grad_() for part in flat]


def causal_mask(length: int) -> Tensor:
    """A third of what is earlier hidden, oneself never."""
    seen = torch.rand(length, length, generator=torch.Generator().manual_seed(9)) > 1 / 3
    return (seen | torch.eye(length, dtype=torch.bool)).tril()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("length", [1, 5, ROWS, ROWS + 1, 2 * ROWS + 40])
def test_the_numbers_and_gradients_are_those_of_torch(length: int, masked: bool) -> None:
    mask = causal_mask(length) if masked else None
    parts = query, key, value = inputs(length)
    ours = attend_in_blocks(query, key, value, mask)
    theirs = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=not masked)
    torch.testing.assert_close(ours, theirs)
    weights = torch.linspace(-1, 1, ours.numel()).view(ours.shape)
    of_ours = torch.autograd.grad((ours * weights).sum(), parts)
    of_theirs = torch.autograd.grad((theirs * weights).sum(), parts)
    for our, their in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(our, their)


def test_it_is_for_short_whole_sequences_to_be_trained_on_in_bf16() -> None:
    query, key, _ = inputs(8, torch.bfloat16)
    assert fits_blocks(query, key)
    assert not fits_blocks(query.float(), key.float())
    assert not fits_blocks(query.detach(), key)  # drawn from, not trained
    assert not fits_blocks(query[:, :, 7:], key)  # only the last position, the others in a cache
    assert not fits_blocks(*inputs(MAX_POSITIONS + 1, torch.bfloat16)[:2])


@pytest.mark.parametrize("kind", ["full", "axial_row", "conv_like"])
def test_a_step_in_bf16_is_as_near_to_float32_as_by_torch(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DalleConfig(
        dim=32,
        depth=2,
        heads=2,
        dim_head=16,
        text_seq_len=20,
        num_text_tokens=30,
        num_image_tokens=40,
        image_fmap_size=10,
        attn_types=(kind,),  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    model = Dalle(config)
    tokens, codes = torch.randint(1, 30, (2, 20)), torch.randint(0, 40, (2, 100))

    def gradient(mixed: bool) -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            model(tokens, codes).total.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    exact, in_blocks = gradient(False), gradient(True)
    monkeypatch.setattr(attention, "fits_blocks", lambda *_: False)
    by_torch = gradient(True)
    assert not torch.equal(in_blocks, by_torch)
    assert (in_blocks - exact).norm() < 1.25 * (by_torch - exact).norm()
