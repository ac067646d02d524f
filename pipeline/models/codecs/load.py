"""A codec's folder: codec.json (family, architecture, fingerprint) and codec.safetensors (weights).

Floor 3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from pipeline.errors import ModelError
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.discrete_vae import DiscreteVAE, DiscreteVAEConfig
from pipeline.models.codecs.dvae import OpenAIDVAE, OpenAIDVAEConfig
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.models.codecs.vqgan import VQGAN, VQGANConfig
from pipeline.models.codecs.weights import load_weights
from pipeline.storage import write_bytes, write_json

CODEC_JSON = "codec.json"
CODEC_WEIGHTS = "codec.safetensors"

_FAMILIES: Mapping[str, tuple[Callable[..., Codec], Callable[..., Any]]] = {
    "vq": (VQCodec, VQConfig),
    "vqgan": (VQGAN, VQGANConfig),
    "openai-dvae": (OpenAIDVAE, OpenAIDVAEConfig),
    "discrete-vae": (DiscreteVAE, DiscreteVAEConfig),
}


def save_codec(codec: Codec, folder: Path) -> None:
    """Write both files of a codec; the same weights give the same bytes."""
    weights = {name: tensor.contiguous().cpu() for name, tensor in codec.state_dict().items()}
    write_bytes(folder / CODEC_WEIGHTS, safetensors.torch.save(weights))
    facts = {
        "kind": codec.kind,
        "architecture": dict(codec.architecture),
        "fingerprint": codec.fingerprint,
        "num_tokens": codec.num_tokens,
        "image_size": codec.image_size,
        "downsampling": codec.downsampling,
        "grid": list(codec.grid),
    }
    write_json(folder / CODEC_JSON, facts)


def load_codec(folder: Path, device: torch.device | str = "cpu") -> Codec:
    """Read the codec of `folder`, ready to encode and decode on `device`.

    Raises ModelError where files are missing, of an unknown family, do not fit each other, or have
    another fingerprint than they were written with.
    """
    facts = _read_facts(folder / CODEC_JSON)
    codec = _build(facts, folder)
    load_weights(
        codec,
        _read_weights(folder / CODEC_WEIGHTS),
        f"{folder / CODEC_WEIGHTS} does not fit its {CODEC_JSON}",
    )
    if codec.fingerprint != facts["fingerprint"]:
        raise ModelError(
            f"{folder} has the fingerprint {codec.fingerprint[:12]}, its {CODEC_JSON} says "
            f"{str(facts['fingerprint'])[:12]}: a file was changed. Run `pipeline train-codec` again."
        )
    return codec.requires_grad_(False).eval().to(device)


def find_codec(codecs: Path, fingerprint: str) -> Path:
    """The folder in `codecs` of the codec with this fingerprint: the one that made some codes.

    Raises ModelError where none has it.
    """
    found = {
        str(_read_facts(path)["fingerprint"]): path.parent
        for path in sorted(codecs.glob(f"*/{CODEC_JSON}"))
    }
    if fingerprint not in found:
        there = ", ".join(f"{path.name} ({key[:12]})" for key, path in found.items()) or "none"
        raise ModelError(
            f"The checkpoint was trained on codes of the codec {fingerprint[:12]}; the workspace has: "
            f"{there}. Bring that codec back, or encode, shard and train again."
        )
    return found[fingerprint]


def _read_facts(path: Path) -> Mapping[str, Any]:
    try:
        facts = json.loads(path.read_bytes())
        _ = facts["kind"], facts["architecture"], facts["fingerprint"]
    except FileNotFoundError:
        raise ModelError(
            f"{path} is not there, so {path.parent} is not the folder of a codec. "
            "Run `pipeline train-codec`, or give another --codec."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} does not describe a codec ({error!r}). Make it again.") from error
    return dict(facts)


def _build(facts: Mapping[str, Any], folder: Path) -> Codec:
    if facts["kind"] not in _FAMILIES:
        raise ModelError(
            f"{folder} holds a codec of the kind {facts['kind']!r}; known: {', '.join(_FAMILIES)}."
        )
    make_codec, make_config = _FAMILIES[facts["kind"]]
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["architecture"].items()}
    try:
        return make_codec(make_config(**fields))
    except TypeError as error:
        raise ModelError(
            f"{folder / CODEC_JSON} has an architecture that this version does not know ({error})."
        ) from error


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} can't be read as weights ({error}). Make the codec again."
        ) from error
