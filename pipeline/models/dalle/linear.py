"""`nn.Linear` that can compute part of its outputs, and pack its weights for sampling.

Sampling multiplies few rows by many weights, over and over. BLAS rearranges the weights at every call,
oneDNN only once. On two cores with AVX-512, products of 32 rows in fp32 ran at 170 to 210 GFLOP/s with
packed weights and at 60 to 140 without; of 4 rows at 60 to 150 and at 12 to 40. These are the operators that
torch's own compiler uses in a frozen model.

Shapes: X rows with any number of axes, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.models.dalle.operators import has_onednn
from pipeline.models.dalle.products import linear, linear_parts


class Linear(nn.Linear):
    """A linear layer with the parameters and results of `nn.Linear`."""

    _packed_from: int | None = None
    _packed: Tensor | None = None

    def forward(self, x_XI: Tensor) -> Tensor:
        """All O outputs."""
        return self.outputs_from(x_XI, 0)

    def outputs_from(self, x_XI: Tensor, start: int) -> Tensor:
        """The outputs from `start` on."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if start:  # slicing takes a copy in the backward pass
            weight, bias = weight[start:], None if bias is None else bias[start:]
        if self._packed is None or self._packed_from != start:
            return linear(x_XI, weight, bias)
        return torch.ops.mkldnn._linear_pointwise(x_XI, self._packed, bias, "none", [], "")

    def chunks(self, x_XI: Tensor, count: int) -> Sequence[Tensor]:
        """The outputs in `count` equal chunks."""
        if self._packed_from == 0:
            return self(x_XI).chunk(count, dim=-1)
        return linear_parts(x_XI, self.weight, self.bias, count)

    @torch.no_grad()
    def pack(self, start: int = 0) -> None:
        """Pack the weights of the outputs from `start` on; they must not change afterwards."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight[start:].contiguous())
        self._packed_from = start


def can_pack(weight: Tensor) -> bool:
    """Whether the operators support these weights."""
    types = (torch.float32, torch.bfloat16)
    return weight.device.type == "cpu" and weight.dtype in types and has_onednn(weight.dtype)
