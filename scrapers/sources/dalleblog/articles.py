"""`a` or `an`: which one precedes a word.

It is unknown whether the article in the page's captions follows the chosen word, so a caption is requested in
both spellings; this module returns the one that agrees.

`an` precedes a vowel sound. By spelling: a, e, i, o, u, unless they sound like "you" or "w" (`unicorn`,
`ukulele`, `useful`, `ukiyo-e`, `european`, `ewe`, `one-way`); a silent h (`hourglass`, `honest`, `heirloom`);
8, 11, 18 and 80; single letters and words spoken letter by letter that begin with a vowel sound (`x-ray`,
`s`, `mp3 player`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

_VOWEL = re.compile(r"[aeiouáàâäãåæéèêëíìîïóòôöõøœúùûü]")
# "you" and "w" sounds. `uni…` is one of them unless it is un- before in or im: unimpressed.
_CONSONANT_SOUND = re.compile(
    r"uni(?!n|m)|unanim|u(?:k|t[ei]|s[aeiu]|r[aeiou]n|biq|fo\b|ganda|ruguay|zbek)"
    r"|eu|ewe|one(?![a-z])|onesie|once\b|ouija"
)
_SILENT_H = re.compile(r"hour|honest|honou?r|heir")
_SPOKEN_VOWEL = re.compile(
    r"8|11(?![0-9])|18(?![0-9])|[aefhilmnorsx](?![a-z’'])|mp[0-9]|fm\b|lcd|led\b|hd\b"
)


@lru_cache(maxsize=4096)
def article_for(words: str) -> Literal["a", "an"]:
    """The article that agrees with the first of `words` (lower case)."""
    if _SILENT_H.match(words) or _SPOKEN_VOWEL.match(words):
        return "an"
    if _VOWEL.match(words) and not _CONSONANT_SOUND.match(words):
        return "an"
    return "a"
