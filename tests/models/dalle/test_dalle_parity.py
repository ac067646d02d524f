"""Our model against the installed dalle-pytorch: logits, losses and gradients are the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.models.checkpoints.dalle_pytorch_names import name_pairs
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from tests.oracles.dalle import own_logits, randomise, stock_twin

SHAPE: dict[str, Any] = {
    "dim": 20,
    "depth": 4,
    "heads": 2,
    "dim_head": 14,
    "text_seq_len": 5,
    "num_text_tokens": 11,
    "num_image_tokens": 13,
    "image_fmap_size": 8,
    "loss_img_weight": 3.0,
}
CYCLE = ("full", "axial_row", "axial_col", "conv_like")
ALL: dict[str, Any] = {
    "attn_types": CYCLE,
    "stable": True,
    "sandwich_norm": True,
    "shift_tokens": True,
    "rotary_emb": True,
}
SWITCHES: dict[str, dict[str, Any]] = {
    "full": {},
    "axial_row": {"attn_types": ("axial_row",)},
    "axial_col": {"attn_types": ("axial_col",)},
    "conv_like": {"attn_types": ("conv_like",)},
    "cycle": {"attn_types": CYCLE},
    "short cycle": {"attn_types": ("axial_row", "axial_row", "conv_like")},
    "reversible": {"reversible": True},
    "stable": {"stable": True},
    "sandwich_norm": {"sandwich_norm": True},
    "shift_tokens": {"shift_tokens": True},
    "shift_tokens, uneven width": {"shift_tokens": True, "dim": 14},
    "rotary_emb": {"rotary_emb": True},
    "shared attention": {"shared_attn_ids": (0, 1, 0, 1)},
    "shared feed-forward": {"shared_ff_ids": (0,)},
    "shared, by names": {
        "attn_types": ("full", "conv_like"),
        "shared_attn_ids": ("b", "a"),
        "shared_ff_ids": ("x", "y", "y", "x"),
    },
    "share_input_output_emb": {"share_input_output_emb": True},
    "all": ALL,
    "all, two streams": {**ALL, "reversible": True},
    "all, shared": {
        **ALL,
        "shared_attn_ids": (0, 1, 2, 3),
        "shared_ff_ids": (0, 1),
        "share_input_output_emb": True,
    },
}


def make_model(changes: dict[str, Any]) -> Dalle:
    torch.manual_seed(0)
    model = Dalle(DalleConfig(**{**SHAPE, **changes}))
    randomise(model)
    return model


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(1, 11, (3, 5), generator=generator)
    tokens_BT[1, 2:] = 0
    return tokens_BT, torch.randint(0, 13, (3, 64), generator=generator)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to 1e-4 of the largest value."""
    scale = float(theirs.detach().abs().max())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * scale)


@pytest.fixture(params=SWITCHES, ids=str)
def model(request: pytest.FixtureRequest) -> Dalle:
    return make_model(SWITCHES[request.param])


def test_logits_are_those_of_dalle_pytorch(model: Dalle) -> None:
    batch = make_batch()
    with torch.no_grad():
        for ours, theirs in zip(
            model.logits(*batch), own_logits(stock_twin(model), *batch), strict=True
        ):
            assert ours.std() > 0.1
            assert_same(ours, theirs)


def test_loss_and_gradients_are_those_of_dalle_pytorch(model: Dalle) -> None:
    tokens_BT, codes_BN = make_batch()
    twin = stock_twin(model)
    expected = twin(tokens_BT.clone(), codes_BN, return_loss=True)
    expected.backward()
    loss = model(tokens_BT, codes_BN).total
    loss.backward()
    assert_same(loss, expected)
    theirs = dict(twin.named_parameters())
    compared = set()
    for stock, name in name_pairs(model.config):
        if stock in theirs:
            gradient = model.get_parameter(name).grad
            assert gradient is not None, name
            expected_gradient = theirs[stock].grad
            assert expected_gradient.abs().max() > 0, name
            assert_same(gradient, expected_gradient.reshape(gradient.shape))
            compared.add(name)
    assert compared == {name for name, _ in model.named_parameters()}


def test_the_last_code_is_not_looked_at(model: Dalle) -> None:
    tokens_BT, codes_BN = make_batch()
    changed_BN = codes_BN.clone()
    changed_BN[:, -1] = 0
    with torch.no_grad():
        for before, after in zip(
            model.logits(tokens_BT, codes_BN), model.logits(tokens_BT, changed_BN), strict=True
        ):
            assert torch.equal(before, after)


@pytest.mark.parametrize("given", [0, 16, 43])
def test_the_cache_gives_the_logits_of_a_whole_pass(model: Dalle, given: int) -> None:
    model.eval()
    tokens_BT, codes_BN = make_batch()
    with torch.no_grad():
        _, expected_BNV = model.logits(tokens_BT, codes_BN)
        logits_BV, cache = model.start_images(tokens_BT, codes_BN[:, :given])
        later = [
            model.next_logits(codes_BN[:, position], position=position, cache=cache)
            for position in range(given, 63)
        ]
    drawn_BNV = torch.stack([logits_BV, *later], dim=1)
    assert_same(drawn_BNV, expected_BNV[:, given:])


def test_the_next_text_id_follows_those_before_it(model: Dalle) -> None:
    model.eval()
    tokens_BT, codes_BN = make_batch()
    with torch.no_grad():
        text_BTV, _ = model.logits(tokens_BT, codes_BN)
        for position in range(5):
            assert_same(model.next_text_logits(tokens_BT, position), text_BTV[:, position])


def test_a_selected_cache_continues_as_its_own(model: Dalle) -> None:
    model.eval()
    tokens_BT, codes_BN = make_batch()
    samples = torch.tensor([2, 0, 0, 1])
    with torch.no_grad():
        _, expected_BNV = model.logits(tokens_BT[samples], codes_BN[samples])
        _, cache = model.start_images(tokens_BT)
        cache = cache.select(samples)
        for position in range(10):
            codes_B = codes_BN[samples, position]
            logits_BV = model.next_logits(codes_B, position=position, cache=cache)
            assert_same(logits_BV, expected_BNV[:, position + 1])


def test_a_text_of_padding_is_the_null_condition_of_dalle_pytorch() -> None:
    model = make_model(ALL).eval()
    tokens_BT, codes_BN = make_batch()
    twin = stock_twin(model)
    with torch.no_grad():
        expected_BLV = twin.forward_with_cond_scale(tokens_BT.clone(), codes_BN, cond_scale=3)
        expected_BNV = expected_BLV[:, 5:, 16:]
        with_BNV = model.logits(tokens_BT, codes_BN)[1]
        without_BNV = model.logits(torch.zeros_like(tokens_BT), codes_BN)[1]
    assert_same(without_BNV + (with_BNV - without_BNV) * 3, expected_BNV)


def test_a_training_pass_that_keeps_less_is_the_same(model: Dalle) -> None:
    batch = make_batch()
    gradients = []
    for checkpointing in (False, True):
        model.transformer.checkpointing = checkpointing
        model.zero_grad()
        model(*batch).total.backward()
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])
