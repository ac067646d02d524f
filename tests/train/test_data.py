"""Batches: complete epochs, the ranks' parts, and ids outside the vocabulary."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest

from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.workspace import Workspace
from pipeline.train.config import TrainConfig
from pipeline.train.data import Position, check_ids, check_samples, stream_steps
from pipeline.train.model import check_fit, new_model
from pipeline.webdata.index import read_index
from pipeline.webdata.reader import ShardReader

MakeConfig = Callable[..., TrainConfig]
START = Position(epoch=0, consumed=0)


@pytest.fixture
def reader(workspace: Workspace) -> ShardReader:
    return ShardReader(workspace.shards("default"), "train")


def test_every_sample_comes_once_an_epoch(reader: ShardReader, make_config: MakeConfig) -> None:
    steps = list(islice(stream_steps(reader, make_config(batch_size=8), START), 6))
    rows = np.concatenate([batch.rows for batches, _ in steps[:5] for batch in batches])
    assert sorted(rows) == list(range(40))
    assert [position for _, position in steps[3:]] == [
        Position(epoch=0, consumed=32),
        Position(epoch=1, consumed=0),
        Position(epoch=1, consumed=8),
    ]


def test_ranks_share_a_batch_of_one_process(reader: ShardReader, make_config: MakeConfig) -> None:
    """Also with more ranks (three) than shards (one)."""
    config = make_config(batch_size=4, ga_steps=2)
    alone = stream_steps(reader, make_config(batch_size=12, ga_steps=2), START)
    parts = [stream_steps(reader, config, START, rank=r, world_size=3) for r in range(3)]
    for _ in range(4):
        batches, position = next(alone)
        shares = [next(part) for part in parts]
        assert all(share[1] == position for share in shares)
        for number, batch in enumerate(batches):
            mine = np.concatenate([share[0][number].rows for share in shares])
            assert mine.tolist() == batch.rows.tolist()


def test_an_id_that_the_model_lacks_is_named_with_its_sample(
    reader: ShardReader, make_config: MakeConfig
) -> None:
    model = new_model(reader.index, make_config().model)
    batch = reader.gather([3, 4])
    check_ids(reader, batch, model)
    small = dataclasses.replace(model, num_image_tokens=int(batch.codes_BN.max()))
    with pytest.raises(
        ContractError, match=r"train_000[34] has the code \d+, but the model has 0 to"
    ):
        check_ids(reader, batch, small)
    few = dataclasses.replace(model, num_text_tokens=int(batch.tokens_BT.max()))
    with pytest.raises(ContractError, match="has the token id"):
        check_ids(reader, batch, few)


def test_more_ranks_than_samples_are_refused(reader: ShardReader, make_config: MakeConfig) -> None:
    check_samples(reader, make_config(batch_size=4), world_size=10)
    with pytest.raises(ConfigError, match="--batch-size 3 or less, or fewer processes"):
        check_samples(reader, make_config(batch_size=4), world_size=11)


def test_a_batch_larger_than_the_split_is_refused_with_the_largest_that_fits(
    reader: ShardReader, make_config: MakeConfig
) -> None:
    check_samples(reader, make_config(batch_size=40))
    alone = (
        r"A batch of 41 can't be filled from 40 training samples. Give --batch-size 40 or less\.$"
    )
    with pytest.raises(ConfigError, match=alone):
        check_samples(reader, make_config(batch_size=41))
    shared = "A batch of 21 in each of 2 processes can't be filled from 40"
    with pytest.raises(ConfigError, match=shared):
        check_samples(reader, make_config(batch_size=21), world_size=2)


def test_a_larger_vocabulary_is_taken_a_smaller_one_refused(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    index = read_index(workspace.shards("default"))
    assert new_model(index, make_config(num_text_tokens=49408).model).num_text_tokens == 49408
    with pytest.raises(ConfigError, match=f"has {index.vocab_size} ids"):
        new_model(index, make_config(num_text_tokens=index.vocab_size - 1).model)


def test_another_text_length_than_the_shards_is_refused(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    with pytest.raises(ConfigError, match="--text-seq-len 7: the shards hold 6"):
        new_model(read_index(workspace.shards("default")), make_config(text_seq_len=7).model)


def test_options_reach_the_model(workspace: Workspace, make_config: MakeConfig) -> None:
    config = make_config(
        attn_types=("full,axial_row", "conv_like"),
        shared_attn_ids="0,1,2,0",
        shared_ff_ids="a,b",
        reversible=True,
        stable=True,
        sandwich_norm=True,
        shift_tokens=True,
        rotary_emb=True,
        share_input_output_emb=True,
    )
    model = new_model(read_index(workspace.shards("default")), config.model)
    assert model.attn_types == ("full", "axial_row", "conv_like")
    assert model.shared_attn_ids == (0, 1, 2, 0)
    assert model.shared_ff_ids == ("a", "b")
    names = ("reversible", "stable", "sandwich_norm", "shift_tokens", "rotary_emb")
    assert all(getattr(model, name) for name in (*names, "share_input_output_emb"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("axial_rwo",), "'axial_rwo' is not an attention type. Did you mean 'axial_row'?"),
        (("full, sparce",), "'sparce' is not an attention type. Did you mean 'sparse'?"),
        (("",), "it is empty. Choices: axial_col"),
        ((), "it is empty. Choices: axial_col"),
    ],
)
def test_an_unknown_attention_type_is_a_wrong_option(
    make_config: MakeConfig, given: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--attn-types: {sentence}")):
        make_config(attn_types=given)


@pytest.mark.parametrize("given", [("",), ("a red cube", " ")])
def test_an_empty_sample_prompt_is_a_wrong_option(
    make_config: MakeConfig, given: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match="--sample-prompts is empty"):
        make_config(sample_prompts=given)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"text_seq_len": 256}, "token ids per caption: 256, but the shards 'default' have 6"),
        ({"num_image_tokens": 8192}, "codes in the codebook: 8192"),
        ({"image_fmap_size": 4}, "codes per image: 16"),
        ({"num_text_tokens": 50}, "has 50 text ids"),
    ],
)
def test_shards_that_do_not_fit_a_checkpoint_are_refused(
    workspace: Workspace, make_config: MakeConfig, change: dict[str, int], sentence: str
) -> None:
    index = read_index(workspace.shards("default"))
    model = dataclasses.replace(new_model(index, make_config().model), **change)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match=sentence):
        check_fit(model, index, source="dalle.pt")


def test_another_codec_or_tokenizer_than_the_checkpoints_is_refused(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    index = read_index(workspace.shards("default"))
    model = new_model(index, make_config().model)
    check_fit(model, index, codec="c" * 64, source="x")
    with pytest.raises(ContractError, match="the codec: dddddddddddd"):
        check_fit(model, index, codec="d" * 64, source="x")
    with pytest.raises(ContractError, match="the tokenizer: eeeeeeeeeeee"):
        check_fit(model, index, tokenizer="e" * 64, source="x")
