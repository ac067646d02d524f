"""Hyper-parameters of a stock checkpoint: what its tensors show, and what only its `hparams` can say.

Layer 3. Files differ by the version that wrote them, and were moved, trimmed and mended by hand. Where
the two disagree the tensors are right: they are what was trained.
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
from pipeline.models.dalle.config import ATTENTION_TYPES, MOST_LAYERS, MOST_POSITIONS, DalleConfig
from pipeline.models.dalle.sparse_layout import Layout, draw_layout, layout_of_tensor
from pipeline.models.description import Description, plain, show

# The first version whose conv_like looks back only, and the first that wraps for a cache.
CONV_CAUSAL_SINCE = (1, 5, 0)
DEFAULT_HEADS, DEFAULT_DIM_HEAD = 8, 64  # of DALLE.__init__


@dataclass(frozen=True)
class StockTensors:
    """The weights of a stock checkpoint, and where in the layers each belongs."""

    weights: Mapping[str, Tensor]
    places: Mapping[str, InLayer]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> StockTensors:
        """Raises ModelError where they are not those of a DALLE."""
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
                f"The tensors are of layers up to {max(layers)}, and layer {absent} has none; expected all "
                f"of at most {MOST_LAYERS}. Give a whole checkpoint."
            )
        return cls(weights, places)

    @property
    def depth(self) -> int:
        """How many layers there are by the greatest number in a name."""
        return 1 + max(place.layer for place in self.places.values())

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor. Raises ModelError where it has another number of dimensions."""
        found = tuple(self.weights[name].shape)
        if len(found) != dimensions or 0 in found:
            raise ModelError(
                f"Tensor {name} has the shape {found}, expected {dimensions} dimensions of at least 1. Give "
                "a whole checkpoint."
            )
        return found

    def wrappers(self, leaf: str) -> int:
        """How many wrappers stand around a layer's tensors of this name."""
        return next((p.wrappers for p in self.places.values() if p.leaf == leaf), 0)

    @property
    def caching(self) -> bool:
        """Whether layers are wrapped for a cache, as since 1.4.0."""
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
        """The names of those layouts, by layer."""
        found = [(name, place) for name, place in self.places.items() if place.leaf == LAYOUT_LEAF]
        return sorted(found, key=lambda item: item[1].layer)


def settle_config(
    hparams: Description,
    tensors: StockTensors,
    *,
    version: str | None,
    redraw_layout: int | None,
) -> DalleConfig:
    """The hyper-parameters of the model that the tensors are.

    `version` is of the dalle-pytorch that wrote them, where it is known; `redraw_layout` the seed of a
    layout for sparse attention where they carry none. Raises ModelError for tensors that make no model,
    and for sparse attention without its layout where none is to be drawn.
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
    """What the `hparams` say otherwise than the tensors: "dim 512, in truth 544"."""
    found = config.as_dict()
    return [
        f"{name} {show(plain(hparams.values[name]))}, in truth {found[name]}"
        for name in ("dim", "depth", "heads", "dim_head", "text_seq_len", "num_text_tokens")
        if hparams.has(name) and plain(hparams.values[name]) != found[name]
    ]


def _sizes(hparams: Description, tensors: StockTensors) -> dict[str, int]:
    total, dim = tensors.shape("to_logits.1.weight", 2)
    text_seq_len, fmap_size = _lengths(hparams, tensors)
    if "text_emb.weight" in tensors.weights:
        total_text = tensors.shape("text_emb.weight", 2)[0]
    elif hparams.has("num_text_tokens"):
        total_text = hparams.integer("num_text_tokens") + text_seq_len
    else:
        raise ModelError(
            "Text and image share one table and the checkpoint doesn't say `num_text_tokens`, so "
            "nothing tells where the text ends in it."
        )
    if not text_seq_len < total_text < total:
        raise ModelError(
            f"Of {total} ids, {total_text} are of text and of these {text_seq_len} padding: nothing is left "
            "for words, or for images. Give a whole checkpoint."
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


def _lengths(hparams: Description, tensors: StockTensors) -> tuple[int, int]:
    """The text's length, and the codes of an image's side."""
    if "text_pos_emb.weight" in tensors.weights:
        for name in ("image_pos_emb.weights.0", "image_pos_emb.weights_0"):
            if name in tensors.weights:
                return tensors.shape("text_pos_emb.weight", 2)[0] - 1, tensors.shape(name, 4)[1]
        raise ModelError("The checkpoint has positions of text and none of images.")
    angles = tensors.weights.get("transformer.pos_emb")
    if angles is None or angles.ndim < 2 or not hparams.has("text_seq_len"):
        raise ModelError("The checkpoint has neither positions nor the length of its text.")
    text = hparams.integer("text_seq_len", high=MOST_POSITIONS)
    # Up to 1.1.2 the last position, whose angles are never used, was left out.
    codes = angles.shape[-2] - text - (0 if angles.ndim == 4 else 1)
    size = math.isqrt(max(codes, 0))
    if size**2 != codes or size == 0:
        raise ModelError(
            f"With a text of {text} the checkpoint has positions of {codes} codes, which is no square."
        )
    return text, size


def _heads(hparams: Description, tensors: StockTensors) -> tuple[int, int]:
    """Heads and width of a head: the tensors know the product, the layout of sparse attention more."""
    queries = [n for n, place in tensors.places.items() if place.leaf == "to_qkv.weight"]
    if not queries:
        raise ModelError("The checkpoint has no attention (to_qkv.weight). Give a whole one.")
    inner = tensors.shape(queries[0], 2)[0] // 3
    heads = hparams.integer("heads", DEFAULT_HEADS)
    for name, _ in tensors.layout_places:
        heads = tensors.shape(name, 3)[0]
    if inner % heads:
        heads = inner // hparams.integer("dim_head", DEFAULT_DIM_HEAD)
    if heads == 0 or inner % heads:
        raise ModelError(
            f"Neither `heads` nor `dim_head` divide the {inner} channels of attention."
        )
    return heads, inner // heads


def _attn_types(hparams: Description, tensors: StockTensors) -> tuple[Any, ...]:
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
    tensors: StockTensors,
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
        "The model has sparse attention and the checkpoint doesn't carry its layout "
        "(attn_fn.master_layout): what it looked at was drawn at random and is lost. A new layout "
        "changes what it gives; --redraw-layout takes one all the same, best with some training."
    )


def _is_centred(version: str | None, tensors: StockTensors) -> bool:
    """Whether conv_like is the one before 1.5.0. A file without a version is older than 1.1.6, but
    where its layers are wrapped as since 1.4.0: that one was written by hand."""
    if not isinstance(version, str):
        return not tensors.caching
    numbers = tuple(int(part) for part in re.findall(r"\d{1,4}", version)[:3])
    return numbers < CONV_CAUSAL_SINCE


def _ids(hparams: Description, key: str) -> tuple[int | str, ...] | None:
    found = hparams.items(key)
    for name in found or ():
        if not isinstance(name, (int, str)) and not (isinstance(name, float) and name.is_integer()):
            raise hparams.wrong(key, name, "whole numbers or words")
    return found and tuple(int(name) if isinstance(name, float) else name for name in found)
