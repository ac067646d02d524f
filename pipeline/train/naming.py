"""Run names in the style of the DALLE-models zoo: making and parsing them.

Example: `taming_transformer/12L_64HD_16H_544I_96T_dalleblog_5E` is the kind of codec, then layers, width of
a head, heads, width of the model (I), tokens per caption (T), dataset and epochs. Several datasets have
their own epochs each, as in `cc12m-2E_wit-1E`. Source: the README and the folders of
https://github.com/robvanvolt/DALLE-models.

A name is only a hint: the zoo's own dalleblog folder says 16 layers, but its model has 12. Names made here
can be parsed again: `dataset_slug` makes sure that datasets can be told apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.models.dalle.config import DalleConfig

_STEM = re.compile(r"(\d+)L_(\d+)HD_(\d+)H_(\d+)I_(\d+)T_(.+)")
_FACTS = ("depth", "dim_head", "heads", "dim", "text_seq_len")
_SINGLE = re.compile(r"(.+)_(\d+)E")
_ONE_OF_SEVERAL = re.compile(r"(.+?)-(\d+)E_")
# By codec kind, as in codec.json; all other kinds are custom.
_FOLDERS = {"vqgan": "taming_transformer", "openai-dvae": "openai_transformer"}


@dataclass(frozen=True, kw_only=True)
class NameHints:
    """What a run's name claims: hyper-parameters, and epochs by dataset."""

    hyperparameters: Mapping[str, int]
    passes: Mapping[str, int]


def zoo_name(model: DalleConfig, *, folder: str, passes: Mapping[str, int]) -> str:
    """The name of a run in the zoo's style; `folder` is the codec's, `passes` counts epochs by dataset."""
    sizes = f"{model.depth}L_{model.dim_head}HD_{model.heads}H_{model.dim}I_{model.text_seq_len}T"
    joint = "_" if len(passes) == 1 else "-"
    data = "_".join(f"{dataset_slug(name)}{joint}{epochs}E" for name, epochs in passes.items())
    return f"{folder}/{sizes}_{data}"


def codec_folder(kind: str | None, name: str) -> str:
    """The zoo's folder for models with a codec of this `kind`, guessed from its `name` if unknown."""
    if kind is not None:
        return _FOLDERS.get(kind, "custom_transformer")
    lowered = name.lower()
    if any(word in lowered for word in ("vqgan", "gumbel", "taming", "f16", "f8")):
        return _FOLDERS["vqgan"]
    if any(word in lowered for word in ("openai", "dvae", "dall-e")):
        return _FOLDERS["openai-dvae"]
    return "custom_transformer"


def dataset_slug(name: str) -> str:
    """A dataset's name in a form that fits into a run's name: letters, digits and `.`, `_`, `-`.

    A sequence that would be parsed as the end of a name (`-3E_` in the middle) is broken up.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "data"
    return re.sub(r"-(\d+E)(?=_|$)", r".\1", plain)


def find_name(path: Path) -> NameHints | None:
    """The claims of the last path component that is a run name; None if there is none."""
    places = (path.absolute(), *path.absolute().parents)
    hints = (read_name(place.name) for place in places)
    return next((hint for hint in hints if hint is not None), None)


def read_name(name: str) -> NameHints | None:
    """Parse the last component of a path, with or without `.pt`; None if it is no such name."""
    last = name.rstrip("/").rpartition("/")[2].removesuffix(".pt")
    found = _STEM.fullmatch(last)
    passes = _read_passes(found[6]) if found else None
    if found is None or passes is None:
        return None
    numbers = (int(number) for number in found.groups()[:5])
    return NameHints(hyperparameters=dict(zip(_FACTS, numbers, strict=True)), passes=passes)


def wrong_hints(hints: NameHints, model: DalleConfig) -> dict[str, tuple[int, int]]:
    """Hyper-parameters where the name is wrong: (claimed, actual) by name."""
    pairs = {
        name: (claimed, getattr(model, name)) for name, claimed in hints.hyperparameters.items()
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _read_passes(text: str) -> dict[str, int] | None:
    if single := _SINGLE.fullmatch(text):
        return {single[1]: int(single[2])}
    passes: dict[str, int] = {}
    text, at = f"{text}_", 0
    while at < len(text):
        part = _ONE_OF_SEVERAL.match(text, at)
        if part is None:
            return None
        passes[part[1]] = passes.get(part[1], 0) + int(part[2])
        at = part.end()
    return passes
