"""Parameter names: ours, and those of dalle-pytorch 0.9 to 1.6.6 ("theirs").

Their layers are nested in wrappers, one `fn` each: `transformer.layers.layers.3.0.fn.fn.fn.to_qkv.weight`.
The wrappers are LayerScale, PreNorm, with token shift one for shifting, and since 1.4.0 a caching wrapper
before each of these. Reversible layers are named `transformer.layers.blocks.3.f.net.` and so on. Layers
that share an attention or a feed-forward repeat its tensors. Image positions are `weights_0` before
version 0.3.0 of axial-positional-embedding, `weights.0` since.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.transformer import number_by_first_use

BRANCHES = ("attention", "feed_forward")
# Endings of their names, and ours.
NORMS = ("norm.weight", "norm.bias", "norm_out.weight", "norm_out.bias")
ATTENTION_LEAVES = {
    "to_qkv.weight": "to_qkv.weight",
    "to_out.0.weight": "to_out.weight",
    "to_out.0.bias": "to_out.bias",
}
FEED_FORWARD_LEAVES = {
    "net.0.weight": "to_hidden.weight",
    "net.0.bias": "to_hidden.bias",
    "net.3.weight": "to_out.weight",
    "net.3.bias": "to_out.bias",
}
LEAVES = (ATTENTION_LEAVES, FEED_FORWARD_LEAVES)
LAYOUT_LEAF = "attn_fn.master_layout"
OUTSIDE = {
    "text_pos_emb.weight": "text_pos_emb.weight",
    "image_pos_emb.weights.0": "image_pos_emb.rows",
    "image_pos_emb.weights.1": "image_pos_emb.columns",
    "transformer.pos_emb": "transformer.angles_LR",
    "to_logits.0.weight": "norm_out.weight",
    "to_logits.0.bias": "norm_out.bias",
    "to_logits.1.weight": "to_logits.weight",
    "to_logits.1.bias": "to_logits.bias",
    "text_emb.weight": "text_emb.weight",
    "image_emb.weight": "image_emb.weight",
}
# With share_input_output_emb both embeddings are the head.
SHARED_EMBEDDINGS = {
    f"{name}.linear.{leaf}": f"to_logits.{leaf}"
    for name in ("text_emb", "image_emb")
    for leaf in ("weight", "bias")
}
_LAYER = re.compile(
    r"transformer\.layers\.(?:layers\.(?P<layer>\d{1,6})\.(?P<branch>[01])"
    r"|blocks\.(?P<block>\d{1,6})\.(?P<stream>[fg])\.net)\.(?P<wrappers>(?:fn\.)*)(?P<leaf>.+)"
)


@dataclass(frozen=True)
class InLayer:
    """The place of one of their tensors: `branch` 0 is attention, 1 feed-forward; `wrappers` counts `fn`."""

    layer: int
    branch: int
    wrappers: int
    leaf: str
    reversible: bool


def place_in_layer(their_name: str) -> InLayer | None:
    """Parse one of their names; None for a tensor outside the layers."""
    match = _LAYER.fullmatch(their_name)
    if match is None:
        return None
    reversible = match["block"] is not None
    branch = "fg".index(match["stream"]) if reversible else int(match["branch"])
    return InLayer(
        layer=int(match["block"] if reversible else match["layer"]),
        branch=branch,
        wrappers=match["wrappers"].count("fn"),
        leaf=match["leaf"],
        reversible=reversible,
    )


def our_name(their_name: str, config: DalleConfig) -> str | None:
    """Our name for one of their tensors; None for a tensor that we don't have."""
    place = place_in_layer(their_name)
    if place is None:
        name = re.sub(r"weights_(\d)$", r"weights.\1", their_name)
        return OUTSIDE.get(name) or SHARED_EMBEDDINGS.get(name)
    if place.leaf == "scale" or place.leaf in NORMS:
        return f"transformer.layers.{place.layer}.{BRANCHES[place.branch]}.{place.leaf}"
    leaf = LEAVES[place.branch].get(place.leaf)
    if leaf is None or place.layer >= config.depth:
        return None
    ids = (config.layer_attn_ids, config.layer_ff_ids)[place.branch]
    number = number_by_first_use(ids)[place.layer]
    return f"transformer.{BRANCHES[place.branch]}s.{number}.{leaf}"


def name_pairs(config: DalleConfig) -> Iterator[tuple[str, str]]:
    """(theirs, ours) for all tensors of 1.6.6, except the image codec's and the sparse layouts."""
    outside = dict(OUTSIDE)
    if config.share_input_output_emb:
        outside |= SHARED_EMBEDDINGS
    absent = ["transformer.pos_emb"]
    if config.rotary_emb:
        absent = [name for name in outside if "pos_emb." in name]
    if config.share_input_output_emb:
        absent += ["text_emb.weight", "image_emb.weight"]
    yield from ((theirs, ours) for theirs, ours in outside.items() if theirs not in absent)
    for layer in range(config.depth):
        for branch in range(2):
            for theirs in _branch_names(config, layer, branch):
                ours = our_name(theirs, config)
                assert ours is not None
                yield theirs, ours


def layer_prefix(config: DalleConfig, layer: int, branch: int) -> str:
    """The prefix of a branch's wrappers in 1.6.6."""
    if config.reversible:
        return f"transformer.layers.blocks.{layer}.{'fg'[branch]}.net."
    return f"transformer.layers.layers.{layer}.{branch}."


def wrapper_count(config: DalleConfig, branch: int) -> int:
    """The number of `fn` before the tensors of an attention (0) or a feed-forward (1) in 1.6.6."""
    return (3 if branch == 0 else 2) + (2 if config.shift_tokens else 0)


def their_shape(their_name: str, shape: torch.Size) -> tuple[int, ...]:
    """The shape of one of their tensors, given our `shape`."""
    if their_name.endswith(".scale"):
        return (1, 1, *shape)
    if their_name == "transformer.pos_emb":
        return (1, *shape)
    if their_name.endswith("weights.0"):
        return (1, shape[0], 1, shape[1])
    if their_name.endswith("weights.1"):
        return (1, 1, *shape)
    return tuple(shape)


def _branch_names(config: DalleConfig, layer: int, branch: int) -> Iterator[str]:
    prefix = layer_prefix(config, layer, branch)
    yield f"{prefix}scale"
    yield from (f"{prefix}fn.{norm}" for norm in NORMS[: 4 if config.sandwich_norm else 2])
    wrappers = "fn." * wrapper_count(config, branch)
    yield from (f"{prefix}{wrappers}{leaf}" for leaf in LEAVES[branch])
