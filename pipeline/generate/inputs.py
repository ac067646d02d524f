"""Find the checkpoint, codec and tokenizer to generate with, and their digests for the manifest."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.storage import input_digest
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.foreign import find_foreign_codec, load_foreign
from pipeline.models.checkpoints.locate import (
    checkpoint_digest,
    find_own,
    find_run_checkpoint,
)
from pipeline.models.checkpoints.native import CheckpointInfo, load_dalle, read_info
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.load import find_codec, load_codec
from pipeline.models.dalle.model import Dalle
from pipeline.models.tokenizers.load import TextTokenizer, load_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """The model to generate with: `load` loads it and its codec on a device.

    `digests` are the inputs for the manifest; `digest` is the checkpoint's, for each image's record.
    `null_cond_prob` is the share of captions dropped in training, None if not recorded; `is_own`: whether
    the checkpoint is one of ours.
    """

    load: Callable[[torch.device], tuple[Dalle, Codec]]
    checkpoint: Path
    tokenizer: TextTokenizer
    digest: str
    digests: dict[str, str]
    is_own: bool
    null_cond_prob: float | None = None


def find_model_inputs(config: GenerateConfig, workspace: Workspace) -> ModelInputs:
    """Find the checkpoint with its tokenizer and codec, from its metadata or from the options.

    Raises ConfigError for a checkpoint that does not exist, and for missing or superfluous options;
    ModelError if the run has no checkpoint yet, the checkpoint is damaged, its codec can't be found, or its
    tokenizer is not the one it was trained with.
    """
    if config.checkpoint is None:
        checkpoint, inputs = _checkpoint_of_run(config.run, workspace)
        return _own(config, workspace, checkpoint, inputs)
    own = find_own(config.checkpoint)
    if own is not None:
        return _own(config, workspace, own, {"checkpoint": checkpoint_digest(own)})
    return _foreign(config, workspace, config.checkpoint)


def _checkpoint_of_run(name: str, workspace: Workspace) -> tuple[Path, dict[str, str]]:
    """A run's checkpoint and its digest: the run's if it has finished, else the checkpoint's."""
    run = workspace.run(name, option="--run")
    found = find_run_checkpoint(run)
    if found.reason is None:
        return found.path, {f"runs/{name}": input_digest(run)}
    logger.warning("Using %s of %s: %s", found.path.name, run, found.reason)
    return found.path, {"checkpoint": checkpoint_digest(found.path)}


def _own(
    config: GenerateConfig, workspace: Workspace, checkpoint: Path, inputs: dict[str, str]
) -> ModelInputs:
    given = (config.codec, config.vqgan_config, config.tokenizer)
    if any(option is not None for option in given):
        raise ConfigError(
            f"{checkpoint} records its codec and tokenizer. Leave out --codec, --vqgan-config and "
            "--tokenizer."
        )
    info = read_info(checkpoint)
    folder = find_codec(workspace.codecs, info.codec)

    def load(device: torch.device) -> tuple[Dalle, Codec]:
        return load_dalle(checkpoint, device=device), load_codec(folder, device)

    return ModelInputs(
        load=load,
        checkpoint=checkpoint,
        tokenizer=_find_tokenizer(checkpoint, info),
        digest=checkpoint_digest(checkpoint),
        digests=inputs | {f"codecs/{folder.name}": input_digest(folder)},
        is_own=True,
        null_cond_prob=_probability(info.training.get("null_cond_prob")),
    )


def _probability(found: object) -> float | None:
    return float(found) if isinstance(found, (int, float)) else None


def _find_tokenizer(checkpoint: Path, info: CheckpointInfo) -> TextTokenizer:
    tokenizer = load_tokenizer(checkpoint.parent.parent)
    if tokenizer.fingerprint != info.tokenizer:
        raise ModelError(
            f"{checkpoint.parent.parent} has the tokenizer {tokenizer.fingerprint[:12]}, but the "
            f"checkpoint was trained with {info.tokenizer[:12]}. Restore the run's own tokenizer.json."
        )
    return tokenizer


def _foreign(config: GenerateConfig, workspace: Workspace, checkpoint: Path) -> ModelInputs:
    digest = checkpoint_digest(checkpoint)
    if config.tokenizer is None:
        raise ConfigError(
            f"{checkpoint} is a checkpoint of DALLE-pytorch, which does not record its tokenizer. Give "
            "--tokenizer clip (DALLE-pytorch's default), clip:FILE, hf:FILE or yttm:FILE."
        )
    tokenizer = load_tokenizer(config.tokenizer)
    codec = find_foreign_codec(config, workspace)

    def load(device: torch.device) -> tuple[Dalle, Codec]:
        return load_foreign(
            checkpoint, codec, tokenizer, redraw_layout=config.redraw_layout, device=device
        )

    return ModelInputs(
        load=load,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        is_own=False,
        digest=digest,
        digests={
            "checkpoint": digest,
            "tokenizer": tokenizer.fingerprint,
            **({"codec": codec.digest} if codec else {}),
        },
    )
