"""The APIs of dalle-service and OpenAI."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from pipeline.core.workspace import Workspace
from tests.serve.conftest import Served, serving


def opened(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture(scope="module")
def served(models: Workspace) -> Iterator[Served]:
    with serving(models.root, max_images=6, queue=8) as started:
        yield started


# --- dalle-service -------------------------------------------------------------------------------


def test_health_is_the_json_string_ok_and_a_page_for_browsers(served: Served) -> None:
    answer = served.get("/")
    assert (answer.status, answer.json) == (200, "ok")


def test_dalle_list_is_an_array_of_names(served: Served) -> None:
    assert served.get("/dalle-list").json == ["dalle"]


@pytest.mark.parametrize("kind", ["text/plain;charset=UTF-8", "application/json", ""])
def test_dalle_answers_with_an_array_of_jpegs_whatever_the_content_type(
    kind: str, served: Served
) -> None:
    body = {"text": "pink shoes", "num_images": 2, "dalle_name": "dalle"}
    headers = {"Content_Type": kind} if kind else {}
    answer = served.request("POST", "/dalle", body, Bypass_Tunnel_Reminder="go", **headers)
    assert answer.status == 200
    assert [opened(data).format for data in answer.json] == ["JPEG", "JPEG"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "not a JSON object"),
        (b"[" * 100_000, 400, "not JSON"),
        ({"text": "a"}, 400, "num_images"),
        ({"text": "a", "num_images": "2", "dalle_name": "dalle"}, 400, "num_images"),
        ({"text": "a", "num_images": 2, "dalle_name": "../../etc/passwd"}, 404, "no model"),
        ({"text": "a", "num_images": 0, "dalle_name": "dalle"}, 400, "Expected 1 to 6"),
        ({"text": "a", "num_images": 7, "dalle_name": "dalle"}, 400, "Expected 1 to 6"),
        ({"text": " ", "num_images": 1, "dalle_name": "dalle"}, 400, "empty"),
        ({"text": "a" * 10_000, "num_images": 1, "dalle_name": "dalle"}, 400, "10,000 characters"),
        ({"text": "a\0b", "num_images": 1, "dalle_name": "dalle"}, 400, "NUL"),
        (b'{"text": "\\ud800", "num_images": 1, "dalle_name": "dalle"}', 400, "Unicode"),
        ({"text": "a" * (2 << 20), "num_images": 1, "dalle_name": "dalle"}, 413, "too long"),
    ],
)
def test_a_bad_request_to_dalle_gets_a_message(
    body: Any, status: int, message: str, served: Served
) -> None:
    answer = served.request("POST", "/dalle", body)
    assert answer.status == status
    assert message in answer.json["message"]


def test_the_wrong_method_is_405(served: Served) -> None:
    assert served.get("/dalle").status == 405


# --- OpenAI --------------------------------------------------------------------------------------


def test_models_are_listed(served: Served) -> None:
    answer = served.get("/v1/models").json
    assert answer["object"] == "list"
    (model,) = answer["data"]
    assert model["id"] == "dalle"
    assert model["object"] == "model"
    assert isinstance(model["created"], int)
    assert served.get("/v1/models/dalle").json == model
    missing = served.get("/v1/models/davinci")
    assert (missing.status, missing.json["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("options", "kind", "size"),
    [
        ({}, "PNG", (64, 64)),
        ({"output_format": "jpeg"}, "JPEG", (64, 64)),
        ({"output_format": "webp", "output_compression": 50}, "WEBP", (64, 64)),
        ({"size": "auto"}, "PNG", (64, 64)),
        ({"size": "256x128"}, "PNG", (256, 128)),
    ],
)
def test_images_come_in_the_format_and_size_asked_for(
    options: dict[str, Any], kind: str, size: tuple[int, int], served: Served
) -> None:
    body = {"prompt": "a red cube", "n": 2, **options}
    answer = served.request("POST", "/v1/images/generations", body)
    assert answer.status == 200, answer.text
    images = [opened(each["b64_json"]) for each in answer.json["data"]]
    assert [(image.format, image.size) for image in images] == [(kind, size)] * 2
    assert answer.json["size"] == f"{size[0]}x{size[1]}"


def test_a_url_is_a_data_url(served: Served) -> None:
    body = {"prompt": "a red cube", "response_format": "url"}
    (image,) = served.request("POST", "/v1/images/generations", body).json["data"]
    assert image["url"].startswith("data:image/png;base64,")


def test_the_same_seed_gives_the_same_images_and_another_one_others(served: Served) -> None:
    def draw(seed: int) -> Any:
        body = {"prompt": "a red cube", "seed": seed}
        return served.request("POST", "/v1/images/generations", body).json["data"]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"prompt": "a", "model": "dall-e-3"}, 404, "model"),
        ({"prompt": "a", "n": 11}, 400, "n"),
        ({"prompt": "a", "n": 7}, 400, "n"),
        ({"prompt": "a", "size": "0x0"}, 400, "size"),
        ({"prompt": "a", "size": "99999x1"}, 400, "size"),
        ({"prompt": "a", "stream": True}, 400, "stream"),
        ({"prompt": "a" * 4_001}, 400, "prompt"),
        ({"prompt": "a", "output_compression": 101}, 400, "output_compression"),
        ({"prompt": "a", "seed": -1}, 400, "seed"),
        ({"prompt": "a", "temperature": 0}, 400, "temperature"),
        ({"prompt": "a", "cond_scale": 1e9}, 400, "cond_scale"),
        ({}, 400, None),
    ],
)
def test_errors_have_the_four_fields_of_the_specification(
    body: dict[str, Any], status: int, param: str | None, served: Served
) -> None:
    answer = served.request("POST", "/v1/images/generations", body)
    assert answer.status == status
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


def test_the_openai_package_is_served(served: Served) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{served.url}v1", api_key="any", max_retries=0)
    assert [model.id for model in client.models.list()] == ["dalle"]
    result = client.images.generate(prompt="a red cube", n=2, model="dalle", size="256x256")
    assert [opened(image.b64_json).size for image in result.data] == [(256, 256)] * 2
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="a red cube", model="dall-e-3")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(prompt="a red cube", n=7)
    assert bad.value.param == "n"
