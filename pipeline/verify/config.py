"""Options of `pipeline verify`."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(StageConfig):
    """Which checks to make, and whether to repair."""

    images: int = option(
        16, "Images per set of codes to decode and compare with the original; 0 for none.", low=0
    )
    repair: bool = option(
        False,
        "Remove exactly what is damaged and print the commands that rebuild it. What can't be rebuilt is "
        "kept as NAME.damaged.",
    )
