"""Where a redirect may lead: another web URL, and never from a public host to a private one. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from scrapers.fetch.request_url import WebAddress, join, parse_address, with_credentials
from scrapers.fetch.response import FetchError

AddressCheck = Callable[[str], bool]

# IPv6 addresses that embed an IPv4 address, with the bits after it (RFC 6052, RFC 4291).
_EMBEDDING = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::/96")))


def is_public_address(address: str) -> bool:
    """Whether an IP address is on the public internet, and so is the one that it embeds."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (inner := _embedded(ip)) is not None:
        ip = inner
    return ip.is_global and not ip.is_multicast


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if ip.ipv4_mapped is not None or ip.sixtofour is not None:
        return ip.ipv4_mapped or ip.sixtofour
    if any(ip in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None


def redirect_target(base: WebAddress, location: str) -> str:
    """The URL in a `Location` header of `base`, its raw bytes percent-encoded.

    Raises FetchError for a URL that must not be requested.
    """
    try:
        target = parse_address(join(base, location))
    except (FetchError, ValueError) as error:
        raise FetchError("bad_redirect", f"a redirect to {error}", retry=True) from error
    if base.scheme == "https" and target.scheme == "http":
        raise FetchError("bad_redirect", "a redirect from https to http", retry=True)
    userinfo = ""
    if target.credentials is not None:
        user, _, password = target.credentials.partition(b":")
        userinfo = f"{_quoted(user)}:{_quoted(password)}@"
    return with_credentials(f"{target.origin}{target.target}", userinfo)


def _quoted(text: bytes) -> str:
    return "".join(f"%{byte:02X}" for byte in text)
