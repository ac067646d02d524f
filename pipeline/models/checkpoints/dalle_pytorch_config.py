"""Hyper-parameters of a dalle-pytorch checkpoint, from its tensors where possible, else from `hparams`.

Files differ by the version that wrote them, and some were edited by hand. Where the two disagree, the
tensors are right: they are what was trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.dalle_pytorch_names import LAYOUT_LEAF, InLayer, place_in_layer
from pipeline.models.dalle.attention_types import ATTENTION_TYPES
from pipeline.models.dalle.config import HPARAMS, MOST_LAYERS, MOST_POSITIONS, DalleConfig
from pipeline.models.dalle.sparse_layout import Layout, draw_layout, layout_of_tensor
from pipeline.models.description import Description, plain, show

# The first version whose conv_like only looks back.
CONV_CAUSAL_SINCE = (1, 5, 0)
DEFAULT_HEADS, DEFAULT_DIM_HEAD = 8, 64  # as in DALLE.__init__


@dataclass(frozen=True)
class DallePytorchTensors:
    """The weights of a dalle-pytorch checkpoint, and the place in the layers of each."""

    weights: Mapping[str, Tensor]
    places: Mapping[str, InLayer]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> DallePytorchTensors:
        """Sort weights by layer. Raises ModelError if they are not a DALLE's."""
        places = {name: place for name in weights if (place := place_in_layer(name)) is not None}
        if not places or "to_logits.1.weight" not in weights:
            raise ModelError(
                "The weights are not those of a DALLE of dalle-pytorch 0.9 to 1.6.6: they have no "
                "transformer.layers, or no to_logits."
            )
        layers = {place.layer for place in places.values()}
        absent = next(layer for layer in range(len(layers) + 1) if layer not in layers)
        if absent <= max(layers) or absent > MOST_LAYERS:
            raise ModelError(
                f"There are tensors of layers up to {max(layers)}, but none of layer {absent}; expected all "
                f"layers, at most {MOST_LAYERS}. Give a complete checkpoint."
            )
        return cls(weights, places)

    @property
    def depth(self) -> int:
        """The number of layers, from the highest number in a name."""
        return 1 + max(place.layer for place in self.places.values())

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor. Raises ModelError if it has another number of dimensions or is empty."""
        found = tuple(self.weights[name].shape)
        if len(found) != dimensions or 0 in found:
            raise ModelError(
                f"Tensor {name} has the shape {found}, expected {dimensions} dimensions of at least 1. Give "
                "a complete checkpoint."
            )
        return found

    def wrappers(self, leaf: str) -> int:
        """The number of wrappers around a layer's tensors of this name."""
        return next((p.wrappers for p in self.places.values() if p.leaf == leaf), 0)

    @property
    def caching(self) -> bool:
        """Whether layers have the wrappers for caching that 1.4.0 introduced."""
        shift = self.wrappers("net.0.weight")
        return shift == 4 or (shift == 2 and self.wrappers("to_qkv.weight") == 3)

    @property
    def layouts(self) -> Mapping[int, Layout]:
        """The layouts of sparse attention by layer."""
        return {
            place.layer: layout_of_tensor(self.weights[name])
            for name, place in self.layout_places
            if self.shape(name, 3)
        }

    @property
    def layout_places(self) -> list[tuple[str, InLayer]]:
        """The names and places of those layouts, by layer."""
        found = [(name, place) for name, place in self.places.items() if place.leaf == LAYOUT_LEAF]
        return sorted(found, key=lambda item: item[1].layer)


def infer_config(
    hparams: Description,
    tensors: DallePytorchTensors,
    *,
    version: str | None,
    redraw_layout: int | None,
) -> DalleConfig:
    """The hyper-parameters of the model with these tensors.

    `version`: the dalle-pytorch that wrote them, if known. `redraw_layout`: the seed for a new sparse
    attention layout if the checkpoint has none. Raises ModelError for tensors that don't make a model, and
    for sparse attention without a layout if `redraw_layout` is None.
    """
    shown = _sizes(hparams, tensors)
    attn_types = _attn_types(hparams, tensors)
    seq_len = shown["text_seq_len"] + shown["image_fmap_size"] ** 2
    return DalleConfig(
        **shown,
        depth=tensors.depth,
        attn_dropout=hparams.number("attn_dropout", 0.0, high=1),
        ff_dropout=hparams.number("ff_dropout", 0.0, high=1),
        loss_img_weight=hparams.number("loss_img_weight", 7.0),
        reversible=any(place.reversible for place in tensors.places.values()),
        attn_types=attn_types,
        stable=hparams.flag("stable"),
        sandwich_norm=any(p.leaf == "norm_out.weight" for p in tensors.places.values()),
        shift_tokens=tensors.wrappers("net.0.weight") > 2,
        rotary_emb="text_pos_emb.weight" not in tensors.weights,
        shared_attn_ids=_ids(hparams, "shared_attn_ids"),
        shared_ff_ids=_ids(hparams, "shared_ff_ids"),
        share_input_output_emb="text_emb.linear.weight" in tensors.weights,
        sparse_layout=_layout(attn_types, tensors, seq_len, redraw_layout),
        conv_centred="conv_like" in attn_types and _is_centred(version, tensors),
    )


def differences(hparams: Description, config: DalleConfig) -> list[str]:
    """Where the `hparams` contradict the tensors: "dim is 512, but the tensors have 544"."""
    found = config.as_dict()
    return [
        f"{name} is {show(plain(hparams.values[name]))}, but the tensors have {found[name]}"
        for name, kind in HPARAMS.items()
        if kind == "size" and hparams.has(name) and plain(hparams.values[name]) != found[name]
    ]


