"""Steps whose losses are still on the device, where reading them would make it wait.

They are read together: at every line of the log, before anything is saved, validated or drawn, and at the
end of an epoch. A step that failed changed no weight, and neither did any after it
(`optimizer.TorchStepper`), so it is not too late then to say which it was, and what its samples were.

Legend: S batches of a step, R ranks, 3 losses (all, text, image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pipeline.train.feeding import DeviceBatch

# Steps that a GPU may be ahead of its losses, however rarely they are logged: other ranks' signals are read
# with them, and launchers kill what has not stopped after 30 seconds.
MOST_UNREAD = 50


@dataclass(frozen=True, kw_only=True)
class TrainedStep:
    """A step: its number, its batches on this rank, and what it gave.

    `losses_RS3` float64 of all ranks, `votes_R` on stopping, `norm` of the gradients and `scale` of fp16's
    losses (1 without); on the device at first, on the CPU once read.
    """

    step: int
    batches: Sequence[DeviceBatch]
    losses_RS3: Tensor
    votes_R: Tensor
    norm: Tensor
    scale: Tensor

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.losses_RS3, self.votes_R, self.norm, self.scale


@dataclass
class UnreadSteps:
    """The steps since the last reading."""

    _steps: list[TrainedStep] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: TrainedStep) -> None:
        """Add the latest step."""
        self._steps.append(step)

    def read(self) -> list[TrainedStep]:
        """The steps, oldest first, with their tensors on the CPU; waits for the device once."""
        steps, self._steps = self._steps, []
        if not steps:
            return []
        tensors = [tensor.double() for step in steps for tensor in step._tensors()]
        numbers = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
        parts = iter(numbers.split([tensor.numel() for tensor in tensors]))
        shapes = iter(tensor.shape for tensor in tensors)
        read = []
        for step in steps:
            losses, votes, norm, scale = (next(parts).view(next(shapes)) for _ in range(4))
            read.append(replace(step, losses_RS3=losses, votes_R=votes, norm=norm, scale=scale))
        return read


def reading_period(device: torch.device, log_every: int) -> int:
    """After how many steps losses are read at the latest: a CPU has nothing to wait for."""
    return min(log_every, MOST_UNREAD) if device.type == "cuda" else 1
