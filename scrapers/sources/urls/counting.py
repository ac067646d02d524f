"""The first pass over the lists: the rows to fetch, their hosts, and what is wrong with other rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import SourceError
from pipeline.core.progress import Progress, no_progress
from scrapers.sources.urls.columns import OpenList
from scrapers.sources.urls.config import UrlsConfig
from scrapers.sources.urls.faults import Faults
from scrapers.sources.urls.rows import Rows, select_rows

_ORIGIN = r"^(?P<origin>https?://[^/?#]+)"
# More hosts than this are not all remembered: those with the fewest rows are dropped.
_MAX_HOSTS = 200_000
_SKIPPED = {
    "where": "by --where or the preset's own condition",
    "other_shards": "in other shards",
    "no_caption": "without a caption",
}


@dataclass(kw_only=True)
class Counts:
    """What a pass over the lists found.

    `sections` are the rows to fetch by list, `origins` by host (``https://host``); `skipped` are the rows
    that were left out on purpose.
    """

    sections: Counter[str] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    faults: Faults = field(default_factory=Faults)
    num_origins: int = 0

    @property
    def rows(self) -> int:
        """The rows to fetch."""
        return self.sections.total()

    def sentences(self) -> tuple[str, ...]:
        """What was not used and why, for the report."""
        broken = self.faults.reasons.most_common()
        found = [f"{_rows(self.faults.total)} broken ({_listed(broken)})."] if broken else []
        left_out = [(_SKIPPED[reason], number) for reason, number in sorted(self.skipped.items())]
        if left_out:
            found.append(f"{_rows(self.skipped.total())} left out ({_listed(left_out)}).")
        return tuple(found)

    def add(self, rows: Rows) -> None:
        """Count rows to fetch."""
        self.sections[rows.section] += len(rows)
        found = pc.extract_regex(rows.urls, _ORIGIN).field("origin").value_counts()
        for origin, number in zip(
            found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True
        ):
            self.origins[origin] += number
        self.num_origins = max(self.num_origins, len(self.origins))
        if len(self.origins) > _MAX_HOSTS:
            self.origins = Counter(dict(self.origins.most_common(_MAX_HOSTS // 2)))


def count_rows(
    lists: Iterable[OpenList], config: UrlsConfig, progress: Progress = no_progress
) -> Counts:
    """Read the lists once, at most up to the limit. `progress` hears of the rows that were read.

    Raises SourceError as soon as more rows are broken than `--max-bad-rows` allows.
    """
    counts = Counts()
    for opened in lists:
        for rows in select_rows(opened, counts.faults, counts.skipped, shard=config.shard_of):
            room = len(rows) if config.limit is None else config.limit - counts.rows
            counts.add(rows.first(room))
            read = counts.rows + counts.skipped.total() + counts.faults.total
            planned = {"rows read": f"{read:,}", "planned": f"{counts.rows:,}"}
            progress(0, None, {**planned, "list": opened.file.name})
            _check_faults(counts.faults, config.max_bad_rows)
            if config.limit is not None and counts.rows >= config.limit:
                return counts
        _check_faults(counts.faults, config.max_bad_rows)
    pa.default_memory_pool().release_unused()
    return counts


def _rows(number: int) -> str:
    return "1 row is" if number == 1 else f"{number:,} rows are"


def _listed(counts: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{reason}: {number:,}" for reason, number in counts)


def _check_faults(faults: Faults, maximum: int | None) -> None:
    if maximum is not None and faults.total > maximum:
        raise SourceError(
            f"The lists have more than {maximum:,} broken rows (--max-bad-rows), the first: "
            f"{faults.first[0]}. Nothing was requested. Mend the list, or raise --max-bad-rows."
        )
