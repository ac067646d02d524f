"""How long a run is and how far it is: by steps where `--steps` is given, else by passes through the samples.

A run may go on with another number of processes, which changes how many samples a step has. With `--epochs`
the end and the learning rate go by samples, so neither moves: the schedule counts in steps of the size that
the run began with. With `--steps` they go by steps, as the option says.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.train.config import TrainConfig
from pipeline.train.data import Position


def step_samples(config: TrainConfig, ranks: int) -> int:
    """Samples of a whole step of all ranks."""
    return config.batch_size * config.ga_steps * ranks


def first_step_samples(config: TrainConfig, ranks: int, samples: int) -> int:
    """Samples of a new run's first step: of a whole one, or of all that its passes through `samples` have."""
    whole, batch = step_samples(config, ranks), config.batch_size * ranks
    if config.steps is not None:
        return whole
    return min(whole, config.epochs * (samples // batch * batch))


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The length of a run of `config` on `samples` training samples.

    `ranks` processes train now; `unit` is how many samples a step had when the run began.
    """

    config: TrainConfig
    samples: int
    ranks: int
    unit: int

    @property
    def batch(self) -> int:
        """Samples of a forward pass of all ranks; a pass leaves out what fills none."""
        return self.config.batch_size * self.ranks

    @property
    def pass_samples(self) -> int:
        """Samples that are trained on in a pass."""
        return self.samples // self.batch * self.batch

    @property
    def total(self) -> float:
        """The run's length in steps of `unit` samples."""
        if self.config.steps is not None:
            return self.config.steps
        return self.config.epochs * self.pass_samples / self.unit

    def done(self, step: int, position: Position, samples: int) -> float:
        """How far a run is after `step` steps on `samples` samples up to `position`, in steps of `unit`.

        In the warm-up by what was trained on, afterwards by the passes: of one, other ranks may leave out
        more or less at its end.
        """
        if self.config.steps is not None:
            return step
        trained, warmup = samples / self.unit, self.config.warmup_steps
        if trained < warmup:
            return trained
        return max(warmup, (position.epoch * self.pass_samples + position.consumed) / self.unit)

    def steps_left(self, step: int, position: Position) -> int:
        """How many steps are left; the last one takes the batches that are left, few as they may be."""
        if self.config.steps is not None:
            return max(0, self.config.steps - step)
        passes = self.config.epochs - position.epoch
        if passes <= 0:
            return 0
        batches = (self.samples - position.consumed) // self.batch
        batches += (passes - 1) * (self.pass_samples // self.batch)
        return -(-batches // self.config.ga_steps)
