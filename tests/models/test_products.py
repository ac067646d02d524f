"""Linear layers by oneDNN: the numbers and gradients of torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models import products
from pipeline.models.products import linear, multiply

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


def test_only_float32_with_gradients_goes_its_own_way() -> None:
    if not products.has_onednn():
        pytest.skip("this build of torch has no oneDNN")
    weight = torch.randn(10, 24, requires_grad=True)
    plain, double = linear(X, weight), linear(X.double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = linear(X, weight)
    names = [type(y.grad_fn).__name__ for y in (plain, mixed, double)]
    assert [name.startswith("_Linear") for name in names] == [True, False, False]
    with torch.no_grad():
        assert linear(X, weight).grad_fn is None


def test_a_frozen_weight_gets_no_gradient() -> None:
    x, weight = X.clone().requires_grad_(), torch.randn(10, 24)
    linear(x, weight).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
