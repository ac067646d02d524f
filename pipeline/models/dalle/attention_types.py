"""The kinds of attention that a layer may have, without torch: options name them."""

from __future__ import annotations

from typing import Literal, get_args

AttentionType = Literal["full", "axial_row", "axial_col", "conv_like", "sparse"]
ATTENTION_TYPES: tuple[AttentionType, ...] = get_args(AttentionType)
