"""Images of several requests share a batch; what nobody waits for is not drawn; the queue has an end."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.inputs import find_model_inputs
from pipeline.generate.prompts import Prompt, list_orders
from pipeline.generate.sampler import encode_prime, load_sampler
from pipeline.models.dalle.continuous import ContinuousBatch
from pipeline.models.dalle.static_cache import StaticCache
from pipeline.serve.config import ServeConfig
from pipeline.serve.drawing.drawing_queue import ClosedError, DrawingQueue, QueueFullError
from pipeline.serve.drawing.jobs import (
    Begun,
    Drawn,
    Event,
    Failed,
    Finished,
    Job,
    Preview,
    Prime,
    Recipe,
)
from pipeline.serve.drawing.models import Models
from tests.helpers.generate import write_codec, write_run, write_step

RECIPE = Recipe(model="dalle")
CODES = 16  # of an image


class Client:
    """Collects the events of a job; `hold` blocks the drawing thread at the first event of that kind."""

    def __init__(self, *, on: Callable[[Event], None] = lambda event: None, **options: Any) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self._on = on
        fields: dict[str, Any] = {
            "recipe": RECIPE,
            "prompt": "a red cube",
            "seed": 0,
            "count": 1,
        } | options
        self.job = Job(listener=self._listen, **fields)

    def _listen(self, event: Event) -> None:
        self._on(event)
        self.events.put(event)

    def wait(self) -> list[Event]:
        """All events up to the last one."""
        found: list[Event] = []
        while not found or not isinstance(found[-1], Finished | Failed):
            found.append(self.events.get(timeout=60))
        return found

    def images(self) -> list[Drawn]:
        return [event for event in self.wait() if isinstance(event, Drawn)]


@pytest.fixture
def workspace(tmp_path: Any) -> Workspace:
    workspace = Workspace(tmp_path / "workspace").open("a source")
    write_run(workspace, codec=write_codec(workspace, "mine", seed=2))
    return workspace


@pytest.fixture
def steps() -> list[tuple[int, int]]:
    """The images of each step, and those that were finished with it."""
    return []


@pytest.fixture
def make_drawing_queue(
    workspace: Workspace, steps: list[tuple[int, int]]
) -> Iterator[Callable[..., DrawingQueue]]:
    made: list[DrawingQueue] = []

    def make(**options: Any) -> DrawingQueue:
        config = ServeConfig(workspace=workspace.root, device="cpu", threads=1, **options)
        models = Models(config)
        drawing_queue = DrawingQueue(
            models.get,
            queue=config.queue,
            on_step=lambda images, finished, seconds: steps.append((images, finished)),
        )
        made.append(drawing_queue)
        return drawing_queue

    yield make
    for drawing_queue in made:
        drawing_queue.close()


def held() -> tuple[Client, threading.Event, threading.Event]:
    """A client whose batch waits in the drawing thread until the second event is set."""
    entered, go_on = threading.Event(), threading.Event()

    def hold(event: Event) -> None:
        if isinstance(event, Begun):
            entered.set()
            assert go_on.wait(60)

    return Client(on=hold, prompt="held"), entered, go_on


def test_images_are_those_of_the_command_generate(
    make_drawing_queue: Callable[..., DrawingQueue], workspace: Workspace
) -> None:
    client = Client(count=3, seed=7)
    make_drawing_queue().submit(client.job)
    config = GenerateConfig(workspace=workspace.root, device="cpu", threads=1)
    sampler = load_sampler(config, find_model_inputs(config, workspace))
    orders = list_orders([Prompt(text="a red cube")], count=3, seed=7)
    images = client.images()
    assert [image.seed for image in images] == [order.seed for order in orders]
    assert np.array_equal([image.pixels_HWC for image in images], sampler.draw(orders))


def test_requests_that_wait_together_are_drawn_in_one_batch(
    make_drawing_queue: Callable[..., DrawingQueue], steps: list[tuple[int, int]]
) -> None:
    drawing_queue = make_drawing_queue(batch_size=8)
    first, entered, go_on = held()
    drawing_queue.submit(first.job)
    assert entered.wait(60)
    clients = [Client(prompt=f"cube {n}", seed=n, count=2) for n in range(3)]
    other = Client(recipe=Recipe(model="dalle", temperature=0.5))
    for client in (clients[0], other, *clients[1:]):
        drawing_queue.submit(client.job)
    go_on.set()
    assert [len(client.images()) for client in (*clients, other)] == [2, 2, 2, 1]
    assert steps == [(8, 0)] * (CODES - 1) + [(8, 8)]


def test_a_job_larger_than_the_batch_is_drawn_as_rows_become_free(
    make_drawing_queue: Callable[..., DrawingQueue], steps: list[tuple[int, int]]
) -> None:
    client = Client(count=6)
    make_drawing_queue(batch_size=4).submit(client.job)
    assert [image.index for image in client.images()] == [0, 1, 2, 3, 4, 5]
    assert [step for step in steps if step[1]] == [(4, 4), (2, 2)]


def joined(drawing_queue: DrawingQueue, late: Client, **options: Any) -> tuple[Client, list[Event]]:
    """Submits `late` at the first client's preview, when at least a row of its image is drawn.

    Returns that client, and the events of both in the order in which they came.
    """
    order: list[Event] = []

    def submit(event: Event) -> None:
        order.append(event)
        if isinstance(event, Preview) and not late.job.given and late.events.empty():
            drawing_queue.submit(late.job)

    first = Client(on=submit, prompt="first", previews=True, **options)
    late._on = order.append
    drawing_queue.submit(first.job)
    return first, order


def test_a_request_joins_the_batch_that_is_drawn_and_leaves_it_later(
    make_drawing_queue: Callable[..., DrawingQueue],
    steps: list[tuple[int, int]],
    workspace: Workspace,
) -> None:
    late = Client(recipe=Recipe(model="dalle", cond_scale=2.0), seed=5)
    first, _ = joined(make_drawing_queue(), late, seed=7)
    images = first.images() + late.images()
    # The last code of the first image is drawn together with one of the second, which ends 4 or more later.
    assert [step for step in steps if step[1]] == [(2, 1), (1, 1)]
    assert steps.count((1, 0)) >= 4
    for image, prompt, seed, cond_scale in zip(
        images, ("first", "a red cube"), (7, 5), (1.0, 2.0), strict=True
    ):
        options: dict[str, Any] = {"workspace": workspace.root, "device": "cpu", "threads": 1}
        config = GenerateConfig(cond_scale=cond_scale, **options)
        sampler = load_sampler(config, find_model_inputs(config, workspace))
        orders = list_orders([Prompt(text=prompt)], count=1, seed=seed)
        assert np.array_equal(image.pixels_HWC, sampler.draw(orders)[0])


def test_a_client_that_leaves_frees_its_rows_for_those_that_wait(
    make_drawing_queue: Callable[..., DrawingQueue], steps: list[tuple[int, int]]
) -> None:
    drawing_queue = make_drawing_queue(batch_size=4)
    leaving: Client

    def leave(event: Event) -> None:
        if isinstance(event, Preview):
            drawing_queue.cancel(leaving.job)

    leaving = Client(on=leave, previews=True, count=3)
    stays, waits = Client(prompt="stays"), Client(prompt="waits", count=3)
    first, entered, go_on = held()
    drawing_queue.submit(first.job)
    assert entered.wait(60)
    for client in (leaving, stays, waits):
        drawing_queue.submit(client.job)
    drawing_queue.cancel(first.job)
    go_on.set()
    assert len(stays.images()) == 1
    assert len(waits.images()) == 3
    assert [step for step in steps if step[1]] == [(4, 1), (3, 3)]


def test_an_image_that_fails_does_not_fail_its_neighbours(
    make_drawing_queue: Callable[..., DrawingQueue],
    steps: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, entered, go_on = held()
    drawing_queue = make_drawing_queue()
    drawing_queue.submit(first.job)
    assert entered.wait(60)
    lost, fine = Client(prompt="lost", count=2), Client(prompt="fine")
    drawing_queue.submit(lost.job)
    drawing_queue.submit(fine.job)
    real = ContinuousBatch._draw

    def draw(batch: ContinuousBatch, group: Any) -> None:
        with torch.inference_mode():
            batch._logits_BV[1] = float("nan")  # the first image of `lost`
        real(batch, group)

    monkeypatch.setattr(ContinuousBatch, "_draw", draw)
    go_on.set()
    event = lost.wait()[-1]
    assert isinstance(event, Failed)
    assert "not finite" in str(event.error)
    assert [len(client.images()) for client in (first, fine)] == [1, 1]
    assert sum(drawn for _, drawn in steps) == 3


@pytest.mark.parametrize("step", [0, 5])
def test_when_memory_runs_out_fewer_rows_draw_the_same_images(
    step: int,
    make_drawing_queue: Callable[..., DrawingQueue],
    steps: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Client(count=6, seed=3)
    make_drawing_queue().submit(whole.job)
    expected = [image.pixels_HWC for image in whole.images()]
    steps.clear()
    real = ContinuousBatch.step

    def run_out(batch: ContinuousBatch) -> None:
        if batch.rows == 8 and len(steps) == step:
            raise torch.OutOfMemoryError("out of memory")
        real(batch)

    monkeypatch.setattr(ContinuousBatch, "step", run_out)
    client = Client(count=6, seed=3)
    make_drawing_queue(batch_size=8).submit(client.job)
    found = {image.index: image.pixels_HWC for image in client.images()}
    assert np.array_equal([found[index] for index in range(6)], expected)
    # Four continue from their codes, two of them wait for a row.
    assert [finished for _, finished in steps if finished] == [4, 2]
    assert len(steps) == CODES + 1 + CODES - step


def test_memory_that_runs_out_while_images_are_admitted_costs_none_of_them(
    make_drawing_queue: Callable[..., DrawingQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StaticCache.put

    def run_out(cache: StaticCache, *arguments: Any) -> None:
        if cache.rows == 8:
            raise torch.OutOfMemoryError("out of memory")
        real(cache, *arguments)

    monkeypatch.setattr(StaticCache, "put", run_out)
    client = Client(count=6)
    make_drawing_queue(batch_size=8).submit(client.job)
    assert len(client.images()) == 6


def test_an_uploaded_image_is_encoded_once_for_all_images_of_a_request(
    make_drawing_queue: Callable[..., DrawingQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = mock.Mock(side_effect=encode_prime)
    monkeypatch.setattr("pipeline.serve.drawing.loaded.encode_prime", encoded)
    prime = Prime(digest="0", pixels_HWC=np.zeros((32, 32, 3), np.uint8), rows=1)
    client = Client(count=9, recipe=Recipe(model="dalle", prime=prime))
    make_drawing_queue(batch_size=4).submit(client.job)
    assert len(client.images()) == 9
    assert encoded.call_count == 1


def test_requests_for_two_models_in_turn_load_each_once(workspace: Workspace) -> None:
    write_step(workspace.run("second"), 4, codec=_codec_of(workspace))
    models = Models(ServeConfig(workspace=workspace.root, device="cpu", threads=1))
    find = mock.Mock(side_effect=models.get)
    drawing_queue = DrawingQueue(find, queue=64)
    first, entered, go_on = held()
    drawing_queue.submit(first.job)
    assert entered.wait(60)
    clients = [Client(recipe=Recipe(model=name)) for name in ("second", "dalle") * 3]
    for client in clients:
        drawing_queue.submit(client.job)
    go_on.set()
    assert [len(client.images()) for client in clients] == [1] * 6
    drawing_queue.close()
    loads = [call.args[0] for call in find.call_args_list]
    assert [name for name, _ in itertools.groupby(loads)] == ["dalle", "second", "dalle"]


def test_memory_that_does_not_suffice_for_the_smallest_batch_fails_what_is_in_it(
    make_drawing_queue: Callable[..., DrawingQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(batch: ContinuousBatch) -> None:
        raise torch.OutOfMemoryError("out of memory")

    drawing_queue, lost, fine = make_drawing_queue(), Client(), Client()
    with monkeypatch.context() as patched:
        patched.setattr(ContinuousBatch, "step", run_out)
        drawing_queue.submit(lost.job)
        event = lost.wait()[-1]
    assert isinstance(event, Failed)
    assert "Out of memory with 4 images" in str(event.error)
    drawing_queue.submit(fine.job)
    assert len(fine.images()) == 1


def test_images_of_another_model_wait_until_the_batch_is_empty(
    make_drawing_queue: Callable[..., DrawingQueue], workspace: Workspace
) -> None:
    write_step(workspace.run("second"), 4, codec=_codec_of(workspace))
    late = Client(recipe=Recipe(model="second"))
    first, order = joined(make_drawing_queue(), late)
    first.wait()
    assert len(late.images()) == 1
    finished = next(n for n, event in enumerate(order) if isinstance(event, Finished))
    begun = [n for n, event in enumerate(order) if isinstance(event, Begun)]
    assert begun[0] < finished < begun[1]


def test_a_full_queue_refuses_and_says_when_to_come_again(
    make_drawing_queue: Callable[..., DrawingQueue],
) -> None:
    drawing_queue = make_drawing_queue(queue=4)
    first, entered, go_on = held()
    drawing_queue.submit(first.job)
    assert entered.wait(60)
    waiting = Client(count=4)
    drawing_queue.submit(waiting.job)
    with pytest.raises(QueueFullError) as full:
        drawing_queue.submit(Client().job)
    assert full.value.retry_after_s >= 1
    drawing_queue.cancel(waiting.job)
    assert drawing_queue.waiting == 0
    late = Client()
    drawing_queue.submit(late.job)
    go_on.set()
    assert len(late.images()) == 1


def test_a_waiting_job_that_is_cancelled_is_never_drawn(
    make_drawing_queue: Callable[..., DrawingQueue], steps: list[tuple[int, int]]
) -> None:
    drawing_queue = make_drawing_queue()
    first, entered, go_on = held()
    drawing_queue.submit(first.job)
    assert entered.wait(60)
    gone, stays = Client(prompt="gone"), Client(prompt="stays")
    drawing_queue.submit(gone.job)
    drawing_queue.submit(stays.job)
    drawing_queue.cancel(gone.job)
    go_on.set()
    assert len(stays.images()) == 1
    assert [step for step in steps if step[1]] == [(2, 2)]
    assert gone.events.empty()


def test_drawing_stops_when_all_clients_have_left(
    make_drawing_queue: Callable[..., DrawingQueue], steps: list[tuple[int, int]]
) -> None:
    drawing_queue = make_drawing_queue()

    def leave(event: Event) -> None:
        if isinstance(event, Preview):
            drawing_queue.cancel(leaving.job)

    leaving = Client(on=leave, previews=True)
    drawing_queue.submit(leaving.job)
    assert isinstance(leaving.events.get(timeout=60), Begun)
    assert isinstance(leaving.events.get(timeout=60), Preview)
    stays = Client(prompt="stays")
    drawing_queue.submit(stays.job)
    assert len(stays.images()) == 1
    assert leaving.events.empty()
    assert sum(finished for _, finished in steps) == 1  # the abandoned image was not finished


def test_previews_are_the_upper_rows_of_the_image(
    make_drawing_queue: Callable[..., DrawingQueue],
) -> None:
    client = Client(previews=True)
    make_drawing_queue().submit(client.job)
    events = client.wait()
    (image,) = (event for event in events if isinstance(event, Drawn))
    first = next(event for event in events if isinstance(event, Preview))
    assert first.height == image.pixels_HWC.shape[0] == 64
    assert first.pixels_HWC.shape == (16, 64, 3)


def test_a_model_that_fails_fails_its_requests_and_the_next_is_drawn(
    make_drawing_queue: Callable[..., DrawingQueue],
) -> None:
    drawing_queue = make_drawing_queue()
    lost, fine = Client(recipe=Recipe(model="no-such-run")), Client()
    drawing_queue.submit(lost.job)
    drawing_queue.submit(fine.job)
    (event,) = lost.wait()
    assert isinstance(event, Failed)
    assert isinstance(event.error, ModelError)
    assert len(fine.images()) == 1


def test_closing_fails_what_waits_and_refuses_what_comes(
    make_drawing_queue: Callable[..., DrawingQueue],
) -> None:
    drawing_queue = make_drawing_queue()
    first, entered, go_on = held()
    drawing_queue.submit(first.job)
    assert entered.wait(60)
    waiting = Client(prompt="waiting")
    drawing_queue.submit(waiting.job)
    closing = threading.Thread(target=drawing_queue.close)
    closing.start()
    while not drawing_queue._is_closed:
        time.sleep(0.01)
    go_on.set()
    closing.join(60)
    (event,) = waiting.wait()
    assert isinstance(event, Failed)
    assert isinstance(event.error, ClosedError)
    with pytest.raises(ClosedError):
        drawing_queue.submit(Client().job)


def test_the_model_not_used_for_longest_is_unloaded(workspace: Workspace) -> None:
    for name in ("second", "third"):
        write_step(workspace.run(name), 4, codec=_codec_of(workspace))
    models = Models(ServeConfig(workspace=workspace.root, device="cpu", loaded_models=2))
    assert list(models.runs) == ["dalle", "second", "third"]
    assert models.default() == "dalle"
    first = models.get("dalle")
    models.get("second")
    assert models.get("dalle") is first
    models.get("third")
    assert models.loaded == ["dalle", "third"]


def test_a_run_that_has_trained_on_is_loaded_again(workspace: Workspace) -> None:
    models = Models(ServeConfig(workspace=workspace.root, device="cpu"))
    write_step(workspace.run("growing"), 4, codec=_codec_of(workspace))
    before = models.get("growing")
    assert models.get("growing") is before
    write_step(workspace.run("growing"), 5, codec=_codec_of(workspace))
    after = models.get("growing")
    assert after.checkpoint != before.checkpoint


def _codec_of(workspace: Workspace) -> str:
    from pipeline.models.codecs.load import load_codec

    return load_codec(workspace.codec("mine")).fingerprint
