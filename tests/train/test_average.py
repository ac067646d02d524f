"""The running mean of the weights, by values: mean ← decay · mean + (1 - decay) · weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import AVERAGE_FILE, MODEL_FILE, read_tensors
from pipeline.train.config import TrainConfig
from pipeline.train.optimizer import WeightAverage
from pipeline.train.run import run

MakeConfig = Callable[..., TrainConfig]


def module(value: float) -> nn.Module:
    """A module whose weights all have one value."""
    linear = nn.Linear(2, 2)
    return fill(linear, value)


def fill(model: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def values(tensors: dict[str, torch.Tensor]) -> set[float]:
    return {round(value, 6) for tensor in tensors.values() for value in tensor.flatten().tolist()}


def test_the_mean_begins_as_the_weights_and_follows_them_by_its_formula() -> None:
    model = module(1.0)
    average = WeightAverage(model, 0.9)
    assert values(average.tensors) == {1.0}
    average.update(fill(model, 2.0))
    assert values(average.tensors) == {1.1}  # 0.9 · 1 + 0.1 · 2
    average.update(fill(model, 3.1))
    assert values(average.tensors) == {1.3}  # 0.9 · 1.1 + 0.1 · 3.1


@pytest.mark.parametrize(("decay", "mean"), [(0.0, 5.0), (0.25, 4.0), (1.0, 1.0)])
def test_a_decay_of_0_is_the_weights_and_of_1_their_beginning(decay: float, mean: float) -> None:
    model = module(1.0)
    average = WeightAverage(model, decay)
    average.update(fill(model, 5.0))
    assert values(average.tensors) == {mean}


def test_the_model_has_the_mean_within_and_its_own_weights_again_after_whatever_happens() -> None:
    model = module(1.0)
    average = WeightAverage(model, 0.5)
    average.update(fill(model, 3.0))
    seen: list[set[float]] = []

    def use() -> None:
        with average.in_place_of_weights(model):
            seen.append(values(dict(model.named_parameters())))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert seen == [{2.0}]
    assert values(dict(model.named_parameters())) == {3.0}
    assert values(average.tensors) == {2.0}


def weights_after(workspace: Workspace, config: TrainConfig, file: str) -> dict[str, torch.Tensor]:
    report = run(config)
    folder = workspace.run(config.name) / str(report.details["checkpoint"])
    return dict(read_tensors(folder, file))


def test_a_run_keeps_the_mean_of_its_own_steps_also_when_it_goes_on(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    def config(name: str, steps: int) -> TrainConfig:
        return make_config(name=name, steps=steps, ema_decay=0.75, lr_decay="constant")

    begun = run(make_config(name="begun", steps=1, ema_decay=0.75, warmup_steps=0, learning_rate=0))
    folder = workspace.run("begun") / str(begun.details["checkpoint"])
    expected = dict(read_tensors(folder, MODEL_FILE))
    means = {}
    for steps in (1, 2, 3):
        report = run(config("one", steps))
        checkpoint = workspace.run("one") / str(report.details["checkpoint"])
        weights, means = (
            read_tensors(checkpoint, MODEL_FILE),
            read_tensors(checkpoint, AVERAGE_FILE),
        )
        expected = {n: 0.75 * mean + 0.25 * weights[n] for n, mean in expected.items()}
        for name, mean in expected.items():
            torch.testing.assert_close(means[name], mean, atol=1e-6, rtol=1e-5)
    at_once = weights_after(workspace, config("whole", 3), AVERAGE_FILE)
    assert all(torch.equal(at_once[name], mean) for name, mean in means.items())