def _sizes(hparams: Description, tensors: DallePytorchTensors) -> dict[str, int]:
    total, dim = tensors.shape("to_logits.1.weight", 2)
    text_seq_len, fmap_size = _lengths(hparams, tensors)
    if "text_emb.weight" in tensors.weights:
        total_text = tensors.shape("text_emb.weight", 2)[0]
    elif hparams.has("num_text_tokens"):
        total_text = hparams.integer("num_text_tokens") + text_seq_len
    else:
        raise ModelError(
            "Text and image share one embedding table and the checkpoint has no `num_text_tokens`, so the "
            "boundary between them is unknown. Give a checkpoint with complete `hparams`."
        )
    if not text_seq_len < total_text < total:
        raise ModelError(
            f"Of {total} ids, {total_text} are text ids, {text_seq_len} of these padding: none are left for "
            "words or for images. Give a complete checkpoint."
        )
    heads, dim_head = _heads(hparams, tensors)
    return {
        "dim": dim,
        "heads": heads,
        "dim_head": dim_head,
        "text_seq_len": text_seq_len,
        "num_text_tokens": total_text - text_seq_len,
        "num_image_tokens": total - total_text,
        "image_fmap_size": fmap_size,
    }


def _lengths(hparams: Description, tensors: DallePytorchTensors) -> tuple[int, int]:
    """The text length, and the side of the image's code grid."""
    if "text_pos_emb.weight" in tensors.weights:
        for name in ("image_pos_emb.weights.0", "image_pos_emb.weights_0"):
            if name in tensors.weights:
                return tensors.shape("text_pos_emb.weight", 2)[0] - 1, tensors.shape(name, 4)[1]
        raise ModelError("The checkpoint has text positions but no image positions.")
    angles = tensors.weights.get("transformer.pos_emb")
    if angles is None or angles.ndim < 2 or not hparams.has("text_seq_len"):
        raise ModelError("The checkpoint has neither text positions nor a `text_seq_len`.")
    text = hparams.integer("text_seq_len", high=MOST_POSITIONS)
    # Up to 1.1.2 the last position was left out; its angles are never used.
    codes = angles.shape[-2] - text - (0 if angles.ndim == 4 else 1)
    size = math.isqrt(max(codes, 0))
    if size**2 != codes or size == 0:
        raise ModelError(
            f"With a text length of {text} the checkpoint has positions for {codes} codes, which is not a "
            "square number."
        )
    return text, size


def _heads(hparams: Description, tensors: DallePytorchTensors) -> tuple[int, int]:
    """Heads and width of a head: tensors give the product, a sparse attention layout also the heads."""
    queries = [n for n, place in tensors.places.items() if place.leaf == "to_qkv.weight"]
    if not queries:
        raise ModelError("The checkpoint has no attention (to_qkv.weight). Give a complete one.")
    inner = tensors.shape(queries[0], 2)[0] // 3
    heads = hparams.integer("heads", DEFAULT_HEADS)
    for name, _ in tensors.layout_places:
        heads = tensors.shape(name, 3)[0]
    if inner % heads:
        heads = inner // hparams.integer("dim_head", DEFAULT_DIM_HEAD)
    if heads == 0 or inner % heads:
        raise ModelError(
            f"Neither `heads` nor `dim_head` divides the {inner} channels of attention."
        )
    return heads, inner // heads


def _attn_types(hparams: Description, tensors: DallePytorchTensors) -> tuple[Any, ...]:
    types = hparams.items("attn_types") or ("full",)
    strange = [kind for kind in types if kind not in ATTENTION_TYPES]
    if strange:
        raise hparams.wrong("attn_types", strange[0], f"each one of {', '.join(ATTENTION_TYPES)}")
    sparse = set(tensors.layouts)
    spread = [types[layer % len(types)] for layer in range(tensors.depth)]
    if not sparse or sparse == {n for n, kind in enumerate(spread) if kind == "sparse"}:
        return types
    return tuple("sparse" if n in sparse else kind for n, kind in enumerate(spread))


def _layout(
    attn_types: tuple[Any, ...],
    tensors: DallePytorchTensors,
    seq_len: int,
    redraw_layout: int | None,
) -> Layout | None:
    """The layout of the first sparse layer, which DeepSpeed used for all of them."""
    if "sparse" not in attn_types:
        return None
    if tensors.layouts:
        return next(iter(tensors.layouts.values()))
    if redraw_layout is not None:
        return draw_layout(seq_len, redraw_layout)
    raise ModelError(
        "The model has sparse attention, but the checkpoint lacks its layout (attn_fn.master_layout). It "
        "was drawn at random and is lost. A new layout changes the model's output; --redraw-layout draws "
        "one anyway, best followed by some training."
    )


def _is_centred(version: str | None, tensors: DallePytorchTensors) -> bool:
    """Whether conv_like is the centred one from before 1.5.0.

    A file without a version is older than 1.1.6, unless its layers have the wrappers of 1.4.0: then the
    file was edited by hand.
    """
    if not isinstance(version, str):
        return not tensors.caching
    numbers = tuple(int(part) for part in re.findall(r"\d{1,4}", version)[:3])
    return numbers < CONV_CAUSAL_SINCE


def _ids(hparams: Description, key: str) -> tuple[int | str, ...] | None:
    found = hparams.items(key)
    for name in found or ():
        if not isinstance(name, (int, str)) and not (isinstance(name, float) and name.is_integer()):
            raise hparams.wrong(key, name, "integers or strings")
    return found and tuple(int(name) if isinstance(name, float) else name for name in found)
