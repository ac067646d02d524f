"""Internals of torch that the model calls: without them, public operations give the same numbers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.dalle.operators import gelu_backward, has_onednn, softmax_backward

X = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[True, False], ids=["with internals", "without"])
def internals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(torch.ops, "aten", SimpleNamespace())


def gradient_of(y: Tensor, x: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(y, x, X.flip(0))
    return grad


def test_this_torch_has_the_internals_that_the_model_calls() -> None:
    assert has_onednn() is torch.backends.mkldnn.is_available()
    assert hasattr(torch.ops.aten, "gelu_backward")
    assert hasattr(torch.ops.aten, "_softmax_backward_data")


@pytest.mark.usefixtures("internals")
def test_gradients_are_those_of_autograd() -> None:
    x = X.clone().requires_grad_()
    shares = x.softmax(dim=-1)
    wanted = gradient_of(F.gelu(x), x), gradient_of(shares, x)
    found = gelu_backward(X.flip(0), X), softmax_backward(X.flip(0), shares.detach())
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("broken", ["missing", "other arguments", "other numbers"])
def test_onednn_is_not_used_where_its_operators_have_changed(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Tensor:
        raise RuntimeError("expected 7 arguments")

    def differs(*_: object) -> Tensor:
        return torch.zeros(2, 2)

    made = {"missing": None, "other arguments": fails, "other numbers": differs}[broken]
    names = ("_reorder_linear_weight", "_linear_pointwise")
    fake = SimpleNamespace(**{} if made is None else dict.fromkeys(names, made))
    monkeypatch.setattr(torch.ops, "mkldnn", fake)
    has_onednn.cache_clear()
    assert not has_onednn()
    monkeypatch.undo()
    has_onednn.cache_clear()
