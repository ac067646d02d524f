"""Shards → checkpoints: trains a DALL·E. Reads shards/NAME, writes runs/NAME.

Killed at any moment, the same command goes on from the last checkpoint; on a CPU, with the same
number of threads, it ends in the same bytes as a run that was left alone.

Legend: B samples of a batch, T text positions, N codes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.contracts import StageReport
from pipeline.errors import ModelError
from pipeline.models.checkpoints.ours import CheckpointInfo
from pipeline.models.dalle import Dalle, DalleLoss
from pipeline.models.devices import pick_device
from pipeline.progress import Progress, no_progress
from pipeline.storage import Workspace, find_current, input_digest
from pipeline.train.config import TrainConfig
from pipeline.train.data import (
    Position,
    batch_keys,
    check_samples,
    count_steps,
    model_config,
    stream_batches,
    to_tensors,
)
from pipeline.train.folder import RunFolder, open_run, resolved_plan
from pipeline.train.schedule import learning_rate
from pipeline.train.state import TrainState, make_optimizer, restore
from pipeline.webdata.reader import Batch, ShardReader

logger = logging.getLogger(__name__)


def run(config: TrainConfig, progress: Progress = no_progress) -> StageReport:
    """Train, or go on training; nothing to do if shards and options are those of a finished run.

    Raises ContractError where there are no shards or no training samples, ConfigError for options
    that don't fit them or the run that lies there, ModelError when the loss is no longer finite.
    """
    workspace = Workspace(config.workspace)
    root = workspace.run(config.name)
    shards = workspace.shards(config.shards)
    inputs = {f"shards/{config.shards}": input_digest(shards)}
    plan = resolved_plan(config, inputs)
    current = find_current(root, "run", config=plan["config"], inputs=inputs)
    if current is not None:
        return _report("unchanged", str(root), current.counts, current.details)

    if config.threads:
        torch.set_num_threads(config.threads)
    reader = ShardReader(shards, "train")
    check_samples(reader, config)
    trainer = Trainer(
        config=config,
        reader=reader,
        validation=ShardReader(shards, "val"),
        folder=RunFolder(root=root, config=config),
        total_steps=count_steps(len(reader), config),
        shards_digest=input_digest(shards),
    )
    tokenizer = (shards / reader.index.tokenizer.file).read_bytes()
    open_run(config, root, plan=plan, tokenizer=tokenizer)
    state = trainer.start()
    trainer.train(state, progress)
    counts = {
        "steps": state.step,
        "samples": state.step * config.batch_size * config.ga_steps,
        "parameters": sum(p.numel() for p in state.model.parameters()),
    }
    checkpoint = f"checkpoints/step-{state.step:06d}"
    details = {"checkpoint": checkpoint, **trainer.folder.last_losses()}
    trainer.folder.finish(plan, counts, details)
    return _report("done", str(root), counts, details)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The loop and what it reads and writes."""

    config: TrainConfig
    reader: ShardReader
    validation: ShardReader
    folder: RunFolder
    total_steps: int
    shards_digest: str

    def start(self) -> TrainState:
        """A new state, or the one of the last checkpoint."""
        torch.manual_seed(self.config.seed)
        model = Dalle(model_config(self.reader.index, self.config)).to(
            pick_device(self.config.device)
        )
        state = TrainState(model=model, optimizer=make_optimizer(model, self.config))
        checkpoint = self.folder.last_checkpoint()
        if checkpoint is not None:
            restore(state, checkpoint)
            logger.info("Going on from %s", checkpoint)
        self.folder.cut_log(state.step)
        return state

    def train(self, state: TrainState, progress: Progress) -> None:
        """Step until `total_steps`."""
        batches = stream_batches(
            self.reader,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            position=Position(epoch=state.epoch, consumed=state.consumed),
        )
        state.model.train()
        while state.step < self.total_steps:
            rate = learning_rate(state.step + 1, total_steps=self.total_steps, config=self.config)
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            losses = []
            for _ in range(self.config.ga_steps):
                batch, position = next(batches)
                losses.append(self.backward(state, batch))
            self.update(state, batch)
            state.step, state.epoch, state.consumed = (
                state.step + 1,
                position.epoch,
                position.consumed,
            )
            self.after_step(state, losses, rate, progress)

    def backward(self, state: TrainState, batch: Batch) -> dict[str, float]:
        """Add a batch's gradients; raises ModelError, with its keys, if its loss is not finite."""
        loss = self.loss(state.model, to_tensors(batch, state.device))
        values = loss_values(loss)
        if not math.isfinite(values["loss"]):
            raise ModelError(self._diverged(f"the loss is {values['loss']}", state, batch))
        (loss.total / self.config.ga_steps).backward()
        return values

    def update(self, state: TrainState, batch: Batch) -> None:
        """Change the weights; raises ModelError, with the last batch's keys, on a broken gradient."""
        parameters = state.model.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_grad_norm)
        if not torch.isfinite(norm):
            raise ModelError(self._diverged(f"the gradient's norm is {norm.item()}", state, batch))
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)

    def loss(self, model: Dalle, tensors: tuple[Tensor, Tensor]) -> DalleLoss:
        """The loss of a batch, in the precision asked for."""
        tokens_BT, codes_BN = tensors
        bf16 = self.config.precision == "bf16"
        with torch.autocast(tokens_BT.device.type, torch.bfloat16, enabled=bf16):
            return model(tokens_BT, codes_BN)

    def after_step(
        self, state: TrainState, losses: list[dict[str, float]], rate: float, progress: Progress
    ) -> None:
        """Log, validate and save where it is due."""
        config, step = self.config, state.step
        last = step == self.total_steps
        means = mean_losses(losses)
        if last or step % config.log_every == 0:
            self.folder.append({"step": step, "epoch": state.epoch, "lr": rate, **means})
        if config.val_every and len(self.validation) and (last or step % config.val_every == 0):
            self.folder.append({"step": step, **self.validate(state)})
        if last or (config.save_every and step % config.save_every == 0):
            self.folder.save(state, self.describe(state), total_steps=self.total_steps)
        progress(step, self.total_steps, {"loss": round(means["loss"], 4)})

    @torch.inference_mode()
    def validate(self, state: TrainState) -> dict[str, float]:
        """Mean losses over the first samples of the validation split, in its seeded order."""
        state.model.eval()
        rows = self.validation.order(seed=self.config.seed, epoch=0)[: self.config.val_samples]
        size = self.config.batch_size
        batches = [rows[at : at + size] for at in range(0, len(rows), size)]
        losses = [
            loss_values(
                self.loss(state.model, to_tensors(self.validation.gather(batch), state.device))
            )
            for batch in batches
        ]
        state.model.train()
        weights = [len(batch) / len(rows) for batch in batches]
        return {f"val_{name}": value for name, value in mean_losses(losses, weights).items()}

    def describe(self, state: TrainState) -> CheckpointInfo:
        """What the checkpoint of this step says of itself."""
        index = self.reader.index
        return CheckpointInfo(
            step=state.step,
            epoch=state.epoch,
            consumed=state.consumed,
            model=state.model.config,
            codec=index.codec.fingerprint,
            tokenizer=index.tokenizer.fingerprint,
            shards=self.shards_digest,
        )

    def _diverged(self, what: str, state: TrainState, batch: Batch) -> str:
        keys = ", ".join(batch_keys(self.reader, batch))
        return (
            f"Training stopped before step {state.step + 1}: {what} on the samples {keys}. The last "
            "checkpoint is safe; look at these samples, or train anew with a lower --learning-rate."
        )


def loss_values(loss: DalleLoss) -> dict[str, float]:
    """The three losses as numbers, by their names in the log."""
    return {
        "loss": float(loss.total.detach()),
        "loss_text": float(loss.text.detach()),
        "loss_image": float(loss.image.detach()),
    }


def mean_losses(
    losses: list[dict[str, float]], weights: list[float] | None = None
) -> dict[str, float]:
    """The mean of each loss, or the sum weighted by `weights`, which then add up to 1."""
    weights = weights or [1 / len(losses)] * len(losses)
    return {
        name: sum(w * values[name] for w, values in zip(weights, losses, strict=True))
        for name in losses[0]
    }


def _report(
    outcome: str, folder: str, counts: Mapping[str, int], details: Mapping[str, object]
) -> StageReport:
    return StageReport(
        stage="train",
        outcome="unchanged" if outcome == "unchanged" else "done",
        counts=counts,
        outputs=(folder,),
        details=details,
    )
