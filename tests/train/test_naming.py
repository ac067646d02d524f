"""The zoo's names, made and read."""

from __future__ import annotations

import pytest

from pipeline.models.dalle_config import DalleConfig
from pipeline.train.naming import NameHints, codec_folder, read_name, wrong_hints, zoo_name

MODEL = DalleConfig(
    dim=544,
    depth=12,
    heads=16,
    dim_head=64,
    text_seq_len=96,
    num_text_tokens=49408,
    num_image_tokens=16384,
    image_fmap_size=16,
)
SIZES = {"depth": 12, "dim_head": 64, "heads": 16, "dim": 544, "text_seq_len": 96}


def test_a_run_is_named_as_in_the_zoo() -> None:
    name = zoo_name(MODEL, codec="vqgan-imagenet-f16-16384", passes={"dalleblog": 5})
    assert name == "taming/12L_64HD_16H_544I_96T_dalleblog_5E"


def test_further_datasets_are_appended() -> None:
    name = zoo_name(MODEL, codec="vqgan-f16", passes={"cc12m": 2, "wit": 1})
    assert name == "taming/12L_64HD_16H_544I_96T_cc12m-2E_wit-1E"


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("taming/12L_64HD_16H_544I_96T_dalleblog_5E", {"dalleblog": 5}),
        ("12L_64HD_16H_544I_96T_cc12m-2E_wit-1E.pt", {"cc12m": 2, "wit": 1}),
        ("a/b/12L_64HD_16H_544I_96T_cc12m_cc3m_3E/", {"cc12m_cc3m": 3}),
        ("12L_64HD_16H_544I_96T_cc12m-2E", {"cc12m": 2}),
    ],
)
def test_a_name_is_read_back(name: str, passes: dict[str, int]) -> None:
    assert read_name(name) == NameHints(hyperparameters=SIZES, passes=passes)


@pytest.mark.parametrize(
    "name", ["dalle", "12L_64HD", "16L_64HD_8H_512I_128T_cc12m", "step-000500"]
)
def test_another_name_says_nothing(name: str) -> None:
    assert read_name(name) is None


def test_what_is_made_is_read_back() -> None:
    for passes in ({"dalleblog": 5}, {"a": 1, "b": 20}):
        hints = read_name(zoo_name(MODEL, codec="x", passes=passes))
        assert hints is not None
        assert hints.passes == passes
        assert wrong_hints(hints, MODEL) == {}


def test_the_tensors_correct_a_name() -> None:
    hints = read_name("taming_transformer/16L_64HD_16H_544I_96T_dalleblog_5E")
    assert hints is not None
    assert wrong_hints(hints, MODEL) == {"depth": (16, 12)}


def test_codecs_have_the_folders_of_the_zoo() -> None:
    names = ("vqgan-imagenet-f16-16384", "gumbel-f8-8192", "openai-dvae", "small")
    assert [codec_folder(name) for name in names] == ["taming", "taming", "openai", "custom"]
