"""Shards → checkpoints: trains a DALL·E. Reads shards/NAME, writes runs/NAME.

Stopped or killed at any moment, the same command goes on from the last checkpoint; on a CPU, with the same
number of threads, it ends in the same bytes as a run that was left alone. A signal loses no step, a kill
those since the last checkpoint.

Legend: B samples of a batch, T text positions, N codes.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.core.contracts import StageReport
from pipeline.core.ownership import claim
from pipeline.core.progress import Progress, no_progress
from pipeline.core.storage import input_digest
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.found import checkpoint_digest, find_own
from pipeline.models.devices import pick_device
from pipeline.train.card import write_card
from pipeline.train.config import TrainConfig
from pipeline.train.data import check_samples, open_split, read_tokenizer
from pipeline.train.deepspeed_options import check_engine
from pipeline.train.extent import Extent, first_step_samples
from pipeline.train.memory import keep_freed_memory
from pipeline.train.plan import (
    Plan,
    check_length,
    find_finished,
    goes_on,
    list_changes,
    resolved_plan,
)
from pipeline.train.ranks import Ranks, join_ranks
from pipeline.train.run_folder import RunFolder
from pipeline.train.samples import find_painter
from pipeline.train.start import choose_name, dataset_name, find_checkpoint, start_state
from pipeline.train.trackers import Journal, open_journal
from pipeline.train.trainer import Trainer
from pipeline.webdata.index import read_index
from pipeline.webdata.remote import find_shards, is_url

logger = logging.getLogger(__name__)


def run(config: TrainConfig, progress: Progress = no_progress) -> StageReport:
    """Train, or go on training; nothing to do if shards and options are those of a finished run.

    Under torchrun every process calls this. SIGINT and SIGTERM, to any of them, have all of them write a
    checkpoint after the step that is going on and raise KeyboardInterrupt; a second one ends at once.
    Raises ContractError where there are no shards, no training samples, or shards of another codec,
    tokenizer or text length than the checkpoint to begin with; ConfigError for options that don't fit
    them or the run that is there; WorkspaceError for a folder that is not that of a run; ModelError when
    the loss is no longer finite, memory runs out, or no checkpoint of the run is whole.
    """
    check_engine(config)
    workspace = Workspace(config.workspace)
    shards = find_shards(workspace, config.shards)
    index = read_index(shards)
    inputs = {_input_name(config): input_digest(shards)}
    if config.resume_from is not None:
        # Of a run it is its last checkpoint, found once: the run may go on and write others meanwhile.
        origin = find_own(config.resume_from) or config.resume_from
        inputs["resume_from"] = checkpoint_digest(origin)
        config = dataclasses.replace(config, resume_from=origin)
    config = dataclasses.replace(config, dataset=dataset_name(config, workspace))
    config = dataclasses.replace(config, name=choose_name(config, workspace, index))
    plan = resolved_plan(config, inputs)
    folder = RunFolder(root=workspace.run(config.name), config=config)
    claim(folder.root, "run")
    finished = find_finished(folder.root, plan)
    if finished is not None:
        return _report("unchanged", str(folder.root), finished.counts, finished.details)

    if pick_device(config.device).type == "cpu":
        keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    with join_ranks(config.parallel, pick_device(config.device)) as ranks:
        counts, details = train(prepare(config, shards, folder, plan, ranks), plan, progress)
    return _report("done", str(folder.root), counts, details)


def train(
    trainer: Trainer, plan: Plan, progress: Progress
) -> tuple[dict[str, int], dict[str, Any]]:
    """Train to the end and finish the folder; returns counts and details of its manifest."""
    try:
        trainer.train(progress)
    finally:
        trainer.journal.close()
    counts, details = trainer.summary()
    if trainer.ranks.leads:
        write_card(trainer, plan["inputs"])
        trainer.folder.finish(plan, counts, details)
    trainer.ranks.wait()
    return counts, details


def prepare(
    config: TrainConfig, shards: Path, folder: RunFolder, plan: Plan, ranks: Ranks
) -> Trainer:
    """Check the shards, open the run's folder, and make the state to go on from."""
    skip_corrupt, leads = config.skip_corrupt, ranks.leads
    reader = open_split(shards, "train", skip_corrupt=skip_corrupt, leads=leads)
    check_samples(reader, config, ranks.size)
    tokenizer = read_tokenizer(reader)
    changes = goes_on(config, folder.root, plan)
    # First: reading a codec draws random numbers, and those of the state are to be gone on with.
    painter = find_painter(config, reader, ranks)
    # A checkpoint that can't be begun with is refused before anything is written.
    checkpoint = None if changes is None else find_checkpoint(folder, config, ranks)
    state = start_state(config, reader.index, checkpoint, ranks)
    if checkpoint is None:
        state.unit = first_step_samples(config, ranks.size, len(reader))
    extent = Extent(config=config, samples=len(reader), ranks=ranks.size, unit=state.unit)
    left = extent.steps_left(state.step, state.position)
    check_length(config, changes or {}, step=state.step, position=state.position, left=left)
    total_steps = state.step + left
    ranks.wait()
    validation = open_split(shards, "val", skip_corrupt=skip_corrupt, leads=leads)
    journal = Journal(None)
    if ranks.leads:
        if config.val_every and not len(validation):
            logger.warning("The shards hold no sample to validate with: no val_loss is logged.")
        if changes:
            logger.warning("Going on after step %d with %s", state.step, list_changes(changes))
        folder.open(plan, tokenizer, anew=checkpoint is None)
        journal = open_journal(folder, config, state.step, total_steps=total_steps)
    return Trainer(
        config=config,
        ranks=ranks,
        reader=reader,
        validation=validation,
        folder=folder,
        journal=journal,
        painter=painter,
        state=state,
        extent=extent,
        total_steps=total_steps,
        shards_digest=plan["inputs"][_input_name(config)],
    )


def _input_name(config: TrainConfig) -> str:
    """What a manifest calls the shards: their folder in the workspace, or their address."""
    return config.shards if is_url(config.shards) else f"shards/{config.shards}"


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
