"""Attention masks: the positions that each position may attend to, for every kind of attention.

Text attends to all text before it. An image code attends to BOS, all text, and earlier codes depending on
the kind: `axial_row` its row, `axial_col` its column, `conv_like` a square of KERNEL × KERNEL codes that
ends at the code. Source: DALLE-pytorch's `attention.py`, versions 1.5.0 to 1.6.6; in earlier versions the
square of `conv_like` was centred on the code (`conv_centred`).

Shapes: L positions (BOS, text, image without its last code), N image codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.models.dalle.attention_types import AttentionType
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.sparse_layout import layout_mask

KERNEL = 5


def attention_mask(kind: AttentionType, config: DalleConfig) -> Tensor | None:
    """bool [L, L], true where the row may attend to the column; None for `full`, plain causal attention."""
    if kind == "full":
        return None
    if kind == "sparse":
        assert config.sparse_layout is not None
        return layout_mask(config.sparse_layout)
    length, text = config.total_seq_len, config.text_seq_len + 1
    mask_LL = torch.ones(length, length, dtype=torch.bool)
    mask_LL[text:, text:] = _image_mask(kind, config)[: length - text, : length - text]
    return mask_LL.tril()


def _image_mask(kind: AttentionType, config: DalleConfig) -> Tensor:
    """bool [N, N]: the pattern among codes, before later ones are masked."""
    positions = torch.arange(config.image_seq_len)
    rows, columns = positions // config.image_fmap_size, positions % config.image_fmap_size
    down_NN, right_NN = rows[:, None] - rows, columns[:, None] - columns
    if kind == "axial_row":
        return down_NN == 0
    if kind == "axial_col":
        return right_NN == 0
    before = KERNEL // 2 if config.conv_centred else KERNEL - 1
    after = KERNEL - 1 - before
    return (down_NN <= before) & (down_NN >= -after) & (right_NN <= before) & (right_NN >= -after)


def causal_prefix(mask_LL: Tensor) -> int:
    """The number of leading positions that see everything before them."""
    whole_L = mask_LL.sum(dim=1) == torch.arange(1, len(mask_LL) + 1)
    return int(whole_L.long().cumprod(0).sum())
