"""The colours that captions name, one well-separated RGB value each.

Imports no drawing code: the metric for colours of generated images uses the same table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

RGB = tuple[int, int, int]

PALETTE: Mapping[str, RGB] = MappingProxyType(
    {
        "red": (214, 32, 38),
        "green": (34, 150, 62),
        "blue": (32, 92, 222),
        "yellow": (252, 216, 38),
        "orange": (246, 132, 24),
        "purple": (120, 34, 150),
        "violet": (150, 104, 238),
        "magenta": (226, 20, 150),
        "pink": (255, 158, 196),
        "black": (20, 20, 24),
        "white": (250, 250, 250),
        "gray": (132, 136, 142),
        "beige": (214, 186, 146),
        "brown": (112, 66, 34),
        "navy": (18, 28, 96),
        "olive": (112, 122, 30),
        "ivory": (250, 240, 188),
        "gold": (196, 148, 28),
    }
)

_NAMES = re.compile(r"\b(" + "|".join((*PALETTE, "grey")) + r")\b")


def colours_named(caption: str) -> tuple[str, ...]:
    """The palette colours that `caption` names, in order and without repetition; `grey` counts as `gray`."""
    found = (name.replace("grey", "gray") for name in _NAMES.findall(caption.lower()))
    return tuple(dict.fromkeys(found))


def squared_distance(first: RGB, second: RGB) -> int:
    """Squared Euclidean distance in RGB."""
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
