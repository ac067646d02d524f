"""Drawing for pages and programs: streams, uploads, full queues, clients that leave or never read."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.inputs import find_model_inputs
from pipeline.generate.prompts import Prompt, list_orders
from pipeline.generate.sampler import load_sampler
from pipeline.models.clip import find_clip, load_clip
from pipeline.serve import server
from pipeline.serve.drawing.drawing_queue import DrawingQueue
from tests.oracles.clip import write_clip
from tests.serve.conftest import Answer, Serve, Served


def lines(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def picture(event: dict[str, Any]) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(event["png"]))))


def drawing_queue_of(served: Served) -> DrawingQueue:
    assert served.server.site is not None
    return served.server.site.drawing_queue


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def drawing_held(served: Served) -> Iterator[None]:
    """Nothing is drawn inside the block: the drawing thread waits at its next batch."""
    drawing_queue, go_on = drawing_queue_of(served), threading.Event()
    find = drawing_queue._find_model

    def find_later(name: str) -> Any:
        assert go_on.wait(60)
        return find(name)

    drawing_queue._find_model = find_later
    try:
        yield
    finally:
        go_on.set()


# --- Streams -------------------------------------------------------------------------------------


def test_images_come_one_by_one_and_are_those_of_the_command(
    serve: Serve, workspace: Workspace
) -> None:
    served = serve()
    body = {"prompt": "a red cube", "count": 2, "seed": 7}
    events = lines(served.request("POST", "/api/generate", body))
    assert events[0] == {"event": "queued", "before": 0, "seed": 7}
    assert events[1] == {"event": "begun", "cut": False}
    assert events[-1]["event"] == "done"
    config = GenerateConfig(workspace=workspace.root, device="cpu", threads=1)
    sampler = load_sampler(config, find_model_inputs(config, workspace))
    orders = list_orders([Prompt(text="a red cube")], count=2, seed=7)
    images = [event for event in events if event["event"] == "image"]
    assert [event["index"] for event in images] == [0, 1]
    assert np.array_equal([picture(event) for event in images], sampler.draw(orders))


def test_a_prompt_longer_than_the_model_reads_is_drawn_and_said_to_be_cut(serve: Serve) -> None:
    body = {"prompt": "a red cube " * 20}
    assert lines(serve().request("POST", "/api/generate", body))[1] == {
        "event": "begun",
        "cut": True,
    }


def test_the_seed_that_was_chosen_is_said(serve: Serve) -> None:
    served = serve()
    seeds = {
        lines(served.request("POST", "/api/generate", {"prompt": "a"}))[0]["seed"] for _ in range(3)
    }
    assert len(seeds) == 3


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": "a", "best": 1}, 400),  # there is no CLIP
        ({"prompt": "a", "prime": "0" * 64}, 404),
        ({"prompt": "a", "prime": "../../etc/passwd"}, 404),
        ({"prompt": "a", "count": 10**9}, 400),
        ({"prompt": "a", "top_k": 2}, 400),
        ({"prompt": "a", "model": "nothing"}, 404),
        ({"prompt": "a" * 10_000}, 400),
    ],
)
def test_a_bad_request_is_refused_before_the_stream_begins(
    body: dict[str, Any], status: int, serve: Serve
) -> None:
    answer = serve().request("POST", "/api/generate", body)
    assert answer.status == status
    assert answer.json["error"]


# --- Images to begin with ------------------------------------------------------------------------


def png(size: tuple[int, int], kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def test_an_uploaded_image_begins_every_image_as_with_the_command(
    serve: Serve, workspace: Workspace, tmp_path: Any
) -> None:
    file = png((64, 64))
    (tmp_path / "prime.png").write_bytes(file)
    served = serve()
    prime = served.request("POST", "/api/prime", file).json
    assert (prime["width"], prime["height"]) == (64, 64)
    body = {"prompt": "a red cube", "seed": 3, "prime": prime["id"], "prime_rows": 2}
    events = lines(served.request("POST", "/api/generate", body))
    config = GenerateConfig(
        workspace=workspace.root,
        device="cpu",
        threads=1,
        prime=tmp_path / "prime.png",
        prime_rows=2,
    )
    sampler = load_sampler(config, find_model_inputs(config, workspace))
    orders = list_orders([Prompt(text="a red cube")], count=1, seed=3)
    (image,) = (event for event in events if event["event"] == "image")
    assert np.array_equal(picture(image), sampler.draw(orders)[0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "can't be read"),
        (b"\xff\xd8\xff" + b"no jpeg" * 50, "can't be read"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "can't be read"),
        (png((64, 64))[:-200], "can't be read"),
    ],
)
def test_bytes_that_are_no_image_are_refused(data: bytes, message: str, serve: Serve) -> None:
    answer = serve().request("POST", "/api/prime", data)
    assert answer.status == 400
    assert message in answer.json["error"]


def test_a_decompression_bomb_is_refused(serve: Serve) -> None:
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    answer = serve().request("POST", "/api/prime", out.getvalue())
    assert answer.status == 400


def test_an_upload_that_is_too_long_is_refused_and_the_oldest_is_dropped(serve: Serve) -> None:
    served = serve()
    assert served.request("POST", "/api/prime", b"\x89PNG" + b"\0" * (17 << 20)).status == 413
    ids = [served.request("POST", "/api/prime", png((16 + n, 16))).json["id"] for n in range(17)]
    first, last = (
        served.request("POST", "/api/generate", {"prompt": "a", "prime": name}).status
        for name in (ids[0], ids[-1])
    )
    assert (first, last) == (404, 200)


# --- The best by CLIP ----------------------------------------------------------------------------


def test_the_best_by_clip_are_those_of_all_images_and_come_in_the_order_of_their_scores(
    serve: Serve, tmp_path: Path
) -> None:
    folder = write_clip(tmp_path / "clip")
    served = serve(clip=str(folder), batch_size=4)
    body = {"prompt": "a red cube", "count": 9, "seed": 7}
    every = [event for event in events_of(served, body) if event["event"] == "image"]
    best = [event for event in events_of(served, body | {"best": 3}) if event["event"] == "image"]
    judge = load_clip(find_clip(str(folder)), torch.device("cpu"))
    scores = judge.score(["a red cube"] * 9, np.stack([picture(event) for event in every]))
    ranked = sorted(range(9), key=lambda index: -scores[index])
    assert all("score" not in event for event in every)
    assert [event["index"] for event in best] == ranked[:3]
    assert [event["score"] for event in best] == pytest.approx(
        [scores[index] for index in ranked[:3]], abs=1e-3
    )
    for event in best:
        assert np.array_equal(picture(event), picture(every[event["index"]]))


@pytest.mark.parametrize("best", [0, 3])
def test_more_of_the_best_than_are_drawn_are_refused(
    best: int, serve: Serve, tmp_path: Path
) -> None:
    served = serve(clip=str(write_clip(tmp_path / "clip")))
    body = {"prompt": "a", "count": 2, "best": best}
    answer = served.request("POST", "/api/generate", body)
    assert (answer.status, "Expected 1 to 2" in answer.json["error"]) == (400, True)


def test_a_clip_that_is_not_there_ends_the_stream_with_its_error_and_the_server_goes_on(
    serve: Serve, tmp_path: Path
) -> None:
    served = serve(clip=str(tmp_path / "nothing"))
    events = events_of(served, {"prompt": "a", "count": 2, "best": 1})
    assert events[-1]["event"] == "error"
    assert "nothing" in events[-1]["message"]
    assert events_of(served, {"prompt": "a"})[-1]["event"] == "done"


def events_of(served: Served, body: dict[str, Any]) -> list[dict[str, Any]]:
    return lines(served.request("POST", "/api/generate", body))


# --- Many clients --------------------------------------------------------------------------------


def test_requests_that_wait_together_share_a_batch(serve: Serve) -> None:
    served = serve(batch_size=8)
    with ThreadPoolExecutor(7) as clients:
        with drawing_held(served):
            asked = [
                clients.submit(served.request, "POST", "/v1/images/generations", {"prompt": str(n)})
                for n in range(7)
            ]
            wait_until(lambda: drawing_queue_of(served).waiting == 7)
        assert {each.result().status for each in asked} == {200}
    metrics = served.get("/metrics").text
    assert "dalle_pipeline_serve_batch_images_count 16.0" in metrics  # once for each code
    assert f"dalle_pipeline_serve_batch_images_sum {7.0 * 16}" in metrics
    assert "dalle_pipeline_serve_images_total 7.0" in metrics


def test_a_full_queue_answers_429_with_retry_after(serve: Serve) -> None:
    served = serve(queue=2)
    with ThreadPoolExecutor(1) as clients, drawing_held(served):
        body = {"text": "a", "num_images": 2, "dalle_name": "dalle"}
        clients.submit(served.request, "POST", "/dalle", body)
        wait_until(lambda: drawing_queue_of(served).waiting == 2)
        for path, full in (("/dalle", body), ("/v1/images/generations", {"prompt": "a"})):
            answer = served.request("POST", path, full)
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) >= 1
        assert answer.json["error"]["type"] == "rate_limit_error"


def test_a_thousand_requests_at_once_get_200_or_429(serve: Serve) -> None:
    served = serve(queue=50)
    head = b"POST /dalle HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    body = json.dumps({"text": "a red cube", "num_images": 1, "dalle_name": "dalle"}).encode()
    place = urlsplit(served.url)
    assert place.hostname
    assert place.port
    address = (place.hostname, place.port)
    server._allow_many_files()
    connections = [socket.create_connection(address, timeout=120) for _ in range(1000)]
    for connection in connections:
        connection.sendall(head % (len(body), body))
    statuses: Counter[str] = Counter()
    for connection in connections:
        with connection, connection.makefile("rb") as answer:
            statuses[answer.readline().split()[1].decode()] += 1
            answer.read()
    assert set(statuses) <= {"200", "429"}
    assert statuses["200"] >= 50
    assert statuses["429"] >= 1
    assert served.get("/healthz").json == {"status": "ok", "waiting": 0}


# --- Clients that leave, or are slow -------------------------------------------------------------


def start_request(served: Served, path: str, body: dict[str, Any]) -> socket.socket:
    data = json.dumps(body).encode()
    place = urlsplit(served.url)
    connection = socket.create_connection((place.hostname, place.port or 0), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/dalle", {"text": "a", "num_images": 1, "dalle_name": "dalle"}),
        ("/v1/images/generations", {"prompt": "a"}),
        ("/api/generate", {"prompt": "a"}),
    ],
)
def test_a_client_that_leaves_frees_its_place_in_the_queue(
    path: str, body: dict[str, Any], serve: Serve
) -> None:
    served = serve(queue=2)
    with drawing_held(served):
        first = start_request(
            served, "/dalle", {"text": "a", "num_images": 1, "dalle_name": "dalle"}
        )
        wait_until(lambda: drawing_queue_of(served).waiting == 1)
        leaving = start_request(served, path, body)
        wait_until(lambda: drawing_queue_of(served).waiting == 2)
        leaving.close()
        wait_until(lambda: drawing_queue_of(served).waiting == 1)
        first.close()
        wait_until(lambda: drawing_queue_of(served).waiting == 0)
    assert served.request("POST", "/v1/images/generations", {"prompt": "b"}).status == 200


def test_a_body_that_comes_too_slowly_is_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.serve.bodies.read_body.__kwdefaults__", {"timeout_s": 0.2})
    place = urlsplit(serve().url)
    with socket.create_connection((place.hostname, place.port or 0), timeout=60) as slow:
        slow.sendall(b"POST /dalle HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in slow.recv(100)


def test_a_connection_without_a_request_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.2)
    place = urlsplit(serve().url)
    with socket.create_connection((place.hostname, place.port or 0), timeout=60) as silent:
        silent.sendall(b"GET /browse HTTP/1.1\r\nHost: local")
        with suppress(ConnectionResetError):  # aborted, which is closed as well
            assert silent.recv(100) == b""


def test_stopping_the_server_answers_what_waits_with_503(serve: Serve) -> None:
    served = serve()
    with ThreadPoolExecutor(2) as clients, drawing_held(served):
        first = clients.submit(served.request, "POST", "/v1/images/generations", {"prompt": "a"})
        wait_until(lambda: drawing_queue_of(served).waiting == 1)
        second = clients.submit(served.request, "POST", "/v1/images/generations", {"prompt": "b"})
        wait_until(lambda: drawing_queue_of(served).waiting == 2)
        closing = threading.Thread(target=drawing_queue_of(served).close)
        closing.start()
    closing.join(60)
    assert [first.result().status, second.result().status] == [503, 503]
    assert served.request("POST", "/v1/images/generations", {"prompt": "c"}).status == 503
