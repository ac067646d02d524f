"""Options of `pipeline verify`."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(StageConfig):
    """Which checks to make, and whether to repair."""

    pictures: int = option(
        16, "Images to decode and compare for each set of codes; 0 for none.", low=0
    )
    repair: bool = option(
        False,
        "Remove only what is damaged, so that the printed commands make it again; what can't be made again "
        "is kept as NAME.damaged.",
    )
