"""The stages in the order of `pipeline run`. A new stage is a package and a line here."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.stage import Stage
from pipeline.dedupe.stage import STAGE as DEDUPE
from pipeline.encode.stage import STAGE as ENCODE
from pipeline.generate.stage import STAGE as GENERATE
from pipeline.report.stage import STAGE as REPORT
from pipeline.shard.stage import STAGE as SHARD
from pipeline.train.stage import STAGE as TRAIN
from pipeline.train_codec.stage import STAGE as TRAIN_CODEC
from pipeline.train_tokenizer.stage import STAGE as TRAIN_TOKENIZER
from scrapers.stage import STAGE as SCRAPE

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        SCRAPE,
        DEDUPE,
        TRAIN_TOKENIZER,
        TRAIN_CODEC,
        ENCODE,
        SHARD,
        TRAIN,
        GENERATE,
        REPORT,
    )
}


def default_workspace(source: str) -> Path:
    """The default workspace of a source."""
    return Path("data") / source
