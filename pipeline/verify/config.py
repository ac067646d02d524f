"""Options of `pipeline verify`."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(StageConfig):
    """What to check."""

    pictures: int = option(
        16, "Images of each set of codes to decode and compare; 0 for none.", low=0
    )
    repair: bool = option(
        False,
        "Drop just what is damaged, so that the commands that are printed make it anew; what can't be made "
        "anew is kept beside as NAME.damaged.",
    )
