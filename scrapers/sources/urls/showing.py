"""What is printed before the first request: the columns that are used, three rows, what is left out."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import islice

from pipeline.core.plain_text import plain_line
from scrapers.config import ScrapeConfig
from scrapers.fetch.page_urls import without_credentials
from scrapers.source import CaptionPlan
from scrapers.sources.urls.columns import OpenList
from scrapers.sources.urls.config import UrlsConfig
from scrapers.sources.urls.counting import Counts
from scrapers.sources.urls.faults import SHOWN, Faults
from scrapers.sources.urls.rows import select_rows

logger = logging.getLogger(__name__)

_ROWS = 3
_MAX_TEXT = 100
# A response, while nothing is known of the host.
_ANSWER_S = 0.25
_MOST = 0.5
_LONG_HOURS = 1.0


def show_list(opened: OpenList, config: UrlsConfig) -> None:
    """Print which columns of a list are used, and its first rows."""
    logger.info("%s", describe_columns(opened))
    rows = select_rows(opened, Faults(), Counter(), shard=config.shard_of)
    for plan in islice((plan for some in rows for plan in some.plans()), _ROWS):
        logger.info("  %s", describe_plan(plan))


def describe_columns(opened: OpenList) -> str:
    """The columns of a list and their use, in a sentence."""
    layout, columns = opened.layout, opened.table.columns
    captions = ", ".join(layout.captions) or "none (each image gets an empty caption)"
    parts = [f"{opened.file.name}: URL from {layout.url}", f"caption from {captions}"]
    if layout.keep:
        parts.append(f"kept beside it: {', '.join(layout.keep)}")
    if layout.hash is not None:
        parts.append(f"{layout.hash[0]} from {layout.hash[1]}")
    unused = [name for name in columns if name not in layout.wanted()]
    if unused:
        parts.append(f"not used: {', '.join(unused)}")
    return "; ".join(parts) + ". Its first rows:"


def describe_plan(plan: CaptionPlan) -> str:
    """A row in one line."""
    captions = (plan.forms[0].caption, *plan.captions)
    texts = " | ".join(_cut(caption) for caption in captions)
    extra = f"  {plan.extra}" if plan.extra else ""
    return plain_line(f"{without_credentials(plan.forms[0].url_template)}  {texts}{extra}")


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def warn_of_faults(counts: Counts) -> None:
    """Log how many rows are broken, and the first ten."""
    faults = counts.faults
    if not faults.total:
        return
    logger.warning("%s", counts.sentences()[0])
    for text in faults.first:
        logger.warning("  %s", text)
    if faults.total > SHOWN:
        logger.warning("  … and %s more.", f"{faults.total - SHOWN:,}")


def warn_of_one_host(counts: Counts, config: ScrapeConfig) -> None:
    """Warn if one host has most rows and its pace makes them last for hours."""
    ((origin, number),) = counts.origins.most_common(1)
    interval_s = max(
        _ANSWER_S / config.concurrency, 0.0 if config.rate is None else 1.0 / config.rate
    )
    hours = number * interval_s / 3600
    if number < _MOST * counts.rows or hours < _LONG_HOURS:
        return
    logger.warning(
        "%s of %s rows are on one host, %s: at its pace (--rate, --concurrency) they take about %s hours, "
        "however many machines help. Its robots.txt may ask for more.",
        f"{number:,}",
        f"{counts.rows:,}",
        without_credentials(origin),
        f"{hours:,.1f}",
    )
