"""The training loop: `Trainer.train` reads from top to bottom.

A signal (Ctrl-C, SIGTERM) ends it after the current step, with a checkpoint of that step.

Legend: S batches of a step, R ranks, 3 losses (all, text, image).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.core.progress import NOW, Progress
from pipeline.core.stop_signals import watch_signals
from pipeline.models.checkpoints.native import CheckpointInfo
from pipeline.models.dalle.model import DalleLoss
from pipeline.models.devices import is_gpu_failure, is_out_of_memory, largest_that_fits
from pipeline.train.compiling import count_graphs, eager, is_compiled, use_eager
from pipeline.train.config import TrainConfig
from pipeline.train.data import (
    Position,
    RunLength,
    batch_keys,
    check_ids,
    step_samples,
    stream_steps,
)
from pipeline.train.distributed import Ranks, Stop, full_shape
from pipeline.train.evaluation import NAMES, GridSampler, loss_values, mean_losses, validate
from pipeline.train.feeding import DeviceBatch, Uploader, feed
from pipeline.train.optimizer import learning_rate, set_learning_rate
from pipeline.train.precision import autocast
from pipeline.train.run_folder import RunFolder
from pipeline.train.state import TrainState, state_files
from pipeline.train.step_graph import Compute, StepGraph
from pipeline.train.trackers import Journal, Meter
from pipeline.train.unread import TrainedStep, UnreadSteps, reading_period
from pipeline.webdata.reader import ShardReader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The loop and what it reads and writes."""

    config: TrainConfig
    ranks: Ranks
    reader: ShardReader
    validation: ShardReader
    folder: RunFolder
    journal: Journal
    grid_sampler: GridSampler | None
    state: TrainState
    run_length: RunLength
    total_steps: int
    shards_digest: str

    def train(self, progress: Progress) -> None:
        """Train up to `total_steps`; after a signal, saves a checkpoint and raises KeyboardInterrupt."""
        state, ranks = self.state, self.ranks
        meter, unread = self.make_meter(), UnreadSteps()
        state.module.train()
        if ranks.is_main:
            first = "compiling the model" if is_compiled(state.model) else "the first step"
            progress(state.step, self.total_steps, {NOW: first})
        with watch_signals() as request, contextlib.closing(self.feed()) as steps:
            stop = Stop(ranks, request)
            compute = self.make_compute(stop)
            self.warm_up()
            self.catch_up(stop)
            while state.step < self.total_steps and not stop.agreed:
                if not unread:
                    meter.begin()
                batches, position = next(steps)
                rate = self.set_learning_rate()
                losses, votes, norm, scale = compute(batches)
                unread.add(
                    TrainedStep(
                        step=state.step + 1,
                        batches=batches,
                        losses_RS3=losses,
                        votes_R=votes,
                        norm=norm,
                        scale=scale,
                    )
                )
                ended = position.epoch > state.position.epoch
                self.advance(position, batches)
                if self.must_read(stop, len(unread), ended):
                    count, last = len(unread), self.read(unread, stop)
                    meter.end(count)
                    if ended and state.plateau is not None:
                        state.plateau.end_epoch(mean_losses(last.losses_RS3)["loss"])
                    self.after_reading(last, rate, meter, progress, stop)
            if stop.agree():
                raise KeyboardInterrupt

    def feed(self) -> Generator[tuple[Sequence[DeviceBatch], Position], None, None]:
        """The steps from the current position on, their batches on the device."""
        model, ranks = self.state.hyperparameters, self.ranks
        steps = stream_steps(
            self.reader, self.config, self.state.position, rank=ranks.rank, world_size=ranks.size
        )
        return feed(steps, self.uploader(), lambda batch: check_ids(self.reader, batch, model))

    def uploader(self) -> Uploader:
        """What copies batches to this rank's device."""
        model = self.state.hyperparameters
        vocabulary = max(model.num_text_tokens, model.num_image_tokens)
        return Uploader(device=self.ranks.device, vocabulary=vocabulary)

    def warm_up(self) -> None:
        """Compile the model on some samples, or fall back to the eager one if the compiler fails.

        Neither weights nor random numbers change. All ranks take part.
        """
        state, size = self.state, self.config.schedule.batch_size
        if not is_compiled(state.model):
            return
        began, graphs = time.monotonic(), count_graphs()
        module = state.module if self.ranks.kind == "fsdp" else state.model
        batch = self.uploader().upload(self.reader.gather(range(min(size, len(self.reader)))))
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                self.loss(module, batch).total.backward()
                if self.config.logging.val_every:
                    module.eval()
                    with torch.no_grad():
                        self.loss(module, batch)
        except Exception as error:
            if is_gpu_failure(error):
                raise
            if is_out_of_memory(error):
                raise self.out_of_memory(RuntimeError(str(error)), batch) from None
            use_eager(state.model)
            logger.warning(
                "Training without torch.compile, which failed (%s: %s). --compile off skips it.",
                type(error).__name__,
                " ".join(str(error).partition("\n\n")[0].split())[:300],
            )
        else:
            seconds = time.monotonic() - began
            if self.ranks.is_main:
                logger.info("Compiled %d graphs in %.0f s", count_graphs() - graphs, seconds)
        finally:
            module.train()
            state.optimizer.zero_grad(set_to_none=True)

    # --- One step ------------------------------------------------------------------------------------

    def set_learning_rate(self) -> float:
        """Set and return the learning rate of the next step."""
        state, run_length = self.state, self.run_length
        done = run_length.done(state.step, state.position, state.samples)
        rate = learning_rate(1 + done, total_steps=run_length.total, config=self.config)
        rate *= state.plateau.factor if state.plateau is not None else 1.0
        set_learning_rate(state.optimizer, rate)
        return rate

    def make_compute(self, stop: Stop) -> Compute:
        """The function that trains on a step's batches, replayed from a CUDA graph if that is asked for."""
        compute = functools.partial(self.compute, stop)
        if self.config.parallel.compile != "graphs":
            return compute
        return StepGraph(compute, self.state.optimizer).run

    def compute(
        self, stop: Stop, batches: Sequence[DeviceBatch]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Train on a step's batches; returns losses, votes, norm and scale as in `TrainedStep`."""
        losses_RS3, votes_R = self.accumulate(batches, stop)
        return losses_RS3, votes_R, *self.update(losses_RS3)

    def accumulate(self, batches: Sequence[DeviceBatch], stop: Stop) -> tuple[Tensor, Tensor]:
        """Accumulate the gradients of a step's batches.

        Returns all ranks' losses, float64 [R, S, 3], and their votes on stopping [R], both on the device.
        """
        state, losses = self.state, []
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with self.ranks.share_gradients(state.module, last):
                losses.append(loss_values(self.backward(state.module, batch, share=len(batches))))
        vote = torch.full((1,), stop.vote, dtype=losses[0].dtype, device=losses[0].device)
        all_RX = self.ranks.gather_on_device(torch.cat([*losses, vote]))
        return all_RX[:, :-1].reshape(self.ranks.size, len(batches), -1), all_RX[:, -1]

    def backward(self, module: nn.Module, batch: DeviceBatch, *, share: int) -> DalleLoss:
        """Add the gradients of one of a step's `share` batches.

        If memory runs out, raises ModelError that names a batch size that fits.
        """
        try:
            return self._backward(module, batch, share)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            cause = error
        # Raised outside the except clause, whose traceback would keep the activations alive.
        raise self.out_of_memory(cause.with_traceback(None), batch)

    def out_of_memory(self, cause: RuntimeError, batch: DeviceBatch) -> ModelError:
        """The error for a batch that doesn't fit, with a size that does.

        A single process looks for it. Of several, all would have to take part, so half the size is named.
        """
        schedule, ranks = self.config.schedule, self.ranks
        size = schedule.batch_size
        if ranks.kind == "none":
            fitting = largest_that_fits(lambda samples: self._try_samples(batch, samples), size)
            found = f"Out of memory with --batch-size {size}"
            smaller = f"{fitting} would fit"
        else:
            fitting = size // 2
            found = f"Out of memory in one of {ranks.size} processes with --batch-size {size}"
            smaller = f"half of it may fit ({cause})"
        if not fitting:
            return ModelError(
                f"{found}, and a single sample does not fit either ({cause}). Use a smaller model, "
                "--reversible, --precision bf16, or --parallel fsdp on more devices. The last "
                "checkpoint is safe."
            )
        return ModelError(
            f"{found}; {smaller}. Use --batch-size {fitting}, with --ga-steps "
            f"{-(-size * schedule.ga_steps // fitting)} for about as many samples per step. The last "
            "checkpoint is safe."
        )

    def update(self, losses_RS3: Tensor) -> tuple[Tensor, Tensor]:
        """Update the weights, unless a loss or the gradient is not finite; returns the norm and the scale."""
        state = self.state
        norm = state.stepper.step(~losses_RS3.isfinite().all())
        if state.average is not None:
            state.average.update(state.model)
        scale = state.stepper.scale
        return norm, torch.ones_like(norm) if scale is None else scale.clone()

    def advance(self, position: Position, batches: Sequence[DeviceBatch]) -> None:
        """Count the step."""
        state = self.state
        state.samples += self.ranks.size * len(batches) * self.config.schedule.batch_size
        state.step += 1
        state.position = position

    def must_read(self, stop: Stop, unread: int, epoch_ended: bool) -> bool:
        """Whether something is due after this step that needs its losses, the same on all ranks."""
        if self.ranks.kind == "none":
            stop.count(torch.tensor([stop.vote]))
        logging = self.config.logging
        every = (logging.log_every, logging.val_every, logging.save_every, logging.sample_every)
        period = reading_period(self.ranks.device, logging.log_every)
        return stop.agreed or epoch_ended or unread >= period or any(map(self.is_due, every))

    def read(self, unread: UnreadSteps, stop: Stop) -> TrainedStep:
        """Read the losses of the last steps; returns the latest of them.

        Raises ModelError, with the samples' keys, if a loss or a gradient was not finite.
        """
        steps = unread.read()
        for step in steps:
            self.check(step)
            stop.count(step.votes_R)
        return steps[-1]

    def check(self, step: TrainedStep) -> None:
        """Raise ModelError, with the samples' keys, if a loss or the gradient is not finite."""
        finite_RS = step.losses_RS3.isfinite().all(dim=-1)
        if not finite_RS.all():
            mine = finite_RS[self.ranks.rank].tolist()
            broken = [batch for batch, fine in zip(step.batches, mine, strict=True) if not fine]
            value = step.losses_RS3[~finite_RS][0].tolist()
            named = ", ".join(f"{n} {v:.4g}" for n, v in zip(NAMES, value, strict=True))
            raise self.divergence(f"a loss is not finite ({named})", step.step, broken)
        norm, scaled = step.norm.item(), self.state.stepper.scale is not None
        if not scaled and not math.isfinite(norm):
            raise self.divergence(f"the gradient's norm is {norm}", step.step, step.batches)
        if scaled and step.scale.item() < 1:  # each skipped step lowered it
            what = "gradients overflow in fp16 at any loss scale"
            raise self.divergence(what, step.step, step.batches)

    # --- After a step --------------------------------------------------------------------------------

    def after_reading(
        self, last: TrainedStep, rate: float, meter: Meter, progress: Progress, stop: Stop
    ) -> None:
        """Log, validate, draw samples and save if due; also save if the ranks agreed to stop."""
        state, step = self.state, self.state.step
        means = mean_losses(last.losses_RS3)
        if self.is_due(self.config.logging.log_every):
            self.journal.losses(step, {"epoch": state.position.epoch, "lr": rate, **means})
            self.journal.speeds(step, meter.values())
        self.evaluate(stop)
        if self.is_due(self.config.logging.save_every) or stop.agreed:
            self.save()
        if stop.agreed and self.ranks.is_main:
            logger.warning("Stopped after step %d; its checkpoint is saved", step)
        if self.ranks.is_main:
            progress(step, self.total_steps, {"loss": round(means["loss"], 4), **meter.notes()})

    def is_due(self, every: int) -> bool:
        """Whether something done every `every` steps and at the end is due after this step."""
        step = self.state.step
        return step == self.total_steps or bool(every and step % every == 0)

    def evaluate(self, stop: Stop, *, losses: bool = True, grid: bool = True) -> None:
        """Validate and draw samples if due, unless the run is stopping; then `catch_up` does it later."""
        config = self.config
        if (
            losses
            and config.logging.val_every
            and self.is_due(config.logging.val_every)
            and not stop.agreed
        ):
            self.validate(stop)
        if (
            grid
            and config.logging.sample_every
            and self.is_due(config.logging.sample_every)
            and not stop.agreed
        ):
            self.draw_grid(stop)

    def catch_up(self, stop: Stop) -> None:
        """Do the validation and samples that an interruption skipped after the step the run resumes from."""
        step = self.state.step
        if not step:
            return
        folder = self.folder
        missing = [not folder.was_validated(step), not folder.grid(step).exists()]
        losses, grid = self.ranks.gather(torch.tensor(missing).float())[0].bool().tolist()
        self.evaluate(stop, losses=losses, grid=grid)

    def validate(self, stop: Stop) -> None:
        """Log the losses on the validation split, with the averaged weights if enabled."""
        if not len(self.validation):
            return
        uploader = self.uploader()
        with self.state.weights_to_use():
            losses = validate(
                self.validation,
                self.ranks,
                lambda batch: self.loss(self.state.model, uploader.upload(batch)),
                self.state.module,
                config=self.config,
                stop=stop,
            )
        if losses is not None:
            self.journal.losses(self.state.step, losses)

    def draw_grid(self, stop: Stop) -> None:
        """Draw this step's sample grid; all ranks wait for it."""
        if self.grid_sampler is None:
            return
        step = self.state.step
        if self.ranks.is_main:
            with self.state.weights_to_use():
                pixels = self.grid_sampler.draw(self.state.model, stop)
            if pixels is not None:
                self.grid_sampler.write(pixels, self.folder.grid(step))
                self.journal.image(step, "samples", pixels)
        stop.agree()

    def save(self) -> None:
        """Write a checkpoint: all ranks gather it, rank 0 writes it."""
        files = state_files(self.state, self.ranks)
        if self.ranks.is_main:
            self.folder.save(files, self.describe())
        self.ranks.barrier()

    def describe(self) -> CheckpointInfo:
        """The metadata of this step's checkpoint."""
        index, state = self.reader.index, self.state
        return CheckpointInfo(
            step=state.step,
            epoch=state.position.epoch,
            consumed=state.position.consumed,
            model=state.hyperparameters,
            codec=index.codec.fingerprint,
            tokenizer=index.tokenizer.fingerprint,
            shards=self.shards_digest,
            training={
                **state.as_dict(),
                "dataset": self.config.dataset,
                "null_cond_prob": self.config.model.null_cond_prob,
                "ranks": self.ranks.size,
            },
        )

    def summary(self) -> tuple[dict[str, int], dict[str, Any]]:
        """Counts and details for the manifest."""
        state = self.state
        counts = {
            "steps": state.step,
            "samples": state.samples,
            "parameters": sum(
                full_shape(p).numel() for p in state.model.parameters() if p.requires_grad
            ),
        }
        skipped = sum((self.reader.skipped | self.validation.skipped).values())
        if skipped:
            counts["samples_skipped"] = skipped
        losses: Mapping[str, float] = self.folder.last_losses() if self.ranks.is_main else {}
        return counts, {"checkpoint": f"checkpoints/step-{state.step:06d}", **losses}

    # --- Helpers -------------------------------------------------------------------------------------

    def loss(self, module: nn.Module, batch: DeviceBatch) -> DalleLoss:
        """The loss of a batch, in the configured precision."""
        batch.wait()
        with autocast(self.config.parallel.precision, self.ranks.device):
            loss: DalleLoss = module(batch.tokens_BT, batch.codes_BN)
            return loss

    def divergence(self, what: str, step: int, batches: Sequence[DeviceBatch]) -> ModelError:
        """The error that stops training; `batches` are this rank's suspect batches of that step."""
        keys = ", ".join(self.ranks.gather_texts(batch_keys(self.reader, batches)))
        fp16 = self.config.parallel.precision == "fp16"
        return ModelError(
            f"Training stopped before step {step}: {what} on the samples {keys}. The last checkpoint "
            "is safe. Check these samples, or start over with a lower --learning-rate"
            f"{' or with --precision bf16, which does not overflow' if fp16 else ''}."
        )

    def make_meter(self) -> Meter:
        """The meter for this run's steps."""
        config = self.config
        return Meter(
            self.state.hyperparameters,
            samples=step_samples(config.schedule, self.ranks.size),
            size=self.ranks.size,
            precision=config.parallel.precision,
            device=self.ranks.device,
        )

    def _backward(self, module: nn.Module, batch: DeviceBatch, share: int) -> DalleLoss:
        loss = self.loss(module, batch)
        self.state.stepper.backward(loss.total / share)
        return loss

    def _try_samples(self, batch: DeviceBatch, samples: int) -> None:
        self.state.optimizer.zero_grad(set_to_none=True)
        with eager(self.state.model, True):
            self._backward(self.state.model, batch.first(samples), self.config.schedule.ga_steps)
