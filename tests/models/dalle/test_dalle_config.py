"""Hyper-parameters: cycles over the layers, the round trip through JSON, invalid values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.core.errors import ModelError
from pipeline.models.dalle.config import DalleConfig

SHAPE: dict[str, Any] = {
    "dim": 8,
    "depth": 4,
    "heads": 1,
    "dim_head": 8,
    "text_seq_len": 12,
    "num_text_tokens": 5,
    "num_image_tokens": 6,
    "image_fmap_size": 2,
}


def test_types_and_ids_go_round_over_the_layers() -> None:
    config = DalleConfig(
        **SHAPE, attn_types=("full", "sparse", "conv_like"), shared_ff_ids=("a", "b")
    )
    assert config.layer_types == ("full", "sparse", "conv_like", "full")
    assert config.layer_ff_ids == ("a", "b", "a", "b")
    assert config.layer_attn_ids == (0, 1, 2, 3)


def test_json_round_trips() -> None:
    config = DalleConfig(**SHAPE, attn_types=("full", "sparse"), shared_attn_ids=(0, 1))
    assert DalleConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_types": ("ful",)}, "ful"),
        ({"attn_types": ()}, "attn_types"),
        ({"shared_ff_ids": ()}, "shared_ff_ids"),
        ({"attn_types": ("full", "sparse"), "shared_attn_ids": (0,)}, "Layer 1 is sparse"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_makes_no_model_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        DalleConfig.from_dict({**SHAPE, **changes})
