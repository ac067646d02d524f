"""Which device computes. Floor 3."""

from __future__ import annotations

import torch

from pipeline.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device `name`, `cpu` or `cuda`; `auto` is CUDA where there is any.

    Raises ConfigError where it is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: torch sees no CUDA device here. Use --device cpu or auto."
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
