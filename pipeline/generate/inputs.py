"""What draws: which checkpoint, codec and tokenizer, and the inputs that name them in the manifest."""

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
from pipeline.models.checkpoints.found import (
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
class Materials:
    """`load` gives the model and the codec on a device; `inputs` is what a manifest names them by.

    `digest` names the checkpoint in each image's record. `null_cond_prob` is how often training left the
    caption out, None where the checkpoint doesn't say it; `is_own` where it is one of ours.
    """

    load: Callable[[torch.device], tuple[Dalle, Codec]]
    checkpoint: Path
    tokenizer: TextTokenizer
    digest: str
    inputs: dict[str, str]
    is_own: bool
    null_cond_prob: float | None = None


def find_materials(config: GenerateConfig, workspace: Workspace) -> Materials:
    """Find the checkpoint, its tokenizer and its codec: by what it says of itself, or by the options.

    Raises ConfigError for a checkpoint that is not there and options that are missing or too many,
    ModelError where the run has no checkpoint yet, the checkpoint is damaged, its codec is not to be
    found, or its tokenizer is another one than it was trained with.
    """
    if config.checkpoint is None:
        checkpoint, inputs = _checkpoint_of_run(config.run, workspace)
        return _own(config, workspace, checkpoint, inputs)
    own = find_own(config.checkpoint)
    if own is not None:
        return _own(config, workspace, own, {"checkpoint": checkpoint_digest(own)})
    return _foreign(config, workspace, config.checkpoint)


def _checkpoint_of_run(name: str, workspace: Workspace) -> tuple[Path, dict[str, str]]:
    """The checkpoint of a run, and its name for the manifest: a run in progress changes, its checkpoint
    does not."""
    run = workspace.run(name, option="--run")
    found = find_run_checkpoint(run)
    if found.reason is None:
        return found.path, {f"runs/{name}": input_digest(run)}
    logger.warning("Drawing from %s of %s: %s", found.path.name, run, found.reason)
    return found.path, {"checkpoint": checkpoint_digest(found.path)}


def _own(
    config: GenerateConfig, workspace: Workspace, checkpoint: Path, inputs: dict[str, str]
) -> Materials:
    given = (config.codec, config.vqgan_config, config.tokenizer)
    if any(option is not None for option in given):
        raise ConfigError(
            f"{checkpoint} says itself what codec and tokenizer it was trained with. Leave --codec, "
            "--vqgan-config and --tokenizer out."
        )
    info = read_info(checkpoint)
    folder = find_codec(workspace.codecs, info.codec)

    def load(device: torch.device) -> tuple[Dalle, Codec]:
        return load_dalle(checkpoint, device=device), load_codec(folder, device)

    return Materials(
        load=load,
        checkpoint=checkpoint,
        tokenizer=_find_tokenizer(checkpoint, info),
        digest=checkpoint_digest(checkpoint),
        inputs=inputs | {f"codecs/{folder.name}": input_digest(folder)},
        is_own=True,
        null_cond_prob=_probability(info.training.get("null_cond_prob")),
    )


def _probability(found: object) -> float | None:
    return float(found) if isinstance(found, (int, float)) else None


def _find_tokenizer(checkpoint: Path, info: CheckpointInfo) -> TextTokenizer:
    tokenizer = load_tokenizer(checkpoint.parent.parent)
    if tokenizer.fingerprint != info.tokenizer:
        raise ModelError(
            f"{checkpoint.parent.parent} holds the tokenizer {tokenizer.fingerprint[:12]}, the "
            f"checkpoint was trained with {info.tokenizer[:12]}. Put the run's own tokenizer.json there."
        )
    return tokenizer


def _foreign(config: GenerateConfig, workspace: Workspace, checkpoint: Path) -> Materials:
    digest = checkpoint_digest(checkpoint)
    if config.tokenizer is None:
        raise ConfigError(
            f"{checkpoint} is no checkpoint of ours, and a checkpoint of DALLE-pytorch does not say "
            "which tokenizer it was trained with. Give --tokenizer clip (its default), clip:FILE, "
            "hf:FILE or yttm:FILE."
        )
    tokenizer = load_tokenizer(config.tokenizer)
    codec = find_foreign_codec(config, workspace)

    def load(device: torch.device) -> tuple[Dalle, Codec]:
        return load_foreign(
            checkpoint, codec, tokenizer, redraw_layout=config.redraw_layout, device=device
        )

    return Materials(
        load=load,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        is_own=False,
        digest=digest,
        inputs={
            "checkpoint": digest,
            "tokenizer": tokenizer.fingerprint,
            **({"codec": codec.digest} if codec else {}),
        },
    )
