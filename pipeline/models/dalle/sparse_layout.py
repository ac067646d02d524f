"""Which blocks of positions `sparse` attention looks at. Floor 3.

DeepSpeed's `VariableSparsityConfig` with what DALLE-pytorch's `SparseAttention` gave it: blocks of 16
positions; in each row of blocks a quarter of the row's blocks at random, later ones among them; windows
of 4 blocks that do not overlap; the first 16 blocks as columns that all later rows see (DALLE-pytorch
never passed the text's length on, so it is 256 positions whatever the text). One layout serves all heads
and layers. A layout is rows of `0` and `1`, so that it stands readable in a checkpoint's JSON.
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
    """A layout for `seq_len` positions; the same for the same seed.

    After `random.seed(seed)` DeepSpeed draws the same one. Raises ModelError where the positions make no
    whole blocks.
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
    """Raise ModelError for a layout of another length, or in which a position does not see itself."""
    count = count_blocks(seq_len)
    if len(layout) != count or any(len(row) != count or set(row) - {"0", "1"} for row in layout):
        raise ModelError(
            f"The sparse layout has {len(layout)} rows; {seq_len} positions need {count} of as many "
            "zeros and ones. Give the layout of this model, or draw a new one."
        )
    blind = [row for row in range(count) if layout[row][row] != "1"]
    if blind:
        raise ModelError(f"In row {blind[0]} of the sparse layout a block does not see itself.")


def layout_mask(layout: Layout) -> Tensor:
    """What each position may look at, bool [L, L]: its live blocks, none of it later than itself."""
    blocks = torch.tensor([[cell == "1" for cell in row] for row in layout])
    return blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1).tril()


def layout_of_tensor(master_layout: Tensor) -> Layout:
    """The layout in a DeepSpeed buffer `master_layout` [heads, blocks, blocks], whose heads are alike."""
    return tuple("".join("1" if cell else "0" for cell in row) for row in master_layout[0].tolist())


def layout_tensor(layout: Layout, heads: int) -> Tensor:
    """The inverse: int64 [heads, blocks, blocks]."""
    return torch.tensor([[int(cell) for cell in row] for row in layout]).repeat(heads, 1, 1)


def count_blocks(seq_len: int) -> int:
    """Blocks in `seq_len` positions; raises ModelError where that is no whole number."""
    if seq_len % BLOCK:
        raise ModelError(
            f"Sparse attention needs a multiple of {BLOCK} positions; text and image have {seq_len} "
            "together. Choose another text_seq_len."
        )
    return seq_len // BLOCK
