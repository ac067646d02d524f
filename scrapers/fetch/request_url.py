"""A URL split for its request: where to connect, and the request target, as it was written. Pure.

Nothing is normalised that a server could tell apart: `%2B` stays `%2B`, a query stays, even an empty one.
Only what a request line can't contain is percent-encoded: spaces, control characters, and everything that is
not ASCII, as its UTF-8 bytes (or as the very bytes of a header). Scheme and host are read as in browsers
(WHATWG URL): any case, IDN by UTS 46.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin

import idna

from scrapers.fetch.response import FetchError

DEFAULT_PORTS = {"http": 80, "https": 443}
# RFC 1035, 2.3.4.
_MAX_LABEL = 63
_MAX_NAME = 253
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_BLANKS = "".join(map(chr, range(0x21)))
_BREAKS = re.compile(r"[\t\r\n]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_AUTHORITY = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#\\]*)")
_NO_HOST = re.compile(r"[\x00-\x20\x7f#/:<>?@\[\\\]^|%]")
# Surrogates that don't represent a raw byte of a header.
_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class WebAddress(NamedTuple):
    """`host` is ASCII in lower case, an IPv6 address without brackets; `target` follows `GET`.

    `credentials` are the bytes `user:password` of the URL, which belong in a header only.
    """

    scheme: str
    host: str
    port: int
    target: str
    credentials: bytes | None

    @property
    def host_and_port(self) -> str:
        """The value of the `Host` header: with the port unless it is the scheme's default."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == DEFAULT_PORTS[self.scheme] else f"{name}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port, the same for every spelling."""
        return f"{self.scheme}://{self.host_and_port}"


def parse_address(url: str) -> WebAddress:
    """Split a URL. Raises FetchError for what is not a web URL."""
    text = _BREAKS.sub("", url.strip(_BLANKS))
    match = _AUTHORITY.match(text)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in DEFAULT_PORTS:
        raise FetchError("bad_url", f"not a web URL: {_shown(url)!r}")
    rest = text[match.end() :]
    if rest.startswith("\\"):
        raise FetchError("bad_url", f"a backslash after the host: {_shown(url)!r}")
    userinfo, at, name = match["authority"].rpartition("@")
    host, port = host_and_port(name, scheme)
    credentials = _credentials(userinfo) if at else None
    return WebAddress(scheme, host, port, target_of(rest), credentials)


def host_and_port(name: str, scheme: str) -> tuple[str, int]:
    """Host (ASCII, in lower case) and port of `host[:port]`. Raises FetchError if it is invalid."""
    host, port = _split_port(name, scheme)
    return _host(host), port


def target_of(rest: str) -> str:
    """The request target in what follows a URL's host: path and query, encoded where necessary."""
    target = escape(rest.partition("#")[0])
    return target if target.startswith("/") else f"/{target}"


def escape(text: str) -> str:
    """Percent-encode what a request line can't contain; the rest stays as it is."""
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    raw = _LONE.sub("\ufffd", text).encode("utf-8", "surrogateescape")
    return quote(raw, safe=_PRINTABLE)


def encodable_url(url: str) -> str:
    """The URL itself, or percent-encoded as it is requested if UTF-8 can't encode it."""
    if url.isascii():
        return url
    try:
        url.encode()
    except UnicodeEncodeError:
        return escape(url)
    return url


def without_credentials(url: str) -> str:
    """The URL without `user:password@`, safe to keep and print."""
    match = _AUTHORITY.match(url)
    if match is None or "@" not in match["authority"]:
        return url
    host = match["authority"].rpartition("@")[2]
    return f"{match['scheme']}://{host}{url[match.end() :]}"


def credentials_in(url: str) -> str:
    """The part `user:password@` of a URL, empty if there is none."""
    match = _AUTHORITY.match(url)
    userinfo, at, _ = match["authority"].rpartition("@") if match else ("", "", "")
    return userinfo + at


def with_credentials(url: str, userinfo: str) -> str:
    """The inverse of `without_credentials` and `credentials_in`."""
    return url.replace("://", f"://{userinfo}", 1) if userinfo else url


def join(base: WebAddress, reference: str) -> str:
    """The URL that `reference` (a `Location`) means at `base`, without the credentials of `base`.

    Raises ValueError for what can't be read.
    """
    reference = _BREAKS.sub("", reference.strip(_BLANKS))
    if _SCHEME.match(reference):
        return reference
    if reference.startswith(("//", "\\\\")):
        return f"{base.scheme}://{reference[2:]}"
    if reference.startswith(("/", "?")):
        path = base.target.partition("?")[0] if reference.startswith("?") else ""
        return f"{base.origin}{path}{reference}"
    return urljoin(f"{base.origin}{base.target}", reference)


def _split_port(name: str, scheme: str) -> tuple[str, int]:
    host, colon, digits = name.rpartition(":")
    if not colon or digits.endswith("]"):
        return name, DEFAULT_PORTS[scheme]
    if not digits:
        return host, DEFAULT_PORTS[scheme]
    port = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 5 else 0
    if not 0 < port < 65536:
        # Not quoted: it may be half of a password that contains a slash.
        raise FetchError("bad_url", "what follows the host is not a port from 1 to 65535")
    return host, port


def _host(text: str) -> str:
    """The host as it is looked up. Raises FetchError for what no name server could know."""
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(unquote(text[1:-1]))
    name = unquote(text) if "%" in text else text
    try:
        name = name.lower() if name.isascii() else _ascii_name(name)
    except UnicodeError as error:
        raise FetchError("bad_url", f"not a host name: {_shown(text)!r}: {error}") from error
    labels = name.removesuffix(".").split(".")
    if not all(labels) or _NO_HOST.search(name):
        raise FetchError("bad_url", f"not a host name: {_shown(text)!r}")
    longest = max(map(len, labels))
    if longest > _MAX_LABEL or len(name) > _MAX_NAME:
        raise FetchError(
            "bad_url",
            f"a host name of {len(name)} characters with a label of {longest}: "
            f"at most {_MAX_NAME} and {_MAX_LABEL} are possible",
        )
    return name


def _ascii_name(name: str) -> str:
    return idna.encode(name, uts46=True).decode("ascii")


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError as error:
        raise FetchError("bad_url", f"not an IPv6 address: {_shown(text)!r}") from error


def _credentials(userinfo: str) -> bytes | None:
    if not userinfo:
        return None
    user, _, password = userinfo.partition(":")
    return unquote_to_bytes(user) + b":" + unquote_to_bytes(password)


def _shown(text: str) -> str:
    return without_credentials(text)[:200]
