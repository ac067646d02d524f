"""The stages by name: their config, their door, what they are for. Floor 5.

A door is imported only when its stage runs, so that `pipeline --help` needs neither torch nor pandas.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.config import StageConfig
from pipeline.core.contracts import StageReport
from pipeline.core.errors import DependencyError
from pipeline.core.interrupts import raise_deferred
from pipeline.core.ownership import check_name
from pipeline.core.progress import Progress, no_progress
from pipeline.core.workspace import NAME_LEVELS
from pipeline.dedupe.config import DedupeConfig
from pipeline.encode.config import EncodeConfig
from pipeline.generate.config import GenerateConfig
from pipeline.report.config import ReportConfig
from pipeline.shard.config import ShardConfig
from pipeline.train.config import TrainConfig
from pipeline.train_codec.config import TrainCodecConfig
from pipeline.train_tokenizer.config import TrainTokenizerConfig
from scrapers.config import ScrapeConfig

_log = logging.getLogger(__name__)

_NAMED_BY = re.compile(r"\{(\w+)\}")

Door = Callable[[StageConfig, Progress], StageReport]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage: `door` is ``module:function``, called with its config and a progress.

    `contract` names what it leaves in the workspace, None where that has no manifest. `writes` and `reads`
    are the folders that it holds meanwhile, alone or shared, with the names of its options in braces.
    `on_change` says what becomes of what is there when it is run with other options; "" where the stage
    says so itself.
    """

    name: str
    config: type[StageConfig]
    door: str
    help: str
    contract: str | None = None
    writes: tuple[str, ...]
    reads: tuple[str, ...] = ()
    on_change: str = ""

    @property
    def top(self) -> str:
        """The folder of the workspace in which its own are."""
        return self.writes[0].split("/")[0]

    def holds(self, config: StageConfig) -> dict[str, tuple[str, ...]]:
        """The folders that a run with `config` writes and reads, by their paths in the workspace.

        Raises ConfigError for an option that can't name one.
        """
        options = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        writes = () if options.get("out") is not None and self.name == "generate" else self.writes
        return {
            kind: tuple(filter(None, (_folder(name, options) for name in names)))
            for kind, names in (("writes", writes), ("reads", self.reads))
        }

    def run(self, config: StageConfig, progress: Progress = no_progress) -> StageReport:
        """Run the stage.

        Raises DependencyError where a package of an extra is missing, and what the stage raises.
        """
        started = time.monotonic()
        report = load_door(self.door)(config, progress)
        return dataclasses.replace(report, seconds=round(time.monotonic() - started, 3))


def _folder(pattern: str, options: Mapping[str, Any]) -> str | None:
    """The folder that options name; None where it lies at an address outside of the workspace."""
    named = _NAMED_BY.search(pattern)
    if named is None:
        return pattern
    top, name = pattern.split("/")[0], str(options[named[1]])
    if "://" in name:
        return None
    return f"{top}/{check_name(name, option=f'--{named[1]}', levels=NAME_LEVELS.get(top, 1))}"


def load_door(door: str) -> Door:
    """Import the door of a stage."""
    found: Door = load_function(door)
    return found


def load_function(name: str) -> Any:
    """Import ``module:function``; a missing third party becomes a DependencyError."""
    module, function = name.split(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("pipeline", "scrapers"):
            raise
        raise DependencyError(
            f"This command needs the package {error.name!r}, which is not installed. "
            "Install it with: pip install 'dalle-pipeline[train]'."
        ) from error
    raise_deferred()
    return found


# In the order of the road.
STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="scrape",
            on_change="What is in the raw store stays; what is new in the plan is fetched.",
            writes=("raw",),
            contract="raw",
            config=ScrapeConfig,
            door="scrapers.scrape:scrape",
            help="Fetch a source's captions and images into the raw store.",
        ),
        Stage(
            name="dedupe",
            on_change="The tables are made anew; images are not decoded again.",
            writes=("dedupe",),
            reads=("raw",),
            contract="dedupe",
            config=DedupeConfig,
            door="pipeline.dedupe.run:run",
            help="Inspect every image once; leave tables of kept, rejected and captions.",
        ),
        Stage(
            name="train-tokenizer",
            on_change="A new tokenizer is trained; the one before stays under its name.",
            writes=("tokenizers/{name}",),
            reads=("dedupe",),
            contract="tokenizer",
            config=TrainTokenizerConfig,
            door="pipeline.train_tokenizer.run:run",
            help="Train a BPE text tokenizer on the captions.",
        ),
        Stage(
            name="train-codec",
            on_change="A new codec is trained; the one before stays under its name.",
            writes=("codecs/{name}",),
            reads=("dedupe",),
            contract="codec",
            config=TrainCodecConfig,
            door="pipeline.train_codec.run:run",
            help="Train a small image codec on the kept images.",
        ),
        Stage(
            name="encode",
            on_change="Codes that are there stay; images without codes of this kind are encoded.",
            writes=("codes",),
            reads=("dedupe",),
            contract="codes",
            config=EncodeConfig,
            door="pipeline.encode.run:run",
            help="Turn the kept images into codes, once.",
        ),
        Stage(
            name="shard",
            on_change="The shards of this name are written anew.",
            writes=("shards/{name}",),
            reads=("dedupe", "codes"),
            contract="shards",
            config=ShardConfig,
            door="pipeline.shard.run:run",
            help="Join captions, token ids and codes into WebDataset shards.",
        ),
        Stage(
            name="train",
            on_change="A run goes on only where these may change; else it is refused (--on-change).",
            writes=("runs/{name}",),
            reads=("shards/{shards}",),
            contract="run",
            config=TrainConfig,
            door="pipeline.train.run:run",
            help="Train a DALL·E on shards.",
        ),
        Stage(
            name="generate",
            writes=("generated/{name}",),
            contract="generated",
            config=GenerateConfig,
            door="pipeline.generate.run:run",
            help="Draw images from prompts.",
        ),
        Stage(
            name="report",
            on_change="The page is written anew.",
            writes=("report",),
            config=ReportConfig,
            door="pipeline.report.run:run",
            help="Write a page that shows the whole workspace.",
        ),
    )
}


def default_workspace(source: str) -> Path:
    """Where a source's dataset lives unless told otherwise."""
    return Path("data") / source
