"""Matrix products of linear layers, for training on a CPU.

torch multiplies float32 with BLAS (MKL in its builds). With the shapes of a training step oneDNN reached 103
to 111 GFLOP/s per core where MKL reached 93 to 100, and 86 to 88 where MKL reached 70 to 77 for the output
head's 16,384 and 49,504 ids (torch 2.13, AMD EPYC with AVX-512). Gradients of weights are as fast with MKL,
and bf16 uses oneDNN anyway. The operator is the one that torch's own compiler uses for CPUs.

Shapes: X rows with any number of axes, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipeline.models.dalle.operators import has_onednn


def linear(x_XI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Like `torch.nn.functional.linear`, but on a CPU without second derivatives."""
    return linear_parts(x_XI, weight_OI, bias_O, 1)[0]


def linear_parts(
    x_XI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, count: int
) -> Sequence[Tensor]:
    """The same with the O outputs in `count` equal parts, each a separate tensor.

    On a CPU, slicing a single output would copy the gradients of the slices together again, and separate
    products would make autocast convert x and its gradient once for each part. A GPU is faster with one large
    product.
    """
    if x_XI.device.type != "cpu":
        return F.linear(x_XI, weight_OI, bias_O).chunk(count, dim=-1)
    on_cpu = x_XI.device.type == "cpu" and weight_OI.dtype == torch.float32
    if on_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        parts: tuple[Tensor, ...] = _Linear.apply(x_XI, weight_OI, bias_O, count)
        return parts
    weights, biases = _parts(weight_OI, bias_O, count)
    return [F.linear(x_XI, w, b) for w, b in zip(weights, biases, strict=True)]


def multiply(x_XI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias for many rows, without gradients."""
    float32 = x_XI.dtype == weight_OI.dtype == torch.float32
    # torch's compiler reserves these operators for itself and chooses its own products.
    if (
        torch.compiler.is_compiling()
        or x_XI.device.type != "cpu"
        or not float32
        or not has_onednn()
    ):
        return F.linear(x_XI, weight_OI, bias_O)
    y_XO: Tensor = torch.ops.mkldnn._linear_pointwise(x_XI, weight_OI, bias_O, "none", [], "")
    return y_XO


def _parts(
    weight_OI: Tensor, bias_O: Tensor | None, count: int
) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
    return weight_OI.chunk(count), [None] * count if bias_O is None else bias_O.chunk(count)


class _Linear(torch.autograd.Function):
    """Under autocast the products use its dtype; gradients have the dtype of their tensors."""

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
