"""Run names in the zoo's style: making and parsing them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pipeline.core.names import check_name
from pipeline.models.dalle.config import DalleConfig
from pipeline.train.run_folder import (
    NameHints,
    codec_folder,
    dataset_slug,
    find_name,
    read_name,
    wrong_hints,
    zoo_name,
)

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


# The published folders, and the README's examples, as they are.
PUBLISHED: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "16L_64HD_12H_512I_64T_royaltyfree_5E": ((16, 64, 12, 512, 64), {"royaltyfree": 5}),
    "16L_64HD_16H_544I_96T_dalleblog_5E": ((16, 64, 16, 544, 96), {"dalleblog": 5}),
    "16L_64HD_16H_756I_128T_cc12m_1E": ((16, 64, 16, 756, 128), {"cc12m": 1}),
    "16L_64HD_8H_512I_128T_cc12m_cc3m_3E": ((16, 64, 8, 512, 128), {"cc12m_cc3m": 3}),
    "64L_64HD_8H_756I_128T_cc12m_1E": ((64, 64, 8, 756, 128), {"cc12m": 1}),
    "8L_64HD_8H_756I_128T_cc12mcc3m_2E": ((8, 64, 8, 756, 128), {"cc12mcc3m": 2}),
    "12L_64HD_8H_512I_128T_cc12m_2E.pt": ((12, 64, 8, 512, 128), {"cc12m": 2}),
    "12L_64HD_8H_512I_128T_cc12m-2E_wit-1E.pt": ((12, 64, 8, 512, 128), {"cc12m": 2, "wit": 1}),
}
FACTS = ("depth", "dim_head", "heads", "dim", "text_seq_len")


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_the_published_names_are_read(name: str) -> None:
    sizes, passes = PUBLISHED[name]
    expected = NameHints(hyperparameters=dict(zip(FACTS, sizes, strict=True)), passes=passes)
    assert read_name(f"taming_transformer/{name}") == expected
    assert find_name(Path("models", name, "dalle-ds-cp", "global_step10")) == expected


def test_a_run_is_named_as_in_the_zoo() -> None:
    name = zoo_name(MODEL, folder="taming_transformer", passes={"dalleblog": 5})
    assert name == "taming_transformer/12L_64HD_16H_544I_96T_dalleblog_5E"


def test_further_datasets_are_appended() -> None:
    name = zoo_name(MODEL, folder="taming_transformer", passes={"cc12m": 2, "wit": 1})
    assert name == "taming_transformer/12L_64HD_16H_544I_96T_cc12m-2E_wit-1E"


def test_the_datasets_of_an_earlier_spelling_are_added_up() -> None:
    hints = read_name("12L_64HD_16H_544I_96T_cc12mcc3m-4E_cc12mcc3m-1E")
    assert hints is not None
    assert hints.passes == {"cc12mcc3m": 5}


@pytest.mark.parametrize(
    "name",
    ["dalle", "12L_64HD", "16L_64HD_8H_512I_128T_cc12m", "step-000500"]
    + [f"16L_64HD_8H_512I_128T_{data}" for data in ("a-1E_", "a-1E_b", "_1E", "-1E", "a-1Ex")],
)
def test_another_name_says_nothing(name: str) -> None:
    assert read_name(name) is None


# What datasets are called, and what could be mistaken for the end of a name.
NAMES = (
    *(
        "dalleblog",
        "cc12m_cc3m",
        "laion-400m",
        "x-3E",
        "x-3E_y",
        "x_3E",
        "3E",
        "a-1E_b-2E_c",
        "v1.2",
    ),
    *(
        "my data",
        "größe",
        "../..",
        "s3://bucket/shards",
        "",
        "-",
        "_",
        ".hidden",
        "a/b",
        "-1E",
        "a--2E",
    ),
)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_is_made_is_read_back(count: int) -> None:
    slugs = {dataset_slug(name) for name in NAMES}
    assert {dataset_slug(slug) for slug in slugs} == slugs
    for names in itertools.permutations(sorted(slugs), count):
        passes = {name: number + 1 for number, name in enumerate(names)}
        made = zoo_name(MODEL, folder="custom_transformer", passes=passes)
        hints = read_name(made)
        assert hints is not None, made
        assert dict(hints.passes) == passes, made
        assert wrong_hints(hints, MODEL) == {}
        assert check_name(made, levels=2) == made


def test_names_of_datasets_stay_what_they_are_where_they_can() -> None:
    kept = ("dalleblog", "cc12m_cc3m", "laion-400m", "x_3E", "v1.2")
    assert tuple(map(dataset_slug, kept)) == kept


def test_the_tensors_correct_a_name() -> None:
    hints = read_name("taming_transformer/16L_64HD_16H_544I_96T_dalleblog_5E")
    assert hints is not None
    assert wrong_hints(hints, MODEL) == {"depth": (16, 12)}


def test_codecs_have_the_folders_of_the_zoo_by_their_kind() -> None:
    kinds = ("vqgan", "openai-dvae", "vq", "discrete-vae")
    folders = ["taming_transformer", "openai_transformer", *["custom_transformer"] * 2]
    assert [codec_folder(kind, "tinyvq") for kind in kinds] == folders
    assert codec_folder("vq", "my-vqgan-like") == "custom_transformer"


def test_a_codec_that_is_not_here_goes_by_its_name() -> None:
    names = ("vqgan_imagenet_f16_16384", "gumbel-f8-8192", "openai_dvae", "small")
    folders = ["taming_transformer"] * 2 + ["openai_transformer", "custom_transformer"]
    assert [codec_folder(None, name) for name in names] == folders
