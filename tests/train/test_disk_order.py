"""A checkpoint that can be seen is whole, and the log that it counts on is on the disk before it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.core.workspace import Workspace
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
from tests.helpers.disk_order import DiskOrder


def test_the_log_then_the_tensors_then_the_description_then_the_name(
    workspace: Workspace, make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    order = DiskOrder(monkeypatch)
    run(make_config(steps=1, val_every=0))
    names = ("log.jsonl", "model.safetensors", "checkpoint.json", "step-000001", "checkpoints")
    assert order.of(*names) == [
        "sync log.jsonl",
        "rename log.jsonl",
        "sync log.jsonl",
        "sync model.safetensors",
        "rename model.safetensors",
        "sync step-000001",
        "sync checkpoint.json",
        "rename checkpoint.json",
        "sync step-000001",
        "rename step-000001",
        "sync checkpoints",
    ]
    assert order.events.index("sync checkpoints") < order.events.index("rename manifest.json")
