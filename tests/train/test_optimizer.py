"""What a step does to weights and moments, by values that are computed by hand."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import MODEL_FILE, OPTIMIZER_FILE, read_info, read_tensors
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import DalleLoss
from pipeline.train.config import OptimizerOptions, TrainConfig
from pipeline.train.distributed import Ranks
from pipeline.train.feeding import DeviceBatch
from pipeline.train.optimizer import LossScale, Plateau, TorchStepper, make_optimizer
from pipeline.train.run import run
from pipeline.train.state import TrainState, make_state
from pipeline.train.trainer import Trainer
from tests.helpers.training import log_of, train_config

MakeConfig = Callable[..., TrainConfig]
ALONE = Ranks(kind="none", rank=0, size=1, device=torch.device("cpu"))
MODEL = DalleConfig(
    dim=8, depth=1, heads=1, dim_head=8, text_seq_len=4, num_text_tokens=8, num_image_tokens=8,
    image_fmap_size=2,
)  # fmt: skip


# --- The optimizer that the options ask for ------------------------------------------------------


def model() -> nn.Module:
    """A matrix, a kernel and vectors: those of a norm, biases, a scale."""
    layers = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Conv2d(1, 1, 3))
    layers.register_parameter("scale", nn.Parameter(torch.ones(())))
    return layers


def test_matrices_and_kernels_are_decayed_and_vectors_and_scales_are_not() -> None:
    made = model()
    optimizer = make_optimizer(made, OptimizerOptions(weight_decay=0.125))
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    decays = {
        names[id(parameter)]: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert decays == {
        "0.weight": 0.125,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": 0.125,
        "2.bias": 0.0,
        "scale": 0.0,
    }


def test_frozen_parameters_are_left_out() -> None:
    made = model()
    made.requires_grad_(False)
    made.get_parameter("0.weight").requires_grad_(True)
    groups = make_optimizer(made, OptimizerOptions()).param_groups
    assert [len(group["params"]) for group in groups] == [1, 0]


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)]
)
def test_the_optimizer_is_the_one_asked_for_with_its_betas_and_rate(
    name: Any, kind: type[torch.optim.Optimizer]
) -> None:
    options = OptimizerOptions(kind=name, beta2=0.96, learning_rate=0.02)
    optimizer = make_optimizer(model(), options)
    assert type(optimizer) is kind
    for group in optimizer.param_groups:
        assert (group["betas"], group["lr"]) == ((0.9, 0.96), 0.02)


# --- The state that the options ask for ----------------------------------------------------------


def state(**options: Any) -> TrainState:
    return make_state(nn.Linear(2, 2), MODEL, train_config(**options), ALONE)


@pytest.mark.parametrize(("precision", "scaled"), [("fp32", 0), ("bf16", 0), ("fp16", 1)])
def test_losses_are_scaled_in_fp16_alone(precision: str, scaled: int) -> None:
    assert (state(precision=precision).stepper.scale is not None) == bool(scaled)


def test_a_mean_of_the_weights_is_kept_with_the_decay_asked_for() -> None:
    assert state().average is None
    average = state(ema_decay=0.97).average
    assert average is not None
    assert average.decay == 0.97


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant", "plateau"])
def test_a_plateau_is_watched_where_it_is_asked_for(decay: str) -> None:
    assert (state(lr_decay=decay).plateau is not None) == (decay == "plateau")


def test_a_clip_of_0_cuts_nothing() -> None:
    for clip, longest in ((0.0, math.inf), (0.5, 0.5)):
        stepper = state(clip_grad_norm=clip).stepper
        assert isinstance(stepper, TorchStepper)
        assert stepper.max_norm == longest


# --- A step --------------------------------------------------------------------------------------


def stepper(longest: float) -> tuple[nn.Module, TorchStepper]:
    """A weight of 2 numbers, both 1, that plain descent with rate 1 changes."""
    made = nn.Linear(2, 1, bias=False)
    nn.init.ones_(made.weight)
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0, fused=True)
    return made, TorchStepper(model=made, optimizer=optimizer, max_norm=longest)


FINE, BROKEN = torch.tensor(False), torch.tensor(True)


def backward(made: nn.Module, taken: TorchStepper, gradient: tuple[float, float]) -> None:
    taken.backward(made(torch.tensor([gradient])).sum())


@pytest.mark.parametrize(
    ("longest", "change"), [(math.inf, (3.0, 4.0)), (5.1, (3.0, 4.0)), (2.5, (1.5, 2.0))]
)
def test_a_gradient_is_cut_to_the_longest_and_its_own_norm_returned(
    longest: float, change: tuple[float, float]
) -> None:
    made, taken = stepper(longest)
    backward(made, taken, (3.0, 4.0))
    assert taken.step(FINE).item() == pytest.approx(5.0)
    (weight,) = made.parameters()
    expected = torch.tensor([[1 - change[0], 1 - change[1]]])
    torch.testing.assert_close(weight.detach(), expected, atol=1e-5, rtol=0)


def test_gradients_add_up_until_a_step_and_are_gone_after_it() -> None:
    made, taken = stepper(math.inf)
    backward(made, taken, (1.0, 0.0))
    backward(made, taken, (0.0, 2.0))
    taken.step(FINE)
    (weight,) = made.parameters()
    assert weight.tolist() == [[0.0, -1.0]]
    backward(made, taken, (1.0, 1.0))
    taken.step(FINE)
    assert weight.tolist() == [[-1.0, -2.0]]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_gradient_changes_nothing(broken: float) -> None:
    made, taken = stepper(0.5)
    backward(made, taken, (broken, 1.0))
    assert not taken.step(FINE).isfinite()
    (weight,) = made.parameters()
    assert weight.tolist() == [[1.0, 1.0]]


def test_a_step_after_a_broken_one_changes_nothing_either() -> None:
    """So that the failure can be read some steps later."""
    made, taken = stepper(0.5)
    backward(made, taken, (math.nan, 1.0))
    taken.step(FINE)
    backward(made, taken, (3.0, 4.0))
    assert taken.step(FINE).item() == pytest.approx(5.0)
    (weight,) = made.parameters()
    assert weight.tolist() == [[1.0, 1.0]]


def test_a_broken_loss_changes_nothing_whatever_its_gradient() -> None:
    made, taken = stepper(0.5)
    for broken in (BROKEN, FINE):
        backward(made, taken, (3.0, 4.0))
        taken.step(broken)
    (weight,) = made.parameters()
    assert weight.tolist() == [[1.0, 1.0]]


def test_adam_neither_moves_nor_counts_a_step_that_is_left_out() -> None:
    made = nn.Linear(2, 2)
    adam = torch.optim.AdamW(made.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    taken = TorchStepper(model=made, optimizer=adam, max_norm=0.5)
    states = []
    for broken in (FINE, BROKEN, FINE):
        taken.backward(made(torch.ones(3, 2)).sum())
        taken.step(broken)
        states.append([p.detach().clone() for p in made.parameters()])
        states[-1] += [value.clone() for value in taken.moments().values()]
    for later in states[1:]:
        assert all(torch.equal(a, b) for a, b in zip(states[0], later, strict=True))


@pytest.mark.parametrize("longest", [math.inf, 100.0, 0.5])
def test_clipping_is_that_of_torch(longest: float) -> None:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4))
    twin = copy.deepcopy(made)
    optimizer = make_optimizer(made, OptimizerOptions(weight_decay=0.1))
    theirs = make_optimizer(twin, OptimizerOptions(weight_decay=0.1))
    taken = TorchStepper(model=made, optimizer=optimizer, max_norm=longest)
    for _ in range(5):
        x = torch.randn(8, 16)
        taken.backward(made(x).square().sum())
        norm = taken.step(FINE)
        twin(x).square().sum().backward()
        torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(twin.parameters(), longest))
        theirs.step()
        theirs.zero_grad()
    for ours, other in zip(made.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, other, atol=1e-6, rtol=1e-5)


# --- The loss scale of fp16 ----------------------------------------------------------------------


@pytest.mark.parametrize("overflows", [[0, 1, 0, 0, 0, 1, 1, 0], [0] * 8, [1] * 8])
def test_the_loss_scale_is_that_of_torchs_scaler(
    overflows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LossScale, "INTERVAL", 3)
    ours = LossScale(torch.device("cpu"))
    theirs = torch.full((), LossScale.START), torch.zeros((), dtype=torch.int32)
    for overflow in overflows:
        found = torch.tensor(float(overflow))
        torch._amp_update_scale_(*theirs, found, 2.0, 0.5, 3)
        ours.update(found.bool())
        assert (ours.state()["scale"], ours.state()["_growth_tracker"]) == tuple(
            value.item() for value in theirs
        )


def test_a_loss_scale_is_restored() -> None:
    one, other = (LossScale(torch.device("cpu")) for _ in range(2))
    one.update(torch.tensor(True))
    one.update(torch.tensor(False))
    other.restore(one.state())
    assert other.state() == one.state()
    assert one.state()["scale"] == LossScale.START / 2


def test_an_overflow_leaves_out_its_step_alone() -> None:
    made = nn.Linear(2, 1, bias=False)
    nn.init.ones_(made.weight)
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0, fused=True)
    scale = LossScale(torch.device("cpu"))
    taken = TorchStepper(model=made, optimizer=optimizer, max_norm=math.inf, loss_scale=scale)
    backward(made, taken, (math.inf, 1.0))
    assert not taken.step(FINE).isfinite()
    assert made.weight.tolist() == [[1.0, 1.0]]
    backward(made, taken, (3.0, 4.0))
    assert taken.step(FINE).item() == pytest.approx(5.0)
    assert made.weight.tolist() == [[-2.0, -3.0]]
    backward(made, taken, (3.0, 4.0))
    taken.step(BROKEN)
    backward(made, taken, (3.0, 4.0))
    taken.step(FINE)
    assert made.weight.tolist() == [[-2.0, -3.0]]


# --- A run ---------------------------------------------------------------------------------------


def tensors_after(workspace: Workspace, config: TrainConfig, file: str) -> Mapping[str, Tensor]:
    report = run(config)
    return read_tensors(workspace.run(config.name) / str(report.details["checkpoint"]), file)


def still(**options: Any) -> dict[str, Any]:
    """Options of runs whose gradients can be compared: nothing dropped, nothing cut."""
    return {
        "ff_dropout": 0.0,
        "attn_dropout": 0.0,
        "clip_grad_norm": 0.0,
        "val_every": 0,
        **options,
    }


def test_the_gradient_of_a_step_is_the_mean_over_its_batches_however_they_are_cut(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    moments = [
        tensors_after(
            workspace,
            make_config(**still(name=f"by-{ga}", steps=1, batch_size=8 // ga, ga_steps=ga)),
            OPTIMIZER_FILE,
        )
        for ga in (1, 2, 4)
    ]
    assert any(name.endswith("/exp_avg") for name in moments[0])
    for cut in moments[1:]:
        for name, whole in moments[0].items():
            torch.testing.assert_close(cut[name], whole, atol=1e-7, rtol=1e-4, msg=name)


def test_the_moments_decay_by_the_betas(workspace: Workspace, make_config: MakeConfig) -> None:
    """After one step they are 0.1 · g and (1 - beta2) · g²: so g is the same by either."""
    moments = tensors_after(
        workspace, make_config(**still(name="one", steps=1, beta2=0.96)), OPTIMIZER_FILE
    )
    first = {n.removesuffix("/exp_avg"): m for n, m in moments.items() if n.endswith("/exp_avg")}
    assert first
    for name, mean in first.items():
        square = moments[f"{name}/exp_avg_sq"]
        torch.testing.assert_close(square, (1 - 0.96) * (mean / 0.1) ** 2, atol=1e-9, rtol=1e-3)


def test_the_first_rate_of_the_log_is_that_of_step_1_and_samples_are_counted(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    options = {"warmup_steps": 4, "learning_rate": 0.08, "lr_decay": "constant", "steps": 6}
    report = run(make_config(ga_steps=2, batch_size=4, val_every=0, **options))
    rates = [record["lr"] for record in log_of(workspace.run("tiny")) if "lr" in record]
    assert rates == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08, 0.08])
    assert report.counts["samples"] == 6 * 2 * 4
    info = read_info(workspace.run("tiny") / str(report.details["checkpoint"]))
    assert (info.step, info.epoch, info.consumed) == (6, 1, 8)  # 48 of 40 samples a pass


def test_a_plateau_lowers_the_rate_of_the_steps_after_it(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    """The rate of a step is the one that torch's scheduler has after the losses of earlier passes."""
    options = {"lr_decay": "plateau", "learning_rate": 2.0, "warmup_steps": 0, "steps": 40}
    run(make_config(**still(batch_size=40, **options)))
    records = [record for record in log_of(workspace.run("tiny")) if "lr" in record]
    plateau, expected = Plateau(2.0), []
    for record in records:
        expected.append(2.0 * plateau.factor)
        plateau.end_epoch(record["loss"])
    assert [record["lr"] for record in records] == expected
    assert min(expected) < 2.0


