"""A checkpoint of ours → a `dalle.pt` of dalle-pytorch, by `pipeline export`."""

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
from pipeline.models.checkpoints.export import stock_codec, why_stock_differs, write_dalle_pt
from pipeline.models.checkpoints.foreign import StockCodec
from pipeline.models.checkpoints.found import find_own, find_run_checkpoint
from pipeline.models.checkpoints.native import load_dalle, read_critic, read_info
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.load import find_codec, load_codec
from pipeline.models.codecs.vqgan import VQGAN
from pipeline.train.config import ExportConfig

logger = logging.getLogger(__name__)


def export(config: ExportConfig, _progress: Progress = no_progress) -> StageReport:
    """Write the weights to draw with, and the codec where dalle-pytorch knows it.

    Raises ModelError where there is no whole checkpoint, the model has parts that dalle-pytorch lacks, or
    `--codec-checkpoint` is another codec's; ConfigError where the codec has no use for one.
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
        codec=_stock_codec(config, workspace, checkpoint),
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
    """The checkpoint that is given, or the last whole one of the run, finished or not."""
    if config.checkpoint is not None:
        return find_own(config.checkpoint) or config.checkpoint
    run = workspace.run(config.run, option="--run")
    found = find_run_checkpoint(run)
    if found.reason is not None:
        logger.warning("Exporting %s of %s: %s", found.path.name, run, found.reason)
    return found.path


def _stock_codec(config: ExportConfig, workspace: Workspace, checkpoint: Path) -> StockCodec | None:
    """The codec of the checkpoint's codes as dalle-pytorch has it; None, and why, where it has none."""
    try:
        codec = load_codec(find_codec(workspace.codecs, read_info(checkpoint).codec))
    except ModelError as error:
        if config.codec_checkpoint is not None:
            raise
        logger.warning("No codec goes into the file: %s", error)
        return None
    found = stock_codec(codec, _critic(config, codec, checkpoint))
    if found is None:
        logger.warning(
            "No codec goes into the file: dalle-pytorch has none of the kind %r. One that it has is made by "
            "`pipeline train-codec --kind discrete-vae`.",
            codec.kind,
        )
    elif (reason := why_stock_differs(codec)) is not None:
        logger.warning("Stock programs can't draw with the file: dalle-pytorch %s.", reason)
    return found


def _critic(config: ExportConfig, codec: Codec, checkpoint: Path) -> Mapping[str, Tensor]:
    """What goes into the file beside a VQGAN's network: from its checkpoint, or kept since a dalle.pt."""
    if not isinstance(codec, VQGAN):
        if config.codec_checkpoint is not None:
            raise ConfigError(
                f"--codec-checkpoint: the model was trained with a codec of the kind {codec.kind!r}; only a "
                "VQGAN has more tensors in its checkpoint than the codec needs. Leave it out."
            )
        return {}
    if config.codec_checkpoint is not None:
        return critic_of(config.codec_checkpoint, codec)
    kept = read_critic(checkpoint)
    if not kept:
        logger.warning(
            "The file has no critic of the VQGAN's training (loss.*), which published VQGANs have: where "
            "yours has one, stock programs refuse the file. Give the codec's .ckpt as --codec-checkpoint."
        )
    return kept
