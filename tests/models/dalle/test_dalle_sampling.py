"""Sampling codes: filters, seeds, and independence from the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import (
    Choice,
    complete_captions,
    draw,
    guide,
    image_seed,
    kept_ids,
    sample_codes,
    uniform_streams,
)

CONFIG = DalleConfig(
    dim=16,
    depth=2,
    heads=2,
    dim_head=8,
    text_seq_len=4,
    num_text_tokens=9,
    num_image_tokens=32,
    image_fmap_size=4,
)


@pytest.fixture
def model() -> Dalle:
    torch.manual_seed(0)
    model = Dalle(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


HALF = Choice(filter_thres=0.5)
TOKENS = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])


def sample(model: Dalle, rows: list[int], seeds: list[int], choice: Choice = HALF) -> torch.Tensor:
    return sample_codes(model, TOKENS, rows=rows, image_seeds=seeds, choice=choice)


@pytest.mark.parametrize("choice", [HALF, Choice(filter_thres=0.5, cond_scale=2.0)])
def test_an_image_depends_on_its_own_seed_and_caption_only(model: Dalle, choice: Choice) -> None:
    together = sample(model, [0, 1, 0], [7, 8, 9], choice)
    assert together.shape == (3, 16)
    for row in range(3):
        alone = sample(model, [[0, 1, 0][row]], [[7, 8, 9][row]], choice)
        assert torch.equal(together[row], alone[0])
    assert not torch.equal(together[0], together[2])


def test_as_many_given_codes_as_an_image_has_are_refused(model: Dalle) -> None:
    with pytest.raises(ModelError, match="16 first codes are given, but an image has only 16"):
        sample_codes(
            model,
            TOKENS,
            rows=[0],
            image_seeds=[1],
            choice=HALF,
            first_codes_P=torch.zeros(16, dtype=torch.long),
        )


def test_a_completed_caption_depends_on_its_own_seed_and_beginning_only(model: Dalle) -> None:
    beginnings, seeds = [[1, 2], [], [3]], [5, 6, 7]
    together = complete_captions(model, beginnings, seeds=seeds, choice=HALF)
    for words, seed, completed in zip(beginnings, seeds, together, strict=True):
        assert completed[: len(words)] == words
        assert len(completed) <= 4
        assert all(0 < word < 9 for word in completed)
        assert complete_captions(model, [words], seeds=[seed], choice=HALF) == [completed]


def test_a_completed_caption_ends_at_the_first_padding(model: Dalle) -> None:
    with torch.no_grad():
        model.to_logits.bias[9:13] = 1e4
    assert complete_captions(model, [[1, 2], []], seeds=[5, 6], choice=HALF) == [[1, 2], []]


def test_a_whole_caption_stays_as_it_is(model: Dalle) -> None:
    whole, cut = complete_captions(
        model, [[1, 2, 3, 4], [1, 2, 3, 4, 5]], seeds=[5, 6], choice=HALF
    )
    assert whole == cut == [1, 2, 3, 4]


def test_each_word_is_read_once(model: Dalle, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    forward = model.transformer.forward

    def watch(x_BLD: torch.Tensor, *arguments: Any) -> torch.Tensor:
        read.append(x_BLD.shape[1])
        return forward(x_BLD, *arguments)

    monkeypatch.setattr(model.transformer, "forward", watch)
    with torch.no_grad():
        model.to_logits.bias[9:13] = -1e4  # no padding, which would end the captions
        model.to_logits.bias[0] = -1e4
    complete_captions(model, [[1], [2, 3]], seeds=[5, 6], choice=HALF)
    assert read == [2, 1, 1]  # BOS and the first word, then word by word


def test_codes_are_drawn_as_often_as_their_probability_says() -> None:
    probabilities = torch.tensor([0.1, 0.2, 0.0, 0.7])
    uniform_B = uniform_streams([3], 20_000)[0]
    logits_BV = probabilities.log().expand(20_000, 4)
    shares = draw(logits_BV, uniform_B, kept=4).bincount(minlength=4) / 20_000
    torch.testing.assert_close(shares, probabilities, atol=0.02, rtol=0)
    assert shares[2] == 0


def test_only_the_best_codes_are_drawn() -> None:
    logits_BV = torch.tensor([2.0, 1.0, 3.0, 0.0]).expand(1000, 4)
    drawn = draw(logits_BV, uniform_streams([3], 1000)[0], kept=2)
    assert set(drawn.tolist()) == {0, 2}
    assert set(draw(logits_BV, uniform_streams([3], 1000)[0], kept=1).tolist()) == {2}


def test_a_number_next_to_one_draws_the_last_code() -> None:
    almost = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert draw(torch.zeros(1, 5), almost, kept=5).tolist() == [4]


def test_the_threshold_counts_text_ids_as_dalle_pytorch_does() -> None:
    # 65,888 ids of which 16,384 are codes: half of all is more than there are codes
    assert kept_ids(0.5, total_tokens=65_888, allowed=16_384) == 16_384
    assert kept_ids(0.9, total_tokens=65_888, allowed=16_384) == 6_588
    assert kept_ids(1.0, total_tokens=65_888, allowed=16_384) == 1


def test_a_low_temperature_draws_the_likeliest(model: Dalle) -> None:
    cold = sample(model, [0, 0], [1, 2], Choice(filter_thres=0.0, temperature=1e-3))
    best = sample(model, [0, 0], [1, 2], Choice(filter_thres=1.0))
    assert torch.equal(cold, best)


def test_seeds_differ_by_seed_prompt_and_number() -> None:
    seeds = {image_seed(s, p, i) for s in (0, 1) for p in ("a", "b", "1") for i in (0, 1, 11)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert image_seed(0, "a red cube", 0) == image_seed(0, "a red cube", 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("position", [0, 7, 15])
@pytest.mark.parametrize("cond_scale", [1.0, 2.0])
def test_a_logit_that_is_not_finite_is_an_error_wherever_it_comes(
    model: Dalle,
    value: float,
    position: int,
    cond_scale: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = 0
    outputs_from = model.to_logits.outputs_from

    def spoilt(x_XI: torch.Tensor, start: int) -> torch.Tensor:
        nonlocal drawn
        logits_BV = outputs_from(x_XI, start)
        if drawn == position:
            logits_BV[-1, 3] = value
        drawn += 1
        return logits_BV

    monkeypatch.setattr(model.to_logits, "outputs_from", spoilt)
    with pytest.raises(ModelError, match="logits are not finite"):
        sample(model, [0, 1], [7, 8], Choice(filter_thres=0.5, cond_scale=cond_scale))


def test_a_caption_is_not_completed_from_logits_that_are_not_finite(model: Dalle) -> None:
    with torch.no_grad():
        model.to_logits.bias[2] = float("nan")
    with pytest.raises(ModelError, match="logits are not finite"):
        complete_captions(model, [[1]], seeds=[3], choice=HALF)


def test_the_device_is_asked_once_a_batch(model: Dalle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question waits for all that the device has to do: 256 of them would be felt."""
    asked = []
    for name in ("__bool__", "item", "tolist", "__float__", "__int__"):
        method = getattr(torch.Tensor, name)

        def counted(tensor: torch.Tensor, method: Any = method, name: str = name) -> Any:
            asked.append(name)
            return method(tensor)

        monkeypatch.setattr(torch.Tensor, name, counted)
    sample(model, [0, 1, 0], [7, 8, 9])
    assert asked == ["__bool__"]


