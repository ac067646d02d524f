"""Hyper-parameters of a DALL·E, named as in DALLE-pytorch 1.6.6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import cycle, islice
from typing import Any

from pipeline.core.errors import ModelError
from pipeline.models.dalle.attention_types import ATTENTION_TYPES, AttentionType
from pipeline.models.dalle.sparse_layout import Layout, check_layout, draw_layout

LayerId = int | str
MOST_POSITIONS = 1 << 15  # a mask has a byte for each pair of positions
MOST_LAYERS = 1024


def _size(*, high: int) -> int:
    """A number that is in a dalle.pt's hyper-parameters, and in the shapes of its tensors."""
    bounded: int = field(metadata={"low": 1, "high": high, "hparam": "size"})
    return bounded


def _hparam(default: Any, *, hparam: str = "always", **limits: float) -> Any:
    """An argument of dalle-pytorch's `DALLE`, and when a dalle.pt has it."""
    return field(default=default, metadata={**limits, "hparam": hparam})


@dataclass(frozen=True, kw_only=True)
class DalleConfig:
    """A model's architecture: the one list of its hyper-parameters, in the order of a dalle.pt.

    `num_text_tokens` is the tokenizer's vocabulary with its padding id 0, without the padding ids of each
    position. The image is `image_fmap_size` × `image_fmap_size` codes. The layers cycle through
    `attn_types` and the shared ids; layers with the same id share their weights. Dropouts are in 0..1.
    `sparse_layout` is the layout of all `sparse` layers (`sparse_layout.py`; default: drawn with seed 0).
    `conv_centred` selects `conv_like` as before 1.5.0. Raises ModelError for invalid values.
    """

    num_text_tokens: int = _size(high=1 << 24)
    text_seq_len: int = _size(high=MOST_POSITIONS)
    dim: int = _size(high=1 << 16)
    depth: int = _size(high=MOST_LAYERS)
    heads: int = _size(high=1 << 12)
    dim_head: int = _size(high=1 << 14)
    reversible: bool = _hparam(False)
    loss_img_weight: float = _hparam(7.0, low=0, high=1e9)
    attn_types: tuple[AttentionType, ...] = _hparam(("full",))
    ff_dropout: float = _hparam(0.0, low=0, high=1)
    attn_dropout: float = _hparam(0.0, low=0, high=1)
    stable: bool = _hparam(False)
    shift_tokens: bool = _hparam(False)
    rotary_emb: bool = _hparam(False)
    # DALLE before 1.4.0 does not know these.
    sandwich_norm: bool = _hparam(False, hparam="if set")
    shared_attn_ids: tuple[LayerId, ...] | None = _hparam(None, hparam="if set")
    shared_ff_ids: tuple[LayerId, ...] | None = _hparam(None, hparam="if set")
    share_input_output_emb: bool = _hparam(False, hparam="if set")
    # No arguments of DALLE: the first two are its codec's.
    num_image_tokens: int = field(metadata={"low": 1, "high": 1 << 24})
    image_fmap_size: int = field(metadata={"low": 1, "high": 256})
    sparse_layout: Layout | None = None
    conv_centred: bool = False

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.attn_types if kind not in ATTENTION_TYPES]
        if unknown or not self.attn_types:
            raise ModelError(
                f"attn_types is {list(self.attn_types)}; each must be one of {', '.join(ATTENTION_TYPES)}."
            )
        if self.shared_attn_ids == () or self.shared_ff_ids == ():
            raise ModelError(
                "shared_attn_ids and shared_ff_ids must have at least one id, or be None."
            )
        self._check_positions()
        self._check_shared_types()
        self._settle_layout()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DalleConfig:
        """The inverse of `as_dict`; accepts lists in place of tuples, as JSON has them.

        Raises ModelError for unknown or missing names.
        """
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        try:
            return cls(**given)
        except TypeError as error:
            raise ModelError(f"These are not a model's hyper-parameters: {error}.") from error

    def as_dict(self) -> dict[str, Any]:
        """The hyper-parameters as JSON values."""
        return asdict(self)

    @property
    def image_seq_len(self) -> int:
        """Codes per image."""
        return self.image_fmap_size**2

    @property
    def total_seq_len(self) -> int:
        """Positions of a sequence in training: BOS, the text, the image without its last code."""
        return self.text_seq_len + self.image_seq_len

    @property
    def total_text_tokens(self) -> int:
        """Text ids with one padding id for each position."""
        return self.num_text_tokens + self.text_seq_len

    @property
    def total_tokens(self) -> int:
        """Ids of the joint vocabulary: text, padding, image."""
        return self.total_text_tokens + self.num_image_tokens

    @property
    def layer_types(self) -> tuple[AttentionType, ...]:
        """The kind of attention in each layer."""
        return tuple(islice(cycle(self.attn_types), self.depth))

    @property
    def layer_attn_ids(self) -> tuple[LayerId, ...]:
        """The id of each layer's attention weights."""
        return self._spread(self.shared_attn_ids)

    @property
    def layer_ff_ids(self) -> tuple[LayerId, ...]:
        """The id of each layer's feed-forward weights."""
        return self._spread(self.shared_ff_ids)

    def _spread(self, ids: tuple[LayerId, ...] | None) -> tuple[LayerId, ...]:
        return tuple(islice(cycle(ids or range(self.depth)), self.depth))

    def _check_positions(self) -> None:
        if self.total_seq_len > MOST_POSITIONS:
            raise ModelError(
                f"text_seq_len {self.text_seq_len} and image_fmap_size {self.image_fmap_size} make "
                f"{self.total_seq_len:,} positions, expected at most {MOST_POSITIONS:,}."
            )

    def _settle_layout(self) -> None:
        layout = None
        if "sparse" in self.attn_types:
            layout = self.sparse_layout or draw_layout(self.total_seq_len)
            check_layout(layout, self.total_seq_len)
        object.__setattr__(self, "sparse_layout", layout)

    def _check_shared_types(self) -> None:
        kinds: dict[LayerId, AttentionType] = {}
        for layer, (kind, name) in enumerate(
            zip(self.layer_types, self.layer_attn_ids, strict=True)
        ):
            if kinds.setdefault(name, kind) != kind:
                raise ModelError(
                    f"Layer {layer} is {kind} and shares the attention {name!r} with a layer that is "
                    f"{kinds[name]}. Give attn_types and shared_attn_ids that match."
                )


NAMES = tuple(each.name for each in fields(DalleConfig))
# How each argument of dalle-pytorch's `DALLE` gets into a dalle.pt, in the file's order.
HPARAMS = {
    each.name: each.metadata["hparam"] for each in fields(DalleConfig) if "hparam" in each.metadata
}
