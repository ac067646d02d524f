"""`nn.Linear` of which parts can be asked for, and which can be packed for drawing. Floor 3.

Drawing multiplies few rows by many weights, again and again. BLAS brings the weights into the layout that
its routines want at every call; oneDNN does so once. On two cores with AVX-512, products of 32 rows in
fp32 ran at 170 to 210 GFLOP/s with packed weights and 60 to 140 without, of 4 rows at 60 to 150 and 12 to
40. These are the operators that torch's own compiler puts into a frozen model.

Shapes: X rows of any number of axes, I numbers in, O numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.models.dalle.products import has_onednn, linear, linear_parts


class Linear(nn.Linear):
    """A linear layer, alike in parameters and numbers."""

    _packed_from: int | None = None
    _packed: Tensor | None = None

    def forward(self, x_XI: Tensor) -> Tensor:
        """All of the layer's O numbers."""
        return self.outputs_from(x_XI, 0)

    def outputs_from(self, x_XI: Tensor, start: int) -> Tensor:
        """The layer's numbers from `start` on."""
        bias = None if self.bias is None else self.bias[start:]
        if self._packed is None or self._packed_from != start:
            return linear(x_XI, self.weight[start:], bias)
        return torch.ops.mkldnn._linear_pointwise(x_XI, self._packed, bias, "none", [], "")

    def chunks(self, x_XI: Tensor, count: int) -> Sequence[Tensor]:
        """The layer's numbers in `count` equal parts."""
        if self._packed_from == 0:
            return self(x_XI).chunk(count, dim=-1)
        return linear_parts(x_XI, self.weight, self.bias, count)

    @torch.no_grad()
    def pack(self, start: int = 0) -> None:
        """Keep a packed copy of the weights of the numbers from `start` on; they may change no more."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight[start:].contiguous())
        self._packed_from = start


def can_pack(weight: Tensor) -> bool:
    """Whether the operators are there for weights of this kind."""
    types = (torch.float32, torch.bfloat16)
    return weight.device.type == "cpu" and weight.dtype in types and has_onednn()
