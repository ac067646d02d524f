"""Names of runs as in the DALLE-models zoo, made and read.

Form: `taming_transformer/12L_64HD_16H_544I_96T_dalleblog_5E`: the kind of codec, then layers, head
dimensions, heads, image and text dimensions (there: width of the model, tokens of a caption), dataset,
epochs; with several datasets each its own, as `cc12m-2E_wit-1E`. Source: the README and the folders of
https://github.com/robvanvolt/DALLE-models.

What a name says is a hint: the zoo's own dalleblog folder says 16 layers, its model has 12. What is made
here is read back: datasets keep their names, for which `dataset_slug` sees to it that they can be told
apart.
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
# By the kind of codec, as codec.json has it; all others are custom.
_FOLDERS = {"vqgan": "taming_transformer", "openai-dvae": "openai_transformer"}


@dataclass(frozen=True, kw_only=True)
class NameHints:
    """What a name claims: hyper-parameters, and passes through datasets."""

    hyperparameters: Mapping[str, int]
    passes: Mapping[str, int]


def zoo_name(model: DalleConfig, *, folder: str, passes: Mapping[str, int]) -> str:
    """The name of a run; `folder` is its codec's, `passes` counts epochs by dataset."""
    sizes = f"{model.depth}L_{model.dim_head}HD_{model.heads}H_{model.dim}I_{model.text_seq_len}T"
    joint = "_" if len(passes) == 1 else "-"
    data = "_".join(f"{dataset_slug(name)}{joint}{epochs}E" for name, epochs in passes.items())
    return f"{folder}/{sizes}_{data}"


def codec_folder(kind: str | None, name: str) -> str:
    """The zoo's folder for models on a codec of a `kind`; by its `name` where the kind is not known."""
    if kind is not None:
        return _FOLDERS.get(kind, "custom_transformer")
    said = name.lower()
    if any(word in said for word in ("vqgan", "gumbel", "taming", "f16", "f8")):
        return _FOLDERS["vqgan"]
    if any(word in said for word in ("openai", "dvae", "dall-e")):
        return _FOLDERS["openai-dvae"]
    return "custom_transformer"


def dataset_slug(name: str) -> str:
    """A dataset's name as it can be part of a run's: letters, digits and `.`, `_`, `-`.

    What would be read as the end of a name (`-3E_` in the midst of it) is broken up.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "data"
    return re.sub(r"-(\d+E)(?=_|$)", r".\1", plain)


def find_name(path: Path) -> NameHints | None:
    """What the names of a path claim, the last one that is such a name; None where none is."""
    places = (path.absolute(), *path.absolute().parents)
    hints = (read_name(place.name) for place in places)
    return next((hint for hint in hints if hint is not None), None)


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
