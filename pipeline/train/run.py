"""Shards → checkpoints: trains a DALL·E. Reads shards/NAME, writes runs/NAME.

After an interruption at any moment, the same command resumes from the last checkpoint. On a CPU, with the
same number of threads, the result is byte-identical to an uninterrupted run. A signal loses no steps; a kill
loses those since the last checkpoint.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.estimate import announce, check_room
from pipeline.core.ownership import claim
from pipeline.core.progress import NOW, Progress, no_progress
from pipeline.core.storage import input_digest
from pipeline.core.workspace import Workspace, read_marker
from pipeline.models.checkpoints.locate import checkpoint_digest, find_own
from pipeline.models.codecs.load import find_codec, read_codec_json
from pipeline.models.devices import (
    claim_gpu,
    gpu_failures,
    keep_freed_memory,
    keep_thread_count,
    pick_device,
)
from pipeline.train.batch_size import fill_global_batch, settle_batch_size
from pipeline.train.card import write_card
from pipeline.train.config import TrainConfig
from pipeline.train.data import (
    RunLength,
    check_samples,
    first_step_samples,
    open_split,
    read_tokenizer,
    step_samples,
)
from pipeline.train.deepspeed import check_engine
from pipeline.train.distributed import Ranks, count_ranks, join_ranks
from pipeline.train.estimate import estimate_training
from pipeline.train.evaluation import make_grid_sampler
from pipeline.train.model import new_model
from pipeline.train.precision import allow_tf32, pick_precision
from pipeline.train.resume import (
    check_length,
    describe_changes,
    find_checkpoint,
    find_finished,
    keep_settled,
    layout_seed,
    read_warm_start,
    resolved_plan,
    resume_changes,
    start_state,
)
from pipeline.train.run_folder import Plan, RunFolder, codec_folder, dataset_slug, zoo_name
from pipeline.train.step_graph import check_graphs
from pipeline.train.trackers import Journal, open_journal
from pipeline.train.trainer import Trainer
from pipeline.webdata.index import ShardIndex, read_index
from pipeline.webdata.reader import ShardReader
from pipeline.webdata.remote import find_shards, is_url

logger = logging.getLogger(__name__)


@keep_thread_count()
def run(config: TrainConfig, progress: Progress = no_progress) -> StageReport:
    """Train, or resume training; does nothing if a run with these shards and options has finished.

    Under torchrun every process calls this. On SIGINT or SIGTERM to any of them, all finish the current
    step, write a checkpoint and raise KeyboardInterrupt; a second signal ends at once.
    Raises ContractError if there are no shards or training samples, or if codec, tokenizer or text length
    differ from those of the checkpoint to start from; ConfigError for options that don't match the shards
    or the existing run; WorkspaceError if the folder is not a run's; ModelError if the loss is not finite,
    memory runs out, or no checkpoint of the run is intact.
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
    device = pick_device(config.parallel.device)
    claim_gpu(device)
    if device.type == "cpu":
        keep_freed_memory()
    allow_tf32(device)
    if config.parallel.threads:
        torch.set_num_threads(config.parallel.threads)
    with join_ranks(config.parallel.kind, device) as ranks:
        check_graphs(config, ranks)
        config = settle(config, workspace, index, shards, ranks)
        plan = resolved_plan(config, inputs)
        folder = RunFolder(root=workspace.run(config.name), logging=config.logging)
        claim(folder.root, "run")
        finished = find_finished(folder.root, plan)
        if finished is not None:
            return _report("unchanged", str(folder.root), finished.counts, finished.details)
        config = fill_global_batch(config, ranks.size)
        trainer, progress = prepare(config, shards, folder, plan, ranks, progress)
        counts, details = train(trainer, plan, progress)
    return _report("done", str(folder.root), counts, details)


def settle(
    config: TrainConfig, workspace: Workspace, index: ShardIndex, shards: Path, ranks: Ranks
) -> TrainConfig:
    """The config with what `auto` stands for: the run's name, the precision, and the batch size.

    An existing run keeps its precision and its batch size.
    """
    if config.schedule.batch == "auto" and config.name == "auto" and config.schedule.steps:
        raise ConfigError(
            "--name auto depends on the batch size if --steps is given, so --batch-size can't be auto. Give "
            "a name or a number, or --epochs."
        )
    config = dataclasses.replace(config, name=choose_name(config, workspace, index))
    config = keep_settled(config, workspace.run(config.name))
    precision = pick_precision(config.parallel.precision, ranks.device)
    parallel = dataclasses.replace(config.parallel, precision=precision)
    config = dataclasses.replace(config, parallel=parallel)
    if config.schedule.batch != "auto":
        return config
    reader = ShardReader(shards, "train", skip_corrupt=config.skip_corrupt, check_hashes=False)
    if config.resume_from is None:
        model = new_model(index, config.model)
    else:
        model = read_warm_start(config.resume_from, layout_seed=layout_seed(config)).model
    return settle_batch_size(config, model, reader, ranks)


