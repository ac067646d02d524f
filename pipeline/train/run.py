"""Shards → checkpoints: trains a DALL·E. Reads shards/NAME, writes runs/NAME.

Killed at any moment, the same command goes on from the last checkpoint; on a CPU, with the same
number of threads, it ends in the same bytes as a run that was left alone.

Legend: B samples of a batch, T text positions, N codes.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.contracts import StageReport
from pipeline.models.checkpoints.found import checkpoint_digest
from pipeline.models.devices import pick_device
from pipeline.progress import Progress, no_progress
from pipeline.storage import find_current, input_digest
from pipeline.train.card import write_card
from pipeline.train.config import TrainConfig
from pipeline.train.data import check_samples, count_steps, open_split
from pipeline.train.deepspeed_options import check_engine
from pipeline.train.folder import Plan, RunFolder, goes_on, open_run, resolved_plan
from pipeline.train.journal import Journal, open_journal
from pipeline.train.memory import keep_freed_memory
from pipeline.train.ranks import Ranks, join_ranks
from pipeline.train.samples import find_painter
from pipeline.train.start import choose_name, dataset_name, start_state
from pipeline.train.trainer import Trainer
from pipeline.webdata.index import read_index
from pipeline.webdata.remote import find_shards, is_address
from pipeline.workspace import Workspace

logger = logging.getLogger(__name__)


def run(config: TrainConfig, progress: Progress = no_progress) -> StageReport:
    """Train, or go on training; nothing to do if shards and options are those of a finished run.

    Under torchrun every process calls this. Raises ContractError where there are no shards, no training
    samples, or shards of another codec, tokenizer or text length than the checkpoint to begin with;
    ConfigError for options that don't fit them or the run that lies there; ModelError when the loss is
    no longer finite or memory runs out.
    """
    check_engine(config)
    workspace = Workspace(config.workspace)
    shards = find_shards(workspace, config.shards)
    inputs = {_input_name(config): input_digest(shards)}
    if config.resume_from is not None:
        inputs["resume_from"] = checkpoint_digest(config.resume_from)
    config = dataclasses.replace(config, dataset=dataset_name(config, workspace))
    config = dataclasses.replace(config, name=choose_name(config, read_index(shards)))
    plan = resolved_plan(config, inputs)
    folder = RunFolder(root=workspace.run(config.name), config=config)
    current = find_current(folder.root, "run", config=plan["config"], inputs=inputs)
    if current is not None:
        return _report("unchanged", str(folder.root), current.counts, current.details)

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
    begun = goes_on(config, folder.root, plan)
    # First: reading a codec draws random numbers, and those of the state are to be gone on with.
    painter = find_painter(config, reader, ranks)
    # A checkpoint that can't be begun with is refused before anything is written.
    checkpoint = folder.last_checkpoint() if begun else None
    state = start_state(config, reader.index, checkpoint, ranks)
    ranks.wait()
    if ranks.leads:
        tokenizer = (shards / reader.index.tokenizer.file).read_bytes()
        open_run(folder.root, plan=plan, tokenizer=tokenizer, anew=not begun)
    journal = open_journal(folder, config, state.step) if ranks.leads else Journal(None)
    return Trainer(
        config=config,
        ranks=ranks,
        reader=reader,
        validation=open_split(shards, "val", skip_corrupt=skip_corrupt, leads=leads),
        folder=folder,
        journal=journal,
        painter=painter,
        state=state,
        total_steps=count_steps(len(reader), config, ranks.size),
        shards_digest=plan["inputs"][_input_name(config)],
    )


def _input_name(config: TrainConfig) -> str:
    """What a manifest calls the shards: their folder in the workspace, or their address."""
    return config.shards if is_address(config.shards) else f"shards/{config.shards}"


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
