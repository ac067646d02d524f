"""The facts of `pipeline scrape`."""

from __future__ import annotations

from pipeline.core.contracts import URL_STATES, Contract, CountLaw
from pipeline.core.stage import Stage
from scrapers.options import all_options, build_config

STAGE = Stage(
    name="scrape",
    help="Fetch a source's captions and images into the raw store.",
    positional=("source", "inputs"),
    config=all_options(),
    builder=build_config,
    entry_point="scrapers.scrape:scrape",
    contract=Contract(
        name="raw",
        # 2: the hash of a segment is computed from the hashes of its images. 3: the state hash_mismatch.
        version=3,
        oldest_read=1,
        maker="scrape",
        place="raw",
        own_files=r"ledger\.sqlite(-wal|-shm|-journal)?|segments/\d{5,}\.tar|page\.(html|json)"
        r"|(sections|differences)\.json|refused/[\w-]+\.[a-z]+|archive\.sqlite(-wal|-shm|-journal)?"
        r"|merge\.(json|sqlite(-wal|-shm|-journal)?)",
        count_law=CountLaw("urls", URL_STATES),
    ),
    writes=("raw",),
    on_change="The images in the raw store are kept; those that are new in the plan are fetched.",
    why_run="scrapers.forecast:why_run",
    on_incomplete="pipeline scrape --retry-failed requests the failed ones again.",
    workspace_source="scrapers.source:source_to_open",
    check_changes="scrapers.options:check_changes",
    command_class="pipeline.app.scrape_command:scrape_command",
    check_files="pipeline.verify.raw:check_raw",
    repair="pipeline.verify.repair_computed:repair_raw",
    finish_repair="pipeline.verify.repair_computed:sweep_raw",
)
