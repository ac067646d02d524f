"""Small VQGANs in the published format."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

DDCONFIG: dict[str, Any] = {
    "double_z": False,
    "z_channels": 16,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.0,
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def vqgan_settings(*, gumbel: bool = False, **ddconfig: Any) -> dict[str, Any]:
    """What a published YAML holds; its critics are an Identity."""
    nothing = {"target": "torch.nn.Identity"}
    network = DDCONFIG | ddconfig
    params = {
        "embed_dim": network["z_channels"] if gumbel else 8,
        "n_embed": 64,
        "ddconfig": network,
        "lossconfig": nothing,
    }
    if gumbel:
        params |= {"kl_weight": 1e-8, "temperature_scheduler_config": nothing}
    target = "taming.models.vqgan." + ("GumbelVQ" if gumbel else "VQModel")
    return {"model": {"base_learning_rate": 4.5e-6, "target": target, "params": params}}


def write_yaml(path: Path, settings: object) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@contextmanager
def importable(name: str, **contents: Any) -> Iterator[ModuleType]:
    """A module that exists for as long as a pickle is written."""
    module = ModuleType(name)
    for key, value in contents.items():
        value.__module__, value.__qualname__ = name, key
        setattr(module, key, value)
    parts = name.split(".")
    parents = [".".join(parts[:end]) for end in range(1, len(parts))]
    added = [parent for parent in parents if parent not in sys.modules]
    for parent in added:
        sys.modules[parent] = ModuleType(parent)
    sys.modules[name] = module
    yield module
    for key in (name, *added):
        del sys.modules[key]
