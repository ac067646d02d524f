"""Names of runs as in the DALLE-models zoo, made and read.

Form: `taming/12L_64HD_16H_544I_96T_dalleblog_5E`: layers, head dimensions, heads, image and text
dimensions (there: width of the model, tokens of a caption), dataset, epochs; with several datasets each
its own, as `cc12m-2E_wit-1E`. Source: the README of https://github.com/robvanvolt/DALLE-models.

What a name says is a hint: the zoo's own dalleblog folder says 16 layers, its model has 12.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.models.dalle_config import DalleConfig

_STEM = re.compile(r"(\d+)L_(\d+)HD_(\d+)H_(\d+)I_(\d+)T_(.+)")
_FACTS = ("depth", "dim_head", "heads", "dim", "text_seq_len")


@dataclass(frozen=True, kw_only=True)
class NameHints:
    """What a name claims: hyper-parameters, and passes through datasets."""

    hyperparameters: Mapping[str, int]
    passes: Mapping[str, int]


def zoo_name(model: DalleConfig, *, codec: str, passes: Mapping[str, int]) -> str:
    """The name of a run; `codec` is its codec's name, `passes` counts epochs by dataset."""
    sizes = f"{model.depth}L_{model.dim_head}HD_{model.heads}H_{model.dim}I_{model.text_seq_len}T"
    joint = "_" if len(passes) == 1 else "-"
    data = "_".join(f"{_plain(name)}{joint}{epochs}E" for name, epochs in passes.items())
    return f"{codec_folder(codec)}/{sizes}_{data}"


def codec_folder(codec: str) -> str:
    """The zoo's folder for models on a codec: taming, openai or custom."""
    name = codec.lower()
    if any(word in name for word in ("vqgan", "gumbel", "taming", "f16", "f8")):
        return "taming"
    return "openai" if any(word in name for word in ("openai", "dvae", "dall-e")) else "custom"


def read_name(name: str) -> NameHints | None:
    """What the last part of a path claims, with or without `.pt`; None where it is no such name."""
    last = name.rstrip("/").rpartition("/")[2].removesuffix(".pt")
    found = _STEM.fullmatch(last)
    passes = _read_passes(found[6]) if found else None
    if found is None or passes is None:
        return None
    numbers = (int(number) for number in found.groups()[:5])
    return NameHints(hyperparameters=dict(zip(_FACTS, numbers, strict=True)), passes=passes)


def wrong_hints(hints: NameHints, model: DalleConfig) -> dict[str, tuple[int, int]]:
    """Hyper-parameters of which a name claims something else: (claimed, true) by name."""
    pairs = {name: (said, getattr(model, name)) for name, said in hints.hyperparameters.items()}
    return {name: (said, true) for name, (said, true) in pairs.items() if said != true}


def _read_passes(text: str) -> dict[str, int] | None:
    parts = [re.fullmatch(r"(.+)-(\d+)E", part) for part in text.split("_")]
    if all(parts):
        return {part[1]: int(part[2]) for part in parts if part}
    single = re.fullmatch(r"(.+)_(\d+)E", text)
    return {single[1]: int(single[2])} if single else None


def _plain(name: str) -> str:
    """A dataset's name without what parts names."""
    return re.sub(r"[^A-Za-z0-9.]+", "", name) or "data"
