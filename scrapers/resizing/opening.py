"""Opens the workers that resize, importing what they need only if there is something to resize."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pipeline.core.engine import LOCAL, Engine
from scrapers.resizing.rule import ResizeRule

if TYPE_CHECKING:
    from scrapers.resizing.workers import Resizer


def open_resizer(
    rule: ResizeRule | None, engine: Engine = LOCAL
) -> contextlib.AbstractContextManager[Resizer | None]:
    """The worker processes that resize by a rule; none without one."""
    if rule is None:
        return contextlib.nullcontext()
    from scrapers.resizing.workers import Resizer  # numpy and Pillow, which other crawls don't need

    return contextlib.closing(Resizer(rule, engine=engine))
