"""Who may send requests: host names, origins, the token; and the headers of every answer.

Without a token only names of this machine are answered, so that a page of a foreign domain whose name is made
to resolve to 127.0.0.1 (DNS rebinding) reaches nothing. Requests that change or cost something are refused
from pages of other origins, unless --allow-origin names them, and then only for the APIs.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web

from pipeline.core.errors import ConfigError
from pipeline.serve.config import ServeConfig
from pipeline.serve.errors import RequestError

COOKIE = "pipeline_serve_token"
# No script, style or request of another origin; no inline script. Thumbnails are data: URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_OPEN_PATHS = frozenset({"/healthz", "/static/style.css"})
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~,\s-]{0,2000}")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's loopback."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(config: ServeConfig) -> None:
    """Raise ConfigError if the server would be open to others without a token."""
    if config.token is not None and len(config.token) < 8:
        raise ConfigError("--token is shorter than 8 characters. Give a longer one.")
    if config.token is None and not is_loopback(config.host):
        raise ConfigError(
            f"--host {config.host} is reachable from other machines, which needs a token. Set the "
            "environment variable PIPELINE_SERVE_TOKEN (or --token), or listen on 127.0.0.1."
        )
    for origin in config.allow_origin:
        if origin != "*" and not re.fullmatch(r"https?://[^/?#\s]+", origin):
            raise ConfigError(
                f"--allow-origin {origin} is no origin. Expected a scheme and a host without a path, such as "
                "https://example.org, or *."
            )


def is_api(path: str) -> bool:
    """Whether other origins may be allowed to call this path."""
    return path in ("/dalle", "/dalle-list") or path.startswith("/v1/")


class Guard:
    """Decides about each request."""

    def __init__(self, config: ServeConfig) -> None:
        self._token = config.token
        self._origins = frozenset(origin.lower() for origin in config.allow_origin)
        self._hosts = frozenset(name.lower() for name in (config.host, *config.allow_host))

    def check(self, request: web.Request) -> None:
        """Raise RequestError for a request that is not answered."""
        self._check_host(request)
        self._check_origin(request)
        if self._token is not None and request.path not in _OPEN_PATHS:
            self._check_token(request)

    def given_token(self, request: web.Request) -> str | None:
        """The right token, if the URL has it: the answer is then a cookie and the same URL without it."""
        given = request.query.get("token")
        if self._token is None or given is None or request.method != "GET":
            return None
        return given if _same(given, self._token) else None

    def cors_headers(self, request: web.Request) -> dict[str, str]:
        """The headers that let a page of an allowed origin read an API's answer."""
        if not is_api(request.path):
            return {"Cross-Origin-Resource-Policy": "same-origin"}
        origin = request.headers.get("Origin")
        if origin is None or not self._allows(origin):
            return {"Vary": "Origin", "Cross-Origin-Resource-Policy": "same-origin"}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a preflight for an API, None if the request is something else."""
        if request.method != "OPTIONS" or not is_api(request.path):
            return None
        self._check_host(request)
        headers = self.cors_headers(request)
        if "Access-Control-Allow-Origin" in headers:
            headers["Access-Control-Allow-Methods"] = "GET, POST"
            headers["Access-Control-Max-Age"] = "600"
            asked = request.headers.get("Access-Control-Request-Headers", "")
            if _HEADER_NAMES.fullmatch(asked):
                headers["Access-Control-Allow-Headers"] = asked
            if request.headers.get("Access-Control-Request-Private-Network") == "true":
                headers["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(headers=headers)

    def _check_host(self, request: web.Request) -> None:
        if self._token is not None:  # a foreign page has neither the token nor the cookie
            return
        name = host_name(request.headers.get("Host", ""))
        if not (is_loopback(name) or name in self._hosts):
            raise RequestError(
                403,
                f"This server does not answer for the host name {name[:100]!r}. Use localhost, or start it "
                "with --allow-host.",
            )

    def _check_origin(self, request: web.Request) -> None:
        if request.method in _SAFE:
            return
        origin = request.headers.get("Origin")
        if origin is None:
            is_own = request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        else:
            is_own = _place(origin) == request.headers.get("Host", "").lower()
        if is_own or (origin and is_api(request.path) and self._allows(origin)):
            return
        raise RequestError(
            403,
            "Pages of other origins may not send this. Start the server with --allow-origin to let one call "
            "the APIs.",
        )

    def _allows(self, origin: str) -> bool:
        return "*" in self._origins or origin.lower() in self._origins

    def _check_token(self, request: web.Request) -> None:
        assert self._token is not None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), self._token):
            return
        if _same(request.cookies.get(COOKIE, ""), self._token):
            return
        raise RequestError(
            401,
            "This server needs its token: send the header `Authorization: Bearer TOKEN`, or open it once "
            "with ?token=TOKEN.",
            code="invalid_api_key",
        )


def host_name(header: str) -> str:
    """The name in a Host header, without port, lower case."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def _place(origin: str) -> str:
    """Host and port of an origin, lower case; "" for `null` and what is no origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _same(given: str, token: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
