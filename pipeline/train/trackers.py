"""What a run logs (losses, speed, memory) and where: log.jsonl, TensorBoard by default, W&B if enabled.

log.jsonl holds only losses, so the same run writes the same bytes; speeds go to the other two.

MFU (model FLOPs utilization, `models.dalle.flops`) is relative to the measured rate of plain matrix products.
It is shown only on a GPU, which the process has to itself; CPU cores are shared with other processes,
including those of the same run.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.config import resolved
from pipeline.core.errors import DependencyError
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.flops import training_flops
from pipeline.models.devices import matmul_rate, peak_bytes
from pipeline.train.config import TrainConfig
from pipeline.train.precision import DTYPES
from pipeline.train.run_folder import RunFolder

logger = logging.getLogger(__name__)
Pixels = npt.NDArray[np.uint8]


class Sink(Protocol):
    """An experiment tracker."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log a step's scalars."""

    def image(self, step: int, name: str, pixels_HWC: Pixels) -> None:
        """Log a step's RGB image."""

    def close(self) -> None:
        """Write what is buffered."""


class Journal:
    """All sinks of a run; ranks other than 0 have none."""

    def __init__(self, folder: RunFolder | None, sinks: tuple[Sink, ...] = ()) -> None:
        self._folder, self._sinks = folder, sinks

    def losses(self, step: int, values: Mapping[str, int | float]) -> None:
        """Log reproducible numbers, to log.jsonl too."""
        if self._folder is not None:
            self._folder.append({"step": step, **values})
        self.speeds(step, values)

    def speeds(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers that differ from run to run."""
        for sink in self._sinks:
            sink.scalars(step, values)

    def image(self, step: int, name: str, pixels_HWC: Pixels) -> None:
        """Log an RGB image."""
        for sink in self._sinks:
            sink.image(step, name, pixels_HWC)

    def close(self) -> None:
        """Close all sinks."""
        for sink in self._sinks:
            sink.close()


def open_journal(folder: RunFolder, config: TrainConfig, step: int, *, total_steps: int) -> Journal:
    """The journal of a run that resumes after `step`; what was logged for later steps is removed.

    Raises DependencyError if W&B is enabled and not installed.
    """
    folder.cut_log(step, total_steps=total_steps)
    sinks: list[Sink] = []
    if config.logging.tensorboard:
        try:
            sinks.append(TensorBoard(folder, step))
        except ImportError:
            logger.warning("No event files: the package tensorboard is not installed")
    if config.logging.wandb is not None:
        sinks.append(WeightsAndBiases(folder, config, config.logging.wandb))
    return Journal(folder, tuple(sinks))


class TensorBoard:
    """Event files in runs/NAME/tensorboard."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _wait_for_a_later_name(folder.tensorboard)
        self._writer = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log one scalar per name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, pixels_HWC: Pixels) -> None:
        """An image."""
        self._writer.add_image(name, pixels_HWC, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait until the second of the latest event file (events.out.tfevents.SECOND.HOST.PID.NUMBER) is over.

    TensorBoard reads files in name order, where number 10 comes before 9. Two files of the same second
    could be read in the wrong order, and steps that the later one purges would reappear.
    """
    seconds = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*.*")]
    latest = max((int(second) for second in seconds if second.isdecimal()), default=0)
    if 0 <= (ahead := latest - int(time.time())) <= 2:
        time.sleep(latest + 1 - time.time())
    elif ahead > 2:
        logger.warning("The clock is %d s behind the event files: steps may appear twice", ahead)


class WeightsAndBiases:
    """A run of a W&B project, resumed under the same id."""

    def __init__(self, folder: RunFolder, config: TrainConfig, project: str) -> None:
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise DependencyError(
                "--wandb needs the package 'wandb', which is not installed. "
                "Install it with: pip install wandb."
            ) from error
        name = config.name.replace("/", "-")
        self._run = self._wandb.init(
            project=project,
            name=name,
            id=name,
            resume="allow",
            dir=str(folder.root),
            config=resolved(config),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log a step's scalars."""
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, pixels_HWC: Pixels) -> None:
        """An image."""
        self._run.log({name: self._wandb.Image(pixels_HWC)}, step=step)

    def close(self) -> None:
        """Send what is buffered."""
        self._run.finish()


WINDOW = 20  # the speed is the median over this many readings
MEASURE_MFU_AFTER_S = 5.0  # measuring the device takes a moment, which short runs can do without


class Meter:
    """Times the steps and computes their speed."""

    def __init__(
        self, model: DalleConfig, *, samples: int, size: int, precision: str, device: torch.device
    ) -> None:
        """`samples` is the number per step over all `size` ranks."""
        self._tokens = samples * model.total_seq_len
        self._flops = samples * training_flops(model) / size
        self._precision, self._device = precision, device
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._born = self._began = time.monotonic()

    def begin(self) -> None:
        """Mark the start of the first step since the last reading."""
        self._began = time.monotonic()

    def end(self, steps: int) -> None:
        """Mark the end of `steps` steps; the device must have finished its work, as reading ensures."""
        self._seconds.append((time.monotonic() - self._began) / steps)

    def values(self) -> dict[str, float]:
        """tokens_per_s, memory_gb, and mfu on a GPU once training has run for some seconds."""
        seconds = sorted(self._seconds)[len(self._seconds) // 2]
        values = {
            "tokens_per_s": self._tokens / seconds,
            "memory_gb": peak_bytes(self._device) / 1e9,
        }
        alone = self._device.type == "cuda"
        if alone and time.monotonic() - self._born > MEASURE_MFU_AFTER_S:
            rate = matmul_rate(self._device, DTYPES[self._precision])
            values["mfu"] = self._flops / seconds / rate
        return values

    def notes(self) -> dict[str, str]:
        """The same values, formatted for the progress line."""
        values = self.values()
        notes = {
            "tokens/s": f"{values['tokens_per_s']:,.0f}",
            "memory": f"{values['memory_gb']:.1f} GB",
        }
        return notes | ({"MFU": f"{values['mfu']:.0%}"} if "mfu" in values else {})
