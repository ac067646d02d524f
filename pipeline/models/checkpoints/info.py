"""What the checkpoint.json of a checkpoint of ours says, parsed into its type in one place. Layer 3."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import ContractError, ModelError
from pipeline.core.parsing import parse_dataclass, parse_json_file
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.written import parse_written

INFO_FILE = "checkpoint.json"
FORMAT = {"format": "dalle-pipeline/checkpoint", "version": 2}
_FILE = re.compile(r"[a-z]+\.safetensors")
_NAME = re.compile(r"step-(\d{6,})")
_ADVICE = "Use another checkpoint, or put the file back as it was."


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    `consumed` is how many samples of the order of `epoch` the run has read. `codec` and `tokenizer`
    are the fingerprints of what the codes and token ids were made with. `training` holds what else a
    run needs to go on or says of itself, as JSON values:

        passes          earlier passes through named datasets, those of the checkpoint it began with
        dataset         name of the data that the run is trained on
        samples         samples trained on in this run so far
        step_samples    samples of the run's first step: the unit of the schedule of `--epochs`
        null_cond_prob  share of the captions that were replaced by padding (0 in earlier checkpoints,
                        which lack it): what `generate --cond-scale` guides away from was learnt only
                        where it is above 0
        ranks           processes that trained
        scaler          state of fp16's loss scale, where there is one
        plateau         state of `--lr-decay plateau`, where it is used
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
    """Of torch's GradScaler."""

    scale: float = field(metadata={"low": 0})
    growth_factor: float = field(metadata={"low": 1})
    backoff_factor: float = field(metadata={"low": 0, "high": 1})
    growth_interval: int = field(metadata={"low": 1})
    _growth_tracker: int = field(metadata={"low": 0})


@dataclass(frozen=True, kw_only=True)
class _EngineScaler:
    """Of DeepSpeed's engine."""

    cur_scale: float = field(metadata={"low": 0})
    cur_iter: int = field(default=0, metadata={"low": 0})
    last_overflow_iter: int = field(default=-1, metadata={"low": -1})
    cur_hysteresis: int = field(default=1, metadata={"low": 0})


@dataclass(frozen=True, kw_only=True)
class _Training:
    """What `CheckpointInfo.training` may hold, as far as anybody reads it; parsed to be checked only."""

    passes: Mapping[str, int] = field(default_factory=dict, metadata={"low": 0})
    dataset: str | None = None
    samples: int = field(default=0, metadata={"low": 0})
    step_samples: int | None = field(default=None, metadata={"low": 1})
    null_cond_prob: float = field(default=0.0, metadata={"low": 0, "high": 1})
    ranks: int | None = field(default=None, metadata={"low": 1})
    scaler: Mapping[str, Any] | None = None
    plateau: _Plateau | None = None


def step_of_name(path: Path) -> int | None:
    """The step that the name of a checkpoint's folder says; None for any other name."""
    found = _NAME.fullmatch(path.name)
    step = int(found[1]) if found else 0
    return step if found and path.name == f"step-{step:06d}" else None


def read_description(
    path: Path, *, any_name: bool = False
) -> tuple[CheckpointInfo, Mapping[str, str]]:
    """What a checkpoint.json says of the checkpoint, and the sha256 of each of its files.

    Raises ModelError for a file that is missing, of another format or version, or damaged, and, without
    `any_name`, for one in a folder whose name says another step.
    """
    source = str(path)
    try:
        values = parse_json_file(path, dict[str, Any], remedy=_ADVICE)
        _check_format({name: values.pop(name, None) for name in FORMAT}, path)
        files = parse_dataclass(
            dict[str, str], values.pop("files", None), source=source, field="files", remedy=_ADVICE
        )
        _check_files(files, path)
        info = parse_written(CheckpointInfo, values, source=source, remedy=_ADVICE)
        _check_model(values["model"], source)
        _check_training(info.training, source)
    except ContractError as error:
        raise ModelError(
            f"{path.parent} is not a checkpoint, a folder like runs/NAME/checkpoints/step-000500: {error}"
        ) from error
    named = step_of_name(path.parent)
    if not any_name and named not in (None, info.step):
        raise ModelError(
            f"{path.parent} holds the checkpoint of step {info.step}: a copy, or renamed. Give it a name "
            f"that is not of the form {path.parent.name}, or its own."
        )
    return info, files


def _check_files(files: Mapping[str, str], path: Path) -> None:
    other = next((name for name in files if not _FILE.fullmatch(name)), None)
    if other is not None:
        raise ContractError(f"{path} names {other[:80]!r}, which is no file of ours. {_ADVICE}")


def _check_model(model: Any, source: str) -> None:
    """A default in place of a missing hyper-parameter, or a new layout, would be another model."""
    parsed = parse_written(DalleConfig, model, source=source, field="model", remedy=_ADVICE)
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
            f"{FORMAT['format']} version {FORMAT['version']}. Use the pipeline that wrote it."
        )
