"""Images of several requests share batches; what nobody waits for is not drawn; the queue has an end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import ModelError
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.inputs import find_model_inputs
from pipeline.generate.prompts import Prompt, list_orders
from pipeline.generate.sampler import load_sampler
from pipeline.serve.config import ServeConfig
from pipeline.serve.drawing.drawing_queue import ClosedError, DrawingQueue, QueueFullError
from pipeline.serve.drawing.jobs import Begun, Drawn, Event, Failed, Finished, Job, Preview, Recipe
from pipeline.serve.drawing.models import Models
from tests.helpers.generate import write_codec, write_run, write_step

RECIPE = Recipe(model="dalle")


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
def batches() -> list[int]:
    return []


@pytest.fixture
def make_drawing_queue(
    workspace: Workspace, batches: list[int]
) -> Iterator[Callable[..., DrawingQueue]]:
    made: list[DrawingQueue] = []

    def make(**options: Any) -> DrawingQueue:
        config = ServeConfig(workspace=workspace.root, device="cpu", threads=1, **options)
        models = Models(config)
        drawing_queue = DrawingQueue(
            models.get,
            queue=config.queue,
            batch_size=config.batch_size,
            on_batch=lambda images, seconds: batches.append(images),
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
    make_drawing_queue: Callable[..., DrawingQueue], batches: list[int]
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
    assert batches == [1, 6, 1]


def test_a_job_larger_than_a_batch_is_spread_over_several(
    make_drawing_queue: Callable[..., DrawingQueue], batches: list[int]
) -> None:
    client = Client(count=5)
    make_drawing_queue(batch_size=2).submit(client.job)
    assert [image.index for image in client.images()] == [0, 1, 2, 3, 4]
    assert batches == [2, 2, 1]


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
    make_drawing_queue: Callable[..., DrawingQueue], batches: list[int]
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
    assert batches == [1, 1]
    assert gone.events.empty()


def test_a_batch_is_abandoned_when_all_its_clients_have_left(
    make_drawing_queue: Callable[..., DrawingQueue], batches: list[int]
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
    assert batches == [1]  # the abandoned batch was not finished


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
