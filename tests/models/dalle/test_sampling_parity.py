"""Drawing against the installed dalle-pytorch: the same numbers make the same codes and the same words.

What DALLE-pytorch throws dice for is its Gumbel noise; in these tests it inverts the cumulative
distribution instead, at the uniform numbers that we draw with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import Choice, complete_captions, sample_codes, uniform_streams
from tests.oracles.codecs import dalle_pytorch
from tests.oracles.dalle import randomise, stock_twin

SHAPE: dict[str, Any] = {
    "dim": 20,
    "depth": 2,
    "heads": 2,
    "dim_head": 14,
    "text_seq_len": 5,
    "num_text_tokens": 11,
    "num_image_tokens": 13,
    "image_fmap_size": 4,
}
SWITCHES: dict[str, dict[str, Any]] = {
    "full": {},
    "axial and conv": {"depth": 3, "attn_types": ("axial_row", "axial_col", "conv_like")},
    "rotary and shift": {"rotary_emb": True, "shift_tokens": True},
    "the rest": {
        "reversible": True,
        "stable": True,
        "sandwich_norm": True,
        "share_input_output_emb": True,
    },
}
CAPTIONS = [[3, 4, 5, 0, 0], [7, 0, 0, 0, 0], [3, 4, 5, 0, 0]]
SEEDS = [11, 12, 13]
GREEDY = Choice(filter_thres=1.0)
# 29 ids in all: 11 words, 5 paddings, 13 codes; the best 5 are drawn from.
DICE = Choice(filter_thres=0.8, temperature=1.3)


def make_pair(changes: dict[str, Any] | None = None) -> tuple[Dalle, Any]:
    torch.manual_seed(1)
    model = Dalle(DalleConfig(**{**SHAPE, **(changes or {})})).eval()
    randomise(model)
    # Without these the likeliest code would be the same at every position.
    torch.nn.init.zeros_(model.to_logits.bias)
    torch.nn.init.zeros_(model.norm_out.bias)
    torch.nn.init.ones_(model.norm_out.weight)
    stock = stock_twin(model)
    stock.vae.decode = lambda codes_BN: codes_BN
    return model, stock


def stock_codes(
    stock: Any, monkeypatch: pytest.MonkeyPatch, choice: Choice, **options: Any
) -> Tensor:
    uniform_BN = uniform_streams(SEEDS, 16)
    numbers = uniform_BN[:, options.get("num_init_img_tokens") or 0 :].T
    invert_with(monkeypatch, iter(numbers))
    return stock.generate_images(
        torch.tensor(CAPTIONS),
        filter_thres=choice.filter_thres,
        temperature=choice.temperature,
        cond_scale=choice.cond_scale,
        **options,
    )


def invert_with(monkeypatch: pytest.MonkeyPatch, numbers: Iterator[Tensor]) -> None:
    def choose(logits_BV: Tensor, temperature: float = 1.0, dim: int = -1) -> Tensor:
        cumulative_BV = (logits_BV.double() / temperature).softmax(dim).cumsum(dim)
        return (cumulative_BV <= next(numbers)[:, None]).sum(dim)

    monkeypatch.setattr(dalle_pytorch().dalle_pytorch, "gumbel_sample", choose)


def our_codes(model: Dalle, choice: Choice, first_codes_P: Tensor | None = None) -> Tensor:
    return sample_codes(
        model,
        torch.tensor(CAPTIONS[:2]),
        rows=[0, 1, 0],
        image_seeds=SEEDS,
        choice=choice,
        first_codes_P=first_codes_P,
    )


def read_captions_unharmed(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second, uncaptioned pass of `forward_with_cond_scale` blank a copy of the captions.

    As it stands it blanks the captions themselves, so that from the second code on DALLE-pytorch draws
    as if there were none.
    """
    forward = stock.forward

    def copying(text: Tensor, *args: Any, **options: Any) -> Any:
        return forward(text.clone(), *args, **options)

    monkeypatch.setattr(stock, "forward", copying)


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
@pytest.mark.parametrize("choice", [GREEDY, DICE], ids=["greedy", "dice"])
def test_the_codes_are_those_of_generate_images(
    changes: dict[str, Any], choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stock = make_pair(changes)
    theirs_BN = stock_codes(stock, monkeypatch, choice)
    assert torch.equal(our_codes(model, choice), theirs_BN)
    assert len(set(theirs_BN.flatten().tolist())) > 2


@pytest.mark.parametrize("choice", [GREEDY, DICE], ids=["greedy", "dice"])
def test_guided_codes_are_those_of_forward_with_cond_scale(
    choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    guided = Choice(
        filter_thres=choice.filter_thres, temperature=choice.temperature, cond_scale=3.0
    )
    model, stock = make_pair()
    read_captions_unharmed(stock, monkeypatch)
    theirs_BN = stock_codes(stock, monkeypatch, guided)
    assert torch.equal(our_codes(model, guided), theirs_BN)
    assert not torch.equal(our_codes(model, choice), theirs_BN)


@pytest.mark.parametrize("given", [None, 1, 15])
@pytest.mark.parametrize("cond_scale", [1.0, 2.0])
def test_primed_codes_are_those_of_generate_images(
    given: int | None, cond_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stock = make_pair({"shift_tokens": True, "rotary_emb": True})
    read_captions_unharmed(stock, monkeypatch)
    image_1CHW = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    share = given or int(0.4375 * 16)
    choice = Choice(filter_thres=0.8, cond_scale=cond_scale)
    theirs_BN = stock_codes(
        stock,
        monkeypatch,
        choice,
        img=image_1CHW.expand(3, -1, -1, -1),
        num_init_img_tokens=share,
    )
    first_codes_P = stock.vae.get_codebook_indices(image_1CHW)[0, :share]
    ours_BN = our_codes(model, choice, first_codes_P)
    assert torch.equal(ours_BN, theirs_BN)
    assert torch.equal(ours_BN[:, :share], first_codes_P.expand(3, -1))


@pytest.mark.parametrize("choice", [GREEDY, DICE], ids=["greedy", "dice"])
@pytest.mark.parametrize("words", [[], [3], [5, 2, 9]])
def test_the_words_are_those_of_generate_texts(
    words: list[int], choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Paddings would end our captions; there, DALLE-pytorch draws on.
    model, stock = make_pair({"text_seq_len": 9})
    for side in (model.to_logits, stock.to_logits[1]):
        torch.nn.init.constant_(side.bias[11:], -1e4)
        torch.nn.init.constant_(side.bias[:1], -1e4)
    theirs = stock_words(stock, monkeypatch, words, choice)
    ours = complete_captions(model, [words], seeds=[21], choice=choice)[0]
    assert ours[: len(words)] == words
    assert len(ours) == 9
    assert ours[:8] == theirs


def stock_words(
    stock: Any, monkeypatch: pytest.MonkeyPatch, words: Sequence[int], choice: Choice
) -> list[int]:
    """The continuation after the BOS used in training, which DALLE-pytorch leaves out if text is given."""
    tokenizer = SimpleNamespace(
        encode=lambda _text: [0, *words], decode=lambda ids, pad_tokens: None
    )
    invert_with(monkeypatch, iter(uniform_streams([21], 9)[:, len(words) :].T))
    monkeypatch.setattr(Tensor, "cuda", lambda tensor: tensor)
    ids_1T, _ = stock.generate_texts(
        SimpleNamespace(tokenizer=tokenizer),
        "words",
        filter_thres=choice.filter_thres,
        temperature=choice.temperature,
    )
    return ids_1T[0, 1:].tolist()
