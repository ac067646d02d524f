"""Training steps as a CUDA graph: all kernels of a step are launched together.

Launching them one by one takes longer than running them where batches are small. The step is recorded once,
after some that ran normally, and then replayed: it reads its batches from the same tensors each time, and
whatever it changes it changes in place. A step of another shape, such as an epoch's last one, runs normally.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.core.errors import ConfigError
from pipeline.models.devices import is_out_of_memory, reason_of
from pipeline.train.config import TrainConfig
from pipeline.train.distributed import Ranks
from pipeline.train.feeding import DeviceBatch

logger = logging.getLogger(__name__)

NORMAL = 3  # steps before the recording, in which torch allocates what it keeps

Results = tuple[Tensor, Tensor, Tensor, Tensor]
Compute = Callable[[Sequence[DeviceBatch]], Results]


def check_graphs(config: TrainConfig, ranks: Ranks) -> None:
    """Raise ConfigError if `--compile graphs` is given where a step can't be recorded."""
    if config.parallel.compile != "graphs":
        return
    reasons = {
        "a CUDA device": ranks.device.type != "cuda",
        "a single process": ranks.kind != "none",
        "layers that are not --reversible": config.model.reversible,
    }
    missing = [what for what, is_missing in reasons.items() if is_missing]
    if missing:
        raise ConfigError(f"--compile graphs needs {missing[0]}. Use --compile on.")


@dataclass
class StepGraph:
    """Runs `compute` on a step's batches, replayed from a CUDA graph where possible.

    `compute` must not wait for the device, and must keep its state in the same tensors; after it, `optimizer`
    has no gradients.
    """

    compute: Compute
    optimizer: torch.optim.Optimizer
    _normal: int = 0  # steps so far that ran normally
    _graph: torch.cuda.CUDAGraph | None = None
    _batches: list[DeviceBatch] = field(default_factory=list)
    _results: Results | None = None

    def run(self, batches: Sequence[DeviceBatch]) -> Results:
        """The results of the step, in tensors of their own."""
        if self._graph is None and self._normal == NORMAL:
            self._record(batches)
        if (
            self._graph is None
            or self._results is None
            or list(map(len, batches)) != list(map(len, self._batches))
        ):
            self._normal += 1
            return self.compute(batches)
        for batch, kept in zip(batches, self._batches, strict=True):
            batch.wait()
            kept.tokens_BT.copy_(batch.tokens_BT)
            kept.codes_BN.copy_(batch.codes_BN)
        self._graph.replay()
        losses, votes, norm, scale = self._results
        return losses.clone(), votes.clone(), norm.clone(), scale.clone()

    def _record(self, batches: Sequence[DeviceBatch]) -> None:
        """Record a step, which runs nothing. If that fails, all steps run normally."""
        for batch in batches:
            batch.wait()
        self._batches = [
            DeviceBatch(
                tokens_BT=batch.tokens_BT.clone(), codes_BN=batch.codes_BN.clone(), rows=batch.rows
            )
            for batch in batches
        ]
        graph = torch.cuda.CUDAGraph()
        try:
            # The thread that feeds uses the device meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._results = self.compute(self._batches)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.optimizer.zero_grad(set_to_none=True)  # they were never computed
            logger.warning(
                "Training without CUDA graphs: a step can't be recorded (%s). --compile on skips it.",
                reason_of(error),
            )
        else:
            self._graph = graph
