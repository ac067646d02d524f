"""Which folder the images go to: one that holds just these, one that was begun with them, or a free one.

NAME, NAME-2, NAME-3 … are a family: images that are there under a name are never replaced by others unless
that is asked for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.contracts import Manifest
from pipeline.errors import ConfigError, ContractError, WorkspaceError
from pipeline.generate.notes import read_identity
from pipeline.ownership import claim, list_family, next_free, own_files
from pipeline.storage import MANIFEST_NAME, TEMPORARY_SUFFIX, read_manifest, sha256_bytes

logger = logging.getLogger(__name__)

CONTRACT = "generated"
OnChange = Literal["new", "refuse", "restart"]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the images of a folder depend on: the resolved options and the digests of all inputs."""

    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def identity(self) -> str:
        """One hash of it all; the name of the folder is no part of it."""
        return sha256_bytes(json.dumps([_nameless(self.config), dict(self.inputs)]).encode())

    def is_met_by(self, manifest: Manifest) -> bool:
        """Whether a finished folder was made from just this."""
        same = _nameless(manifest.config) == _nameless(self.config)
        return same and dict(manifest.inputs) == dict(self.inputs)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder to draw into; `manifest` where it is finished and holds just what is wished for."""

    folder: Path
    manifest: Manifest | None = None


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
    free = next_free(folder)
    logger.warning("%s holds images of other prompts or options: drawing into %s", folder, free)
    return Place(folder=free)


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
    own = own_files(folder, CONTRACT)
    finished = (folder / MANIFEST_NAME).exists()
    return not finished and all(name.endswith(TEMPORARY_SUFFIX) for name in own)


def _manifest_of(folder: Path) -> Manifest | None:
    try:
        claim(folder, CONTRACT)
        return read_manifest(folder, CONTRACT)
    except (ContractError, WorkspaceError):
        return None


def _nameless(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "name"}


def _refusal(folder: Path, wish: Wish) -> str:
    manifest = _manifest_of(folder)
    said = f" ({_differences(manifest, wish)})" if manifest is not None else ""
    return (
        f"{folder} holds images of other prompts or options{said}. Nothing was touched: give another --name, "
        "--on-change new to draw beside it, or --on-change restart to replace them."
    )


def _differences(manifest: Manifest, wish: Wish) -> str:
    before = _nameless(manifest.config) | dict(manifest.inputs)
    after = _nameless(wish.config) | dict(wish.inputs)
    names = sorted(name for name in before | after if before.get(name) != after.get(name))
    return "; ".join(
        f"{name} {_short(before.get(name))} → {_short(after.get(name))}" for name in names
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
