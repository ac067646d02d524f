"""A codec's folder: codec.json (family, architecture, fingerprint) and codec.safetensors (weights)."""

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
from pipeline.models.description import parse_complete
from pipeline.models.weights import fill, read_safetensors

log = logging.getLogger(__name__)

CODEC_JSON = "codec.json"
CODEC_WEIGHTS = "codec.safetensors"
_ADVICE = f"Restore the codec's files; in a workspace: {REPAIR}"


@dataclass(frozen=True, kw_only=True)
class CodecDescription:
    """The contents of codec.json; `architecture` has the fields of the family's config."""

    kind: str
    architecture: Mapping[str, Any]
    fingerprint: str
    num_tokens: int
    image_size: int
    downsampling: int
    grid: tuple[int, int]


def save_codec(codec: Codec, folder: Path) -> None:
    """Write a codec's two files; the same weights produce the same bytes."""
    weights = {name: tensor.contiguous().cpu() for name, tensor in codec.state_dict().items()}
    write_bytes(folder / CODEC_WEIGHTS, safetensors.torch.save(weights))
    write_json(folder / CODEC_JSON, _facts(codec))


def codec_details(codec: Codec) -> dict[str, Any]:
    """The facts of a codec that the manifest of its folder repeats in its `details`."""
    names = ("fingerprint", "num_tokens", "image_size", "downsampling", "num_codes")
    return {name: getattr(codec, name) for name in names}


def load_codec(folder: Path, device: torch.device | str = "cpu") -> Codec:
    """Load the codec in `folder`, in eval mode on `device`.

    Raises ModelError if files are missing, of an unknown family, don't match each other, or don't have the
    recorded fingerprint.
    """
    described = read_codec_json(folder)
    path = folder / CODEC_WEIGHTS
    codec = fill(
        lambda: _build(described, folder),
        read_safetensors(path, _ADVICE),
        source=path,
        complaint=f"{path} does not match its {CODEC_JSON}",
    )
    _check_facts(codec, described, folder)
    return codec.requires_grad_(False).eval().to(device)


def find_codec(codecs: Path, fingerprint: str) -> Path:
    """The folder in `codecs` of the codec with this fingerprint.

    Raises ModelError if there is none.
    """
    found = dict(_fingerprints(codecs))
    for folder, other in found.items():
        if other == fingerprint:
            return folder
    existing = ", ".join(f"{folder.name} ({other[:12]})" for folder, other in found.items())
    raise ModelError(
        f"The checkpoint was trained on codes of the codec {fingerprint[:12]}; the workspace has: "
        f"{existing or 'none'}. Restore that codec, or encode, shard and train again."
    )


def read_codec_json(folder: Path) -> CodecDescription:
    """Read a codec's codec.json. Raises ModelError if it is missing or invalid."""
    path = folder / CODEC_JSON
    if not path.exists():
        raise ModelError(
            f"{path} does not exist, so {folder} is not a codec's folder. "
            "Run `pipeline train-codec`, or give another --codec."
        )
    try:
        return parse_json_file(path, CodecDescription, unknown="refuse", remedy=_ADVICE)
    except ContractError as error:
        raise ModelError(str(error)) from error


def _fingerprints(codecs: Path) -> Iterator[tuple[Path, str]]:
    """The codecs' folders and fingerprints; damaged ones are skipped with a warning."""
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
        config = parse_complete(
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
    """Compare the other fields of codec.json with the codec that was built."""
    for name, value in _facts(codec).items():
        recorded = getattr(described, name)
        if name not in ("kind", "architecture") and recorded != value:
            raise ModelError(
                f"{folder} has the {name} {value}, but its {CODEC_JSON} says {recorded}: a file was "
                f"modified. {_ADVICE}"
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
