"""A checkpoint of ours → a `dalle.pt` of dalle-pytorch, by `pipeline export`."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from pipeline.contracts import StageReport
from pipeline.errors import ModelError
from pipeline.models.checkpoints.export import stock_codec, write_dalle_pt
from pipeline.models.checkpoints.foreign import StockCodec
from pipeline.models.checkpoints.found import find_own, find_run_checkpoint
from pipeline.models.checkpoints.ours import load_dalle, read_info
from pipeline.models.codecs.load import find_codec, load_codec
from pipeline.progress import Progress, no_progress
from pipeline.train.config import ExportConfig
from pipeline.workspace import Workspace

logger = logging.getLogger(__name__)


def export(config: ExportConfig, _progress: Progress = no_progress) -> StageReport:
    """Write the weights to draw with, and the codec where dalle-pytorch knows it.

    Raises ModelError where there is no whole checkpoint or the model has parts that dalle-pytorch lacks.
    """
    workspace = Workspace(config.workspace)
    checkpoint = _find_checkpoint(config, workspace)
    info = read_info(checkpoint)
    model = load_dalle(checkpoint, device=torch.device("cpu"))
    write_dalle_pt(
        config.out,
        config=info.model,
        weights=model.state_dict(),
        codec=_codec(workspace, info.codec),
        epoch=info.epoch,
    )
    return StageReport(
        stage="export",
        outcome="done",
        counts={"parameters": sum(p.numel() for p in model.parameters())},
        outputs=(str(config.out),),
        details={"checkpoint": str(checkpoint)},
    )


def _find_checkpoint(config: ExportConfig, workspace: Workspace) -> Path:
    """The checkpoint that is given, or the last whole one of the run, finished or not."""
    if config.checkpoint is not None:
        return find_own(config.checkpoint) or config.checkpoint
    run = workspace.run(config.run)
    found = find_run_checkpoint(run)
    if found.reason is not None:
        logger.warning("Exporting %s of %s: %s", found.path.name, run, found.reason)
    return found.path


def _codec(workspace: Workspace, fingerprint: str) -> StockCodec | None:
    try:
        codec = stock_codec(load_codec(find_codec(workspace.codecs, fingerprint)))
    except ModelError as error:
        logger.warning("No codec goes into the file: %s", error)
        return None
    if codec is None:
        logger.warning("No codec goes into the file: dalle-pytorch has none of its kind")
    return codec
