"""`pipeline verify --repair`: remove exactly what is damaged, and name the commands that make it again.

What happens depends on the kind of file:

- **Fetched** (raw/): images whose bytes are lost are requested again by the next scrape; the others stay.
- **Computed** (dedupe, codes, shards): a damaged file is deleted and its folder becomes unfinished; the next
  run of its stage makes what is missing from the same inputs, with the same bytes. A damaged shard stays
  until then: its headers name the samples that it holds.
- **Trained or generated** (tokenizers, codecs, checkpoints, images): nothing is deleted. A file with
  an intact copy elsewhere in the workspace is restored; any other is kept as NAME.damaged.
- Files that only describe a codec or a run (log, card, samples) are kept as NAME.damaged and removed from the
  manifest.
- The ledger and workspace.json can't be made again: they are reported, and stay.

Undamaged files are never touched. If a repair is killed, the workspace can still be repaired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.core.stage import Stage, load_function
from pipeline.core.stages import stage_of
from pipeline.verify.faults import Checked
from pipeline.verify.repair_computed import drop_damaged
from pipeline.verify.work import FolderRepair, Repairs


def repair(root: Path, checked: Sequence[Checked], stages: Mapping[str, Stage]) -> Repairs:
    """Repair the damaged folders; the commands also cover unfinished ones.

    `stages` are all stages by name; the commands are built from them.
    """
    repairs = Repairs()
    for each in checked:
        work = FolderRepair(
            root=root, checked=each, everything=checked, repairs=repairs, stages=stages
        )
        if each.state == "unfinished":
            work.add_command()
        stage = stage_of(each.folder.contract)
        if stage.finish_repair is not None and not each.faults:
            load_function(stage.finish_repair)(work)
        if each.faults:
            try:
                (drop_damaged if stage.repair is None else load_function(stage.repair))(work)
            except PipelineError as error:
                work.give_up(str(error))
    return repairs
