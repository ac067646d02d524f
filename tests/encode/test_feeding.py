"""Feeding the encoder: all threads decode, ahead across parts; batches have one shape; copies are events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.kept_images import KeptImage, StoredImage, read_kept
from pipeline.core.workspace import Workspace
from pipeline.encode import batches, encoder
from pipeline.encode.batches import Batch, Task, decode_parts
from pipeline.encode.encoder import Encoder, Fetched
from pipeline.encode.run import run
from pipeline.models.codecs.load import load_codec
from pipeline.models.codecs.pixels import Pixels, to_images
from pipeline.models.codecs.vqgan_network import attend
from tests.encode.test_run import codec, codes_folder, files_of, make_config

__all__ = ["codec"]

MakeWorkspace = Callable[..., Workspace]
SIDE = 32
LIMIT_S = 120


def make_tasks(count: int, *, first: int = 0) -> list[Task]:
    place = StoredImage("00000.tar", 0, 0, "")
    return [
        Task(image=KeptImage(pixel_sha256=f"{n:03d}", key="", place=place), views=("center",))
        for n in range(first, first + count)
    ]


def decoded(tasks: Sequence[Task]) -> Batch:
    """A batch whose pixels are the numbers of its images."""
    numbers = [int(task.image.pixel_sha256) for task in tasks]
    pixels_BHWC = np.zeros((len(tasks), SIDE, SIDE, 3), np.uint8)
    pixels_BHWC += np.array(numbers, np.uint8)[:, None, None, None]
    views = tuple((task.image.pixel_sha256, "center") for task in tasks)
    return Batch(images=len(tasks), views=views, pixels_BHWC=pixels_BHWC, failures=())


def decode_all(parts: Sequence[Sequence[Task]], *, batch_size: int, threads: int) -> list[Batch]:
    with ThreadPoolExecutor(threads) as pool:
        return list(decode_parts(Path(), parts, side=SIDE, batch_size=batch_size, threads=pool))


def test_one_batch_keeps_all_threads_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 images are four pieces of 16, none of which ends before all four have begun."""
    together = threading.Barrier(4)

    def decode(_segments: Path, tasks: Sequence[Task], _side: int) -> Batch:
        together.wait(LIMIT_S)
        return decoded(tasks)

    monkeypatch.setattr(batches, "decode_piece", decode)
    (batch,) = decode_all([make_tasks(64)], batch_size=64, threads=4)
    assert [key for key, _ in batch.views] == [f"{n:03d}" for n in range(64)]
    assert batch.pixels_BHWC[:, 0, 0, 0].tolist() == list(range(64))


def test_the_next_part_is_decoded_before_the_last_one_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = threading.Barrier(3)

    def decode(_segments: Path, tasks: Sequence[Task], _side: int) -> Batch:
        together.wait(LIMIT_S)
        return decoded(tasks)

    monkeypatch.setattr(batches, "decode_piece", decode)
    parts = [make_tasks(5), make_tasks(5, first=5), make_tasks(2, first=10)]
    found = decode_all(parts, batch_size=8, threads=3)
    assert [len(batch.views) for batch in found] == [5, 5, 2]  # no batch has images of two parts


def test_batches_come_in_order_though_later_pieces_are_decoded_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last_done = threading.Event()

    def decode(_segments: Path, tasks: Sequence[Task], _side: int) -> Batch:
        if tasks[-1].image.pixel_sha256 == "039":
            last_done.set()
        else:
            assert last_done.wait(LIMIT_S)
        return decoded(tasks)

    monkeypatch.setattr(batches, "decode_piece", decode)
    found = decode_all([make_tasks(40)], batch_size=20, threads=4)
    keys = [key for batch in found for key, _ in batch.views]
    assert keys == [f"{n:03d}" for n in range(40)]


