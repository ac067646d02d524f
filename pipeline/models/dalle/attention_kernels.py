"""Which kernel computes attention on CUDA, for each kind and length.

The share of blocks of 128 × 128 positions that a kind needs, of those that plain causal attention needs:

| kind                    | 96 + 256 positions | 256 + 1,024 positions |
|-------------------------|--------------------|-----------------------|
| sparse                  | 6 of 6             | 55 of 55              |
| axial_row               | 6 of 6             | 40 of 55              |
| axial_col               | 6 of 6             | 55 of 55              |
| axial_col, by columns   | 6 of 6             | 40 of 55              |
| conv_like               | 6 of 6             | 45 of 55              |

Short sequences have no block to leave out, so FlexAttention can't pay there. `sparse` never has any, since
its random blocks are 16 wide; the first positions (320 of 352 at the blog's sizes) see all before them and
need no mask. These are counts, not times: no kernel has been timed yet (docs/benchmarks.md).

Causal attention without a mask is left to torch's own order of kernels: on H100, H200 and B200 it prefers
cuDNN to flash attention if cuDNN is new enough. torch 2.5 preferred any cuDNN and got NaN losses
(pytorch/pytorch#138522), so we don't ask for it where torch doesn't. With a mask cuDNN is never used: its
gradients may be NaN if the number of positions is 64 more than a multiple of 128 (pytorch/pytorch#196678).

Shapes: B samples, H heads, L positions, S keys, K width of a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.models.dalle.attention_types import AttentionType
from pipeline.models.dalle.config import DalleConfig

if TYPE_CHECKING:  # importing it takes seconds, for which only long sequences have a use
    from torch.nn.attention.flex_attention import BlockMask

# causal: flash attention or cuDNN's. prefix: the same for the positions that see all before them, a mask for
# the rest.
# flex: FlexAttention, which leaves out blocks that are masked whole.
Kernel = Literal["causal", "prefix", "flex"]

LONG = 1024  # positions
KERNELS: dict[AttentionType, tuple[Kernel, Kernel]] = {  # short sequences, long ones
    "full": ("causal", "causal"),
    "sparse": ("prefix", "prefix"),
    "axial_row": ("prefix", "flex"),
    "axial_col": ("prefix", "flex"),
    "conv_like": ("prefix", "flex"),
}


def choose_kernel(kind: AttentionType, length: int) -> Kernel:
    """The kernel for complete sequences of `length` positions."""
    short, long = KERNELS[kind]
    return long if length >= LONG else short


class FlexMask(NamedTuple):
    """What FlexAttention needs of a pattern: its blocks, and the order of positions that makes them few."""

    blocks: BlockMask
    order_L: Tensor | None
    place_L: Tensor | None  # the inverse


def flex_mask(kind: AttentionType, config: DalleConfig, mask_LL: Tensor) -> FlexMask:
    """The blocks of a mask, on its device. `axial_col` is computed column by column."""
    from torch.nn.attention.flex_attention import create_block_mask

    order_L = place_L = None
    if kind == "axial_col":
        order_L = column_order(config).to(mask_LL.device)
        place_L = order_L.argsort()
        mask_LL = mask_LL[order_L][:, order_L].contiguous()

    def sees(_sample: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask_LL[query, key]

    length = len(mask_LL)
    blocks = create_block_mask(sees, None, None, length, length, device=mask_LL.device.type)
    return FlexMask(blocks, order_L, place_L)


def attend_masked(
    query_BHLK: Tensor, key_BHSK: Tensor, value_BHSK: Tensor, mask_LS: Tensor
) -> Tensor:
    """Attention with a mask on CUDA, by any kernel but cuDNN's."""
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return F.scaled_dot_product_attention(query_BHLK, key_BHSK, value_BHSK, attn_mask=mask_LS)


def column_order(config: DalleConfig) -> Tensor:
    """The positions, int64 [L], with the image's codes column by column instead of row by row."""
    text, size = config.text_seq_len + 1, config.image_fmap_size
    codes = torch.arange(config.total_seq_len - text)
    by_column = torch.argsort(codes % size, stable=True)
    return torch.cat((torch.arange(text), by_column + text))


def attend_flex(query_BHLK: Tensor, key_BHLK: Tensor, value_BHLK: Tensor, mask: FlexMask) -> Tensor:
    """Masked attention over complete sequences. Call it in compiled code only: it is slow elsewhere."""
    if mask.order_L is None or mask.place_L is None:
        return _flex(query_BHLK, key_BHLK, value_BHLK, mask.blocks)
    query_BHLK, key_BHLK, value_BHLK = (
        x.index_select(2, mask.order_L) for x in (query_BHLK, key_BHLK, value_BHLK)
    )
    return _flex(query_BHLK, key_BHLK, value_BHLK, mask.blocks).index_select(2, mask.place_L)


def _flex(query_BHLK: Tensor, key_BHLK: Tensor, value_BHLK: Tensor, blocks: BlockMask) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    mixed = flex_attention(query_BHLK, key_BHLK, value_BHLK, block_mask=blocks)
    assert isinstance(mixed, Tensor)
    return mixed
