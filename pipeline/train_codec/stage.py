"""The description of the stage `pipeline train-codec`."""

from __future__ import annotations

from pipeline.core.contracts import Contract
from pipeline.core.stage import Stage
from pipeline.train_codec.config import TrainCodecConfig

STAGE = Stage(
    name="train-codec",
    help="Train a small image codec on the kept images.",
    config=TrainCodecConfig,
    entry_point="pipeline.train_codec.run:run",
    contract=Contract(
        name="codec",
        version=1,
        maker="train-codec",
        place="codecs/*",
        own_files=r"codec\.(json|safetensors)|log\.jsonl|reconstructions\.png|checkpoint\.(pt|json)",
        trained_once=True,
        shared=True,
        earlier_mark="checkpoint.json",
    ),
    writes=("codecs/{name}",),
    reads=("dedupe",),
    on_change="A new codec is trained; the old one keeps its name.",
    trained_for=("encode", "codec"),
    numbered=True,
    repair="pipeline.verify.repair_trained:repair_codec",
)
