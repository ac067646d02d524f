"""Products of a linear layer in float32 on a processor, by oneDNN. Floor 3.

torch multiplies float32 by BLAS (MKL in its builds). With the shapes of a training step oneDNN ran at 103 to
111 GFLOP/s for each second of a core where MKL ran at 93 to 100, and at 86 to 88 where MKL ran at 70 to 77
for the heads' 16,384 and 49,504 ids (torch 2.13, AMD EPYC with AVX-512). The gradients of weights, products
over the rows, are as fast by MKL; bf16 goes to oneDNN anyway. The operator is the one that torch's own
compiler puts into models for processors.

Shapes: X rows of any number of axes, I numbers in, O numbers out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def linear(x_XI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """What `torch.nn.functional.linear` gives; from oneDNN there are no gradients of gradients."""
    mixed = torch.is_autocast_enabled(x_XI.device.type)
    if mixed or not torch.is_grad_enabled() or not _is_for_onednn(x_XI, weight_OI):
        return F.linear(x_XI, weight_OI, bias_O)
    y_XO: Tensor = _Linear.apply(x_XI, weight_OI, bias_O)
    return y_XO


def multiply(x_XI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias of many rows; no gradients can be taken."""
    if not _is_for_onednn(x_XI, weight_OI):
        return F.linear(x_XI, weight_OI, bias_O)
    y_XO: Tensor = torch.ops.mkldnn._linear_pointwise(x_XI, weight_OI, bias_O, "none", [], "")
    return y_XO


def has_onednn() -> bool:
    """Whether this torch has oneDNN's operators."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_for_onednn(x_XI: Tensor, weight_OI: Tensor) -> bool:
    return (
        x_XI.device.type == "cpu"
        and x_XI.dtype == weight_OI.dtype == torch.float32
        and has_onednn()
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_XI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_XI, weight_OI)
        return multiply(x_XI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_XO: Tensor) -> tuple[Tensor | None, ...]:
        x_XI, weight_OI = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        grad_MO, x_MI = grad_XO.flatten(0, -2), x_XI.flatten(0, -2)
        return (
            multiply(grad_XO, weight_OI.T) if of_x else None,
            grad_MO.T @ x_MI if of_weight else None,
            grad_MO.sum(dim=0) if of_bias else None,
        )
