"""Linear layers with oneDNN: torch's results and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.dalle import products
from pipeline.models.dalle.products import linear, linear_parts, multiply

X = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(1))


def gradients(y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Of a sum with weights that differ by place."""
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape)
    return torch.autograd.grad((y * weights).sum(), inputs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("onednn", [True, False])
def test_the_numbers_and_gradients_are_those_of_torch(
    bias: bool, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not onednn:
        monkeypatch.setattr(products, "has_onednn", lambda: False)
    torch.manual_seed(0)
    inputs = [X.clone().requires_grad_(), torch.randn(10, 24, requires_grad=True)]
    if bias:
        inputs.append(torch.randn(10, requires_grad=True))
    ours, theirs = linear(*inputs), F.linear(*inputs)
    torch.testing.assert_close(ours, theirs)
    for our, their in zip(gradients(ours, *inputs), gradients(theirs, *inputs), strict=True):
        torch.testing.assert_close(our, their)
    with torch.no_grad():
        torch.testing.assert_close(multiply(*inputs), theirs)


@pytest.mark.parametrize("mixed", [True, False])
def test_parts_are_those_of_one_product(mixed: bool) -> None:
    torch.manual_seed(0)
    inputs = [X.clone().requires_grad_(), torch.randn(12, 24, requires_grad=True)]
    inputs.append(torch.randn(12, requires_grad=True))
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        ours = torch.cat(list(linear_parts(inputs[0], inputs[1], inputs[2], 3)), dim=-1)
        theirs = F.linear(*inputs)
    assert ours.dtype == theirs.dtype
    rtol, atol = (2e-2, 6e-2) if mixed else (1e-5, 1e-5)
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    for our, their in zip(gradients(ours, *inputs), gradients(theirs, *inputs), strict=True):
        torch.testing.assert_close(our, their, rtol=rtol, atol=atol)  # and in their types


def test_only_float32_weights_to_be_trained_go_their_own_way() -> None:
    weight = torch.randn(10, 24, requires_grad=True)
    plain, double = linear(X, weight), linear(X.double(), weight.double())
    names = [type(y.grad_fn).__name__ for y in (plain, double)]
    assert [name.startswith("_Linear") for name in names] == [True, False]
    with torch.no_grad():
        assert linear(X, weight).grad_fn is None


def test_a_frozen_weight_gets_no_gradient() -> None:
    x, weight = X.clone().requires_grad_(), torch.randn(10, 24)
    linear(x, weight).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
