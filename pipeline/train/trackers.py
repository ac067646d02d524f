"""Where a run tells its numbers: log.jsonl always, TensorBoard by default, W&B when asked.

log.jsonl holds losses alone, so that the same run leaves the same bytes; speeds go to the others.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.core.config import resolved
from pipeline.core.errors import DependencyError
from pipeline.train.config import TrainConfig
from pipeline.train.run_folder import RunFolder

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]


class Sink(Protocol):
    """A tracker of experiments."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Take scalars of a step."""

    def picture(self, step: int, name: str, pixels_HWC: Pixels) -> None:
        """Take an RGB picture of a step."""

    def close(self) -> None:
        """Write what is left."""


class Journal:
    """All sinks of one run; a rank that doesn't lead has none."""

    def __init__(self, folder: RunFolder | None, sinks: tuple[Sink, ...] = ()) -> None:
        self._folder, self._sinks = folder, sinks

    def losses(self, step: int, values: Mapping[str, int | float]) -> None:
        """Tell what training came to: numbers that the same run has again."""
        if self._folder is not None:
            self._folder.append({"step": step, **values})
        self.speeds(step, values)

    def speeds(self, step: int, values: Mapping[str, float]) -> None:
        """Tell numbers that differ from run to run."""
        for sink in self._sinks:
            sink.numbers(step, values)

    def picture(self, step: int, name: str, pixels_HWC: Pixels) -> None:
        """Show an RGB picture."""
        for sink in self._sinks:
            sink.picture(step, name, pixels_HWC)

    def close(self) -> None:
        """End all sinks."""
        for sink in self._sinks:
            sink.close()


def open_journal(folder: RunFolder, config: TrainConfig, step: int, *, total_steps: int) -> Journal:
    """The journal of a run that goes on after `step`; what was told of later steps is taken back.

    Raises DependencyError where W&B is asked for and not installed.
    """
    folder.cut_log(step, total_steps=total_steps)
    sinks: list[Sink] = []
    if config.tensorboard:
        try:
            sinks.append(TensorBoard(folder, step))
        except ImportError:
            logger.warning("No event files: the package tensorboard is not installed")
    if config.wandb is not None:
        sinks.append(WeightsAndBiases(folder, config, config.wandb))
    return Journal(folder, tuple(sinks))


class TensorBoard:
    """Event files in runs/NAME/tensorboard."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _wait_for_a_later_name(folder.tensorboard)
        self._writer = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels_HWC: Pixels) -> None:
        """An image."""
        self._writer.add_image(name, pixels_HWC, step, dataformats="HWC")

    def close(self) -> None:
        """Write the last events."""
        self._writer.close()


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait out the second of the latest event file (events.out.tfevents.SECOND.HOST.PID.NUMBER).

    TensorBoard reads files in the order of their names, in which number 10 stands before 9: two of
    one second could be read the wrong way round, and what the later one takes back would be lost.
    """
    seconds = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*.*")]
    latest = max((int(second) for second in seconds if second.isdecimal()), default=0)
    if 0 <= (ahead := latest - int(time.time())) <= 2:
        time.sleep(latest + 1 - time.time())
    elif ahead > 2:
        logger.warning("The clock is %d s behind the event files: steps may show twice", ahead)


class WeightsAndBiases:
    """A run of a W&B project, gone on with under the same id."""

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

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars of a step."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, pixels_HWC: Pixels) -> None:
        """An image."""
        self._run.log({name: self._wandb.Image(pixels_HWC)}, step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
