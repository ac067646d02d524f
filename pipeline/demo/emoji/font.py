"""The emoji font: find it, and draw emoji with it.

The bitmaps of Noto Color Emoji are 136×128 pixels, at size 109 only. An emoji of several code points, such as
a flag or a family, is one glyph if the text is shaped by HarfBuzz, which Pillow calls through Raqm.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from pipeline.core.errors import ConfigError, DependencyError
from pipeline.core.regular_files import read_regular

SIDE = 136
_SIZE = 109
_TOP = 4  # the height of the bitmaps is 8 less than their width
_UNKNOWN_FLAG = 2 * "\N{REGIONAL INDICATOR SYMBOL LETTER X}"
_MAX_FONT_BYTES = 256 << 20
FONTS = (
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),  # Debian, Ubuntu
    Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"),  # Arch
    Path("/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf"),  # Fedora
    Path.home() / ".local/share/fonts/NotoColorEmoji.ttf",
)
LISTS = (Path("/usr/share/unicode/emoji/emoji-test.txt"),)
INSTALL = "apt-get install fonts-noto-color-emoji unicode-data"


def find_file(given: Path | None, usual: Sequence[Path], *, what: str, flag: str) -> Path:
    """The file given with `flag`, or else the first of the usual ones that exists.

    Raises DependencyError if there is none.
    """
    if given is not None:
        return given
    for path in usual:
        if path.is_file():
            return path
    raise DependencyError(
        f"{what} is not installed: found none of {', '.join(map(str, usual))}. Install it (on Debian and "
        f"Ubuntu: {INSTALL}), or give the file with {flag}."
    )


class EmojiFont:
    """A font that draws emoji."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError for a file that is no such font, DependencyError if Pillow can't shape text."""
        if not (features.check("raqm") and features.check("fribidi")):
            raise DependencyError(
                "Pillow can't compose flags and families here: it needs Raqm (which its wheels contain) and "
                "FriBiDi (on Debian and Ubuntu: apt-get install libfribidi0)."
            )
        self.data = read_regular(path, max_bytes=_MAX_FONT_BYTES)
        try:
            self._font = ImageFont.truetype(
                io.BytesIO(self.data), _SIZE, layout_engine=ImageFont.Layout.RAQM
            )
            self._advance = self._font.getlength("\N{GRINNING FACE}")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path} is not a font with emoji bitmaps of size {_SIZE} ({error}). Give the "
                "NotoColorEmoji.ttf of Debian's fonts-noto-color-emoji, or another with the table CBDT."
            ) from error

    def draw(self, text: str) -> Image.Image | None:
        """An emoji on transparency, RGBA of 136×136 pixels; None if it is not one glyph of the font."""
        try:
            if self._font.getlength(text) != self._advance:
                return None
            image = self._draw(text)
        except (OSError, ValueError, RuntimeError):
            return None  # text that Raqm can't lay out, or a bitmap that FreeType can't read
        return None if image.tobytes() in self._placeholders else image

    @functools.cached_property
    def _placeholders(self) -> frozenset[bytes]:
        """What the font draws for what it lacks: nothing, or the flag of an unknown region."""
        return frozenset(self._draw(text).tobytes() for text in ("", _UNKNOWN_FLAG))

    def _draw(self, text: str) -> Image.Image:
        image = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
        ImageDraw.Draw(image).text((0, _TOP), text, font=self._font, embedded_color=True)
        return image
