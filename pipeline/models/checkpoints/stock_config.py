"""Hyper-parameters of a stock checkpoint: what its tensors show, and what only its `hparams` can say.

Floor 3. Files differ by the version that wrote them, and were moved, trimmed and mended by hand. Where
the two disagree the tensors are right: they are what was trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.checkpoints.stock_names import LAYOUT_LEAF, InLayer, place_in_layer
from pipeline.models.dalle_config import ATTENTION_TYPES, DalleConfig
from pipeline.models.sparse_layout import Layout, draw_layout, layout_of_tensor

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
        return cls(weights, places)

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
            for name, place in sorted(self.places.items(), key=lambda item: item[1].layer)
            if place.leaf == LAYOUT_LEAF
        }


def settle_config(
    hparams: Mapping[str, Any],
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
    layers = [place.layer for place in tensors.places.values()]
    shown = _sizes(hparams, tensors)
    depth = max(layers) + 1
    attn_types = _attn_types(hparams, tensors, depth)
    seq_len = shown["text_seq_len"] + shown["image_fmap_size"] ** 2
    return DalleConfig(
        **shown,
        depth=depth,
        attn_dropout=float(hparams.get("attn_dropout") or 0),
        ff_dropout=float(hparams.get("ff_dropout") or 0),
        loss_img_weight=float(hparams.get("loss_img_weight", 7)),
        reversible=any(place.reversible for place in tensors.places.values()),
        attn_types=attn_types,
        stable=bool(hparams.get("stable", False)),
        sandwich_norm=any(p.leaf == "norm_out.weight" for p in tensors.places.values()),
        shift_tokens=tensors.wrappers("net.0.weight") > 2,
        rotary_emb="text_pos_emb.weight" not in tensors.weights,
        shared_attn_ids=_ids(hparams.get("shared_attn_ids")),
        shared_ff_ids=_ids(hparams.get("shared_ff_ids")),
        share_input_output_emb="text_emb.linear.weight" in tensors.weights,
        sparse_layout=_layout(attn_types, tensors, seq_len, redraw_layout),
        conv_centred="conv_like" in attn_types and _is_centred(version, tensors),
    )


def differences(hparams: Mapping[str, Any], config: DalleConfig) -> list[str]:
    """What the `hparams` say otherwise than the tensors: "dim 512, in truth 544"."""
    found = config.as_dict()
    return [
        f"{name} {hparams[name]}, in truth {found[name]}"
        for name in ("dim", "depth", "heads", "dim_head", "text_seq_len", "num_text_tokens")
        if hparams.get(name) is not None and hparams[name] != found[name]
    ]


def _sizes(hparams: Mapping[str, Any], tensors: StockTensors) -> dict[str, int]:
    weights = tensors.weights
    total, dim = weights["to_logits.1.weight"].shape
    text_seq_len, fmap_size = _lengths(hparams, weights)
    if "text_emb.weight" in weights:
        total_text = weights["text_emb.weight"].shape[0]
    elif "num_text_tokens" in hparams:
        total_text = hparams["num_text_tokens"] + text_seq_len
    else:
        raise ModelError(
            "Text and image share one table and the checkpoint doesn't say `num_text_tokens`, so "
            "nothing tells where the text ends in it."
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


def _lengths(hparams: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """The text's length, and the codes of an image's side."""
    if "text_pos_emb.weight" in weights:
        for name in ("image_pos_emb.weights.0", "image_pos_emb.weights_0"):
            if name in weights:
                return weights["text_pos_emb.weight"].shape[0] - 1, weights[name].shape[1]
        raise ModelError("The checkpoint has positions of text and none of images.")
    angles, text = weights.get("transformer.pos_emb"), hparams.get("text_seq_len")
    if angles is None or text is None:
        raise ModelError("The checkpoint has neither positions nor the length of its text.")
    # Up to 1.1.2 the last position, whose angles are never used, was left out.
    codes = angles.shape[-2] - text - (0 if angles.ndim == 4 else 1)
    size = math.isqrt(max(codes, 0))
    if size**2 != codes or size == 0:
        raise ModelError(
            f"With a text of {text} the checkpoint has positions of {codes} codes, which is no square."
        )
    return text, size


def _heads(hparams: Mapping[str, Any], tensors: StockTensors) -> tuple[int, int]:
    """Heads and width of a head: the tensors know the product, the layout of sparse attention more."""
    inner = next(
        tensors.weights[name].shape[0] // 3
        for name, place in tensors.places.items()
        if place.leaf == "to_qkv.weight"
    )
    heads = hparams.get("heads") or DEFAULT_HEADS
    for name, place in tensors.places.items():
        if place.leaf == LAYOUT_LEAF:
            heads = tensors.weights[name].shape[0]
    if inner % heads:
        heads = inner // (hparams.get("dim_head") or DEFAULT_DIM_HEAD)
    if heads == 0 or inner % heads:
        raise ModelError(
            f"Neither `heads` nor `dim_head` divide the {inner} channels of attention."
        )
    return heads, inner // heads


def _attn_types(hparams: Mapping[str, Any], tensors: StockTensors, depth: int) -> tuple[Any, ...]:
    given = hparams.get("attn_types") or ("full",)
    types = tuple(given.split(",")) if isinstance(given, str) else tuple(given)
    strange = [kind for kind in types if kind not in ATTENTION_TYPES]
    if strange:
        raise ModelError(
            f"The checkpoint has attention of the type {strange[0]!r}; known: "
            f"{', '.join(ATTENTION_TYPES)}."
        )
    sparse = set(tensors.layouts)
    spread = [types[layer % len(types)] for layer in range(depth)]
    if not sparse or sparse == {layer for layer in range(depth) if spread[layer] == "sparse"}:
        return types
    return tuple("sparse" if layer in sparse else spread[layer] for layer in range(depth))


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
    if version is None:
        return not tensors.caching
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    return numbers < CONV_CAUSAL_SINCE


def _ids(given: Any) -> tuple[int | str, ...] | None:
    return None if given is None else tuple(given)
