"""Declaration of the stage `report`."""

from __future__ import annotations

from pipeline.core.stage import Stage
from pipeline.report.config import ReportConfig

STAGE = Stage(
    name="report",
    help="Write an HTML page that shows the whole workspace.",
    config=ReportConfig,
    entry_point="pipeline.report.run:run",
    writes=("report",),
    on_change="The page is rewritten.",
    why_run="pipeline.report.run:why_run",
)
