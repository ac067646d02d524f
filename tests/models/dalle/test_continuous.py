"""A continuous batch: images that join and leave get the codes they would get alone."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.continuous import ContinuousBatch, FinishedImage
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import Choice, sample_codes
from pipeline.models.dalle.static_cache import row_bytes
from tests.oracles.dalle import randomise

CODES = 16
TOKENS = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 7, 8, 1, 2]])
HALF, WARM = Choice(filter_thres=0.5), Choice(filter_thres=0.2, temperature=1.5)
GUIDED = Choice(filter_thres=0.5, cond_scale=2.0)
SWITCHES: dict[str, dict[str, Any]] = {
    "full": {},
    "kinds": {"depth": 3, "attn_types": ("axial_row", "axial_col", "conv_like")},
    "rotary and shift": {"rotary_emb": True, "shift_tokens": True},
}


def make_model(**changes: Any) -> Dalle:
    config: dict[str, Any] = {
        "dim": 16,
        "depth": 2,
        "heads": 2,
        "dim_head": 12,
        "text_seq_len": 5,
        "num_text_tokens": 9,
        "num_image_tokens": 32,
        "image_fmap_size": 4,
    }
    torch.manual_seed(0)
    model = Dalle(DalleConfig(**{**config, **changes})).eval()
    randomise(model)
    return model


def alone(
    model: Dalle, caption: int, seed: int, choice: Choice, first: torch.Tensor | None = None
) -> list[int]:
    return sample_codes(
        model,
        TOKENS[caption : caption + 1],
        rows=[0],
        image_seeds=[seed],
        choice=choice,
        first_codes_P=first,
    )[0].tolist()


def draw_rest(batch: ContinuousBatch) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    while batch.ids:
        batch.step()
        for image in batch.take_finished():
            assert image.codes_N is not None
            found[image.id] = image.codes_N.tolist()
    return found


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_images_that_join_and_leave_are_those_drawn_alone(changes: dict[str, Any]) -> None:
    model = make_model(**changes)
    batch = ContinuousBatch(model, rows=8)
    first = torch.tensor([3, 1, 4, 1, 5])
    expected: dict[int, list[int]] = {}

    def admit(caption: int, seeds: list[int], choice: Choice, given: torch.Tensor | None) -> None:
        ids = batch.admit(TOKENS[caption], seeds=seeds, choice=choice, first_codes_P=given)
        for id_, seed in zip(ids, seeds, strict=True):
            expected[id_] = alone(model, caption, seed, choice, given)

    found: dict[int, list[int]] = {}
    admit(0, [1, 2], HALF, None)
    for step in range(60):
        if step == 3:
            admit(1, [3], GUIDED, None)
        if step == 7:
            admit(2, [4], WARM, first)  # leaves before those that came first
        if step == 8:
            admit(0, [5], GUIDED, first)
        if step == 18:
            admit(1, [6, 7], HALF, None)
        batch.step()
        for image in batch.take_finished():
            assert image.codes_N is not None
            found[image.id] = image.codes_N.tolist()
    assert found == expected
    assert batch.free == batch.rows
    assert len({tuple(codes) for codes in found.values()}) == len(found) == 7


def test_a_step_draws_one_code_of_each_image() -> None:
    model = make_model()
    batch = ContinuousBatch(model, rows=4)
    (first,) = batch.admit(TOKENS[0], seeds=[1], choice=HALF)
    batch.step()
    (second,) = batch.admit(TOKENS[1], seeds=[2], choice=HALF)
    batch.step()
    whole = {first: alone(model, 0, 1, HALF), second: alone(model, 1, 2, HALF)}
    assert batch.drawn_codes(first).tolist() == whole[first][:2]
    assert batch.drawn_codes(second).tolist() == whole[second][:1]
    assert draw_rest(batch) == whole


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_on_a_cpu_the_logits_are_the_growing_caches_bit_for_bit(changes: dict[str, Any]) -> None:
    model = make_model(**changes)
    batch = ContinuousBatch(model, rows=5)
    batch.admit(TOKENS[1], seeds=[2], choice=WARM)
    batch.step()
    batch.admit(TOKENS[2], seeds=[3], choice=HALF)
    (watched,) = batch.admit(TOKENS[0], seeds=[1], choice=HALF)
    for _ in range(CODES - 2):
        batch.step()
    codes_N = batch.drawn_codes(watched)
    with torch.inference_mode():
        logits_BV, cache = model.start_images(TOKENS[:1].expand(4, -1))
        for position, code in enumerate(codes_N.tolist()):
            codes_B = torch.full((4,), code)
            logits_BV = model.next_logits(codes_B, position=position, cache=cache)
    assert torch.equal(batch._logits_BV[batch._find(watched).row], logits_BV[0])


def test_an_image_that_is_cancelled_makes_room_and_disturbs_no_other() -> None:
    model = make_model()
    batch = ContinuousBatch(model, rows=5)
    gone, guided = batch.admit(TOKENS[0], seeds=[1], choice=HALF) + batch.admit(
        TOKENS[1], seeds=[2], choice=GUIDED
    )
    (kept,) = batch.admit(TOKENS[2], seeds=[3], choice=WARM)
    assert batch.free == 1
    batch.step()
    batch.cancel(gone)
    assert batch.free == 2
    assert batch.ids == [guided, kept]
    with pytest.raises(KeyError):
        batch.cancel(gone)
    assert draw_rest(batch) == {guided: alone(model, 1, 2, GUIDED), kept: alone(model, 2, 3, WARM)}


def test_more_images_than_rows_are_refused() -> None:
    batch = ContinuousBatch(make_model(), rows=4)
    batch.admit(TOKENS[0], seeds=[1], choice=HALF)
    with pytest.raises(ModelError, match="2 images need 4 rows of the batch, but only 3 of 4"):
        batch.admit(TOKENS[0], seeds=[2, 3], choice=GUIDED)
    with pytest.raises(ModelError, match="16 first codes are given, but an image has only 16"):
        batch.admit(
            TOKENS[0],
            seeds=[2],
            choice=HALF,
            first_codes_P=torch.zeros(CODES, dtype=torch.int64),
        )
    with pytest.raises(ModelError, match="Captions have 4 tokens"):
        batch.admit(TOKENS[0, :4], seeds=[2], choice=HALF)
    assert (len(batch.ids), batch.free) == (1, 3)


def test_a_batch_that_is_dropped_holds_neither_its_cache_nor_its_model() -> None:
    model = make_model()
    batch = ContinuousBatch(model, rows=4)
    batch.admit(TOKENS[0], seeds=[1], choice=HALF)
    batch.step()
    held: list[weakref.ref[Any]] = [weakref.ref(model), weakref.ref(batch)]
    gc.disable()  # a cycle would keep them until it runs
    try:
        del batch, model
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()


def test_logits_that_are_not_finite_are_an_error_of_their_image_alone() -> None:
    model = make_model()
    batch = ContinuousBatch(model, rows=4)
    broken, whole = batch.admit(TOKENS[0], seeds=[1, 2], choice=HALF)
    batch.step()
    with torch.inference_mode():
        batch._logits_BV[0, 3] = float("nan")
    finished: dict[int, FinishedImage] = {}
    while batch.ids:
        batch.step()
        finished |= {image.id: image for image in batch.take_finished()}
    error = finished[broken].error
    assert isinstance(error, ModelError)
    assert "not finite" in str(error)
    assert finished[broken].codes_N is None
    codes_N = finished[whole].codes_N
    assert codes_N is not None
    assert codes_N.tolist() == alone(model, 0, 2, HALF)


def test_a_row_takes_the_memory_it_says() -> None:
    """Keys and values of 6 text positions and 15 codes, in 2 layers of 2 heads of 12, in float32."""
    assert row_bytes(make_model()) == (6 + 15) * 2 * 2 * 2 * 12 * 4
