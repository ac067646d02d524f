"""Where a URL is asked, and how: the origin's connections and the bytes of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from yarl import URL

from scrapers.answer import FetchError
from scrapers.lane import Lane


@dataclass(slots=True)
class Endpoint:
    """One origin (scheme, host and port) and its connections that wait for work.

    `head` is what all its requests have in common. `public_only` endpoints are never connected to
    at a private address.
    """

    url: URL
    public_only: bool
    head: str
    lanes: list[Lane] = field(default_factory=list)

    def free_lane(self) -> Lane | None:
        """The connection used last, if one is free; None if there is none."""
        while self.lanes:
            lane = self.lanes.pop()
            if lane.free:
                return lane
        return None

    def request(self, target: str, headers: Mapping[str, str] | None) -> bytes:
        """The request for `target`. Raises FetchError for headers that no request can hold."""
        more = "" if headers is None else _header_lines(headers)
        return f"GET {target}{self.head}{more}\r\n".encode("utf-8", "surrogateescape")


def _header_lines(headers: Mapping[str, str]) -> str:
    for name, value in headers.items():
        if "\r" in value or "\n" in value:
            raise FetchError("bad_header", f"a line break in {name}: {value!r}")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def make_endpoint(url: URL, user_agent: str, *, public_only: bool) -> Endpoint:
    """The endpoint of a URL's origin."""
    host = url.raw_host or ""
    name = f"[{host}]" if ":" in host else host
    if not url.is_default_port():
        name = f"{name}:{url.port}"
    head = (
        f" HTTP/1.1\r\nHost: {name}\r\nUser-Agent: {user_agent}\r\n"
        "Accept: */*\r\nAccept-Encoding: identity\r\n"
    )
    return Endpoint(url.origin(), public_only, head)


def split_url(url: str) -> tuple[str, str | None]:
    """Origin and target of a URL; no target if the URL has to be read with more care."""
    slash = url.find("/", url.find("://") + 3)
    if slash < 0:
        return url, None
    if "#" in url or " " in url or not (url.isascii() and url.isprintable()):
        return url[:slash], None
    return url[:slash], url[slash:]


def exact_url(url: str) -> URL:
    """The URL with its path as the source wrote it: re-quoting would ask for another object.

    Raises FetchError for what is no web address.
    """
    plain = url.isascii() and url.isprintable() and " " not in url
    try:
        parsed = URL(url, encoded=plain)
        whole = parsed.scheme in ("http", "https") and parsed.host and parsed.port
    except ValueError as error:
        raise FetchError("bad_url", str(error)) from error
    if not whole:
        raise FetchError("bad_url", f"not a web address: {url[:200]!r}")
    return parsed