def test_a_low_temperature_makes_no_infinity_of_half_precision(model: Dalle) -> None:
    """Logits of 100 divided by 0.001 are 100,000, and fp16 ends at 65,504."""
    logits_BV = torch.tensor([[100.0, 90.0, 80.0]], dtype=torch.float16)
    choice = Choice(filter_thres=0.0, temperature=0.001)
    drawn = choice.draw(logits_BV, torch.tensor([0.999], dtype=torch.float64), total_tokens=3)
    assert drawn.tolist() == [0]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_moves_from_the_logits_without_a_caption_towards_those_with_one(
    scale: float,
) -> None:
    captioned, null = torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 0.0]])
    expected = [[2.0 - scale, 4.0 * scale]]
    assert guide(torch.cat((captioned, null)), scale).tolist() == expected


def test_a_guidance_of_0_draws_as_without_a_caption_and_of_1_by_it_alone(model: Dalle) -> None:
    def drawn(scale: float) -> torch.Tensor:
        return sample(model, [0, 1], [7, 8], Choice(filter_thres=0.0, cond_scale=scale))

    empty = torch.zeros_like(TOKENS)
    without = sample_codes(
        model, empty, rows=[0, 1], image_seeds=[7, 8], choice=Choice(filter_thres=0.0)
    )
    assert torch.equal(drawn(0.0), without)
    alone = sample(model, [0, 1], [7, 8], Choice(filter_thres=0.0))
    assert torch.equal(drawn(1.0), alone)
    assert not torch.equal(drawn(0.5), alone)
    assert not torch.equal(drawn(2.0), alone)


def test_the_number_0_draws_the_first_id_that_may_be_drawn() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0, 5.0]])
    assert draw(logits, torch.zeros(1, dtype=torch.float64), kept=2).tolist() == [1]
    assert draw(logits, torch.zeros(1, dtype=torch.float64), kept=4).tolist() == [0]


@pytest.mark.parametrize(
    ("share", "allowed", "kept"),
    [(0.0, 100, 100), (0.75, 100, 25), (1.0, 100, 1), (0.995, 100, 1), (0.5, 20, 20)],
)
def test_the_best_share_of_all_ids_is_kept_one_at_least(
    share: float, allowed: int, kept: int
) -> None:
    assert kept_ids(share, total_tokens=100, allowed=allowed) == kept
