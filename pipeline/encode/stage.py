"""The description of the stage `pipeline encode`."""

from __future__ import annotations

from pipeline.core.contracts import Contract, CountLaw
from pipeline.core.stage import Stage
from pipeline.encode.config import EncodeConfig

STAGE = Stage(
    name="encode",
    help="Encode each kept image to codes, once.",
    config=EncodeConfig,
    entry_point="pipeline.encode.run:run",
    contract=Contract(
        name="codes",
        version=1,
        maker="encode",
        place="codes/*",
        own_files=r"\d+\.parquet|(\d+\.)?failed\.jsonl|draft\.npz",
        count_law=CountLaw("images", ("encoded", "failed")),
        shared=True,
    ),
    writes=("codes",),
    reads=("dedupe",),
    on_change="Existing codes are kept; images without codes of this kind are encoded.",
    sets_latest_models=True,
    chooses=("codec",),
    imports=("codec", "codec"),
    folder_name="pipeline.encode.forecast:folder_name",
    why_run="pipeline.encode.forecast:why_run",
    check="pipeline.verify.codes:check_codes",
)