def test_weights_move_against_their_gradient_by_the_rate(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    """Adam's first step is `rate` in every weight that has a gradient."""
    options = {"warmup_steps": 0, "lr_decay": "constant", "steps": 1}
    rates = {}
    for rate in (0.0, 0.001):
        config = make_config(**still(name=f"r{rate}", learning_rate=rate, **options))
        rates[rate] = tensors_after(workspace, config, MODEL_FILE)
    moved = torch.cat([(rates[0.0][n] - w).abs().flatten() for n, w in rates[0.001].items()])
    assert moved.max().item() == pytest.approx(0.001, rel=0.01)
    assert (moved > 0.0009).float().mean() > 0.5


@pytest.mark.parametrize("broken", [1, 2, 4])
def test_one_loss_that_is_not_finite_stops_the_step_whichever_of_its_batches_it_is_of(
    broken: int, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy, calls = Trainer.loss, itertools.count(1)

    def loss_of(trainer: Trainer, module: nn.Module, batch: DeviceBatch) -> DalleLoss:
        loss = healthy(trainer, module, batch)
        return loss._replace(image=loss.image * math.inf) if next(calls) == broken else loss

    monkeypatch.setattr(Trainer, "loss", loss_of)
    with pytest.raises(ModelError, match=r"a loss is not finite .*loss_image inf") as error:
        run(make_config(**still(steps=2, batch_size=2, ga_steps=2)))
    assert f"before step {(broken + 1) // 2}:" in str(error.value)
    assert str(error.value).count("train_00") == 2  # the samples of that batch alone
