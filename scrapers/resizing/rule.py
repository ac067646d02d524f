"""By which rule images are resized when they arrive: sizes in pixels. Imports nothing heavy.

The modes and their rounding are those of img2dataset's `resize_mode`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

logger = logging.getLogger(__name__)

ResizeMode = Literal["keep_ratio_largest", "keep_ratio", "center_crop", "border"]
EncodeFormat = Literal["jpg", "png", "webp"]
_NOTE = "resized"  # how the images of a ledger are resized
_AS_THEY_CAME = "as they came"
_BY_LONGER_SIDE = frozenset({"keep_ratio_largest", "border"})


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class Layout(NamedTuple):
    """Scale an image to `scaled`, then cut its middle out, or put white around it, up to `final`."""

    scaled: Size
    final: Size


@dataclass(frozen=True, kw_only=True)
class ResizeRule:
    """The side that counts becomes `size` pixels: the longer one, or the shorter one with keep_ratio.

    Smaller images are left as they are, unless `enlarge`. center_crop and border make squares. `quality` is
    that of JPEG and WebP, 1–100.
    """

    size: int
    mode: ResizeMode = "keep_ratio_largest"
    enlarge: bool = False
    format: EncodeFormat = "jpg"
    quality: int = 95

    def layout(self, width: int, height: int) -> Layout | None:
        """The layout of an image of this size; None if it stays as it is."""
        by_longer = self.mode in _BY_LONGER_SIDE
        side = max(width, height) if by_longer else min(width, height)
        if side <= self.size and not self.enlarge:
            return None
        scale = self.size / side
        scaled = Size(max(1, _rounded(width * scale)), max(1, _rounded(height * scale)))
        final = Size(self.size, self.size) if self.mode in ("center_crop", "border") else scaled
        if scaled == (width, height) == final:
            return None
        return Layout(scaled, final)

    def __str__(self) -> str:
        more = ", smaller ones enlarged" if self.enlarge else ""
        quality = "" if self.format == "png" else f" of quality {self.quality}"
        return f"{self.mode} {self.size}{more}, as {self.format}{quality}"


class Noted(Protocol):
    """The ledger, as far as notes are concerned."""

    def meta(self, name: str) -> str | None:
        """A note stored beside the rows."""

    def set_meta(self, name: str, value: str | None) -> None:
        """Store a note."""

    def last_time(self) -> int:
        """When a row was last requested; 0 if there is none."""


def note_rule(ledger: Noted, rule: ResizeRule | None) -> None:
    """Note in the ledger how images are resized from now on; warn if earlier ones are different."""
    wanted = _AS_THEY_CAME if rule is None else str(rule)
    noted = ledger.meta(_NOTE) or (_AS_THEY_CAME if rule is None or ledger.last_time() else None)
    if noted == wanted:
        return
    if noted is not None:
        logger.warning(
            "Images that were stored before stay as they are (%s); new ones are stored otherwise (%s). "
            "Use another --workspace to have all of them alike.",
            noted,
            wanted,
        )
    ledger.set_meta(_NOTE, wanted)


def _rounded(number: float) -> int:
    """To the nearest integer, halves to the even one."""
    return round(number)
