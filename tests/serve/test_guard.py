"""Who is answered: host names, origins, tokens, and what a foreign page may do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.workspace import Workspace
from pipeline.serve.config import ServeConfig
from pipeline.serve.guard import check_exposure
from tests.serve.conftest import Serve, Served, serving

TOKEN = "correct horse battery"
BODY = {"text": "a red cube", "num_images": 1, "dalle_name": "dalle"}


@pytest.fixture(scope="module")
def served(models: Workspace) -> Iterator[Served]:
    with serving(models.root) as started:
        yield started


@pytest.fixture(scope="module")
def locked(models: Workspace) -> Iterator[Served]:
    with serving(models.root, token=TOKEN) as started:
        yield started


def own_origin(served: Served) -> str:
    return served.url.rstrip("/")


# --- Host names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:9", "demo.localhost"])
def test_names_of_this_machine_are_answered(host: str, served: Served) -> None:
    assert served.get("/dalle-list", Host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "[", "10.0.0.1"]
)
@pytest.mark.parametrize("path", ["/", "/browse", "/dalle-list", "/image/x", "/metrics"])
def test_a_name_that_was_rebound_to_this_machine_is_refused(
    path: str, host: str, served: Served
) -> None:
    assert served.get(path, Host=host).status == 403


def test_further_names_can_be_allowed(serve: Serve) -> None:
    served = serve(allow_host=("Proxy.example",))
    assert served.get("/dalle-list", Host="proxy.example:443").status == 200


# --- Origins -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/dalle", "/v1/images/generations", "/api/generate", "/api/prime"]
)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_pages_of_other_origins_may_not_post(
    headers: dict[str, str], path: str, served: Served
) -> None:
    answer = served.request("POST", path, BODY, **headers)
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


def test_the_own_pages_and_programs_may_post(served: Served) -> None:
    assert served.request("POST", "/dalle", BODY, Origin=own_origin(served)).status == 200
    assert served.request("POST", "/dalle", BODY).status == 200


def test_cors_is_closed_by_default(served: Served) -> None:
    headers: dict[str, Any] = {
        "Origin": "https://a.example",
        "Access_Control_Request_Method": "POST",
    }
    preflight = served.request("OPTIONS", "/dalle", **headers)
    assert "access-control-allow-origin" not in preflight.headers
    listing = served.get("/dalle-list", Origin="https://a.example")
    assert "access-control-allow-origin" not in listing.headers
    assert listing.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("allowed", ["https://a.example", "*"])
def test_an_allowed_origin_may_call_the_apis_with_the_header_of_dalle_services_front_end(
    allowed: str, serve: Serve
) -> None:
    served = serve(allow_origin=(allowed,))
    origin = "https://a.example"
    preflight = served.request(
        "OPTIONS",
        "/dalle",
        Origin=origin,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="bypass-tunnel-reminder",
        Access_Control_Request_Private_Network="true",
    )
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    assert preflight.headers["access-control-allow-headers"] == "bypass-tunnel-reminder"
    assert preflight.headers["access-control-allow-private-network"] == "true"
    answer = served.request("POST", "/dalle", BODY, Origin=origin, Bypass_Tunnel_Reminder="go")
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert served.request("POST", "/api/generate", BODY, Origin=origin).status == 403
    assert "access-control-allow-origin" not in served.get("/browse", Origin=origin).headers


def test_another_origin_is_not_allowed_with_it(serve: Serve) -> None:
    served = serve(allow_origin=("https://a.example",))
    answer = served.request("POST", "/dalle", BODY, Origin="https://a.example.evil")
    assert answer.status == 403


def test_header_names_that_are_none_are_not_echoed(serve: Serve) -> None:
    served = serve(allow_origin=("*",))
    answer = served.request(
        "OPTIONS", "/dalle", Origin="https://a.example", Access_Control_Request_Headers='"<x>"'
    )
    assert "access-control-allow-headers" not in answer.headers


# --- Tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/browse", "/dalle-list", "/v1/models", "/metrics", "/generate"]
)
def test_without_the_token_nothing_is_shown(path: str, locked: Served) -> None:
    assert locked.page(path).status == 401
    assert locked.get(path, Authorization="Bearer wrong horse battery").status == 401
    assert locked.get(path, Cookie="pipeline_serve_token=wrong").status == 401
    assert locked.get(f"{path}?token=wrong").status == 401
    assert locked.get(path, Authorization=f"Bearer {TOKEN}").status == 200


def test_health_needs_no_token(locked: Served) -> None:
    assert locked.get("/healthz").json["status"] == "ok"


def test_a_browser_gets_a_cookie_for_the_token_in_the_url_and_is_sent_on(locked: Served) -> None:
    answer = locked.page(f"/browse?q=cube&token={TOKEN.replace(' ', '+')}")
    assert (answer.status, answer.headers["location"]) == (303, "/browse?q=cube")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert locked.get("/dalle-list", Cookie=cookie.split(";")[0]).status == 200


def test_with_a_token_any_host_name_is_answered(locked: Served) -> None:
    headers = {"Host": "box.example:8080", "Authorization": f"Bearer {TOKEN}"}
    assert locked.get("/dalle-list", **headers).status == 200


def test_openai_clients_get_their_error_object_without_a_token(locked: Served) -> None:
    error = locked.get("/v1/models").json["error"]
    assert error["type"] == "authentication_error"
    assert error["code"] == "invalid_api_key"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "box.example", ""])
def test_other_machines_are_only_let_in_with_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="needs a token"):
        check_exposure(ServeConfig(host=host))
    check_exposure(ServeConfig(host=host, token=TOKEN))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_this_machine_alone_needs_no_token(host: str) -> None:
    check_exposure(ServeConfig(host=host))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "short"}, "shorter than 8"),
        ({"allow_origin": ("example.org",)}, "no origin"),
        ({"allow_origin": ("https://example.org/path",)}, "no origin"),
    ],
)
def test_options_that_protect_nothing_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_exposure(ServeConfig(**options))  # type: ignore[arg-type]


# --- Headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/browse", "/generate", "/nothing", "/static/style.css"])
def test_every_answer_has_the_headers_that_protect_it(path: str, served: Served) -> None:
    headers = served.page(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
