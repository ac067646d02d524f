"""FlexAttention gives what the dense masks give, and is chosen where it can leave out blocks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pipeline.models.dalle import attention_kernels
from pipeline.models.dalle.attention import Pattern
from pipeline.models.dalle.attention_kernels import (
    KERNELS,
    LONG,
    attend_masked,
    choose_kernel,
    column_order,
)
from pipeline.models.dalle.attention_masks import attention_mask
from pipeline.models.dalle.attention_types import ATTENTION_TYPES, AttentionType
from pipeline.models.dalle.config import DalleConfig

BLOCK = 128


def config(kind: AttentionType, *, text: int, size: int) -> DalleConfig:
    return DalleConfig(
        dim=16, depth=1, heads=2, dim_head=16, text_seq_len=text, num_text_tokens=20,
        num_image_tokens=10, image_fmap_size=size, attn_types=(kind,),
    )  # fmt: skip


def test_every_kind_has_a_kernel_for_short_and_long_sequences() -> None:
    assert set(KERNELS) == set(ATTENTION_TYPES)
    assert choose_kernel("conv_like", LONG - 1) == "prefix"
    assert choose_kernel("conv_like", LONG) == "flex"
    assert choose_kernel("full", 10 * LONG) == "causal"


def test_cudnn_never_gets_a_mask() -> None:
    """The code for CUDA, on a CPU, which has other kernels: eager, and in one graph."""
    torch._dynamo.reset()
    query, key, value = (torch.randn(2, 2, 20, 16) for _ in range(3))
    mask_LL = torch.ones(20, 20, dtype=torch.bool).tril()
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_LL)
    allowed: list[bool] = []

    def attend(*arguments: Any, **options: Any) -> torch.Tensor:
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return F.scaled_dot_product_attention(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_kernels, "F", SimpleNamespace(scaled_dot_product_attention=attend))
        assert torch.equal(attend_masked(query, key, value, mask_LL), expected)
    assert allowed == [False]
    assert torch.backends.cuda.cudnn_sdp_enabled()  # without a mask it may be the fastest
    compiled = torch.compile(attend_masked, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(query, key, value, mask_LL), expected)


def live_blocks(mask_LL: torch.Tensor) -> int:
    """The blocks of 128 × 128 positions in which something is seen."""
    missing = -len(mask_LL) % BLOCK
    padded = torch.nn.functional.pad(mask_LL, (0, missing, 0, missing))
    return int(padded.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).any(3).any(1).sum())


@pytest.mark.parametrize(
    ("kind", "short", "long"),
    [("sparse", 6, 55), ("axial_row", 6, 40), ("axial_col", 6, 55), ("conv_like", 6, 45)],
)
def test_the_table_of_live_blocks_is_right(kind: Any, short: int, long: int) -> None:
    counts = []
    for text, size in ((96, 16), (256, 32)):
        mask_LL = attention_mask(kind, config(kind, text=text, size=size))
        assert mask_LL is not None
        counts.append(live_blocks(mask_LL))
    assert counts == [short, long]


def test_by_columns_axial_col_has_blocks_to_leave_out() -> None:
    long = config("axial_col", text=256, size=32)
    mask_LL, order_L = attention_mask("axial_col", long), column_order(long)
    assert mask_LL is not None
    assert sorted(order_L.tolist()) == list(range(1280))
    assert live_blocks(mask_LL[order_L][:, order_L]) == 40


@pytest.mark.parametrize("kind", [kind for kind in ATTENTION_TYPES if kind != "full"])
def test_flex_attention_is_masked_attention(kind: Any) -> None:
    """Over more than one block, and a last one that is not full."""
    torch._dynamo.reset()
    shape = config(kind, text=31, size=15)  # 256 positions, for sparse; else one more
    shape = shape if kind == "sparse" else config(kind, text=32, size=15)
    plain, flex = Pattern(kind, shape), Pattern(kind, shape)
    flex.use_flex(shape)
    qkv = torch.randn(3, 2, 2, shape.total_seq_len, 16)
    expected = plain.attend(*qkv)
    assert torch.equal(flex.attend(*qkv), expected)  # not compiled: not used
    found = torch.compile(flex.attend, backend="aot_eager", fullgraph=True)(*qkv)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-5)