def train(
    trainer: Trainer, plan: Plan, progress: Progress
) -> tuple[dict[str, int], dict[str, Any]]:
    """Train to the end and finish the run's folder; returns the counts and details of its manifest."""
    try:
        with gpu_failures(
            "The last checkpoint is safe", lambda: f" after step {trainer.state.step}"
        ):
            trainer.train(progress)
    finally:
        trainer.journal.close()
    counts, details = trainer.summary()
    if trainer.ranks.is_main:
        write_card(trainer, plan["inputs"])
        trainer.folder.finish(plan, counts, details)
    trainer.ranks.barrier()
    return counts, details


def prepare(
    config: TrainConfig,
    shards: Path,
    folder: RunFolder,
    plan: Plan,
    ranks: Ranks,
    progress: Progress,
) -> tuple[Trainer, Progress]:
    """Check the shards, load or create the training state, say what training takes, open the run's folder.

    Returns the progress to report to from now on, too.
    """
    skip_corrupt, is_main = config.skip_corrupt, ranks.is_main
    progress(0, None, {NOW: "checking the shards"})
    reader = open_split(shards, "train", skip_corrupt=skip_corrupt, is_main=is_main)
    check_samples(reader, config, ranks.size)
    tokenizer = read_tokenizer(reader)
    changes = resume_changes(config, folder.root, plan)
    progress(0, None, {NOW: "building the model"})
    # Before the state: loading a codec draws random numbers, and the state restores the generators.
    grid_sampler = make_grid_sampler(config, reader, ranks)
    # A checkpoint that can't be used is refused before anything is written.
    checkpoint = None if changes is None else find_checkpoint(folder, config, ranks)
    state = start_state(config, reader.index, checkpoint, ranks)
    if checkpoint is None:
        state.unit = first_step_samples(config.schedule, ranks.size, len(reader))
    run_length = RunLength(
        schedule=config.schedule, samples=len(reader), ranks=ranks.size, unit=state.unit
    )
    left = run_length.steps_left(state.step, state.position)
    check_length(config, changes or {}, step=state.step, position=state.position, left=left)
    total_steps = state.step + left
    estimate = estimate_training(config, state, folder, ranks, total_steps)
    check_room(estimate.stage, estimate.folder, estimate.disk_bytes, force=config.force)
    if ranks.is_main:
        progress = announce(estimate, progress, force=config.force)
    ranks.barrier()
    validation = open_split(shards, "val", skip_corrupt=skip_corrupt, is_main=is_main)
    journal = Journal(None)
    if ranks.is_main:
        if config.logging.val_every and not len(validation):
            logger.warning("The shards have no validation samples: no val_loss is logged.")
        if changes:
            logger.warning("Resuming after step %d with %s", state.step, describe_changes(changes))
        folder.open(plan, tokenizer, fresh=checkpoint is None)
        journal = open_journal(folder, config, state.step, total_steps=total_steps)
    trainer = Trainer(
        config=config,
        ranks=ranks,
        reader=reader,
        validation=validation,
        folder=folder,
        journal=journal,
        grid_sampler=grid_sampler,
        state=state,
        run_length=run_length,
        total_steps=total_steps,
        shards_digest=plan["inputs"][_input_name(config)],
    )
    return trainer, progress


def choose_name(config: TrainConfig, workspace: Workspace, index: ShardIndex) -> str:
    """The run's name: the one given, or in the zoo's style for `auto`."""
    if config.name != "auto":
        return config.name
    if config.resume_from is None:
        model, earlier = new_model(index, config.model), {}
    else:
        warm_start = read_warm_start(config.resume_from, layout_seed=layout_seed(config))
        model, earlier = warm_start.model, dict(warm_start.passes)
    folder = codec_folder(find_kind(workspace, index), index.codec.name)
    return zoo_name(model, folder=folder, passes=add_passes(earlier, config, index))


def find_kind(workspace: Workspace, index: ShardIndex) -> str | None:
    """The kind of the shards' codec; None if the workspace doesn't have it."""
    try:
        return read_codec_json(find_codec(workspace.codecs, index.codec.fingerprint)).kind
    except ModelError:
        return None


def add_passes(
    earlier: Mapping[str, int], config: TrainConfig, index: ShardIndex
) -> dict[str, int]:
    """Epochs by dataset after this run."""
    epochs = config.schedule.epochs
    if config.schedule.steps is not None:
        samples = step_samples(config.schedule, count_ranks())
        epochs = max(1, round(config.schedule.steps * samples / max(1, index.samples["train"])))
    name = config.dataset or config.shards
    return {**earlier, name: earlier.get(name, 0) + epochs}


def dataset_name(config: TrainConfig, workspace: Workspace) -> str:
    """The dataset's name: the one given, the shards', or the workspace's source for default shards."""
    if config.dataset is not None:
        return dataset_slug(config.dataset)
    if config.shards != "default" or not workspace.marker.exists():
        return dataset_slug(config.shards.rstrip("/").rpartition("/")[2])
    return dataset_slug(str(read_marker(workspace.root)["source"]))


def _input_name(config: TrainConfig) -> str:
    """The shards' name in a manifest: their folder in the workspace, or their URL."""
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
