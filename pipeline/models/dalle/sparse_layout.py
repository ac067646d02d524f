"""The layout of `sparse` attention: which blocks of positions each block attends to.

DeepSpeed's `VariableSparsityConfig` with the arguments of DALLE-pytorch's `SparseAttention`: blocks of 16
positions; in each row of blocks a random quarter of the row's blocks, including later ones; windows of 4
blocks that do not overlap; and the first 16 blocks as columns that all later rows see (DALLE-pytorch never
passed on the text length, so it is 256 positions for any text). All heads and layers share one layout. A
layout is rows of `0` and `1`, readable in a checkpoint's JSON.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from pipeline.core.errors import ModelError

BLOCK = 16
WINDOW_BLOCKS = 4
GLOBAL_BLOCKS = 16

Layout = tuple[str, ...]


def draw_layout(seq_len: int, seed: int = 0) -> Layout:
    """A layout for `seq_len` positions, determined by the seed.

    After `random.seed(seed)` DeepSpeed draws the same layout. Raises ModelError if `seq_len` is not a
    multiple of the block size.
    """
    count = count_blocks(seq_len)
    draw = random.Random(seed)
    rows = []
    for row in range(count):
        live = set(draw.sample(range(count), count // 4))
        live |= set(range(row - row % WINDOW_BLOCKS, row + 1))
        live |= set(range(min(GLOBAL_BLOCKS, row + 1)))
        rows.append("".join("1" if column in live else "0" for column in range(count)))
    return tuple(rows)


def check_layout(layout: Layout, seq_len: int) -> None:
    """Raise ModelError for a layout of another length, or one in which a block does not attend to itself."""
    count = count_blocks(seq_len)
    if len(layout) != count or any(len(row) != count or set(row) - {"0", "1"} for row in layout):
        raise ModelError(
            f"The sparse layout has {len(layout)} rows; {seq_len} positions need {count} rows of {count} "
            "zeros and ones. Give the layout of this model, or draw a new one."
        )
    blind = [row for row in range(count) if layout[row][row] != "1"]
    if blind:
        raise ModelError(
            f"In row {blind[0]} of the sparse layout the block does not attend to itself. Give the layout of "
            "this model, or draw a new one."
        )


def layout_mask(layout: Layout) -> Tensor:
    """The causal mask of a layout, bool [L, L]."""
    blocks = torch.tensor([[cell == "1" for cell in row] for row in layout])
    return blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1).tril()


def layout_of_tensor(master_layout: Tensor) -> Layout:
    """The layout in a DeepSpeed buffer `master_layout` [heads, blocks, blocks]; all heads are equal."""
    return tuple("".join("1" if cell else "0" for cell in row) for row in master_layout[0].tolist())


def layout_tensor(layout: Layout, heads: int) -> Tensor:
    """The inverse of `layout_of_tensor`: int64 [heads, blocks, blocks]."""
    return torch.tensor([[int(cell) for cell in row] for row in layout]).repeat(heads, 1, 1)


def count_blocks(seq_len: int) -> int:
    """Blocks in `seq_len` positions; raises ModelError if it is not a multiple of the block size."""
    if seq_len % BLOCK:
        raise ModelError(
            f"Sparse attention needs a multiple of {BLOCK} positions; text and image have {seq_len} "
            "together. Choose another text_seq_len."
        )
    return seq_len // BLOCK
