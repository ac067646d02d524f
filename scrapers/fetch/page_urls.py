"""URLs as a page writes them → absolute URLs. Pure.

They are kept byte for byte: `%2B` stays `%2B`, a query stays. Only what a browser would change is changed
(WHATWG URL): scheme and host in any case, IDN, a default port, dot segments, characters that a request line
can't contain. `take_credentials` removes user and password, so that no later code can print or store them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from scrapers.fetch.request_url import WebAddress, host_and_port
from scrapers.fetch.response import FetchError

# User and password by origin (`http://host:port`), for requests only.
Credentials = Mapping[str, tuple[str, str]]

_BLANKS = "".join(map(chr, range(0x21)))
_BREAKS = re.compile(r"[\t\r\n]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_ABSOLUTE = re.compile(r"(https?)://([^/?#\\]*)(.*)", re.IGNORECASE | re.DOTALL)
# The path and query percent-encode sets; braces in a query are only a problem for us.
_NOT_IN_A_PATH = re.compile(r"[^\x21\x24-\x3b\x3d\x40-\x5f\x61-\x7a\x7c\x7e%]")
_NOT_IN_A_QUERY = re.compile(r"[^\x21\x24-\x3b\x3d\x3f-\x7a\x7c\x7e%]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_USERINFO = re.compile(r"(?<=://)[^/?#\s@]*@")
_DOTS = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)


class TakenUrl(NamedTuple):
    """A URL without its user and password, and these by its origin."""

    url: str
    credentials: Credentials


def resolve_url(written: str, base: str) -> str | None:
    """The absolute URL that `written` means on the page at `base`; None if that is no web URL."""
    text = _BREAKS.sub("", clean_text(written).strip(_BLANKS))
    scheme = _SCHEME.match(text)
    if scheme is None:
        text = _join(base, text)
    match = _ABSOLUTE.fullmatch(text)
    if match is None:
        return None
    origin = _authority(match[1].lower(), match[2])
    return None if origin is None else origin + _target(match[3])


def encode_part(text: str, *, safe: str = "") -> str:
    """Percent-encode a part of a path that we compute: all but unreserved characters and `safe`."""
    return quote(clean_text(text), safe=safe)


def clean_text(text: str) -> str:
    """A text that UTF-8 can encode: lone surrogates become U+FFFD, as browsers send them."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def take_credentials(url: str) -> TakenUrl:
    """Split an absolute URL into the URL and its user and password."""
    match = _ABSOLUTE.fullmatch(url)
    if match is None or "@" not in match[2]:
        return TakenUrl(url, {})
    userinfo, _, host = match[2].rpartition("@")
    user, _, password = userinfo.partition(":")
    origin = f"{match[1]}://{host}"
    return TakenUrl(origin + match[3], {origin: (unquote(user), unquote(password))})


def without_credentials(text: str) -> str:
    """A text without the user and password of the URLs in it, safe to print."""
    return _USERINFO.sub("", text)


def _join(base: str, text: str) -> str:
    match = _ABSOLUTE.fullmatch(base)
    if match is None:
        return text
    if not text or text.startswith("#"):
        return base
    scheme, authority, rest = match.groups()
    path = re.split(r"[?#]", rest, maxsplit=1)[0] or "/"
    if text.startswith(("//", "\\\\", "/\\", "\\/")):
        return f"{scheme}://{text[2:]}"
    if text.startswith(("/", "\\")):
        path = ""
    elif not text.startswith("?"):
        path = path[: path.rfind("/") + 1]
    return f"{scheme}://{authority}{path}{text}"


def _authority(scheme: str, written: str) -> str | None:
    """Scheme, user, host and port in one spelling; None if there is no such host."""
    userinfo, at, name = written.rpartition("@")
    try:
        found = WebAddress(scheme, *host_and_port(name, scheme), "", None)
    except FetchError:
        return None
    user = encode_part(userinfo, safe=":%") + at if userinfo else ""
    return f"{scheme}://{user}{found.host_and_port}"


def _target(written: str) -> str:
    """Path and query, encoded where necessary, without fragment and dot segments."""
    path, mark, query = written.partition("#")[0].partition("?")
    path = _NOT_IN_A_PATH.sub(_encode, path.replace("\\", "/")) or "/"
    if _DOTS.search(path):
        path = _without_dots(path)
    return path + mark + _NOT_IN_A_QUERY.sub(_encode, query)


def _encode(match: re.Match[str]) -> str:
    return quote(match[0], safe="")


def _without_dots(path: str) -> str:
    kept: list[str] = []
    parts = path.split("/")[1:]
    for number, part in enumerate(parts):
        plain = part.lower().replace("%2e", ".")
        if plain == "..":
            del kept[-1:]
        elif plain != ".":
            kept.append(part)
        if plain in (".", "..") and number == len(parts) - 1:
            kept.append("")
    return "/" + "/".join(kept)
