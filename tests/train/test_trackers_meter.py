"""FLOPs are those that torch counts for the model's matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.dalle import products
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.flops import training_flops
from pipeline.models.dalle.model import Dalle
from pipeline.models.devices import matmul_rate
from pipeline.train.trackers import Meter

CPU = torch.device("cpu")
MODEL = DalleConfig(
    dim=32,
    depth=3,
    heads=2,
    dim_head=24,
    text_seq_len=8,
    num_text_tokens=100,
    num_image_tokens=200,
    image_fmap_size=4,
)


def in_place_flops(_: Any, left: Sequence[int], right: Sequence[int], **_options: Any) -> int:
    """FLOPs of a product added to a matrix, by the shapes."""
    return 2 * left[0] * left[1] * right[1]


def test_the_formula_counts_the_products_that_torch_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "has_onednn", lambda: False)  # torch does not count oneDNN's own
    tokens_BT, codes_BN = torch.ones(2, 8, dtype=torch.long), torch.ones(2, 16, dtype=torch.long)
    in_place = {torch.ops.aten.addmm_: in_place_flops}  # which torch does not know of by itself
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        Dalle(MODEL)(tokens_BT, codes_BN).total.backward()
    counts = counter.get_flop_counts()["Global"]
    counted = sum(n for operation, n in counts.items() if "attention" not in str(operation))
    length, inner = MODEL.total_seq_len, MODEL.heads * MODEL.dim_head
    attention = 3 * MODEL.depth * 2 * inner * length**2  # causal, which torch does not look at
    assert counted == 2 * (training_flops(MODEL) - attention)


@pytest.fixture
def ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock under which a step takes 2 seconds, and training 10 so far; a device of 1 MFLOP/s."""
    clock = iter([0.0, 0.0, 2.0, 10.0])
    monkeypatch.setattr("pipeline.train.trackers.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("pipeline.train.trackers.matmul_rate", lambda device, dtype: 1e6)
    monkeypatch.setattr("pipeline.train.trackers.peak_bytes", lambda device: 10**9)


def values_of_a_step(device: torch.device) -> dict[str, float]:
    meter = Meter(MODEL, samples=8, size=2, precision="fp32", device=device)
    meter.begin()
    meter.end(1)
    return meter.values()


@pytest.mark.usefixtures("ten_seconds")
def test_mfu_is_work_by_time_and_speed() -> None:
    values = values_of_a_step(torch.device("cuda"))
    assert values["tokens_per_s"] == 8 * 24 / 2.0
    assert values["mfu"] == pytest.approx(8 * training_flops(MODEL) / 2 / 2.0 / 1e6)


@pytest.mark.usefixtures("ten_seconds")
def test_cpus_have_no_mfu() -> None:
    assert values_of_a_step(CPU) == {"tokens_per_s": 8 * 24 / 2.0, "memory_gb": 1.0}


def test_the_speed_of_products_is_measured() -> None:
    assert matmul_rate(CPU, torch.float32) > 1e8
