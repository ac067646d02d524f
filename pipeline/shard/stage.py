"""Declaration of the stage `shard`."""

from __future__ import annotations

from pipeline.core.contracts import Contract, CountLaw
from pipeline.core.stage import Stage
from pipeline.shard.config import ShardConfig

STAGE = Stage(
    name="shard",
    help="Join captions, token ids and codes into WebDataset shards.",
    config=ShardConfig,
    entry_point="pipeline.shard.run:run",
    contract=Contract(
        name="shards",
        version=1,
        maker="shard",
        place="shards/*",
        own_files=r"(train|val)/\d{6,}\.(tar|idx\.npy)"
        r"|index\.json|tokenizer\.json|README\.md|left_out\.parquet|scratch/.+",
        count_law=CountLaw("images", ("written", "rejected", "failed"), "further_captions"),
        earlier_mark="scratch/base.npz",
    ),
    writes=("shards/{name}",),
    reads=("dedupe", "codes"),
    on_change="The shards of this name are rewritten.",
    rewrites=True,
    sets_latest_models=True,
    chooses=("codec", "tokenizer"),
    check="pipeline.verify.shards:check_shards",
    repair="pipeline.verify.repair_computed:repair_shards",
)
