"""The model: what each position may see, its inputs, and its cache."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pipeline.core.errors import ModelError
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.transformer import initial_layer_scale

SMALL = DalleConfig(
    dim=16,
    depth=3,
    heads=2,
    dim_head=8,
    text_seq_len=5,
    num_text_tokens=11,
    num_image_tokens=7,
    image_fmap_size=3,
)


def make_model(seed: int = 0, **changes: Any) -> Dalle:
    torch.manual_seed(seed)
    model = Dalle(dataclasses.replace(SMALL, **changes))
    for parameter in model.parameters():  # scales of 0.1 would hide what the layers do
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def make_batch(samples: int = 4, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens_BT = torch.randint(1, 11, (samples, 5), generator=generator)
    tokens_BT[1, 2:] = 0
    return tokens_BT, torch.randint(0, 7, (samples, 9), generator=generator)


def test_a_position_sees_only_what_comes_before() -> None:
    model = make_model()
    tokens_BT, codes_BN = make_batch()
    text, image = model.logits(tokens_BT, codes_BN)
    for changed in range(9):
        other_BN = codes_BN.clone()
        other_BN[:, changed] = (other_BN[:, changed] + 1) % 7
        text_after, image_after = model.logits(tokens_BT, other_BN)
        assert torch.equal(text, text_after)
        assert torch.equal(image[:, : changed + 1], image_after[:, : changed + 1])
        if changed < 8:
            moved = (image[:, changed + 1 :] - image_after[:, changed + 1 :]).abs().amax(dim=(0, 2))
            assert (moved > 1e-6).all()


def test_a_word_changes_every_later_position_and_no_earlier_one() -> None:
    model = make_model()
    tokens_BT, codes_BN = make_batch()
    other_BT = tokens_BT.clone()
    other_BT[:, 3] = tokens_BT[:, 3] % 10 + 1
    text, image = model.logits(tokens_BT, codes_BN)
    text_after, image_after = model.logits(other_BT, codes_BN)
    assert torch.equal(text[:, :4], text_after[:, :4])
    assert ((image - image_after).abs().amax(dim=(0, 2)) > 1e-6).all()


def test_the_loss_is_the_weighted_mean_of_two_cross_entropies() -> None:
    model = make_model(loss_img_weight=3.0)
    tokens_BT, codes_BN = make_batch()
    text_BTV, image_BNV = model.logits(tokens_BT, codes_BN)
    loss = model(tokens_BT, codes_BN)
    targets_BT = tokens_BT.clone()
    targets_BT[1, 2:] = 11 + torch.arange(2, 5)
    text = F.cross_entropy(text_BTV.reshape(-1, 16), targets_BT.reshape(-1))
    image = F.cross_entropy(image_BNV.reshape(-1, 7), codes_BN.reshape(-1))
    torch.testing.assert_close(loss.text, text)
    torch.testing.assert_close(loss.image, image)
    torch.testing.assert_close(loss.total, (text + 3 * image) / 4)


def test_logits_cover_the_part_of_the_vocabulary_that_a_position_can_have() -> None:
    """The heads are slices of one table, so full logits with a mask give the same probabilities."""
    model = make_model()
    tokens_BT, codes_BN = make_batch()
    text_BTV, image_BNV = model.logits(tokens_BT, codes_BN)
    assert text_BTV.shape == (4, 5, 11 + 5)
    assert image_BNV.shape == (4, 9, 7)
    assert model.to_logits.out_features == 11 + 5 + 7


def test_padding_has_an_id_of_its_own_at_every_position() -> None:
    model = make_model()
    tokens_BT = torch.tensor([[3, 0, 4, 0, 0]])
    assert model.unique_padding(tokens_BT).tolist() == [[3, 12, 4, 14, 15]]


def test_rows_and_columns_are_distinguished() -> None:
    model = make_model()
    embedded_ND = model.image_pos_emb(torch.arange(9))
    assert len({tuple(row) for row in embedded_ND.tolist()}) == 9
    torch.testing.assert_close(
        embedded_ND[5], model.image_pos_emb.rows[1] + model.image_pos_emb.columns[2]
    )


def test_the_cache_gives_the_logits_of_a_whole_pass() -> None:
    model = make_model()
    tokens_BT, codes_BN = make_batch()
    with torch.no_grad():
        _, expected_BNV = model.logits(tokens_BT, codes_BN)
        logits_BV, cache = model.start_images(tokens_BT)
        later = [
            model.next_logits(codes_BN[:, position], position=position, cache=cache)
            for position in range(8)
        ]
    torch.testing.assert_close(
        torch.stack([logits_BV, *later], dim=1), expected_BNV, rtol=1e-4, atol=1e-5
    )


def test_a_start_with_codes_continues_as_if_they_had_been_drawn() -> None:
    model = make_model()
    tokens_BT, codes_BN = make_batch()
    with torch.no_grad():
        _, expected_BNV = model.logits(tokens_BT, codes_BN)
        logits_BV, cache = model.start_images(tokens_BT, codes_BN[:, :4])
        after_BV = model.next_logits(codes_BN[:, 4], position=4, cache=cache)
    torch.testing.assert_close(logits_BV, expected_BNV[:, 4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after_BV, expected_BNV[:, 5], rtol=1e-4, atol=1e-5)


def test_a_selected_cache_is_that_of_captions_read_again() -> None:
    model = make_model()
    tokens_BT, codes_BN = make_batch()
    rows = torch.tensor([2, 0, 0])
    with torch.no_grad():
        _, cache = model.start_images(tokens_BT)
        logits_BV = model.next_logits(codes_BN[:3, 0], position=0, cache=cache.select(rows))
        _, again = model.start_images(tokens_BT[rows])
        expected_BV = model.next_logits(codes_BN[:3, 0], position=0, cache=again)
        untouched_BV = model.next_logits(codes_BN[:, 0], position=0, cache=cache)
    torch.testing.assert_close(logits_BV, expected_BV, rtol=1e-4, atol=1e-5)
    assert untouched_BV.shape == (4, 7)


def test_the_next_text_id_follows_those_before_it() -> None:
    model = make_model()
    tokens_BT, codes_BN = make_batch()
    text_BTV, _ = model.logits(tokens_BT, codes_BN)
    for position in range(5):
        hidden_BT = tokens_BT.clone()
        hidden_BT[:, position:] = 3
        logits_BV = model.next_text_logits(hidden_BT, position)
        torch.testing.assert_close(logits_BV, text_BTV[:, position], rtol=1e-4, atol=1e-5)


def test_a_caption_of_another_length_is_refused() -> None:
    with pytest.raises(ModelError, match=r"4 tokens, .* text_seq_len=5"):
        make_model()(torch.ones(1, 4, dtype=torch.long), torch.zeros(1, 9, dtype=torch.long))


def test_dropout_acts_in_training_only() -> None:
    model = make_model(attn_dropout=0.5, ff_dropout=0.5)
    batch = make_batch()
    assert torch.equal(model(*batch).total, model(*batch).total)
    model.train()
    assert not torch.equal(model(*batch).total, model(*batch).total)


def test_every_parameter_learns() -> None:
    model = make_model()
    model(*make_batch(64)).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_new_model_knows_nothing() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        loss = Dalle(SMALL)(*make_batch(64))
    assert abs(float(loss.image) - math.log(7)) < 0.3
    assert abs(float(loss.text) - math.log(16)) < 0.3


@pytest.mark.parametrize(
    ("layer", "scale"), [(0, 0.1), (17, 0.1), (18, 1e-5), (23, 1e-5), (24, 1e-6)]
)
def test_layer_scale_starts_smaller_in_deeper_layers(layer: int, scale: float) -> None:
    assert initial_layer_scale(layer) == scale


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mixed"), [("full", True), ("axial_row", False)])
def test_a_compiled_model_gives_the_same_losses_and_gradients(kind: str, mixed: bool) -> None:
    torch._dynamo.reset()
    model, (tokens_BT, codes_BN) = make_model(attn_types=(kind,)).train(), make_batch()

    def step() -> list[torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = model(tokens_BT, codes_BN).total
        loss.backward()
        return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    expected = step()
    model.compile()
    rtol, atol = (5e-2, 5e-2) if mixed else (1e-4, 1e-5)
    for found, wanted in zip(step(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol)
