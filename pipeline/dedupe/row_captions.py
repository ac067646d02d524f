"""The captions of a row of the ledger, from its columns `caption` and `captions`. Pure."""

from __future__ import annotations

import json
from typing import NamedTuple

from pipeline.core.captions import Caption, caption_of, find_defect, usable_captions


class RowCaptions(NamedTuple):
    """A row's usable captions, and the one that stands for the row: the first of them.

    If none is usable, `first` is the one in the column `caption`. `listed` counts the row's different texts,
    `bad` those that were left out beside a usable one.
    """

    first: Caption
    usable: tuple[Caption, ...]
    listed: int = 1
    bad: int = 0

    @property
    def defect(self) -> str | None:
        """Why the row has no usable caption, None if it has one."""
        if self.usable:
            return None
        found = str(find_defect(self.first.caption))
        if self.listed == 1:
            return found
        return f"none of its {self.listed} captions can be used; of the first, {found}"


def read_row_captions(caption: str | None, captions: str | None) -> RowCaptions:
    """The captions of a row; `captions` is a JSON list with all of them, or None if there is only one."""
    if captions is None:
        usable = usable_captions([caption])
        return RowCaptions(usable[0] if usable else caption_of(caption), usable)
    texts = list(dict.fromkeys([caption, *json.loads(captions)]))
    usable = usable_captions(texts)
    bad = sum(not usable_captions([text]) for text in texts) if usable else 0
    return RowCaptions(usable[0] if usable else caption_of(caption), usable, len(texts), bad)
