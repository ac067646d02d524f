"""The runs of the workspace by name, loaded when a request asks for one, unloaded by least recent use.

Only the drawing thread loads models; importing torch waits until the first request.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.inventory import find_folders
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.serve.config import ServeConfig

if TYPE_CHECKING:
    from pipeline.models.clip import Clip
    from pipeline.serve.drawing.loaded import LoadedDalle

logger = logging.getLogger(__name__)

DEFAULT_RUN = "dalle"
_LIST_EVERY_S = 2.0
_CHECKPOINTS = "checkpoints"


def list_runs(workspace: Workspace) -> dict[str, Path]:
    """The runs that have a checkpoint, by name, sorted."""
    prefix = "runs/"
    folders = (folder for folder in find_folders(workspace.root) if folder.contract == "run")
    return {
        folder.name.removeprefix(prefix): folder.path
        for folder in folders
        if any(folder.path.glob(f"{_CHECKPOINTS}/step-*/checkpoint.json"))
    }


class Models:
    """The runs that can draw; `get` is for the drawing thread alone, the rest for any."""

    def __init__(self, config: ServeConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self._workspace = Workspace(config.workspace)
        self._listed: tuple[float, dict[str, Path]] | None = None
        self._loaded: OrderedDict[str, LoadedDalle] = OrderedDict()
        self._clip: Clip | None = None

    @property
    def runs(self) -> dict[str, Path]:
        """The runs that have a checkpoint, by name; listed again every few seconds."""
        now_s = self._clock()
        if self._listed is None or now_s - self._listed[0] > _LIST_EVERY_S:
            self._listed = now_s, list_runs(self._workspace)
        return self._listed[1]

    @property
    def loaded(self) -> list[str]:
        """The names of the loaded models, least recently used first."""
        return list(self._loaded)

    def default(self) -> str | None:
        """The name to use if a request gives none: --run, else dalle, else the first; None without any."""
        runs = self.runs
        wanted = self._config.run or DEFAULT_RUN
        return wanted if wanted in runs else None if self._config.run else next(iter(runs), None)

    def get(self, name: str) -> LoadedDalle:
        """The model of a run, loaded from its latest checkpoint.

        Raises ModelError if it can't be loaded, DependencyError if a package is missing.
        """
        path = self.runs.get(name)
        if path is None:
            raise ModelError(f"There is no run {name!r} with a checkpoint any more.")
        loaded = self._loaded.pop(name, None)
        if loaded is None or not loaded.is_current():
            del loaded
            while len(self._loaded) >= self._config.loaded_models:
                unloaded, _ = self._loaded.popitem(last=False)
                logger.info("Unloaded %s", unloaded)
            loaded = self._load(name, path)
        self._loaded[name] = loaded
        return loaded

    def _load(self, name: str, path: Path) -> LoadedDalle:
        from pipeline.generate.inputs import find_model_inputs
        from pipeline.generate.sampler import load_sampler
        from pipeline.serve.drawing.loaded import LoadedDalle

        config, version = self._config, _version(path)
        options = GenerateConfig(
            workspace=config.workspace,
            run=name,
            precision=config.precision,
            device=config.device,
            threads=config.threads,
            batch_size=config.batch_size,
        )
        try:
            inputs = find_model_inputs(options, self._workspace)
            sampler = load_sampler(options, inputs)
        except ConfigError as error:  # an option of `serve` is not the fault of the request
            raise ModelError(str(error)) from error
        logger.info("Loaded %s from %s", name, inputs.checkpoint)
        return LoadedDalle(
            sampler,
            checkpoint=inputs.digest,
            is_current=lambda: _version(path) == version,
            find_clip=self._find_clip,
        )

    def _find_clip(self) -> Clip | None:
        if self._clip is None and self._config.clip is not None:
            from pipeline.models.clip import find_clip, load_clip
            from pipeline.models.devices import pick_device

            folder = find_clip(self._config.clip)
            self._clip = load_clip(folder, pick_device(self._config.device))
        return self._clip


def _version(run: Path) -> tuple[Any, ...]:
    """What changes when a run gets another latest checkpoint."""
    names = sorted(path.name for path in (run / _CHECKPOINTS).glob("step-*"))
    manifest = run / "manifest.json"
    return (*names, manifest.stat().st_mtime_ns if manifest.exists() else None)
