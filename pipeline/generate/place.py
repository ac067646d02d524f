"""Which folder the images go to: one that holds just these, one that was begun with them, or a free one.

NAME, NAME-2, NAME-3 … are a family: images that are there under a name are never replaced by others unless
that is asked for.
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

from pipeline.core.contracts import Manifest
from pipeline.core.errors import ConfigError, ContractError, LockedError, WorkspaceError
from pipeline.core.ownership import claim, list_family, next_free, own_files
from pipeline.core.storage import (
    MANIFEST_NAME,
    TEMPORARY_SUFFIX,
    read_manifest,
    sha256_bytes,
    storage_error,
)
from pipeline.generate.notes import read_identity

logger = logging.getLogger(__name__)

CONTRACT = "generated"
_ATTEMPTS = 8  # each fails only if another process takes the place in that moment
OnChange = Literal["new", "refuse", "restart"]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the images of a folder depend on: the resolved options and the digests of all inputs."""

    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def identity(self) -> str:
        """One hash of it all."""
        return sha256_bytes(json.dumps([_options(self.config), dict(self.inputs)]).encode())

    def is_met_by(self, manifest: Manifest) -> bool:
        """Whether a finished folder was made from just this."""
        same = _options(manifest.config) == _options(self.config)
        return same and dict(manifest.inputs) == dict(self.inputs)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder to draw into; `manifest` where it is finished and holds just what is wished for."""

    folder: Path
    manifest: Manifest | None = None


def named_folder(folder: Path) -> Path:
    """`folder` by a path that ends in its name, so that NAME-2 can lie beside it: `.` and `..` don't."""
    return folder if folder.name not in ("", "..") else folder.resolve()


def choose_place(folder: Path, wish: Wish, on_change: OnChange) -> Place:
    """`folder`, or another of its family; nothing is touched.

    Raises WorkspaceError where `folder` holds something else than images of ours, ConfigError where it
    holds other ones and `on_change` is "refuse".
    """
    claim(folder, CONTRACT)
    family = [folder] if on_change == "restart" else list_family(folder)
    found = _find_finished(family, wish) or _find_begun(family, wish)
    if found is not None:
        return found
    if on_change == "restart" or _is_free(folder):
        return Place(folder=folder)
    if on_change == "refuse":
        raise ConfigError(_refusal(folder, wish))
    return Place(folder=next(filter(_is_free, family), None) or next_free(folder))


@contextlib.contextmanager
def hold_place(folder: Path, wish: Wish, on_change: OnChange) -> Iterator[Place]:
    """The place that `choose_place` gives, made and held alone while it is drawn into.

    Raises LockedError where another process draws into it, StorageError where it can't be made, and what
    `choose_place` raises.
    """
    for _ in range(_ATTEMPTS):
        place = choose_place(folder, wish, on_change)
        with _alone(place.folder):
            if choose_place(folder, wish, on_change) == place:  # else it was taken meanwhile
                if place.folder != folder:
                    logger.warning("%s Drawing into %s.", _others(folder, wish), place.folder)
                yield place
                return
    raise LockedError(f"Other processes draw into {folder} and beside it. Give another name.")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder itself: a file for the lock would be left in a place of the user's."""
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
            f"Another process draws into {folder}. Wait until it has finished, or give another name."
        ) from None
    except OSError:
        pass  # a network file system that can't lock folders
    try:
        yield
    finally:
        os.close(descriptor)


def _find_finished(family: list[Path], wish: Wish) -> Place | None:
    for folder in family:
        manifest = _manifest_of(folder)
        if manifest is not None and wish.is_met_by(manifest):
            return Place(folder=folder, manifest=manifest)
    return None


def _find_begun(family: list[Path], wish: Wish) -> Place | None:
    for folder in family:
        if not (folder / MANIFEST_NAME).exists() and read_identity(folder) == wish.identity:
            return Place(folder=folder)
    return None


def _is_free(folder: Path) -> bool:
    """Whether nothing was drawn there, or a killed run has not drawn its first image."""
    try:
        own = own_files(folder, CONTRACT)
    except WorkspaceError:
        return False
    finished = (folder / MANIFEST_NAME).exists()
    return not finished and all(name.endswith(TEMPORARY_SUFFIX) for name in own)


def _manifest_of(folder: Path) -> Manifest | None:
    try:
        claim(folder, CONTRACT)
        return read_manifest(folder, CONTRACT)
    except (ContractError, WorkspaceError):
        return None


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of the options: not the folder's name, nor how the prompts were given; the inputs name
    them by their hash."""
    return {name: value for name, value in config.items() if name not in ("name", "prompts")}


def _refusal(folder: Path, wish: Wish) -> str:
    return (
        f"{_others(folder, wish)} Nothing was touched: give another --name, --on-change new to draw beside "
        "it, or --on-change restart to replace them."
    )


def _others(folder: Path, wish: Wish) -> str:
    """A sentence that says what the images in `folder` were drawn with instead."""
    manifest = _manifest_of(folder)
    said = f" ({_differences(manifest, wish)})" if manifest is not None else ""
    return f"{folder} holds images of other prompts or options{said}."


def _differences(manifest: Manifest, wish: Wish) -> str:
    before, after = ({**c, "name": None} for c in (manifest.config, wish.config))
    options = _changed(before, after)
    inputs = [name for name in _changed(manifest.inputs, wish.inputs) if name not in options]
    said = [f"{name} {_short(before.get(name))} → {_short(after.get(name))}" for name in options]
    return "; ".join([*said, *(f"{name} changed" for name in inputs)])


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
