"""What draws: which checkpoint, codec and tokenizer, and the inputs that name them in the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.generate.config import GenerateConfig
from pipeline.models.checkpoints.ours import INFO_FILE, CheckpointInfo, read_info
from pipeline.models.codecs.load import find_codec
from pipeline.models.text import TextTokenizer, load_tokenizer
from pipeline.storage import Workspace, input_digest, read_manifest, sha256_file


@dataclass(frozen=True, kw_only=True)
class Materials:
    """`checkpoint` and `codec` are folders; `inputs` is what a manifest names them by."""

    checkpoint: Path
    codec: Path
    tokenizer: TextTokenizer
    inputs: dict[str, str]

    @property
    def digest(self) -> str:
        """Names the checkpoint in each picture's record: the sha256 of its description."""
        return sha256_file(self.checkpoint / INFO_FILE)


def find_materials(config: GenerateConfig, workspace: Workspace) -> Materials:
    """Find the checkpoint, and by what it says of itself its tokenizer and its codec.

    Raises ContractError where the run has not finished, ModelError where the checkpoint is damaged, its
    codec is not in the workspace, or its tokenizer is another one than it was trained with.
    """
    checkpoint, inputs = _find_checkpoint(config, workspace)
    info = read_info(checkpoint)
    codec = find_codec(workspace.codecs, info.codec)
    return Materials(
        checkpoint=checkpoint,
        codec=codec,
        tokenizer=_find_tokenizer(checkpoint, info),
        inputs=inputs | {f"codecs/{codec.name}": input_digest(codec)},
    )


def _find_checkpoint(config: GenerateConfig, workspace: Workspace) -> tuple[Path, dict[str, str]]:
    if config.checkpoint is not None:
        read_info(config.checkpoint)
        return config.checkpoint, {"checkpoint": sha256_file(config.checkpoint / INFO_FILE)}
    folder = workspace.run(config.run)
    manifest = read_manifest(folder, "run")
    return folder / manifest.details["checkpoint"], {f"runs/{config.run}": input_digest(folder)}


def _find_tokenizer(checkpoint: Path, info: CheckpointInfo) -> TextTokenizer:
    tokenizer = load_tokenizer(checkpoint.parent.parent)
    if tokenizer.fingerprint != info.tokenizer:
        raise ModelError(
            f"{checkpoint.parent.parent} holds the tokenizer {tokenizer.fingerprint[:12]}, the "
            f"checkpoint was trained with {info.tokenizer[:12]}. Put the run's own tokenizer.json there."
        )
    return tokenizer
