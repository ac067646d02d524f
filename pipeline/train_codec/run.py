"""`pipeline train-codec`: kept images → codecs/NAME: codec.json, codec.safetensors, a log, an image.

Reads dedupe/kept (split train; val for measuring) and raw/segments. During training the folder has a
checkpoint.pt, from which the same command resumes. A signal (Ctrl-C, SIGTERM) saves one of the last step.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.core.artifact import Artifact, digest_input, find_trained
from pipeline.core.config import resolved
from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.estimate import Estimate, announce, memory_so_far
from pipeline.core.kept_images import KeptImage
from pipeline.core.parsing import read_small_file
from pipeline.core.progress import NOW, Progress, no_progress
from pipeline.core.stop_signals import watch_signals
from pipeline.core.storage import sha256_bytes, write_bytes
from pipeline.core.workspace import Workspace
from pipeline.models.codecs.load import CODEC_JSON, CODEC_WEIGHTS, codec_details, save_codec
from pipeline.models.codecs.pixels import PREPROCESSING, Pixels
from pipeline.models.devices import claim_gpu, count_parameters, pick_device
from pipeline.train_codec.config import TrainCodecConfig
from pipeline.train_codec.images import ImageSet, choose_images, load_images
from pipeline.train_codec.quality import draw_reconstructions, measure_codec
from pipeline.train_codec.training import UNREADABLE, Training, begin_training

log = logging.getLogger(__name__)

_CHECKPOINT = "checkpoint.pt"
_CHECKPOINT_PLAN = "checkpoint.json"
_LOG = "log.jsonl"
_RECONSTRUCTIONS = "reconstructions.png"
_MEASURED_IMAGES = 256
_ACTIVATIONS = 500  # bytes for each byte of an image of a batch
_SMALL_BATCH = 8  # the default: works for a set of any size


def run(config: TrainCodecConfig, progress: Progress = no_progress) -> StageReport:
    """Train a codec; does nothing if there is one from the same images and options.

    A finished codec is never replaced, since codes may depend on it: another one is written to NAME-2,
    NAME-3, ….

    Raises ContractError if dedupe has not finished or there are no images to train on, ModelError if the
    image size is not supported, ConfigError if CUDA is requested but not available.
    """
    workspace = Workspace(config.workspace)
    inputs = digest_input(workspace.dedupe, "dedupe", root=workspace.root)
    plan_digest = _plan_digest(config, inputs)
    out = find_trained(
        workspace.codec(config.name),
        "codec",
        config=resolved(config),
        inputs=inputs,
        can_resume=lambda folder: _unfinished_plan(folder) in (None, plan_digest),
    )
    if not out.is_current:
        _make_codec(config, out, plan_digest, progress)
    _drop_checkpoint(out.folder)
    return out.report()


def _make_codec(
    config: TrainCodecConfig, out: Artifact, plan_digest: str, progress: Progress
) -> None:
    device = pick_device(config.device)
    claim_gpu(device)
    training, folder = _resume_or_start(config, device, out, plan_digest), out.folder
    chosen = _choose(config)
    progress = announce(_estimate(training, folder, len(chosen)), progress, force=config.force)
    images, measured = _load(config, chosen, progress)
    _train(training, images.pixels_MHWC, measured, folder, progress)
    codec = training.finished()
    save_codec(codec, folder)
    quality = measure_codec(codec, measured, device)
    _write_log(training, folder)
    write_bytes(folder / _RECONSTRUCTIONS, draw_reconstructions(codec, measured, device))
    out.finish(
        counts={
            "images": len(images.pixels_MHWC) + images.failed,
            "learnt_from": len(images.pixels_MHWC),
            "failed": images.failed,
        },
        files=(CODEC_JSON, CODEC_WEIGHTS, _LOG, _RECONSTRUCTIONS),
        details={
            **codec_details(codec),
            "loss": training.logs[-1].loss,
            **dataclasses.asdict(quality),
            "preprocessing": PREPROCESSING,
        },
    )


def _check_batch(batch_size: int, images: int) -> None:
    """Raise ConfigError for a batch that has to repeat images; a small one may, for a small set."""
    if batch_size > max(images, _SMALL_BATCH):
        raise ConfigError(
            f"A batch of {batch_size} can't be filled from {images} training images. Give --batch-size "
            f"{max(images, _SMALL_BATCH)} or less."
        )


def _choose(config: TrainCodecConfig) -> list[KeptImage]:
    """The images to train on."""
    chosen = choose_images(Workspace(config.workspace), "train", config.max_images)
    _check_batch(config.batch_size, len(chosen))
    return chosen


def _estimate(training: Training, folder: Path, images: int) -> Estimate:
    config, parameters = training.config, count_parameters(training.codec)
    device = training.learner.codebook_KD.device
    return Estimate(
        stage="train-codec",
        work=f"train {parameters:,} parameters on {device.type} for {config.steps:,} steps of "
        f"{config.batch_size} of {images:,} images",
        folder=folder,
        # The weights, and a checkpoint that holds them with two moments.
        disk_bytes=parameters * 4 * 4,
        # Gradients and moments; the decoded images; the activations of a batch.
        memory_bytes=memory_so_far()
        + parameters * 3 * 4
        + (images + config.batch_size * _ACTIVATIONS) * 3 * config.image_size**2,
    )


def _load(
    config: TrainCodecConfig, chosen: Sequence[KeptImage], progress: Progress
) -> tuple[ImageSet, Pixels]:
    """The training images, and those to measure on: from the split val, or from train if val is empty."""
    workspace = Workspace(config.workspace)
    images = load_images(
        workspace.segments,
        chosen,
        side=config.image_size,
        workers=config.workers,
        report=lambda done: progress(0, None, {NOW: f"decoding image {done:,} of {len(chosen):,}"}),
    )
    if not len(images.pixels_MHWC):
        raise ContractError(
            f"{workspace.dedupe} has no readable image in the training split ({images.failed} could not "
            "be decoded): there is nothing to train on. Scrape more images, then run `pipeline dedupe`."
        )
    held_out = choose_images(workspace, "val", _MEASURED_IMAGES)
    measured = load_images(
        workspace.segments, held_out, side=config.image_size, workers=config.workers
    )
    if len(measured.pixels_MHWC):
        return images, measured.pixels_MHWC
    log.warning("The validation split has no images: the codec is measured on its training images.")
    return images, images.pixels_MHWC[:_MEASURED_IMAGES]


def _train(
    training: Training, pixels: Pixels, measured: Pixels, folder: Path, progress: Progress
) -> None:
    """Train to the end; after a signal, saves a checkpoint and raises KeyboardInterrupt."""
    config = training.config
    progress(training.step, config.steps, {NOW: "the first step"})
    with watch_signals() as request:
        while training.step < config.steps:
            entry = training.advance(pixels)
            if training.is_measured:
                training.measure(measured)
            progress(training.step, config.steps, {"loss": entry.loss})
            asked, due = request.asked, training.step % config.checkpoint_every == 0
            if due or asked or training.step == config.steps:
                write_bytes(folder / _CHECKPOINT, training.to_bytes())
                _write_log(training, folder)
            if asked:
                log.warning("Stopped after step %d; its checkpoint is saved", training.step)
                raise KeyboardInterrupt


def _write_log(training: Training, folder: Path) -> None:
    lines = (
        {name: value for name, value in dataclasses.asdict(entry).items() if value is not None}
        for entry in training.logs
    )
    write_bytes(folder / _LOG, "".join(json.dumps(line) + "\n" for line in lines).encode())


# --- Checkpoints ---------------------------------------------------------------------------------


def _plan_digest(config: TrainCodecConfig, inputs: Mapping[str, str]) -> str:
    plan: Mapping[str, Any] = {
        "config": resolved(config),
        "inputs": dict(inputs),
        "torch": torch.__version__,
    }
    return sha256_bytes(json.dumps(plan, sort_keys=True).encode())


def _unfinished_plan(folder: Path) -> str | None:
    """The digest of the plan of an unfinished folder; None if it has no checkpoint."""
    plan = folder / _CHECKPOINT_PLAN
    try:
        digest = read_small_file(plan, max_bytes=1 << 10).decode(errors="replace")
    except ContractError:
        return None
    return digest if (folder / _CHECKPOINT).is_file() else None


def _resume_or_start(
    config: TrainCodecConfig, device: torch.device, out: Artifact, plan_digest: str
) -> Training:
    """Resume from the folder's checkpoint if it has the same plan, else start from scratch."""
    folder = out.folder
    if _unfinished_plan(folder) == plan_digest:
        training = begin_training(config, device)
        try:
            training.continue_from((folder / _CHECKPOINT).read_bytes())
            log.info("Resuming after step %d.", training.step)
            return training
        except UNREADABLE as error:
            log.warning("%s can't be read (%s): starting over.", folder / _CHECKPOINT, error)
    out.start_over()
    write_bytes(folder / _CHECKPOINT_PLAN, plan_digest.encode())
    return begin_training(config, device)


def _drop_checkpoint(folder: Path) -> None:
    for name in (_CHECKPOINT, _CHECKPOINT_PLAN):
        (folder / name).unlink(missing_ok=True)
