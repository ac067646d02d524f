"""What draws: which checkpoint, codec and tokenizer, and the inputs that name them in the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.generate.config import GenerateConfig
from pipeline.generate.foreign import find_foreign_codec, load_foreign
from pipeline.models.checkpoints.found import checkpoint_digest, find_own
from pipeline.models.checkpoints.ours import CheckpointInfo, load_dalle, read_info
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.load import find_codec, load_codec
from pipeline.models.dalle import Dalle
from pipeline.models.text import TextTokenizer, load_tokenizer
from pipeline.storage import input_digest, read_manifest
from pipeline.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Materials:
    """`load` gives the model and the codec on a device; `inputs` is what a manifest names them by.

    `digest` names the checkpoint in each picture's record.
    """

    load: Callable[[torch.device], tuple[Dalle, Codec]]
    tokenizer: TextTokenizer
    digest: str
    inputs: dict[str, str]


def find_materials(config: GenerateConfig, workspace: Workspace) -> Materials:
    """Find the checkpoint, its tokenizer and its codec: by what it says of itself, or by the options.

    Raises ContractError where the run has not finished, ConfigError for a checkpoint that is not there
    and options that are missing or too many, ModelError where the checkpoint is damaged, its codec is
    not to be found, or its tokenizer is another one than it was trained with.
    """
    if config.checkpoint is None:
        folder = workspace.run(config.run)
        checkpoint = folder / read_manifest(folder, "run").details["checkpoint"]
        return _own(config, workspace, checkpoint, {f"runs/{config.run}": input_digest(folder)})
    digest = checkpoint_digest(config.checkpoint)
    own = find_own(config.checkpoint)
    if own is not None:
        return _own(config, workspace, own, {"checkpoint": digest})
    return _foreign(config, workspace, config.checkpoint, digest)


def _own(
    config: GenerateConfig, workspace: Workspace, checkpoint: Path, inputs: dict[str, str]
) -> Materials:
    if config.codec or config.vqgan_config or config.tokenizer:
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
        tokenizer=_find_tokenizer(checkpoint, info),
        digest=checkpoint_digest(checkpoint),
        inputs=inputs | {f"codecs/{folder.name}": input_digest(folder)},
    )


def _find_tokenizer(checkpoint: Path, info: CheckpointInfo) -> TextTokenizer:
    tokenizer = load_tokenizer(checkpoint.parent.parent)
    if tokenizer.fingerprint != info.tokenizer:
        raise ModelError(
            f"{checkpoint.parent.parent} holds the tokenizer {tokenizer.fingerprint[:12]}, the "
            f"checkpoint was trained with {info.tokenizer[:12]}. Put the run's own tokenizer.json there."
        )
    return tokenizer


def _foreign(
    config: GenerateConfig, workspace: Workspace, checkpoint: Path, digest: str
) -> Materials:
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
        tokenizer=tokenizer,
        digest=digest,
        inputs={
            "checkpoint": digest,
            "tokenizer": tokenizer.fingerprint,
            **({"codec": codec.digest} if codec else {}),
        },
    )
