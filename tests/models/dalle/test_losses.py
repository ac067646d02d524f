"""Cross-entropy in chunks: the same results as from all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.models.dalle import losses
from pipeline.models.dalle.losses import Part, split_cross_entropy


def make_head() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, requires_grad=True) for shape in ((30, 8), (30,), (7, 8), (12, 8))]


@pytest.fixture(params=[1, 3, 10**6], ids="chunk of {}".format, autouse=True)
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "MAX_LOGITS", request.param * 20)


TARGETS = torch.arange(7) % 20, torch.arange(12) % 10


def chunked_losses(head: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    weight, bias, text, image = head
    return split_cross_entropy(
        (Part(text, TARGETS[0], 0, 20), Part(image, TARGETS[1], 20, 30)), weight, bias
    )


def whole_losses(head: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    weight, bias, text, image = head
    return (
        F.cross_entropy(F.linear(text, weight[:20], bias[:20]), TARGETS[0]),
        F.cross_entropy(F.linear(image, weight[20:], bias[20:]), TARGETS[1]),
    )


def test_losses_and_gradients_are_those_of_whole_logits() -> None:
    results = []
    for losses_of in (chunked_losses, whole_losses):
        head = make_head()
        text, image = losses_of(head)
        (0.25 * text + 3 * image).backward()
        results.append([text, image, *(tensor.grad for tensor in head)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_padding_rows_and_ids_changes_neither_losses_nor_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on CUDA: 20 ids and 10 become 24 and 16."""
    expected, results = make_head(), []
    for head, multiple in ((expected, 1), (make_head(), 8)):
        monkeypatch.setattr(losses, "row_multiple", lambda device, multiple=multiple: multiple)
        text, image = chunked_losses(head)
        (0.25 * text + 3 * image).backward()
        results.append([text, image, *(tensor.grad for tensor in head)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_frozen_head_gives_gradients_to_its_rows() -> None:
    head = make_head()
    head[0].requires_grad_(False)
    chunked_losses(head)[0].backward()
    assert head[0].grad is None
    assert head[2].grad is not None
    assert head[2].grad.abs().sum() > 0


def test_no_gradient_is_made_where_none_is_wanted() -> None:
    with torch.no_grad():
        text, _ = chunked_losses(make_head())
    assert not text.requires_grad


def test_half_precision_gradients_do_not_vanish() -> None:
    """As a loss scaler needs them: scaled before they become small."""
    head = [tensor.detach().half().requires_grad_() for tensor in make_head()]
    text, _ = chunked_losses(head)
    (text * 1e-7 * 2**16).backward()
    assert head[2].grad is not None
    assert head[2].grad.abs().max() > 0


def test_gradients_are_taken_once() -> None:
    text, _ = chunked_losses(make_head())
    text.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        text.backward()
