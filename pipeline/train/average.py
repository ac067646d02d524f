"""A running mean of the weights: what is validated, drawn with and exported where it is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.train.sharded_tensors import own_part, part_changed


class WeightAverage:
    """mean ← decay · mean + (1 - decay) · weights, after every step; it begins as the weights."""

    tensors: dict[str, Tensor]

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.begin(model)

    def begin(self, model: nn.Module) -> None:
        """Take a model's weights as the mean."""
        self.tensors = {name: tensor.detach().clone() for name, tensor in _parts(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take a step's weights in."""
        for name, tensor in _parts(model):
            self.tensors[name].lerp_(tensor, 1 - self.decay)

    @contextlib.contextmanager
    def in_place_of_weights(self, model: nn.Module) -> Iterator[None]:
        """Within, `model` has the mean's weights."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            tensor = own_part(parameter)
            kept = tensor.detach().clone()
            tensor.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
            part_changed(parameter)


def _parts(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What this process holds of every parameter, by name; of a shared one once."""
    return ((name, own_part(parameter)) for name, parameter in model.named_parameters())
