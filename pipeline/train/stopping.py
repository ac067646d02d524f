"""All ranks stop after the same step, whichever of them a signal reached.

Each says whether it was asked to in a collective that all ranks take part in anyway, so that none waits for
one that has left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.core.stop_signals import StopRequest
from pipeline.train.ranks import Ranks


class Stop:
    """Whether the ranks have agreed to stop."""

    def __init__(self, ranks: Ranks, request: StopRequest) -> None:
        self._ranks, self._request = ranks, request
        self.agreed = False

    @property
    def asked(self) -> bool:
        """Whether this rank was asked to; the others may not know yet."""
        return self._request.asked

    @property
    def vote(self) -> float:
        """What to send to all ranks: above 0 to stop."""
        return float(self.asked)

    def hear(self, votes_R: Tensor) -> None:
        """Take the votes of all ranks, the same on each."""
        self.agreed = self.agreed or bool(votes_R.any())

    def ask_all(self) -> bool:
        """Vote and hear, all ranks together; whether to stop."""
        self.hear(self._ranks.gather(torch.tensor([self.vote])))
        return self.agreed
