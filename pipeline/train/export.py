"""`pipeline export`: a run's checkpoint → dalle-pytorch's `dalle.pt`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.outputs import check_output
from pipeline.core.progress import Progress, no_progress
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.critic import critic_of
from pipeline.models.checkpoints.export import dalle_pytorch_codec, why_not_loadable, write_dalle_pt
from pipeline.models.checkpoints.foreign import DallePytorchCodec
from pipeline.models.checkpoints.locate import find_own, find_run_checkpoint
from pipeline.models.checkpoints.native import load_dalle, read_critic, read_info
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.load import find_codec, load_codec
from pipeline.models.codecs.vqgan import VQGAN
from pipeline.train.config import ExportConfig

logger = logging.getLogger(__name__)


def export(config: ExportConfig, _progress: Progress = no_progress) -> StageReport:
    """Write the weights used for sampling, and the codec if dalle-pytorch supports its kind.

    Raises ModelError if there is no intact checkpoint, if the model uses features that dalle-pytorch
    lacks, or if `--codec-checkpoint` belongs to another codec; ConfigError if the codec takes none.
    """
    workspace = Workspace(config.workspace)
    checkpoint = _find_checkpoint(config, workspace)
    info = read_info(checkpoint)
    model = load_dalle(checkpoint, device=torch.device("cpu"))
    check_output(config.out, kind="dalle.pt", magic=b"PK")
    is_new = write_dalle_pt(
        config.out,
        config=info.model,
        weights=model.state_dict(),
        codec=_codec_for_dalle_pytorch(config, workspace, checkpoint),
        epoch=info.epoch,
        overwrite=config.overwrite,
    )
    return StageReport(
        stage="export",
        outcome="done" if is_new else "unchanged",
        counts={"parameters": sum(p.numel() for p in model.parameters())},
        outputs=(str(config.out),),
        details={"checkpoint": str(checkpoint)},
    )


def _find_checkpoint(config: ExportConfig, workspace: Workspace) -> Path:
    """The checkpoint given, or the run's last intact one, whether the run has finished or not."""
    if config.checkpoint is not None:
        return find_own(config.checkpoint) or config.checkpoint
    run = workspace.run(config.run, option="--run")
    found = find_run_checkpoint(run)
    if found.reason is not None:
        logger.warning("Exporting %s of %s: %s", found.path.name, run, found.reason)
    return found.path


def _codec_for_dalle_pytorch(
    config: ExportConfig, workspace: Workspace, checkpoint: Path
) -> DallePytorchCodec | None:
    """The checkpoint's codec in dalle-pytorch's form; None, with a warning, if it can't be included."""
    try:
        codec = load_codec(find_codec(workspace.codecs, read_info(checkpoint).codec))
    except ModelError as error:
        if config.codec_checkpoint is not None:
            raise
        logger.warning("The file is written without a codec: %s", error)
        return None
    found = dalle_pytorch_codec(codec, _critic(config, codec, checkpoint))
    if found is None:
        logger.warning(
            "The file is written without a codec: dalle-pytorch does not support the kind %r. To train one "
            "that it supports: `pipeline train-codec --kind discrete-vae`.",
            codec.kind,
        )
    elif (reason := why_not_loadable(codec)) is not None:
        logger.warning(
            "dalle-pytorch's own programs can't generate with the file: dalle-pytorch %s.", reason
        )
    return found


def _critic(config: ExportConfig, codec: Codec, checkpoint: Path) -> Mapping[str, Tensor]:
    """A VQGAN's discriminator: from `--codec-checkpoint`, or as kept from the dalle.pt it came from."""
    if not isinstance(codec, VQGAN):
        if config.codec_checkpoint is not None:
            raise ConfigError(
                f"--codec-checkpoint: the model was trained with a codec of the kind {codec.kind!r}, but the "
                "option applies only to a VQGAN. Leave it out."
            )
        return {}
    if config.codec_checkpoint is not None:
        return critic_of(config.codec_checkpoint, codec)
    kept = read_critic(checkpoint)
    if not kept:
        logger.warning(
            "The file lacks the discriminator from the VQGAN's training (loss.*), which published VQGANs "
            "have. If yours has one, dalle-pytorch's own programs refuse the file: pass the codec's .ckpt as "
            "--codec-checkpoint."
        )
    return kept
