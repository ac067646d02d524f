"""The options of stages that can spread their parts over machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.core.config import WorkConfig, option
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EngineConfig(WorkConfig):
    """Where a stage runs its parts."""

    engine: Literal["local", "ray"] = option(
        "local",
        "Run on this machine (local) or on a Ray cluster (extra ray). The results are the same.",
        runtime=True,
    )
    ray_address: str | None = option(
        None,
        "With --engine ray: address of a running cluster, such as auto or ray://HOST:10001. Its machines "
        "need the workspace at the same path (default: start Ray on this machine).",
        runtime=True,
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for an address without Ray."""
        if self.ray_address is not None and self.engine != "ray":
            raise ConfigError("--ray-address needs --engine ray: give both, or neither.")

    def where(self) -> Engine:
        """The engine that the options name."""
        return LOCAL if self.engine == "local" else Engine(name="ray", address=self.ray_address)
