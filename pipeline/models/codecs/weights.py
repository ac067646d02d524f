"""Put tensors into a codec, or say which of them do not fit. Floor 3."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.codecs.base import Codec


def load_weights(codec: Codec, weights: Mapping[str, Tensor], complaint: str) -> None:
    """Copy `weights` into the codec, whose state they must match name by name and shape by shape.

    Raises ModelError, beginning with `complaint` ("A does not fit B"), that names the first tensor of
    another shape, the first missing and the first extra one, with their shapes.
    """
    expected = codec.state_dict()
    changed = [n for n in expected if n in weights and weights[n].shape != expected[n].shape]
    missing = [name for name in expected if name not in weights]
    extra = [name for name in weights if name not in expected]
    parts = []
    if changed:
        found, wanted = (_shapes(changed[:1], side) for side in (weights, expected))
        parts.append(f"tensor {changed[0]} has the shape {found}, expected {wanted}")
    if missing:
        parts.append(
            f"{len(missing)} tensors are missing, the first is {missing[0]} {_shapes(missing, expected)}"
        )
    if extra:
        parts.append(
            f"{len(extra)} are too many, the first is {extra[0]} {_shapes(extra, weights)}"
        )
    if parts:
        raise ModelError(f"{complaint}: {'; '.join(parts)}. Give files that belong together.")
    codec.load_state_dict(weights)


def _shapes(names: Iterable[str], tensors: Mapping[str, Tensor]) -> str:
    """The shape of the first of `names`."""
    return str(tuple(tensors[next(iter(names))].shape))
