"""Operators of torch that are no public API, with public operations where a torch lacks them.

pyproject.toml keeps torch below its next major version for their sake.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


@functools.cache
def has_onednn(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this torch has oneDNN's operators, and takes what we give them.

    In bf16 they also need a CPU with AVX-512 or AVX-NE-CONVERT.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.ones(2, 4, dtype=dtype, device="cpu")
    try:
        with torch.no_grad():
            packed = torch.ops.mkldnn._reorder_linear_weight(x.clone())
            y = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return y.tolist() == [[4.0, 4.0]] * 2


def gelu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of gelu at x."""
    if hasattr(torch.ops.aten, "gelu_backward"):
        return torch.ops.aten.gelu_backward(grad, x)
    share = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
    return grad * (share + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def softmax_backward(grad: Tensor, shares: Tensor) -> Tensor:
    """The gradient of a softmax over the last axis whose result is `shares`."""
    if hasattr(torch.ops.aten, "_softmax_backward_data"):
        return torch.ops.aten._softmax_backward_data(grad, shares, -1, shares.dtype)
    weighted = grad * shares
    return weighted - shares * weighted.sum(-1, keepdim=True)
