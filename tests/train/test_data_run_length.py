"""The length of a run and its progress, for any number of processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.core.workspace import Workspace
from pipeline.train.config import TrainConfig
from pipeline.train.data import Position, RunLength, first_step_samples, step_samples, stream_steps
from pipeline.train.optimizer import learning_rate
from pipeline.train.run import run
from pipeline.webdata.reader import ShardReader
from tests.helpers.training import changed, log_of, train_config

MakeConfig = Callable[..., TrainConfig]
START = Position(epoch=0, consumed=0)


def run_length(
    config: TrainConfig, *, ranks: int = 1, samples: int = 40, unit: int = 4
) -> RunLength:
    return RunLength(schedule=config.schedule, samples=samples, ranks=ranks, unit=unit)


def test_passes_make_steps_and_steps_are_steps(make_config: MakeConfig) -> None:
    passes = make_config(steps=None, epochs=3, batch_size=4)
    assert (run_length(passes).total, run_length(passes).steps_left(0, START)) == (30, 30)
    # A step of two processes counts as two of the one that began.
    assert run_length(passes, ranks=2).total == 30
    assert run_length(passes, ranks=2).steps_left(0, START) == 15
    middle = Position(epoch=1, consumed=8)
    assert (
        run_length(passes).done(12, middle, 48)
        == run_length(passes, ranks=2).done(6, middle, 48)
        == 12
    )
    assert run_length(passes, ranks=2).steps_left(6, middle) == 4 + 5
    steps = make_config(steps=7)
    assert (run_length(steps, ranks=2).total, run_length(steps, ranks=2).done(3, middle, 48)) == (
        7,
        3,
    )
    assert run_length(steps, ranks=2).steps_left(3, middle) == 4
    assert run_length(steps).steps_left(9, middle) == 0


@pytest.mark.parametrize("samples", [40, 41, 43, 47])
@pytest.mark.parametrize("ga_steps", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_the_stream_ends_when_the_steps_are_done(
    make_config: MakeConfig, samples: int, ga_steps: int, ranks: int
) -> None:
    config = make_config(steps=None, epochs=3, batch_size=4, ga_steps=ga_steps)
    whole = run_length(config, ranks=ranks, samples=samples)
    batches = samples // (4 * ranks) * 3
    steps = whole.steps_left(0, START)
    assert steps == -(-batches // ga_steps)
    assert whole.steps_left(steps, Position(epoch=3, consumed=0)) == 0


@pytest.mark.parametrize("ga_steps", [1, 2, 3, 7, 100])
def test_every_sample_is_trained_on_once_a_pass(
    workspace: Workspace, make_config: MakeConfig, ga_steps: int
) -> None:
    """Also by accumulation across the end of a pass; the last step has the batches that are left."""
    reader = ShardReader(workspace.shards("default"), "train")
    config = make_config(steps=None, epochs=3, batch_size=4, ga_steps=ga_steps)
    steps = list(stream_steps(reader, config, START))
    assert len(steps) == run_length(config).steps_left(0, START)
    rows = [row for batches, _ in steps for batch in batches for row in batch.rows.tolist()]
    assert [sorted(rows[start : start + 40]) for start in (0, 40, 80)] == [list(range(40))] * 3
    assert steps[-1][1] == Position(epoch=3, consumed=0)


def test_a_pass_that_is_less_than_a_step_is_a_smaller_step(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    """By its mean, as if the step had been meant to be of that size."""
    options = {"steps": None, "epochs": 1, "batch_size": 40, "warmup_steps": 0}
    report = run(make_config(ga_steps=3, **options))
    assert (report.counts["steps"], report.counts["samples"]) == (1, 40)
    run(make_config(name="plain", ga_steps=1, **options))
    found, plain = (log_of(workspace.run(name)) for name in ("tiny", "plain"))
    assert [record["val_loss"] for record in found if "val_loss" in record] == [
        record["val_loss"] for record in plain if "val_loss" in record
    ]


@pytest.mark.parametrize("lr_decay", ["cosine", "linear"])
@pytest.mark.parametrize(("samples", "near"), [(40, 1e-12), (43, 1e-12), (47, 0.03)])
def test_the_learning_rate_resumes_where_it_was_under_other_ranks(
    make_config: MakeConfig, lr_decay: str, samples: int, near: float
) -> None:
    """Of 47 samples, two ranks drop 7 and one rank drops 3: a tenth of an epoch."""
    config = make_config(
        steps=None, epochs=10, batch_size=4, learning_rate=1.0, warmup_steps=25, lr_decay=lr_decay
    )
    for before, after in itertools.permutations((1, 2, 5), 2):
        first = run_length(config, ranks=before, samples=samples, unit=4)
        then = replace(first, ranks=after)
        for epoch, consumed in itertools.product(range(10), range(0, 40, 20)):
            position = Position(epoch=epoch, consumed=consumed)
            trained = epoch * first.pass_samples + consumed
            rates = [
                learning_rate(1 + e.done(0, position, trained), total_steps=e.total, config=config)
                for e in (first, then)
            ]
            assert rates[0] == pytest.approx(rates[1], abs=near)


def test_the_learning_rate_of_a_run_that_is_not_interrupted_goes_by_its_steps(
    make_config: MakeConfig,
) -> None:
    config = make_config(steps=None, epochs=3, batch_size=8, learning_rate=1.0, warmup_steps=4)
    run(config)
    by_steps = [
        learning_rate(step, total_steps=15, config=changed(config, steps=15))
        for step in range(1, 16)
    ]
    log = log_of(Workspace(config.workspace).run("tiny"))
    assert [record["lr"] for record in log if "lr" in record] == by_steps


@pytest.mark.parametrize(
    ("batch_size", "ga_steps", "ranks", "samples"),
    [(4, 1, 1, 4), (4, 3, 1, 12), (4, 1, 2, 8), (4, 3, 2, 24)],
)
def test_a_step_has_the_samples_of_all_its_batches_on_all_ranks(
    batch_size: int, ga_steps: int, ranks: int, samples: int
) -> None:
    config = train_config(batch_size=batch_size, ga_steps=ga_steps, steps=9)
    assert step_samples(config.schedule, ranks) == samples
    assert first_step_samples(config.schedule, ranks, 1000) == samples


@pytest.mark.parametrize(("samples", "first"), [(7, 4), (8, 8), (11, 8), (12, 12), (1000, 12)])
def test_the_first_step_of_a_short_run_has_all_that_its_passes_have(
    samples: int, first: int
) -> None:
    config = train_config(batch_size=4, ga_steps=3, epochs=1)
    assert first_step_samples(config.schedule, 1, samples) == first
