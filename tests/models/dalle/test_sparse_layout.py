"""Sparse attention: DeepSpeed's layout, and the results of a dense emulation."""

from __future__ import annotations

import dataclasses
import random
from itertools import product

import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.dalle_pytorch_names import name_pairs
from pipeline.models.dalle.attention_masks import causal_prefix
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sparse_layout import (
    check_layout,
    draw_layout,
    layout_mask,
    layout_of_tensor,
    layout_tensor,
)
from tests.oracles.dalle import own_logits, randomise, stock_twin

# Text length and width of the image at 320, 352, 512 and 1280 positions.
SIZES = [(64, 16), (96, 16), (256, 16), (256, 32)]


def emulated_mask(seq_len: int, seed: int) -> torch.Tensor:
    """What `VariableSparsityConfig` says, position by position, with random numbers as it draws them."""
    blocks = seq_len // 16
    random.seed(seed)
    chosen = [random.sample(range(blocks), blocks // 4) for _ in range(blocks)]
    mask = torch.zeros(blocks, blocks, dtype=torch.bool)
    for row, column in product(range(blocks), repeat=2):
        same_window = row // 4 == column // 4 and column <= row
        is_global = column < 16 and row >= column
        mask[row, column] = same_window or is_global or column in chosen[row]
    whole = torch.zeros(seq_len, seq_len, dtype=torch.bool)
    for row in range(seq_len):
        whole[row, : row + 1] = mask[row // 16].repeat_interleave(16)[: row + 1]
    return whole


def make_config(text: int, size: int, seed: int) -> DalleConfig:
    return DalleConfig(
        dim=16,
        depth=2,
        heads=2,
        dim_head=8,
        text_seq_len=text,
        num_text_tokens=11,
        num_image_tokens=13,
        image_fmap_size=size,
        attn_types=("sparse",),
        sparse_layout=draw_layout(text + size**2, seed),
    )


@pytest.mark.parametrize(("text", "size"), SIZES)
@pytest.mark.parametrize("seed", [0, 7])
def test_the_layout_is_the_one_that_deepspeed_draws(text: int, size: int, seed: int) -> None:
    seq_len = text + size**2
    assert torch.equal(layout_mask(draw_layout(seq_len, seed)), emulated_mask(seq_len, seed))


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_sparse_attention_is_a_dense_emulation_of_it(text: int, size: int) -> None:
    torch.manual_seed(0)
    config = make_config(text, size, seed=3)
    model = Dalle(config)
    randomise(model)
    dense = stock_twin(model, attn_types=("full",))
    for layer in dense.transformer.layers.layers:
        layer[0].fn.fn.fn.static_mask = emulated_mask(text + size**2, seed=3)
    tokens_BT = torch.randint(1, 11, (2, text))
    codes_BN = torch.randint(0, 13, (2, size**2))
    with torch.no_grad():
        for ours, theirs in zip(
            model.logits(tokens_BT, codes_BN), own_logits(dense, tokens_BT, codes_BN), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.max()))
    expected = dense(tokens_BT, codes_BN, return_loss=True)
    expected.backward()
    model(tokens_BT, codes_BN).total.backward()
    gradients = {name: parameter.grad for name, parameter in dense.named_parameters()}
    for stock, name in name_pairs(config):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        torch.testing.assert_close(
            gradient,
            gradients[stock].reshape(gradient.shape),
            rtol=1e-4,
            atol=1e-4 * float(gradient.abs().max()),
        )


def test_what_is_not_in_the_layout_is_not_looked_at() -> None:
    layout = [list(row) for row in draw_layout(320, 3)]
    layout[19][10] = "0"  # the last 16 positions no longer see positions 160 to 175
    config = dataclasses.replace(
        make_config(64, 16, seed=3), depth=1, sparse_layout=tuple(map("".join, layout))
    )
    torch.manual_seed(0)
    model = Dalle(config).eval()
    randomise(model)
    tokens_BT, codes_BN = torch.randint(1, 11, (1, 64)), torch.randint(0, 13, (1, 256))
    other_BN = codes_BN.clone()
    other_BN[0, 160 - 65] = (other_BN[0, 160 - 65] + 1) % 13
    with torch.no_grad():
        before, after = (model.logits(tokens_BT, codes)[1] for codes in (codes_BN, other_BN))
    changed = (before != after).any(dim=-1)[0]
    assert changed[160 - 64 : 304 - 64].all()
    assert not changed[304 - 64 :].any()


def test_the_cache_looks_at_what_the_layout_shows() -> None:
    torch.manual_seed(0)
    model = Dalle(make_config(64, 32, seed=1)).eval()
    randomise(model)
    tokens_BT, codes_BN = torch.randint(1, 11, (2, 64)), torch.randint(0, 13, (2, 1024))
    with torch.no_grad():
        expected_BNV = model.logits(tokens_BT, codes_BN)[1]
        logits_BV, cache = model.start_images(tokens_BT, codes_BN[:, :900])
        torch.testing.assert_close(logits_BV, expected_BNV[:, 900], rtol=1e-4, atol=1e-3)
        for position in range(900, 930):
            logits_BV = model.next_logits(codes_BN[:, position], position=position, cache=cache)
            torch.testing.assert_close(
                logits_BV, expected_BNV[:, position + 1], rtol=1e-4, atol=1e-3
            )


def test_a_master_layout_comes_and_goes() -> None:
    layout = draw_layout(352, 5)
    master_layout = layout_tensor(layout, heads=3)
    assert master_layout.shape == (3, 22, 22)
    assert master_layout.dtype == torch.int64
    assert layout_of_tensor(master_layout) == layout


def test_a_quarter_of_each_row_is_random_and_the_first_256_positions_are_seen_by_all() -> None:
    layout = draw_layout(1280, 0)
    for row in range(20, 80):
        assert layout[row][:16] == "1" * 16
        assert 16 + 1 <= layout[row].count("1") <= 16 + 4 + 20
    assert causal_prefix(layout_mask(layout)) >= 320
    assert layout != draw_layout(1280, 1)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (("11", "11"), "2 rows"),
        (("1" * 20,) * 19 + ("1" * 19 + "0",), "row 19"),
        (("1" * 20,) * 19 + ("1" * 19 + "x",), "zeros and ones"),
    ],
)
def test_another_layout_is_refused(layout: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_layout(layout, 320)


def test_positions_that_make_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ModelError, match="multiple of 16"):
        draw_layout(321)
