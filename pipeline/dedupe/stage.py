"""Declaration of the stage `dedupe`."""

from __future__ import annotations

from pipeline.core.contracts import Contract, CountLaw
from pipeline.core.stage import Stage
from pipeline.dedupe.config import DedupeConfig

STAGE = Stage(
    name="dedupe",
    help="Inspect every image once; write tables of kept and rejected images and of captions.",
    config=DedupeConfig,
    entry_point="pipeline.dedupe.run:run",
    contract=Contract(
        name="dedupe",
        version=2,  # 2: all captions of an image, and `extra`
        oldest_read=1,
        maker="dedupe",
        place="dedupe",
        own_files=r"(kept|rejected)/\d+\.parquet|(captions|inspections)\.parquet|README\.md"
        r"|work\.sqlite(-wal|-shm|-journal)?|rows\.partial/.+",
        count_law=CountLaw("rows", ("kept", "rejected", "failed")),
    ),
    writes=("dedupe",),
    reads=("raw",),
    on_change="The tables are rewritten; images are not decoded again.",
    rewrites=True,
    why_run="pipeline.dedupe.run:why_run",
    check="pipeline.verify.tables:check_tables",
)