def test_no_more_is_decoded_ahead_than_a_few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def decode(_segments: Path, tasks: Sequence[Task], _side: int) -> Batch:
        begun.append(len(tasks))
        return decoded(tasks)

    monkeypatch.setattr(batches, "decode_piece", decode)
    monkeypatch.setattr(batches, "count_cores", lambda: 2)
    parts = [make_tasks(16, first=16 * part) for part in range(15)]
    with ThreadPoolExecutor(2) as threads:
        found = decode_parts(Path(), parts, side=SIDE, batch_size=16, threads=threads)
        next(found)
    assert sum(begun) == 16 * 5  # four batches or, as here, two pieces a core wait


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_failures_and_views_are_those_of_their_images(
    make_workspace: MakeWorkspace, batch_size: int
) -> None:
    workspace = make_workspace(40, broken=(3, 17))
    tasks = [Task(image=image, views=("center", "flip")) for image in read_kept(workspace).values()]
    with ThreadPoolExecutor(2) as pool:
        found = list(
            decode_parts(
                workspace.segments,
                [tasks[:33], tasks[33:]],
                side=SIDE,
                batch_size=batch_size,
                threads=pool,
            )
        )
    failed = {failure.image.key for batch in found for failure in batch.failures}
    assert failed == {"key_00003", "key_00017"}
    expected = [
        (task.image.pixel_sha256, view)
        for task in tasks
        if task.image.key not in failed
        for view in task.views
    ]
    assert [view for batch in found for view in batch.views] == expected
    assert sum(batch.images for batch in found) == 38


def test_an_error_of_the_stage_ends_decoding_ahead(
    make_workspace: MakeWorkspace, codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(40)
    decode, begun = batches.decode_piece, []

    def count(segments: Path, tasks: Sequence[Task], side: int) -> Batch:
        begun.append(len(tasks))
        return decode(segments, tasks, side)

    def fail(*_: object) -> Any:
        raise RuntimeError("a shape is wrong")

    monkeypatch.setattr(batches, "decode_piece", count)
    monkeypatch.setattr(Encoder, "encode", fail)
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        run(make_config(workspace, codec, batch_size="1", workers=1))
    assert not [t.name for t in set(threading.enumerate()) - before if "Pool" in t.name]
    assert sum(begun) < 40


# --- Shapes --------------------------------------------------------------------------------------


@pytest.fixture
def graphs() -> Iterator[Any]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def test_smaller_batches_need_no_graphs_of_their_own_and_have_the_same_codes(
    codec: Path, graphs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (9, SIDE, SIDE, 3), dtype=np.uint8)
    expected_BN = Encoder(load_codec(codec), 4).encode(pixels_BHWC)
    compiled = Encoder(load_codec(codec), 4)
    compiled.compile(backend="eager")
    compiled.encode(pixels_BHWC[:4])
    made = graphs["stats"]["unique_graphs"]
    assert made > 0
    for count in (9, 4, 3, 1, 2):
        assert torch.equal(compiled.encode(pixels_BHWC[:count]), expected_BN[:count])
    assert graphs["stats"]["unique_graphs"] == made
    assert "can't be compiled" not in caplog.text


def test_an_uncompiled_encoder_on_a_cpu_gets_no_more_than_there_is(
    codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Encoder(load_codec(codec), 8)
    sizes = []

    def watch(pixels_BHWC: Pixels, device: torch.device) -> torch.Tensor:
        sizes.append(len(pixels_BHWC))
        return to_images(pixels_BHWC, device)

    monkeypatch.setattr(encoder, "to_images", watch)
    made.encode(np.zeros((11, SIDE, SIDE, 3), np.uint8))
    assert sizes == [8, 3]


def test_codes_are_those_that_were_computed() -> None:
    codes_BN = torch.tensor([[1, 2], [65535, 0]])
    assert Fetched(codes_BN).wait().tolist() == [[1, 2], [65535, 0]]


def test_attention_with_an_axis_of_heads_is_the_same() -> None:
    q_BXC, k_BXC, v_BXC = torch.randn(3, 2, 16, 32, generator=torch.Generator().manual_seed(0))
    plain_BXC = attend(q_BXC, k_BXC, v_BXC, fused=False)
    torch.testing.assert_close(attend(q_BXC, k_BXC, v_BXC, fused=True), plain_BXC)


def test_the_parts_are_the_same_for_any_number_of_threads(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    one, many = make_workspace(40, name="one"), make_workspace(40, name="many")
    run(make_config(one, codec, workers=1))
    run(make_config(many, codec, workers=7))
    assert files_of(codes_folder(one)) == files_of(codes_folder(many))
