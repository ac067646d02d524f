"""The folder of a run (its plan, its log, its checkpoints, its manifest) and its name.

runs/<name>/
  plan.json        config and inputs, written first; a later call is compared with it
  tokenizer.json   the shards' tokenizer, so that the run is self-contained
  log.jsonl        losses by step
  checkpoints/     step-NNNNNN/
  samples/         step-NNNNNN.png, grids of sample images, if enabled
  tensorboard/     event files; not in the manifest, because they hold times
  README.md        the model card
  manifest.json    written last

A checkpoint is due at multiples of `save_every` and at the end; the last `keep_n_checkpoints` of these are
kept. An interrupted run also leaves a checkpoint of its last step, which counts as the latest until the next
one is written. The log holds the losses of the steps that are due, up to the last checkpoint. So once an
interrupted run has caught up, its checkpoints and log equal those of an uninterrupted run.

A name may be in the style of the DALLE-models zoo (https://github.com/robvanvolt/DALLE-models), such as
`taming_transformer/12L_64HD_16H_544I_96T_dalleblog_5E`: the kind of codec, then layers, width of a head,
heads, width of the model (I), tokens per caption (T), dataset and epochs. Several datasets have their own
epochs each, as in `cc12m-2E_wit-1E`. A name is only a hint: the zoo's own dalleblog folder says 16 layers,
but its model has 12. Names made here can be parsed again: `dataset_slug` makes sure that datasets can be
told apart.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.artifact import Artifact
from pipeline.core.contracts import FileEntry
from pipeline.core.errors import ModelError
from pipeline.core.names import TEMPORARY_SUFFIX
from pipeline.core.ownership import own_files, reopen, start_over
from pipeline.core.storage import file_entry, write_bytes, write_json
from pipeline.models.checkpoints.info import CheckpointInfo, step_of_name
from pipeline.models.checkpoints.native import list_checkpoints, read_info, write_checkpoint
from pipeline.models.checkpoints.series import checkpoint_path, remove_checkpoint, sweep_partial
from pipeline.models.dalle.config import DalleConfig
from pipeline.train.config import LoggingOptions
from pipeline.train.state import Files

logger = logging.getLogger(__name__)
Plan = dict[str, Any]
PLAN_NAME = "plan.json"
Record = dict[str, Any]
TRACKERS = ("tensorboard/", "wandb/")  # their files hold times, so the manifest leaves them out


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One run on disk."""

    root: Path
    logging: LoggingOptions

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.root / "checkpoints"

    @property
    def log(self) -> Path:
        """Losses by step, one JSON object per line."""
        return self.root / "log.jsonl"

    @property
    def samples(self) -> Path:
        """The folder of sample grids."""
        return self.root / "samples"

    def grid(self, step: int) -> Path:
        """The grid of sample images of a step."""
        return self.samples / f"step-{step:06d}.png"

    @property
    def tensorboard(self) -> Path:
        """The folder of event files."""
        return self.root / "tensorboard"

    def open(self, plan: Plan, tokenizer: bytes, *, fresh: bool) -> None:
        """Resume the existing run, or with `fresh` delete its files and start a new one.

        Raises WorkspaceError, and changes nothing, if the folder is not a run's.
        """
        if fresh:
            if existing := list_checkpoints(self.checkpoints):
                logger.warning(
                    "Restarted %s and deleted its %d checkpoints", self.root, len(existing)
                )
            start_over(self.root, "run")
        else:
            reopen(self.root, "run")
            sweep_partial(self.checkpoints)
        write_bytes(self.root / "tokenizer.json", tokenizer)
        write_json(self.root / PLAN_NAME, plan)

    def save(self, files: Files, info: CheckpointInfo) -> None:
        """Write a checkpoint, then remove those that are no longer needed."""
        self._sync_log()
        write_checkpoint(checkpoint_path(self.checkpoints, info.step), info, files)
        kept = self.kept_steps(info.step)
        for path in list_checkpoints(self.checkpoints):
            step = step_of_name(path)
            if step is not None and step < info.step and step not in kept:
                remove_checkpoint(path)

    def kept_steps(self, step: int) -> list[int]:
        """The steps whose checkpoints are kept once `step` is written, whatever interruptions came before."""
        every = self.logging.save_every
        due = set(range(every, step + 1, every)) if every else set()
        return sorted(due | {step})[-self.logging.keep_n_checkpoints :]

    # --- The log -------------------------------------------------------------------------------------

    def append(self, record: Mapping[str, int | float]) -> None:
        """Add a line to the log."""
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def cut_log(self, step: int, *, total_steps: int) -> None:
        """Drop damaged lines, lines after `step`, and lines logged only because the run then ended there.

        A power cut may leave half a line or zeros at the end; this is logged as a warning.
        """
        records = self.read_log()
        kept = (record for record in records if self._stays(record, step, total_steps))
        write_bytes(self.log, b"".join(json.dumps(record).encode() + b"\n" for record in kept))

    def read_log(self) -> list[Record]:
        """The valid lines of the log, with a warning about others."""
        lines = self.log.read_bytes().split(b"\n") if self.log.exists() else []
        parsed = [_parse_record(line) for line in lines if line]
        damaged = parsed.count(None)
        if damaged:
            logger.warning(
                "%s: dropped %d damaged line%s", self.log, damaged, "s" if damaged > 1 else ""
            )
        return [record for record in parsed if record is not None]

    def last_losses(self) -> dict[str, float]:
        """The losses logged at the last step, by name."""
        records = self.read_log()
        last = [record for record in records if record["step"] == records[-1]["step"]]
        return {name: value for record in last for name, value in record.items() if "loss" in name}

    def was_validated(self, step: int) -> bool:
        """Whether the log has validation losses for a step."""
        return any(r["step"] == step and "val_loss" in r for r in self.read_log())

    def _stays(self, record: Record, step: int, total_steps: int) -> bool:
        every = self.logging.val_every if "val_loss" in record else self.logging.log_every
        at = record["step"]
        due = bool(every) and (at % every == 0 or at == total_steps)
        return bool(at <= step and due)

    def _sync_log(self) -> None:
        """Flush the log to disk before the checkpoint that relies on it is written."""
        if self.log.exists():
            with self.log.open("rb") as file:
                os.fsync(file.fileno())

    # --- The end -------------------------------------------------------------------------------------

    def finish(self, plan: Plan, counts: Mapping[str, int], details: Mapping[str, Any]) -> None:
        """Write the manifest, which marks the run as finished."""
        out = Artifact(folder=self.root, contract="run", **plan)
        out.finish(counts=counts, files=self._files(), details=details)

    def _files(self) -> tuple[FileEntry, ...]:
        """The files for the manifest: our own, without those that hold times."""
        names = (
            name
            for name in own_files(self.root, "run")
            if not name.startswith(TRACKERS) and TEMPORARY_SUFFIX not in name
        )
        return tuple(
            file_entry(self.root / name, self.root)
            for name in names
            if not name.startswith("checkpoints/") or _is_ours((self.root / name).parent)
        )


