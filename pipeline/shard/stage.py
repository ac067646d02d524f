"""Declaration of the stage `shard`."""

from __future__ import annotations

from pipeline.core.contracts import Contract, CountLaw
from pipeline.core.stage import FirstRun, Stage
from pipeline.shard.config import ShardConfig


def _encode_first(config: ShardConfig) -> FirstRun | None:
    """With --encode-vqgan: the codes to make, which `codec` then names."""
    if not config.encode_vqgan:
        return None
    asked = {
        "codec": config.codec,
        "vqgan_config": config.vqgan_config,
        "vqgan_checkpoint": config.vqgan_checkpoint,
    }
    return FirstRun("encode", {k: v for k, v in asked.items() if v is not None}, names="codec")


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
    runs_first=_encode_first,
    check="pipeline.verify.shards:check_shards",
    repair="pipeline.verify.repair_computed:repair_shards",
)
