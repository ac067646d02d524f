"""The batch size that `--batch-size auto` finds, and the accumulation that fills a `--global-batch-size`."""

from __future__ import annotations

import dataclasses
import gc
import logging
import time
from collections.abc import Callable, Mapping

import torch

from pipeline.core.errors import ConfigError, ModelError
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.devices import is_out_of_memory, wait_for
from pipeline.train.config import ScheduleOptions, TrainConfig
from pipeline.train.distributed import Ranks
from pipeline.train.evaluation import loss_values
from pipeline.train.feeding import DeviceBatch, Uploader
from pipeline.train.model import make_model
from pipeline.train.precision import autocast
from pipeline.train.state import make_state
from pipeline.webdata.reader import ShardReader

logger = logging.getLogger(__name__)

FIRST = 8
# A larger batch that is hardly faster only changes the training: fewer, longer steps.
LEAST_GAIN = 1.03
WARM_UP, TIMED = 2, 5  # steps


Speeds = Mapping[int, float | None]  # samples per second by batch size; None if memory ends


def find_batch_size(speed_of: Callable[[int], float | None], *, most: int) -> tuple[int, Speeds]:
    """The batch size to use, and the speeds of those tried.

    Doubles from `FIRST`, at most to `most`, while `speed_of` grows by `LEAST_GAIN`; halves if `FIRST` does
    not fit. Raises ModelError if a single sample doesn't.
    """
    size = min(FIRST, most)
    speeds = {size: speed_of(size)}
    while (speed := speeds[size]) is None:
        if size == 1:
            raise ModelError(
                "Out of memory with a single sample. Use a smaller model, --reversible or --precision bf16."
            )
        size //= 2
        speeds[size] = speed_of(size)
    while 2 * size <= most and 2 * size not in speeds:
        larger = speeds[2 * size] = speed_of(2 * size)
        if larger is None or larger < LEAST_GAIN * speed:
            break
        size, speed = 2 * size, larger
    return size, speeds


def most_samples(schedule: ScheduleOptions, samples: int, ranks: int) -> int:
    """The largest batch that the split fills, and that divides the global batch by powers of two.

    Raises ConfigError if the processes can't share the global batch.
    """
    if schedule.global_batch_size is None:
        return max(1, samples // ranks)
    share, left = divmod(schedule.global_batch_size, ranks)
    if left or not share:
        raise ConfigError(
            f"--global-batch-size {schedule.global_batch_size} can't be shared by {ranks} processes. "
            f"Give a multiple of {ranks}."
        )
    return min(share & -share, max(1, samples // ranks))


def settle_batch_size(
    config: TrainConfig, model: DalleConfig, reader: ShardReader, ranks: Ranks
) -> TrainConfig:
    """The config with the size that `--batch-size auto` finds on this rank's device; the ranks use the least.

    Each rank trains a model of its own for some steps, which is then dropped. Raises ConfigError for
    engines that shard a model.
    """
    if config.schedule.batch != "auto":
        return config
    if ranks.kind in ("fsdp", "deepspeed"):
        raise ConfigError(
            f"--batch-size auto can't measure models that --parallel {ranks.kind} shards. Give a number."
        )
    alone = dataclasses.replace(ranks, kind="none", rank=0, size=1)
    most = most_samples(config.schedule, len(reader), ranks.size)
    mine, speeds = find_batch_size(
        lambda size: measure_speed(size, config, model, reader, alone), most=most
    )
    size = int(ranks.gather(torch.tensor([float(mine)])).min().item())
    if ranks.is_main:
        tried = ", ".join(
            f"{size}: {'out of memory' if speed is None else f'{speed:.4g} samples/s'}"
            for size, speed in sorted(speeds.items())
        )
        least = f", the least of {ranks.size} processes" if ranks.size > 1 else ""
        logger.warning("--batch-size auto is %d%s (%s)", size, least, tried)
    schedule = dataclasses.replace(config.schedule, batch=str(size))
    return dataclasses.replace(config, schedule=schedule)


def measure_speed(
    size: int, config: TrainConfig, model: DalleConfig, reader: ShardReader, ranks: Ranks
) -> float | None:
    """Samples per second of training steps with this batch size; None if they don't fit into memory."""
    try:
        return _time_steps(size, config, model, reader, ranks)
    except (RuntimeError, MemoryError, ModelError) as error:
        if not is_out_of_memory(error) and not isinstance(error, ModelError):
            raise
        return None
    finally:
        gc.collect()
        if ranks.device.type == "cuda":
            torch.cuda.empty_cache()


def _time_steps(
    size: int, config: TrainConfig, model: DalleConfig, reader: ShardReader, ranks: Ranks
) -> float:
    schedule = dataclasses.replace(config.schedule, batch=str(size))
    config = dataclasses.replace(config, schedule=schedule)
    state = make_state(make_model(model, config, ranks), model, config, ranks)
    uploader = Uploader(
        device=ranks.device, vocabulary=max(model.num_text_tokens, model.num_image_tokens)
    )
    batch = uploader.upload(reader.gather(range(size)))
    batch.wait()

    def step(batch: DeviceBatch) -> None:
        with autocast(config.parallel.precision, ranks.device):
            loss = state.model(batch.tokens_BT, batch.codes_BN)
        state.stepper.backward(loss.total)
        state.stepper.step(~loss_values(loss).isfinite().all())

    for _ in range(WARM_UP):
        step(batch)
    wait_for(ranks.device)
    began = time.perf_counter()
    for _ in range(TIMED):
        step(batch)
    wait_for(ranks.device)
    return TIMED * size / (time.perf_counter() - began)


def fill_global_batch(config: TrainConfig, ranks: int) -> TrainConfig:
    """The config with the accumulation steps that make `global_batch_size`.

    Raises ConfigError if whole batches don't add up to it.
    """
    schedule = config.schedule
    if schedule.global_batch_size is None:
        return config
    at_once = schedule.batch_size * ranks
    steps, left = divmod(schedule.global_batch_size, at_once)
    if left or not steps:
        each = f" of {ranks} processes" if ranks > 1 else ""
        raise ConfigError(
            f"--global-batch-size {schedule.global_batch_size} is not a multiple of the {at_once} samples "
            f"of a forward pass (--batch-size {schedule.batch_size}{each}). Give a multiple, or another "
            "--batch-size."
        )
    return dataclasses.replace(config, schedule=dataclasses.replace(schedule, ga_steps=steps))
