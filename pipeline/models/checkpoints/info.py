"""checkpoint.json, the metadata of a checkpoint of ours: its schema and its validation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import ContractError, ModelError
from pipeline.core.parsing import parse_dataclass, parse_json_file
from pipeline.core.suggestions import hint_at_path
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.description import parse_complete

INFO_FILE = "checkpoint.json"
FORMAT = {"format": "dalle-pipeline/checkpoint", "version": 2}
_FILE = re.compile(r"[a-z]+\.safetensors")
_NAME = re.compile(r"step-(\d{6,})")
_ADVICE = "Use another checkpoint, or restore the file."


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint's metadata.

    `consumed` is how many samples of epoch `epoch` the run has read. `codec` and `tokenizer` are the
    fingerprints of those that made the codes and token ids. `training` holds what else a run needs to
    resume, and facts about it, as JSON values:

        passes          epochs by dataset before this run, from the checkpoint it started from
        dataset         name of the dataset that the run is trained on
        samples         samples trained on in this run so far
        step_samples    samples in the run's first step: the unit of the schedule with `--epochs`
        null_cond_prob  share of captions replaced by padding (0 in older checkpoints, which lack it);
                        `generate --cond-scale` works only if it is above 0
        ranks           number of training processes
        scaler          state of fp16's loss scale, if used
        plateau         state of `--lr-decay plateau`, if used
    """

    step: int = field(metadata={"low": 0})
    epoch: int = field(metadata={"low": 0})
    consumed: int = field(metadata={"low": 0})
    model: DalleConfig
    codec: str
    tokenizer: str
    shards: str
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Plateau:
    rate: float = field(metadata={"low": 0})
    best: float | None
    cooldown_counter: int = field(metadata={"low": 0})
    num_bad_epochs: int = field(metadata={"low": 0})
    last_epoch: int = field(metadata={"low": 0})


@dataclass(frozen=True, kw_only=True)
class _Scaler:
    """State of torch's GradScaler."""

    scale: float = field(metadata={"low": 0})
    growth_factor: float = field(metadata={"low": 1})
    backoff_factor: float = field(metadata={"low": 0, "high": 1})
    growth_interval: int = field(metadata={"low": 1})
    _growth_tracker: int = field(metadata={"low": 0})


@dataclass(frozen=True, kw_only=True)
class _EngineScaler:
    """State of the loss scaler of DeepSpeed's engine."""

    cur_scale: float = field(metadata={"low": 0})
    cur_iter: int = field(default=0, metadata={"low": 0})
    last_overflow_iter: int = field(default=-1, metadata={"low": -1})
    cur_hysteresis: int = field(default=1, metadata={"low": 0})


@dataclass(frozen=True, kw_only=True)
class _Training:
    """The keys of `CheckpointInfo.training` that are read; parsed only for validation."""

    passes: Mapping[str, int] = field(default_factory=dict, metadata={"low": 0})
    dataset: str | None = None
    samples: int = field(default=0, metadata={"low": 0})
    step_samples: int | None = field(default=None, metadata={"low": 1})
    null_cond_prob: float = field(default=0.0, metadata={"low": 0, "high": 1})
    ranks: int | None = field(default=None, metadata={"low": 1})
    scaler: Mapping[str, Any] | None = None
    plateau: _Plateau | None = None


def step_of_name(path: Path) -> int | None:
    """The step in the name of a checkpoint's folder; None for any other name."""
    found = _NAME.fullmatch(path.name)
    step = int(found[1]) if found else 0
    return step if found and path.name == f"step-{step:06d}" else None


def read_checkpoint_json(
    path: Path, *, any_name: bool = False
) -> tuple[CheckpointInfo, Mapping[str, str]]:
    """The metadata in a checkpoint.json, and the sha256 of each of the checkpoint's files.

    Raises ModelError for a file that is missing, damaged, or of another format or version; without
    `any_name` also if the folder's name has another step.
    """
    source = str(path)
    try:
        values = parse_json_file(path, dict[str, Any], remedy=_ADVICE)
        _check_format({name: values.pop(name, None) for name in FORMAT}, path)
        files = parse_dataclass(
            dict[str, str], values.pop("files", None), source=source, field="files", remedy=_ADVICE
        )
        _check_files(files, path)
        info = parse_complete(CheckpointInfo, values, source=source, remedy=_ADVICE)
        _check_model(values["model"], source)
        _check_training(info.training, source)
    except ContractError as error:
        raise ModelError(
            f"{path.parent} is not a checkpoint, a folder like runs/NAME/checkpoints/step-000500: {error}"
            f"{hint_at_path(path.parent)}"
        ) from error
    named = step_of_name(path.parent)
    if not any_name and named not in (None, info.step):
        raise ModelError(
            f"{path.parent} holds the checkpoint of step {info.step}: it is a copy or was renamed. Rename it "
            f"to step-{info.step:06d}, or to a name of another form than {path.parent.name}."
        )
    return info, files


def _check_files(files: Mapping[str, str], path: Path) -> None:
    other = next((name for name in files if not _FILE.fullmatch(name)), None)
    if other is not None:
        raise ContractError(
            f"{path} lists {other[:80]!r}, which is not a file of a checkpoint. {_ADVICE}"
        )


def _check_model(model: Any, source: str) -> None:
    """Require all hyper-parameters and the layout: defaults would silently make a different model."""
    parsed = parse_complete(DalleConfig, model, source=source, field="model", remedy=_ADVICE)
    if "sparse" in parsed.attn_types and not model["sparse_layout"]:
        raise ContractError(
            f"{source}: model.sparse_layout is empty, expected the rows of the layout that sparse attention "
            f"was trained with. {_ADVICE}"
        )


def _check_training(training: Mapping[str, Any], source: str) -> None:
    found = parse_dataclass(
        _Training, training, source=source, field="training", remedy=_ADVICE
    ).scaler
    if found is not None:
        kind = _EngineScaler if "cur_scale" in found else _Scaler
        parse_dataclass(kind, found, source=source, field="training.scaler", remedy=_ADVICE)


def _check_format(found: Mapping[str, Any], path: Path) -> None:
    if found != FORMAT:
        raise ModelError(
            f"{path} has format {str(found['format'])[:80]!r} version {str(found['version'])[:20]}, expected "
            f"{FORMAT['format']} version {FORMAT['version']}. Use the pipeline version that wrote it."
        )
