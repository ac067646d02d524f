"""The header fields of a request: User-Agent, the fields of `--header`, Referer.

The user's fields may be secrets: they are sent to the user's own hosts and nowhere else, not after a
redirect, not to a host that a page names. They are never written or printed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.core.errors import ConfigError
from scrapers.fetch.request_url import WebAddress, parse_address, without_credentials
from scrapers.fetch.response import FetchError

# RFC 9110, 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE_BREAKS = re.compile(r"[\x00\r\n]")
# What frames the message, what the crawl itself decides by, and the User-Agent (see --contact).
_OURS = frozenset(
    {
        "host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer",
        "upgrade", "expect", "range", "if-match", "if-none-match", "if-modified-since", "if-range",
        "if-unmodified-since", "accept-encoding", "proxy-authorization", "proxy-connection",
        "user-agent",
    }
)  # fmt: skip
# They differ between requests.
_APART = frozenset({"referer", "cookie"})


@dataclass(frozen=True, kw_only=True)
class GivenFields:
    """The user's fields, and the hosts (names, or names with a port) that they are sent to."""

    fields: tuple[tuple[str, str], ...] = ()
    hosts: frozenset[str] = frozenset()

    @property
    def cookie(self) -> str:
        """The cookies of `--header 'Cookie: …'`; they share one field with those of the host."""
        return "; ".join(value for name, value in self.fields if name.lower() == "cookie")

    def go_to(self, address: WebAddress) -> bool:
        """Whether a host is one of the user's."""
        return address.host in self.hosts or f"{address.host}:{address.port}" in self.hosts


def parse_fields(lines: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Each `Name: value` of `--header`. Raises ConfigError that never contains a value."""
    found = []
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or not _TOKEN.fullmatch(name) or not _is_sendable(value):
            raise ConfigError(f"--header number {number} doesn't have the form 'Name: value'.")
        if name.lower() in _OURS:
            hint = "give --contact" if name.lower() == "user-agent" else "leave it out"
            raise ConfigError(f"--header {name}: the crawl sets this one itself; {hint}.")
        found.append((name, value))
    return tuple(found)


def _is_sendable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return not _LINE_BREAKS.search(value)


def common_fields(
    address: WebAddress,
    *,
    user_agent: str,
    given: GivenFields,
    credentials: bytes | None,
) -> str:
    """The lines that all requests to an origin have in common."""
    own = given.fields if given.go_to(address) else ()
    names = {name.lower() for name, _ in own}
    fields = [("User-Agent", user_agent)]
    if "accept" not in names:
        fields.append(("Accept", "*/*"))
    fields.append(("Accept-Encoding", "identity"))
    if credentials is not None and "authorization" not in names:
        fields.append(("Authorization", basic_auth(credentials)))
    return lines_of([*fields, *((n, v) for n, v in own if n.lower() not in _APART)])


def basic_auth(credentials: bytes) -> str:
    """The Basic scheme (RFC 7617)."""
    return f"Basic {base64.b64encode(credentials).decode()}"


def referer_line(address: WebAddress, page: str | None, given: GivenFields) -> str:
    """The `Referer` line of an image's request, as a browser that shows the page would send it.

    The whole URL to the page's own origin, only the origin to others, and nothing from https to http (W3C
    Referrer Policy, "strict-origin-when-cross-origin"); the user's own field takes precedence.
    """
    for name, value in given.fields:
        if name.lower() == "referer":
            return lines_of([(name, value)]) if given.go_to(address) else ""
    if page is None:
        return ""
    shown = parse_address(page)
    if shown.scheme == "https" and address.scheme == "http":
        return ""
    same = shown.origin == address.origin
    return f"Referer: {shown.origin}{shown.target if same else '/'}\r\n"


def lines_of(fields: Iterable[tuple[str, str]] | Mapping[str, str]) -> str:
    """Lines of a head. Raises FetchError for a value that would begin another line."""
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    lines = []
    for name, value in pairs:
        if _LINE_BREAKS.search(value):
            raise FetchError("bad_header", f"a line break in {name}")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines)


def header_hosts(hosts: Iterable[str]) -> frozenset[str]:
    """The hosts of `--header-host`. Raises ConfigError for an invalid one."""
    return frozenset(map(_host, hosts))


def _host(text: str) -> str:
    try:
        address = parse_address(f"http://{text}/")
    except FetchError as error:
        raise ConfigError(
            f"--header-host {without_credentials(text)!r} is not a host: expected a name such as "
            "cdn.example.org, or a name and a port."
        ) from error
    has_port = re.search(r":\d+$", text)
    return f"{address.host}:{address.port}" if has_port else address.host