def _is_ours(checkpoint: Path) -> bool:
    try:
        read_info(checkpoint)
    except ModelError:
        return False
    return True


def _parse_record(line: bytes) -> Record | None:
    """A line of the log, an object of numbers with a step; None if it is invalid."""
    try:
        record = json.loads(line)
        numbers = all(isinstance(value, int | float) for value in record.values())
        return record if numbers and type(record["step"]) is int else None
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None


_SIZES = {"depth": "L", "dim_head": "HD", "heads": "H", "dim": "I", "text_seq_len": "T"}
_STEM = re.compile("_".join(rf"(\d+){letters}" for letters in _SIZES.values()) + "_(.+)")
_SINGLE = re.compile(r"(.+)_(\d+)E")
_ONE_OF_SEVERAL = re.compile(r"(.+?)-(\d+)E_")
# By codec kind, as in codec.json; all other kinds are custom.
_FOLDERS = {"vqgan": "taming_transformer", "openai-dvae": "openai_transformer"}


@dataclass(frozen=True, kw_only=True)
class NameHints:
    """What a run's name claims: hyper-parameters, and epochs by dataset."""

    hyperparameters: Mapping[str, int]
    passes: Mapping[str, int]


def zoo_name(model: DalleConfig, *, folder: str, passes: Mapping[str, int]) -> str:
    """The name of a run in the zoo's style; `folder` is the codec's, `passes` counts epochs by dataset."""
    sizes = "_".join(f"{getattr(model, name)}{letters}" for name, letters in _SIZES.items())
    joint = "_" if len(passes) == 1 else "-"
    data = "_".join(f"{dataset_slug(name)}{joint}{epochs}E" for name, epochs in passes.items())
    return f"{folder}/{sizes}_{data}"


def codec_folder(kind: str | None, name: str) -> str:
    """The zoo's folder for models with a codec of this `kind`, guessed from its `name` if unknown."""
    if kind is not None:
        return _FOLDERS.get(kind, "custom_transformer")
    lowered = name.lower()
    if any(word in lowered for word in ("vqgan", "gumbel", "taming", "f16", "f8")):
        return _FOLDERS["vqgan"]
    if any(word in lowered for word in ("openai", "dvae", "dall-e")):
        return _FOLDERS["openai-dvae"]
    return "custom_transformer"


def dataset_slug(name: str) -> str:
    """A dataset's name in a form that fits into a run's name: letters, digits and `.`, `_`, `-`.

    A sequence that would be parsed as the end of a name (`-3E_` in the middle) is broken up.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "data"
    return re.sub(r"-(\d+E)(?=_|$)", r".\1", plain)


def find_name(path: Path) -> NameHints | None:
    """The claims of the last path component that is a run name; None if there is none."""
    places = (path.absolute(), *path.absolute().parents)
    hints = (read_name(place.name) for place in places)
    return next((hint for hint in hints if hint is not None), None)


def read_name(name: str) -> NameHints | None:
    """Parse the last component of a path, with or without `.pt`; None if it is no such name."""
    last = name.rstrip("/").rpartition("/")[2].removesuffix(".pt")
    found = _STEM.fullmatch(last)
    if found is None:
        return None
    *numbers, data = found.groups()
    passes = _read_passes(data)
    if passes is None:
        return None
    sizes = dict(zip(_SIZES, map(int, numbers), strict=True))
    return NameHints(hyperparameters=sizes, passes=passes)


def wrong_hints(hints: NameHints, model: DalleConfig) -> dict[str, tuple[int, int]]:
    """Hyper-parameters where the name is wrong: (claimed, actual) by name."""
    pairs = {
        name: (claimed, getattr(model, name)) for name, claimed in hints.hyperparameters.items()
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _read_passes(text: str) -> dict[str, int] | None:
    if single := _SINGLE.fullmatch(text):
        return {single[1]: int(single[2])}
    passes: dict[str, int] = {}
    text, at = f"{text}_", 0
    while at < len(text):
        part = _ONE_OF_SEVERAL.match(text, at)
        if part is None:
            return None
        passes[part[1]] = passes.get(part[1], 0) + int(part[2])
        at = part.end()
    return passes
