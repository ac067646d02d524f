"""`pipeline verify --repair`: drop exactly what is damaged, and say which command makes it anew.

The rule, by what a file is:

- **fetched** (raw/): images whose bytes are lost are asked for again by the next scrape; the others stay.
- **computed** (dedupe, codes, shards): a damaged file is deleted and its folder is unfinished; the next run
  of its stage makes what is missing, from the same inputs in the same bytes. A damaged shard stays until
  then: which samples it holds is read from its headers.
- **trained or drawn** (tokenizers, codecs, checkpoints, images): nothing is deleted. A file whose bytes are
  whole elsewhere in the workspace is brought back; any other is kept as NAME.damaged.
- What only describes a codec or a run (its log, its card, its samples) is kept as NAME.damaged, and the
  manifest no longer lists it.
- The ledger and workspace.json can't be made again: they are named, and stay.

Files that are whole are never touched. A repair that is killed leaves a workspace that can be repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.core.stage import Stage
from pipeline.verify.faults import Checked
from pipeline.verify.repair_computed import (
    drop_damaged,
    repair_raw,
    repair_shards,
    sweep_raw,
)
from pipeline.verify.repair_trained import (
    repair_codec,
    repair_generated,
    repair_run,
    repair_tokenizer,
)
from pipeline.verify.work import Repairs, Work

# Of the others, damaged files are deleted, and the stage makes them again.
_HANDLERS: Mapping[str, Callable[[Work], None]] = {
    "raw": repair_raw,
    "shards": repair_shards,
    "tokenizer": repair_tokenizer,
    "codec": repair_codec,
    "run": repair_run,
    "generated": repair_generated,
}


def repair(root: Path, checked: Sequence[Checked], stages: Mapping[str, Stage]) -> Repairs:
    """Repair the folders that were found damaged; commands are those of unfinished ones, too.

    `stages` are all stages by name: the commands are theirs.
    """
    repairs = Repairs()
    for each in checked:
        work = Work(root=root, checked=each, everything=checked, repairs=repairs, stages=stages)
        if each.state == "unfinished":
            work.add_command()
        if each.folder.contract == "raw" and not each.faults:
            sweep_raw(work)
        if each.faults:
            try:
                _HANDLERS.get(each.folder.contract, drop_damaged)(work)
            except PipelineError as error:
                work.give_up(str(error))
    return repairs
