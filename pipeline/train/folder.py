"""The folder of a run: its plan, its log, its checkpoints, its manifest.

runs/<name>/
  plan.json        config and inputs, written first: what a second call is compared with
  tokenizer.json   the shards' tokenizer, so that a run can be taken along
  log.jsonl        losses by step
  checkpoints/     step-NNNNNN/
  samples/         step-NNNNNN.png, grids of drawn pictures, where they are asked for
  tensorboard/     event files, not in the manifest: they hold times
  README.md        the model's card
  manifest.json    last
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import resolved
from pipeline.contracts import FileEntry
from pipeline.errors import ConfigError
from pipeline.models.checkpoints.ours import CheckpointInfo, list_checkpoints, write_checkpoint
from pipeline.storage import (
    MANIFEST_NAME,
    empty_folder,
    file_entry,
    make_manifest,
    write_bytes,
    write_json,
    write_manifest,
)
from pipeline.train.config import TrainConfig
from pipeline.train.state import Files

logger = logging.getLogger(__name__)

Plan = dict[str, Any]
PLAN_NAME = "plan.json"
TRACKERS = frozenset({"tensorboard", "wandb"})  # folders of files that hold times


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One run on disk."""

    root: Path
    config: TrainConfig

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.root / "checkpoints"

    @property
    def log(self) -> Path:
        """Losses by step, one JSON object a line."""
        return self.root / "log.jsonl"

    @property
    def samples(self) -> Path:
        """The folder of drawn pictures."""
        return self.root / "samples"

    @property
    def tensorboard(self) -> Path:
        """The folder of event files."""
        return self.root / "tensorboard"

    def last_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, if there is one."""
        found = list_checkpoints(self.checkpoints)
        return found[-1] if found else None

    def save(self, files: Files, info: CheckpointInfo, *, total_steps: int) -> None:
        """Write a checkpoint, then remove those that are no longer kept."""
        write_checkpoint(self._at(info.step), info, files)
        kept = {self._at(step) for step in self.kept_steps(info.step, total_steps)}
        for path in list_checkpoints(self.checkpoints):
            if path not in kept:
                shutil.rmtree(path)

    def kept_steps(self, step: int, total_steps: int) -> list[int]:
        """The steps whose checkpoints stay once `step` is written: the same however it came there."""
        every = self.config.save_every
        due = set(range(every, step + 1, every)) if every else set()
        last = {step} if step == total_steps else set()
        return sorted(due | last)[-self.config.keep_n_checkpoints :]

    def append(self, record: Mapping[str, int | float]) -> None:
        """Add a line to the log."""
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def cut_log(self, step: int) -> None:
        """Forget what was logged after `step`, and what was logged only because a run ended there."""
        lines = self.log.read_bytes().splitlines(keepends=True) if self.log.exists() else []
        whole = (line for line in lines if line.endswith(b"\n"))
        write_bytes(
            self.log, b"".join(line for line in whole if self._stays(json.loads(line), step))
        )

    def last_losses(self) -> dict[str, float]:
        """The losses that were logged at the last step, by name."""
        records = [json.loads(line) for line in self.log.read_text().splitlines()]
        last = [record for record in records if record["step"] == records[-1]["step"]]
        return {name: value for record in last for name, value in record.items() if "loss" in name}

    def _stays(self, record: Mapping[str, float], step: int) -> bool:
        every = self.config.val_every if "val_loss" in record else self.config.log_every
        return record["step"] <= step and bool(every) and record["step"] % every == 0

    def finish(self, plan: Plan, counts: Mapping[str, int], details: Mapping[str, Any]) -> None:
        """Declare the run finished."""
        manifest = make_manifest(
            "run",
            config=plan["config"],
            inputs=plan["inputs"],
            counts=counts,
            files=self._files(),
            details=details,
        )
        write_manifest(self.root, manifest)

    def _at(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}"

    def _files(self) -> tuple[FileEntry, ...]:
        paths = (path for path in sorted(self.root.rglob("*")) if path.is_file())
        return tuple(
            file_entry(path, self.root)
            for path in paths
            if path.name != MANIFEST_NAME and path.relative_to(self.root).parts[0] not in TRACKERS
        )


def resolved_plan(config: TrainConfig, inputs: Mapping[str, str]) -> Plan:
    """What decides a run: its options and its inputs, as JSON values."""
    return {"config": resolved(config), "inputs": dict(inputs)}


def goes_on(config: TrainConfig, root: Path, plan: Plan) -> bool:
    """Whether a run lies in `root` that `plan` goes on with; nothing is touched.

    A run whose `steps` alone grew is gone on with where the learning rate does not depend on them
    (`lr_decay="constant"`): its bytes are those of a run that had the number from the beginning.
    Raises ConfigError where another plan's run lies there and `on_change` does not say "restart".
    """
    path = root / PLAN_NAME
    found = json.loads(path.read_bytes()) if path.exists() else None
    if found is None or may_continue(found, plan):
        return found is not None
    if config.on_change == "refuse":
        raise ConfigError(_changed(root, found, plan))
    return False


def open_run(root: Path, *, plan: Plan, tokenizer: bytes, anew: bool) -> None:
    """Begin a run, `anew` in an empty folder, or go on with the one that lies there."""
    if anew:
        if (root / PLAN_NAME).exists():
            logger.warning("Began %s anew: its options or its shards have changed", root)
        empty_folder(root)
    (root / MANIFEST_NAME).unlink(missing_ok=True)
    write_bytes(root / "tokenizer.json", tokenizer)
    write_json(root / PLAN_NAME, plan)


def may_continue(found: Plan, plan: Plan) -> bool:
    """Whether the run that `found` began leads to `plan`."""
    before, after = dict(found["config"]), dict(plan["config"])
    if before == after:
        return bool(found["inputs"] == plan["inputs"])
    steps = [(c.pop("steps"), c.pop("epochs")) for c in (before, after)]
    grown = all((new or 0) >= (old or 0) for old, new in zip(*steps, strict=True))
    same = before == after and found["inputs"] == plan["inputs"]
    return same and grown and plan["config"]["lr_decay"] == "constant"


def _changed(root: Path, found: Plan, plan: Plan) -> str:
    both = (found["config"] | found["inputs"], plan["config"] | plan["inputs"])
    names = sorted(set(both[0]) | set(both[1]))
    changes = [
        f"{n} {both[0].get(n)} → {both[1].get(n)}"
        for n in names
        if both[0].get(n) != both[1].get(n)
    ]
    return (
        f"{root} holds a run that began otherwise ({'; '.join(changes)}). Nothing was touched: give "
        "another --name, the old options, or --on-change restart to throw it away and begin anew."
    )
