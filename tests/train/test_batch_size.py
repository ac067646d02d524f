"""--batch-size auto with a made-up device, and --global-batch-size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import list_checkpoints, read_info
from pipeline.models.dalle.config import DalleConfig
from pipeline.train import batch_size
from pipeline.train.batch_size import fill_global_batch, find_batch_size, most_samples
from pipeline.train.config import TrainConfig
from pipeline.train.distributed import Ranks
from pipeline.train.run import run
from pipeline.webdata.reader import ShardReader
from tests.helpers.ranks import torchrun
from tests.helpers.training import log_of, train_config

MakeConfig = Callable[..., TrainConfig]


def device(*, room: int, saturated: int) -> Callable[[int], float | None]:
    """A device for `room` samples that is no faster with more than `saturated`."""
    return lambda size: None if size > room else 100.0 * min(size, saturated)


@pytest.mark.parametrize(
    ("room", "saturated", "most", "expected", "tried"),
    [
        (100, 1000, 1000, 64, [8, 16, 32, 64, 128]),  # memory ends
        (1000, 64, 1000, 64, [8, 16, 32, 64, 128]),  # speed does
        (1000, 4, 1000, 8, [8, 16]),
        (3, 1000, 1000, 2, [2, 4, 8]),
        (1, 1000, 1000, 1, [1, 2, 4, 8]),
        (1000, 1000, 20, 16, [8, 16]),  # the split ends
        (1000, 1000, 3, 3, [3]),
    ],
)
def test_the_batch_doubles_until_memory_or_speed_ends(
    room: int, saturated: int, most: int, expected: int, tried: list[int]
) -> None:
    size, speeds = find_batch_size(device(room=room, saturated=saturated), most=most)
    assert (size, sorted(speeds)) == (expected, tried)


@pytest.mark.parametrize(("gain", "expected"), [(1.02, 8), (1.04, 16)])
def test_a_gain_of_3_percent_is_worth_a_larger_batch(gain: float, expected: int) -> None:
    speeds = {8: 100.0, 16: 100.0 * gain, 32: 100.0}
    assert find_batch_size(speeds.__getitem__, most=32)[0] == expected


def test_a_model_of_which_no_sample_fits_is_reported() -> None:
    with pytest.raises(ModelError, match="single sample"):
        find_batch_size(device(room=0, saturated=1), most=100)


def measured(
    size: int, config: TrainConfig, model: DalleConfig, reader: ShardReader, ranks: Ranks
) -> float | None:
    return device(room=9, saturated=1000)(size)


def test_the_size_is_recorded_and_kept_by_a_resumed_run(
    workspace: Workspace,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(batch_size, "measure_speed", measured)
    options = {"batch_size": "auto", "lr_decay": "constant", "val_every": 0}
    run(make_config(steps=2, **options))
    assert "--batch-size auto is 8 (8: 800 samples/s, 16: out of memory)" in caplog.text
    assert read_manifest(workspace.run("tiny"), "run").config["batch_size"] == 8

    def unexpected(*_: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(batch_size, "measure_speed", unexpected)
    assert run(make_config(steps=2, **options)).outcome == "unchanged"
    assert run(make_config(steps=3, **options)).counts["samples"] == 3 * 8


def test_real_steps_are_timed_and_leave_the_run_as_it_would_be_with_a_number(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "LEAST_GAIN", 1e9)
    options = {"steps": 2, "val_every": 0}
    run(make_config(name="auto-size", batch_size="auto", **options))
    run(make_config(name="number", batch_size=8, **options))
    assert log_of(workspace.run("auto-size")) == log_of(workspace.run("number"))


def test_memory_that_ends_is_no_speed(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(batch_size, "_time_steps", full)
    with pytest.raises(ModelError, match="single sample"):
        run(make_config(batch_size="auto"))


class WithAnother(Ranks):
    """Two ranks, of which the other has room for 4 samples."""

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack([values, torch.tensor([4.0])])


def test_the_size_is_that_of_the_rank_with_the_least_room(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "measure_speed", measured)
    ranks = WithAnother(kind="ddp", rank=1, size=2, device=torch.device("cpu"))
    reader = ShardReader(workspace.shards("default"), "train")
    config = make_config(batch_size="auto")
    settled = batch_size.settle_batch_size(config, None, reader, ranks)  # type: ignore[arg-type]
    assert settled.schedule.batch_size == 4


# Every doubling pays, but the second process has room for 8 samples only.
LITTLE_ROOM = """
import os
from pipeline.train import batch_size
batch_size.LEAST_GAIN, healthy = 0.0, batch_size.measure_speed
def measure_speed(size, *arguments):
    return None if size > 8 and os.environ["RANK"] == "1" else healthy(size, *arguments)
