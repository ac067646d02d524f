"""The folder that images are written to: one that already holds them or part of them, or a free one.

NAME, NAME-2, NAME-3 … are a family. Existing images are never replaced by others unless
`--on-change restart` is given.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.core.artifact import Artifact
from pipeline.core.contracts import Manifest
from pipeline.core.errors import ConfigError, ContractError, LockedError, WorkspaceError
from pipeline.core.names import TEMPORARY_SUFFIX
from pipeline.core.ownership import claim, list_family, next_free, own_files
from pipeline.core.storage import MANIFEST_NAME, find_manifest, sha256_bytes, storage_error
from pipeline.generate.notes import read_identity

logger = logging.getLogger(__name__)

CONTRACT = "generated"
_ATTEMPTS = 8  # one fails only if another process takes the folder at that moment
OnChange = Literal["new", "refuse", "restart"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a folder's images depend on: the resolved options and the digests of all inputs."""

    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def identity(self) -> str:
        """A hash of the recipe."""
        return sha256_bytes(json.dumps([_options(self.config), dict(self.inputs)]).encode())

    def matches(self, manifest: Manifest) -> bool:
        """Whether a finished folder was made from this recipe."""
        same = _options(manifest.config) == _options(self.config)
        return same and dict(manifest.inputs) == dict(self.inputs)

    def at(self, folder: Path, manifest: Manifest | None = None) -> Artifact:
        """The images in `folder`; they are there already if it has a `manifest`."""
        return Artifact(
            folder=folder,
            contract=CONTRACT,
            config=self.config,
            inputs=self.inputs,
            manifest=manifest,
        )


def resolve_name(folder: Path) -> Path:
    """`folder` as a path that ends in a name (not `.` or `..`), so that NAME-2 can be derived from it."""
    return folder if folder.name not in ("", "..") else folder.resolve()


def choose_place(folder: Path, recipe: Recipe, on_change: OnChange) -> Artifact:
    """Choose `folder` or another of its family; nothing is written.

    Raises WorkspaceError if `folder` holds anything but generated images, ConfigError if it holds other
    images and `on_change` is "refuse".
    """
    claim(folder, CONTRACT)
    family = [folder] if on_change == "restart" else list_family(folder)
    found = _find_finished(family, recipe) or _find_unfinished(family, recipe)
    if found is not None:
        return found
    if on_change == "restart" or _is_free(folder):
        return recipe.at(folder)
    if on_change == "refuse":
        raise ConfigError(_refusal(folder, recipe))
    return recipe.at(next(filter(_is_free, family), None) or next_free(folder))


@contextlib.contextmanager
def lock_place(folder: Path, recipe: Recipe, on_change: OnChange) -> Iterator[Artifact]:
    """Choose the destination, create it and lock it while images are written.

    Raises LockedError if another process is writing to it, StorageError if it can't be created, and
    whatever `choose_place` raises.
    """
    for _ in range(_ATTEMPTS):
        place = choose_place(folder, recipe, on_change)
        with _alone(place.folder):
            if (
                choose_place(folder, recipe, on_change) == place
            ):  # otherwise another process took it
                if place.folder != folder:
                    logger.warning(
                        "%s Writing to %s instead.", _others(folder, recipe), place.folder
                    )
                yield place
                return
    raise LockedError(
        f"Other processes are writing to {folder} and its siblings. Give another --name or --out."
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder itself: a lock file would be left behind in the user's folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise storage_error(error, folder) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LockedError(
            f"Another process is writing to {folder}. Wait until it has finished, or give another --name or "
            "--out."
        ) from None
    except OSError:
        pass  # network file systems may not support locking folders
    try:
        yield
    finally:
        os.close(descriptor)


def _find_finished(family: list[Path], recipe: Recipe) -> Artifact | None:
    for folder in family:
        manifest = _manifest_of(folder)
        if manifest is not None and recipe.matches(manifest):
            return recipe.at(folder, manifest)
    return None


def _find_unfinished(family: list[Path], recipe: Recipe) -> Artifact | None:
    for folder in family:
        if not (folder / MANIFEST_NAME).exists() and read_identity(folder) == recipe.identity:
            return recipe.at(folder)
    return None


def _is_free(folder: Path) -> bool:
    """Whether the folder has no images, not even of an unfinished run."""
    try:
        own = own_files(folder, CONTRACT)
    except WorkspaceError:
        return False
    finished = (folder / MANIFEST_NAME).exists()
    return not finished and all(name.endswith(TEMPORARY_SUFFIX) for name in own)


def _manifest_of(folder: Path) -> Manifest | None:
    try:
        claim(folder, CONTRACT)
    except (ContractError, WorkspaceError):
        return None
    return find_manifest(folder, CONTRACT)


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that matter: not the folder's name, nor the prompts, whose hash is among the inputs."""
    return {name: value for name, value in config.items() if name not in ("name", "prompts")}


def _refusal(folder: Path, recipe: Recipe) -> str:
    return (
        f"{_others(folder, recipe)} Nothing was touched: give another --name, --on-change new to draw beside "
        "it, or --on-change restart to replace them."
    )


def _others(folder: Path, recipe: Recipe) -> str:
    """A sentence that says what the images in `folder` were drawn with instead."""
    manifest = _manifest_of(folder)
    said = f" ({_differences(manifest, recipe)})" if manifest is not None else ""
    return f"{folder} holds images of other prompts or options{said}."


def _differences(manifest: Manifest, recipe: Recipe) -> str:
    before, after = ({**c, "name": None} for c in (manifest.config, recipe.config))
    options = _changed(before, after)
    inputs = [name for name in _changed(manifest.inputs, recipe.inputs) if name not in options]
    changes = [f"{name} {_short(before.get(name))} → {_short(after.get(name))}" for name in options]
    return "; ".join([*changes, *(f"{name} changed" for name in inputs)])


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
