"""A codec's folder: codec.json (family, architecture, fingerprint) and codec.safetensors (weights).

Layer 3.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pipeline.core.errors import REPAIR, ContractError, ModelError
from pipeline.core.parsing import parse_json_file
from pipeline.core.storage import write_bytes, write_json
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.families import FAMILIES
from pipeline.models.weights import fill, read_safetensors
from pipeline.models.written import parse_written

log = logging.getLogger(__name__)

CODEC_JSON = "codec.json"
CODEC_WEIGHTS = "codec.safetensors"
_ADVICE = f"Put the codec's files back as they were; for one of a workspace: {REPAIR}"


@dataclass(frozen=True, kw_only=True)
class CodecDescription:
    """What codec.json says; `architecture` are the fields of the family's config."""

    kind: str
    architecture: Mapping[str, Any]
    fingerprint: str
    num_tokens: int
    image_size: int
    downsampling: int
    grid: tuple[int, int]


def save_codec(codec: Codec, folder: Path) -> None:
    """Write both files of a codec; the same weights give the same bytes."""
    weights = {name: tensor.contiguous().cpu() for name, tensor in codec.state_dict().items()}
    write_bytes(folder / CODEC_WEIGHTS, safetensors.torch.save(weights))
    write_json(folder / CODEC_JSON, _facts(codec))


def load_codec(folder: Path, device: torch.device | str = "cpu") -> Codec:
    """Read the codec of `folder`, ready to encode and decode on `device`.

    Raises ModelError where files are missing, of an unknown family, do not fit each other, or have
    another fingerprint than they were written with.
    """
    described = read_codec_json(folder)
    path = folder / CODEC_WEIGHTS
    codec = fill(
        lambda: _build(described, folder),
        read_safetensors(path, _ADVICE),
        source=path,
        complaint=f"{path} does not fit its {CODEC_JSON}",
    )
    _check_facts(codec, described, folder)
    return codec.requires_grad_(False).eval().to(device)


def find_codec(codecs: Path, fingerprint: str) -> Path:
    """The folder in `codecs` of the codec with this fingerprint: the one that made some codes.

    Raises ModelError where none has it.
    """
    found = dict(_described(codecs))
    for folder, said in found.items():
        if said == fingerprint:
            return folder
    there = ", ".join(f"{folder.name} ({said[:12]})" for folder, said in found.items()) or "none"
    raise ModelError(
        f"The checkpoint was trained on codes of the codec {fingerprint[:12]}; the workspace has: "
        f"{there}. Bring that codec back, or encode, shard and train again."
    )


def read_codec_json(folder: Path) -> CodecDescription:
    """What a codec's folder says of it. Raises ModelError where it says nothing, or something else."""
    path = folder / CODEC_JSON
    if not path.exists():
        raise ModelError(
            f"{path} is not there, so {folder} is not the folder of a codec. "
            "Run `pipeline train-codec`, or give another --codec."
        )
    try:
        return parse_json_file(path, CodecDescription, unknown="refuse", remedy=_ADVICE)
    except ContractError as error:
        raise ModelError(str(error)) from error


def _described(codecs: Path) -> Iterator[tuple[Path, str]]:
    """The codecs with their fingerprints; a damaged one doesn't hide the others."""
    for path in sorted(codecs.glob(f"*/{CODEC_JSON}")):
        try:
            yield path.parent, read_codec_json(path.parent).fingerprint
        except ModelError as error:
            log.warning("%s", error)


def _build(described: CodecDescription, folder: Path) -> Codec:
    family = FAMILIES.get(described.kind)
    if family is None:
        raise ModelError(
            f"{folder / CODEC_JSON} has the kind {described.kind!r}, expected one of {', '.join(FAMILIES)}. "
            f"{_ADVICE}"
        )
    try:
        config = parse_written(
            family.config,
            described.architecture,
            source=str(folder / CODEC_JSON),
            field="architecture",
            remedy=_ADVICE,
        )
    except ContractError as error:
        raise ModelError(str(error)) from error
    return family.codec(config)


def _check_facts(codec: Codec, described: CodecDescription, folder: Path) -> None:
    """What is said beside the architecture must be what comes of it."""
    for name, value in _facts(codec).items():
        said = getattr(described, name)
        if name not in ("kind", "architecture") and said != value:
            raise ModelError(
                f"{folder} has the {name} {value}, its {CODEC_JSON} says {said}: a file was changed. "
                f"{_ADVICE}"
            )


def _facts(codec: Codec) -> dict[str, Any]:
    return {
        "kind": codec.kind,
        "architecture": dict(codec.architecture),
        "fingerprint": codec.fingerprint,
        "num_tokens": codec.num_tokens,
        "image_size": codec.image_size,
        "downsampling": codec.downsampling,
        "grid": codec.grid,
    }
