"""Which codec encodes: one of the workspace, one of a folder, or one of others, which is brought in.

A codec that was made elsewhere becomes `codecs/NAME-FINGERPRINT` of the workspace, with a manifest that
names its files by their hash: later stages decode with it, and its pickles are opened only once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.ownership import check_name, is_name, start_over
from pipeline.core.storage import (
    file_entry,
    find_current,
    input_digest,
    make_manifest,
    maker_of,
    read_manifest,
    sha256_file,
    write_manifest,
)
from pipeline.core.suggestions import name_choices
from pipeline.core.workspace import Workspace
from pipeline.encode.config import OWN_CODEC, EncodeConfig, codec_name
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.families import LOADERS, read_family_and_files
from pipeline.models.codecs.load import CODEC_JSON, CODEC_WEIGHTS, load_codec, save_codec
from pipeline.models.codecs.published import PUBLISHED_CODECS, fetch_codec
from pipeline.models.torch_files import check_regular

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CodecSource:
    """Where a codec lies, and its digest as an input by name."""

    name: str
    folder: Path
    digest: Mapping[str, str]


def find_codec(config: EncodeConfig, workspace: Workspace) -> CodecSource:
    """The codec that `config` asks for, brought into the workspace where it is one of others.

    Raises ConfigError where there is none, ModelError for files that don't fit, can't be fetched or want
    to run code, ContractError where `train-codec` has not finished.
    """
    for family, files in config.foreign_files().items():
        paths = {flag: path for flag, path in files.items() if path is not None}
        return _bring_in(config, workspace, family, paths)
    if named := read_family_and_files(config.codec or ""):
        family, given = named
        paths = {f"file-{number}": path for number, path in enumerate(given, 1)}
        return _bring_in(config, workspace, family, paths)
    name = chosen_codec(config, workspace)
    own = workspace.codecs / name
    if is_name(name) and own.is_dir():
        read_manifest(own, "codec")
        return _own(workspace, own, name)
    if name in PUBLISHED_CODECS:
        fetched = fetch_codec(name, config.cache)
        family = PUBLISHED_CODECS[name].family
        return _bring_in(config, workspace, family, {path.name: path for path in fetched})
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
    """What `--codec` says, or else the name of the codec that the workspace took last.

    Beside files of a codec it is what the codec is called.
    """
    if config.codec is not None:
        return codec_name(config.codec)
    latest = None if config.foreign_files() else workspace.latest("codec")
    return latest or OWN_CODEC


def _own(workspace: Workspace, folder: Path, name: str) -> CodecSource:
    place = folder.relative_to(workspace.root).as_posix()
    return CodecSource(name=name, folder=folder, digest={place: input_digest(folder)})


def _bring_in(
    config: EncodeConfig, workspace: Workspace, family: str, paths: Mapping[str, Path]
) -> CodecSource:
    """The codec of these files in the workspace; nothing is read but their hashes if it is there."""
    called = check_name(chosen_codec(config, workspace), option="--codec")
    plan = {"family": family, "name": called, "image_size": config.image_size}
    inputs = {name: _hash(path) for name, path in paths.items()}
    for folder in sorted(workspace.codecs.glob(f"{called}-*")):
        if find_current(folder, "codec", config=plan, inputs=inputs) is not None:
            return _own(workspace, folder, called)
    codec = LOADERS[family](*paths.values(), image_size=config.image_size)
    folder = workspace.codec(f"{called}-{codec.fingerprint[:12]}")
    log.warning("Bringing the codec %s into the workspace as %s", called, folder)
    _save(codec, folder, plan, inputs)
    return _own(workspace, folder, called)


def _hash(path: Path) -> str:
    check_regular(path)
    try:
        return sha256_file(path)
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}.") from error


def _save(
    codec: Codec, folder: Path, plan: Mapping[str, object], inputs: Mapping[str, str]
) -> None:
    start_over(folder, "codec")
    save_codec(codec, folder)
    manifest = make_manifest(
        "codec",
        config=plan,
        inputs=inputs,
        counts={},
        files=tuple(file_entry(folder / name, folder) for name in (CODEC_JSON, CODEC_WEIGHTS)),
        details={
            "fingerprint": codec.fingerprint,
            "num_tokens": codec.num_tokens,
            "image_size": codec.image_size,
            "downsampling": codec.downsampling,
            "num_codes": codec.num_codes,
        },
    )
    write_manifest(folder, manifest)
