"""The kinds of image codecs: how each is built, and how its files are read.

A new kind is a module and an entry in `FAMILIES`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import ConfigError
from pipeline.core.suggestions import name_choices
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.discrete_vae import DiscreteVAE, DiscreteVAEConfig, load_discrete_vae
from pipeline.models.codecs.dvae import OpenAIDVAE, OpenAIDVAEConfig, load_openai_dvae
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.models.codecs.vqgan import VQGAN, VQGANConfig
from pipeline.models.codecs.vqgan_files import load_vqgan

# load(*files, image_size=…); image_size None is what the codec was trained at.
LoadCodec = Callable[..., Codec]
_FAMILY_AND_FILES = re.compile(r"([A-Za-z][\w-]+):(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class CodecFamily:
    """One kind of codec.

    `codec` and `config` are its class and the dataclass of its architecture. `load` reads files that were
    made elsewhere, and `files` says which ones, in its order; without it, the kind exists only in workspaces.
    `recorded_as` is its name in the manifests of codecs that were imported from files.
    """

    codec: type[Codec]
    config: type[Any]
    load: LoadCodec | None = None
    files: tuple[str, ...] = ()
    recorded_as: str = ""

    @property
    def kind(self) -> str:
        """Its name in `codec.json` and in ``--codec KIND:FILE``."""
        return self.codec.kind


FAMILIES: Mapping[str, CodecFamily] = {
    family.kind: family
    for family in (
        CodecFamily(codec=VQCodec, config=VQConfig),
        CodecFamily(
            codec=VQGAN,
            config=VQGANConfig,
            load=load_vqgan,
            files=("the YAML", "the checkpoint"),
            recorded_as="vqgan",
        ),
        CodecFamily(
            codec=OpenAIDVAE,
            config=OpenAIDVAEConfig,
            load=lambda *files, image_size: load_openai_dvae(*files, image_size=image_size or 256),
            files=("encoder.pkl", "decoder.pkl"),
            recorded_as="openai_dvae",
        ),
        CodecFamily(
            codec=DiscreteVAE,
            config=DiscreteVAEConfig,
            load=load_discrete_vae,
            files=("vae.pt",),
            recorded_as="vae",
        ),
    )
}
LOADERS: Mapping[str, LoadCodec] = {
    family.recorded_as or family.kind: family.load
    for family in FAMILIES.values()
    if family.load is not None
}


def read_family_and_files(codec: str) -> tuple[str, tuple[Path, ...]] | None:
    """The key of `LOADERS` and the files of ``KIND:FILE[,FILE]``; None for a name or a folder.

    Raises ConfigError for an unknown kind, or another number of files than the kind has.
    """
    found = _FAMILY_AND_FILES.fullmatch(codec)
    if found is None or os.path.exists(codec):  # noqa: PTH110  (False for a text that is no path)
        return None
    kind, files = found[1], tuple(part.strip() for part in found[2].split(","))
    readable = {name: family for name, family in FAMILIES.items() if family.load is not None}
    if kind not in readable:
        raise ConfigError(
            f"--codec {codec}: no kind of codec {kind!r} is read from files. "
            f"{name_choices(kind, readable)}"
        )
    family = readable[kind]
    if len(files) != len(family.files) or not all(files):
        raise ConfigError(
            f"--codec {codec}: found {len(files)} files, expected {kind}:{','.join(family.files)} "
            "(with your paths)."
        )
    return family.recorded_as or kind, tuple(Path(file).expanduser() for file in files)
