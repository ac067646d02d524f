"""Drawing by operators of fixed shapes: the codes of the growing cache, one graph, no recompilation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipeline.models.dalle import static_decoder
from pipeline.models.dalle.attention_types import ATTENTION_TYPES
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.continuous import ContinuousBatch
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import Choice, sample_codes
from pipeline.models.dalle.static_cache import StaticCache, captured_lengths
from pipeline.models.dalle.static_decoder import FixedShapes, StaticDecoder
from tests.oracles.dalle import randomise

TOKENS = torch.tensor([[1, 2, 3, 0, 0, 0, 0], [4, 5, 0, 0, 0, 0, 0]])
EVERY_KIND: dict[str, dict[str, Any]] = {
    **{kind: {"attn_types": (kind,)} for kind in ATTENTION_TYPES},
    "all kinds": {"attn_types": ATTENTION_TYPES, "depth": len(ATTENTION_TYPES)},
}
SWITCHES: dict[str, dict[str, Any]] = {
    **EVERY_KIND,
    "rotary and shift": {"rotary_emb": True, "shift_tokens": True},
    "the rest": {
        "reversible": True,
        "stable": True,
        "sandwich_norm": True,
        "share_input_output_emb": True,
        "shared_attn_ids": (0, 1),
        "shared_ff_ids": (0,),
    },
}


def make_model(**changes: Any) -> Dalle:
    config: dict[str, Any] = {
        "dim": 16,
        "depth": 2,
        "heads": 2,
        "dim_head": 12,
        "text_seq_len": 7,
        "num_text_tokens": 9,
        "num_image_tokens": 32,
        "image_fmap_size": 5,
    }
    torch.manual_seed(0)
    model = Dalle(DalleConfig(**{**config, **changes})).eval()
    randomise(model)
    return model


def draw(
    model: Dalle, rows: list[int], fixed: FixedShapes | None, **options: Any
) -> list[list[int]]:
    cond_scale = options.pop("cond_scale", 1.0)
    return sample_codes(
        model,
        TOKENS,
        rows=rows,
        image_seeds=range(len(rows)),
        choice=Choice(filter_thres=0.5, cond_scale=cond_scale),
        fixed=fixed,
        **options,
    ).tolist()


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
@pytest.mark.parametrize("cond_scale", [1.0, 2.0])
def test_the_codes_are_those_of_the_growing_cache(
    changes: dict[str, Any], cond_scale: float
) -> None:
    model = make_model(**changes)
    first_P = torch.arange(12)
    each_BP = torch.arange(5 * 17).view(5, 17) % 32
    for rows, first in (
        ([0, 0, 0, 0, 0], None),
        ([0, 1, 0, 0, 1], first_P),
        ([0, 1, 0, 0, 1], each_BP),
    ):
        options = {"cond_scale": cond_scale, "first_codes_P": first}
        expected = draw(model, rows, None, **options)
        assert draw(model, rows, FixedShapes(), **options) == expected
        assert len({tuple(codes) for codes in expected}) == len(rows)


def test_images_share_the_keys_of_their_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[StaticCache] = []

    class Watched(StaticCache):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            caches.append(self)

    monkeypatch.setattr(static_decoder, "StaticCache", Watched)
    model = make_model()
    for rows, cond_scale, expected in (
        ([0] * 6, 1.0, [(1, 6)]),
        ([0, 0, 0, 1, 1, 1], 1.0, [(2, 3)]),
        ([0, 0, 0, 0, 1, 1, 1], 1.0, [(2, 4)]),  # 8 rows for 7 images
        ([0, 0, 0, 0, 0, 0, 1], 1.0, [(7, 1)]),  # 12 rows would be too many
        ([0, 0, 0, 1, 1, 1], 2.0, [(2, 3), (1, 6)]),  # all share the empty caption
    ):
        draw(model, rows, FixedShapes(), cond_scale=cond_scale)
        captions = caches.pop().layers[0].captions
        assert [(len(part.keys), part.images) for part in captions] == expected


def test_the_tensors_of_a_batch_serve_the_next_one_of_the_same_shape() -> None:
    model, fixed = make_model(shift_tokens=True), FixedShapes()
    kept = []
    for rows, first in (
        ([0, 0, 0, 0, 0], None),
        ([1, 1, 1, 1, 1], torch.arange(9)),
        ([1, 1, 1, 1, 1], None),
        ([0, 1, 0, 1, 0, 1], None),
    ):
        options = {"cond_scale": 2.0, "first_codes_P": first}
        assert draw(model, rows, fixed, **options) == draw(model, rows, None, **options)
        kept.append(fixed._kept)
    assert kept[0] is kept[1] is kept[2] is not kept[3]
    fixed.forget()
    assert fixed._kept is None


def test_five_lengths_are_captured_of_which_the_last_is_the_image() -> None:
    assert captured_lengths(256) == (56, 112, 168, 224, 256)
    assert captured_lengths(1024) == (208, 416, 624, 832, 1024)
    assert captured_lengths(25) == (8, 16, 24, 25)
    assert captured_lengths(1) == (1,)


# --- Compiling -----------------------------------------------------------------------------------


@pytest.fixture
def graphs() -> Iterator[Any]:
    """Counters of torch's compiler, from zero."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    logging.getLogger("torch.__trace").propagate = False  # thousands of empty records
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_a_kind_of_attention_is_one_graph_at_all_positions(
    changes: dict[str, Any], graphs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """25 codes are read at four lengths, by several layers of each kind."""
    model = make_model(**{"depth": 3, **changes})
    fixed = FixedShapes(compile=True, backend="eager")
    expected = draw(model, [0] * 4, None)
    assert draw(model, [0] * 4, fixed) == expected
    assert graphs["stats"]["unique_graphs"] == 1
    assert not graphs["graph_break"]
    assert "uncompiled" not in caplog.text


def test_a_continuous_batch_is_not_compiled_again_for_each_number_of_images(
    graphs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model()
    batch = ContinuousBatch(model, rows=8, fixed=FixedShapes(compile=True, backend="eager"))
    for count in (5, 1, 1):  # of 5, 6, 7 rows
        batch.admit(TOKENS[0], seeds=range(count), choice=Choice())
        batch.step()
    while batch.ids:
        batch.step()
    assert graphs["stats"]["unique_graphs"] == 2  # one of 5 rows, one of any number
    assert "uncompiled" not in caplog.text


def test_a_compiler_that_fails_is_reported_once_and_the_images_are_the_same(
    caplog: pytest.LogCaptureFixture, graphs: Any
) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand much more")

    model = make_model(shift_tokens=True)
    fixed = FixedShapes(compile=True, backend=refuse)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert draw(model, [0] * 4, fixed) == draw(model, [0] * 4, None)
    assert caplog.text.count("drawing uncompiled") == 1
    assert "no C++ compiler" in caplog.text
    assert "much more" not in caplog.text


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: launch failure")],
    ids=str,
)
def test_a_gpu_that_is_full_or_fails_is_not_taken_for_a_compiler_that_fails(
    error: Exception,
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    model = make_model()
    cache = StaticCache(model, [(model.start_images(TOKENS, whole=False)[1], 2)])
    fixed = FixedShapes(compile=True)
    decoder = StaticDecoder(model, cache, fixed)
    decoder._compiled = fail
    zeros = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(type(error), match="CUDA"):
        decoder.next_logits(zeros, zeros, last=0)
    assert fixed.compile


# --- CUDA graphs ---------------------------------------------------------------------------------


class Recorded:
    """Stands for a CUDA graph: repeats the step whose operators were recorded last."""

    steps: list[Any]

    def replay(self) -> None:
        self.steps[0]()

    def pool(self) -> str:
        return "pool"


def test_a_length_is_recorded_at_its_second_step_and_then_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[tuple[int, int]] = []
    recording: list[str] = []

    class Recording:
        def __init__(self, graph: Recorded, pool: object, capture_error_mode: str) -> None:
            assert capture_error_mode == "thread_local"
            self.graph = graph

        def __enter__(self) -> None:
            recording.append("on")

        def __exit__(self, *_: object) -> None:
            rows, length = ran[-1]
            logits_BV = outputs[-1]
            self.graph.steps = [lambda: logits_BV.copy_(step(rows, length))]

    def step(rows: int, length: int) -> torch.Tensor:
        ran.append((rows, length))
        outputs.append(torch.full((1,), float(len(ran))))
        return outputs[-1]

    outputs: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    recorded = static_decoder._Graphs(FixedShapes(graphs=True))
    found = [recorded.run(step, 4, 8).item() for _ in range(4)]
    # The first runs; the second is recorded, which runs nothing on a device, and replayed like the rest.
    assert found == [1.0, 3.0, 4.0, 5.0]
    assert len(recording) == 1
    recorded.run(step, 4, 16)
    assert len(recording) == 1
    recorded.run(step, 4, 16)
    assert len(recording) == 2


def test_steps_that_cannot_be_recorded_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", Refusing)
    model = make_model()
    with caplog.at_level(logging.WARNING):
        assert draw(model, [0] * 4, FixedShapes(graphs=True)) == draw(model, [0] * 4, None)
    assert caplog.text.count("drawing without") == 1
