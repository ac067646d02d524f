"""Where a redirect may lead: another web address, and never from a public host to a private one. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from scrapers.answer import FetchError

AddressCheck = Callable[[str], bool]


def is_public_address(address: str) -> bool:
    """Whether an IP address is one of the public internet."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return ip.is_global and not ip.is_multicast


def redirect_target(base: str, location: str) -> str:
    """The address that a `Location` header of `base` names. Raises FetchError for what is not to be asked."""
    try:
        target = urljoin(base, location)
        scheme = urlsplit(target).scheme
    except ValueError as error:
        raise FetchError("bad_redirect", str(error), retry=True) from error
    if scheme not in ("http", "https"):
        raise FetchError("bad_redirect", f"to the scheme {scheme!r}", retry=True)
    if base.startswith("https:") and scheme == "http":
        raise FetchError("bad_redirect", "from https to http", retry=True)
    return target.partition("#")[0]


def refuse_private_literal(url: str, is_public: AddressCheck) -> None:
    """Raise FetchError for a private address in numbers, which would never reach a resolver."""
    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    if not is_public(host):
        raise FetchError("redirect_to_private", f"a public host redirects to {host}", retry=True)
