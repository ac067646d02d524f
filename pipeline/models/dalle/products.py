"""Products of linear layers, for training on a processor. Floor 3.

torch multiplies float32 by BLAS (MKL in its builds). With the shapes of a training step oneDNN ran at 103 to
111 GFLOP/s for each second of a core where MKL ran at 93 to 100, and at 86 to 88 where MKL ran at 70 to 77
for the heads' 16,384 and 49,504 ids (torch 2.13, AMD EPYC with AVX-512). The gradients of weights, products
over the rows, are as fast by MKL; bf16 goes to oneDNN anyway. The operator is the one that torch's own
compiler puts into models for processors.

Shapes: X rows of any number of axes, I numbers in, O numbers out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def linear(x_XI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """What `torch.nn.functional.linear` gives; on a processor without gradients of gradients."""
    return linear_parts(x_XI, weight_OI, bias_O, 1)[0]


def linear_parts(
    x_XI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, count: int
) -> Sequence[Tensor]:
    """The same in `count` equal parts of the O numbers, each a tensor of its own.

    The gradients of slices of one tensor would be copied together again; and by autocast x would become
    bf16, and its gradient float32, once for each part.
    """
    on_processor = x_XI.device.type == "cpu" and weight_OI.dtype == torch.float32
    if on_processor and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        parts: tuple[Tensor, ...] = _Linear.apply(x_XI, weight_OI, bias_O, count)
        return parts
    weights, biases = _parts(weight_OI, bias_O, count)
    return [F.linear(x_XI, w, b) for w, b in zip(weights, biases, strict=True)]


def multiply(x_XI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias of many rows; no gradients can be taken."""
    float32 = x_XI.dtype == weight_OI.dtype == torch.float32
    # torch's compiler takes these operators for its own alone, and chooses products by itself.
    if (
        torch.compiler.is_compiling()
        or x_XI.device.type != "cpu"
        or not float32
        or not has_onednn()
    ):
        return F.linear(x_XI, weight_OI, bias_O)
    y_XO: Tensor = torch.ops.mkldnn._linear_pointwise(x_XI, weight_OI, bias_O, "none", [], "")
    return y_XO


def has_onednn() -> bool:
    """Whether this torch has oneDNN's operators."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _parts(
    weight_OI: Tensor, bias_O: Tensor | None, count: int
) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
    return weight_OI.chunk(count), [None] * count if bias_O is None else bias_O.chunk(count)


class _Linear(torch.autograd.Function):
    """With autocast the products are in its type, and gradients in those of what they are of."""

    @staticmethod
    def forward(
        ctx: Any, x_XI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, count: int
    ) -> tuple[Tensor, ...]:
        mixed = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if mixed else weight_OI.dtype
        ctx.dtypes = x_XI.dtype, weight_OI.dtype
        x_XI, weight_OI = x_XI.to(dtype), weight_OI.to(dtype)
        ctx.save_for_backward(x_XI, weight_OI)
        weights, biases = _parts(weight_OI, None if bias_O is None else bias_O.to(dtype), count)
        return tuple(multiply(x_XI, w, b) for w, b in zip(weights, biases, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_XI, weight_OI = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        rows, x_MI = [grad_XO.flatten(0, -2) for grad_XO in grads], x_XI.flatten(0, -2)
        x_grad = weight_grad = bias_grad = None
        if of_x:
            pairs = zip(rows, weight_OI.chunk(len(grads)), strict=True)
            x_grad = _sum((multiply(grad_MO, w.T) for grad_MO, w in pairs), x_dtype).view_as(x_XI)
        if of_weight:
            weight_grad = torch.empty_like(weight_OI, dtype=weight_dtype)
            for part, grad_MO in zip(weight_grad.chunk(len(grads)), rows, strict=True):
                _multiply_into(part, grad_MO.T, x_MI)
        if of_bias:
            bias_grad = torch.cat([grad_MO.sum(dim=0, dtype=weight_dtype) for grad_MO in rows])
        return x_grad, weight_grad, bias_grad, None


def _sum(terms: Iterator[Tensor], dtype: torch.dtype) -> Tensor:
    total = next(terms).to(dtype)
    for term in terms:
        total += term
    return total


def _multiply_into(out: Tensor, left: Tensor, right: Tensor) -> None:
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)