batch_size.measure_speed = measure_speed
"""


@pytest.mark.slow
def test_processes_agree_on_the_size_that_fits_all_of_them(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    options = {"steps": 2, "val_every": 0, "parallel": "ddp"}
    done = torchrun(make_config(name="auto-size", batch_size="auto", **options), before=LITTLE_ROOM)
    assert done.returncode == 0, done.stderr
    assert "--batch-size auto is 8, the least of 2 processes (8: " in done.stderr
    manifest = read_manifest(workspace.run("auto-size"), "run")
    assert manifest.config["batch_size"] == 8
    assert manifest.counts["samples"] == 2 * 2 * 8
    assert torchrun(make_config(name="number", batch_size=8, **options)).returncode == 0
    assert log_of(workspace.run("auto-size")) == log_of(workspace.run("number"))


@pytest.mark.parametrize("given", ["0", "-3", "2.5", "many", ""])
def test_other_words_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="expected a number from 1, or auto"):
        train_config(batch_size=given)


def test_sharded_models_need_a_number(workspace: Workspace, make_config: MakeConfig) -> None:
    config = make_config(batch_size="auto")
    ranks = Ranks(kind="fsdp", rank=0, size=1, device=torch.device("cpu"))
    reader = ShardReader(workspace.shards("default"), "train")
    with pytest.raises(ConfigError, match=r"--parallel fsdp shards\. Give a number"):
        batch_size.settle_batch_size(config, None, reader, ranks)  # type: ignore[arg-type]


# --- The global batch ----------------------------------------------------------------------------


def test_a_global_batch_is_filled_by_accumulation(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(batch_size=2, global_batch_size=8, steps=3, val_every=0, save_every=0))
    folder = workspace.run("tiny")
    info = read_info(list_checkpoints(folder / "checkpoints")[-1])
    assert (info.training["samples"], info.training["step_samples"]) == (24, 8)
    run(make_config(name="by-hand", batch_size=2, ga_steps=4, steps=3, val_every=0, save_every=0))
    assert log_of(folder) == log_of(workspace.run("by-hand"))


def test_the_accumulation_of_a_global_batch_follows_the_number_of_processes() -> None:
    config = train_config(batch_size=4, global_batch_size=48)
    assert [fill_global_batch(config, ranks).schedule.ga_steps for ranks in (1, 2, 3)] == [12, 6, 4]


@pytest.mark.parametrize(("size", "ranks"), [(5, 1), (24, 5), (64, 1)])
def test_a_global_batch_that_whole_batches_do_not_fill_is_refused(size: int, ranks: int) -> None:
    with pytest.raises(ConfigError, match="--global-batch-size 48 is not a multiple of the"):
        fill_global_batch(train_config(batch_size=size, global_batch_size=48), ranks)


@pytest.mark.parametrize(
    ("whole", "samples", "ranks", "expected"),
    [(None, 100, 3, 33), (48, 1000, 1, 16), (48, 1000, 3, 16), (64, 1000, 1, 64), (64, 50, 2, 25)],
)
def test_auto_looks_among_sizes_that_fill_a_global_batch(
    whole: int | None, samples: int, ranks: int, expected: int
) -> None:
    schedule = train_config(global_batch_size=whole).schedule
    assert most_samples(schedule, samples, ranks) == expected


def test_processes_that_can_not_share_a_global_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="Give a multiple of 5"):
        most_samples(train_config(global_batch_size=48).schedule, 100, 5)
