"""Find the codec to encode with: in the workspace, in a folder, or a third-party one, which is imported.

A third-party codec is imported as `codecs/NAME-FINGERPRINT`, with a manifest that records the hashes of its
files. Later stages decode with it, and its pickles are opened only once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.artifact import Artifact, digest_input, find_artifact
from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.names import check_name, is_name
from pipeline.core.storage import maker_of, sha256_file
from pipeline.core.suggestions import name_choices
from pipeline.core.workspace import Workspace
from pipeline.encode.config import OWN_CODEC, EncodeConfig, codec_name
from pipeline.models.codecs.families import LOADERS, read_family_and_files
from pipeline.models.codecs.load import (
    CODEC_JSON,
    CODEC_WEIGHTS,
    codec_details,
    load_codec,
    save_codec,
)
from pipeline.models.codecs.published import PUBLISHED_CODECS, fetch_codec
from pipeline.models.torch_files import check_regular

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CodecSource:
    """A codec's folder, and its digest as a named input."""

    name: str
    folder: Path
    digest: Mapping[str, str]


def find_codec(config: EncodeConfig, workspace: Workspace) -> CodecSource:
    """The codec that `config` names; a third-party codec is imported into the workspace.

    Raises ConfigError if there is none, ModelError for files that don't match, can't be downloaded or
    contain code, ContractError if `train-codec` has not finished.
    """
    for family, files in config.foreign_files().items():
        paths = {flag: path for flag, path in files.items() if path is not None}
        return _import_codec(config, workspace, family, paths)
    if named := read_family_and_files(config.codec or ""):
        family, given = named
        paths = {f"file-{number}": path for number, path in enumerate(given, 1)}
        return _import_codec(config, workspace, family, paths)
    name = chosen_codec(config, workspace)
    own = workspace.codecs / name
    if is_name(name) and own.is_dir():
        return _own(workspace, own, name)
    if name in PUBLISHED_CODECS:
        fetched = fetch_codec(name, config.cache)
        family = PUBLISHED_CODECS[name].family
        return _import_codec(config, workspace, family, {path.name: path for path in fetched})
    folder = Path(name)
    if not (folder / CODEC_JSON).exists():
        there = (path.name for path in workspace.codecs.glob("*") if path.is_dir())
        raise ConfigError(
            f"No codec {name!r}: neither {own} nor a folder of that name holds a {CODEC_JSON}. "
            f"{name_choices(name, (*there, *PUBLISHED_CODECS))} Run {maker_of(own, 'codec')}, or give files, "
            "such as --codec vqgan:model.yaml,last.ckpt."
        )
    fingerprint = load_codec(folder).fingerprint
    return CodecSource(name=folder.resolve().name, folder=folder, digest={"codec": fingerprint})


def chosen_codec(config: EncodeConfig, workspace: Workspace) -> str:
    """The name from `--codec`, or else the workspace's latest codec.

    With a codec's files it is the name to give that codec.
    """
    if config.codec is not None:
        return codec_name(config.codec)
    latest = None if config.foreign_files() else workspace.latest("codec")
    return latest or OWN_CODEC


def _import_codec(
    config: EncodeConfig, workspace: Workspace, family: str, paths: Mapping[str, Path]
) -> CodecSource:
    """Import a codec from these files; if it already was, only the files' hashes are computed."""
    called = check_name(chosen_codec(config, workspace), option="--codec")
    plan = {"family": family, "name": called, "image_size": config.image_size}
    inputs = {name: _hash(path) for name, path in paths.items()}
    for folder in sorted(workspace.codecs.glob(f"{called}-*")):
        if find_artifact(folder, "codec", config=plan, inputs=inputs).is_current:
            return _own(workspace, folder, called)
    codec = LOADERS[family](*paths.values(), image_size=config.image_size)
    folder = workspace.codec(f"{called}-{codec.fingerprint[:12]}")
    log.warning("Importing the codec %s into the workspace as %s", called, folder)
    out = Artifact(folder=folder, contract="codec", config=plan, inputs=inputs)
    out.start_over()
    save_codec(codec, folder)
    out.finish(counts={}, files=(CODEC_JSON, CODEC_WEIGHTS), details=codec_details(codec))
    return _own(workspace, folder, called)


def _own(workspace: Workspace, folder: Path, name: str) -> CodecSource:
    digest = digest_input(folder, "codec", root=workspace.root)
    return CodecSource(name=name, folder=folder, digest=digest)


def _hash(path: Path) -> str:
    check_regular(path)
    try:
        return sha256_file(path)
    except OSError as error:
        raise ModelError(
            f"{path} can't be read: {error.strerror}. Give a readable file."
        ) from error
