"""Text of anyone as a terminal may see it. Core layer: imports nothing of ours."""

from __future__ import annotations

import re

# Control characters (an escape among them), marks that turn the direction of what follows, separators of
# lines and paragraphs, and surrogates, which no encoding has.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]"
)


def printable(text: str) -> str:
    """The text with whatever a terminal would act upon written out, as `\\x1b` or `\\u202e`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
