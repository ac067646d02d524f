"""The limits of numeric options: at each edge a value is taken, one step beyond it is refused."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

import pytest

from pipeline.app.stages import STAGES
from pipeline.core.config import declared_options
from pipeline.core.errors import ConfigError
from pipeline.core.option_values import from_plain

# What other programs, formats and papers fix; the code may not drift from them.
FIXED = {
    ("train-tokenizer", "vocab_size"): (257, 65_536),  # padding and 256 bytes; ids of 16 bits
    ("train-codec", "num_tokens"): (2, 65_536),  # codes of 16 bits
    ("dedupe", "radius"): (0, 8),
    ("dedupe", "val_fraction"): (0, 1),
    ("shard", "text_seq_len"): (1, 65_536),
    ("shard", "max_samples"): (1, None),
    ("train", "null_cond_prob"): (0, 1),
    ("train", "ema_decay"): (0, 1),
    ("train", "beta2"): (0, 1),
    ("train", "zero_stage"): (0, 3),
    ("generate", "top_k"): (0, 1),
    ("generate", "num_images"): (1, 1_000_000),
    ("generate", "seed"): (0, 2**63 - 1),
    ("generate", "prime_rows"): (1, None),
    ("report", "wall_ranks"): (1, 32),
}


LIMITED = {
    (stage, name): option
    for stage, entry in STAGES.items()
    for name, option in declared_options(entry.config).items()
    if {"low", "high"} & set(option.metadata)
}
LIMITS = [
    (place, side, option.metadata[side])
    for place, option in LIMITED.items()
    for side in ("low", "high")
    if option.metadata.get(side) is not None
]


def number_type(hint: Any) -> type:
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return float if float in members else int


def take(place: tuple[str, str], value: float) -> Any:
    return from_plain(LIMITED[place], value, name=place[1])


@pytest.mark.parametrize(("place", "side", "limit"), LIMITS)
def test_the_limit_is_taken_and_one_step_beyond_it_is_refused(
    place: tuple[str, str], side: str, limit: float
) -> None:
    kind = number_type(LIMITED[place].hint)
    step = 1 if kind is int else max(1e-6, abs(limit) * 1e-6)
    inside, beyond = (limit + step, limit - step) if side == "low" else (limit - step, limit + step)
    assert take(place, kind(limit)) == limit
    if kind is int or side == "low":
        take(place, kind(inside))
    said = "or more" if side == "low" else "or less"
    with pytest.raises(ConfigError, match=f"{said}|more than 64 bits"):
        take(place, kind(beyond))


@pytest.mark.parametrize("place", FIXED)
def test_limits_that_others_fix_are_these(place: tuple[str, str]) -> None:
    metadata = LIMITED[place].metadata
    assert (metadata.get("low"), metadata.get("high")) == FIXED[place]
