"""The proxy for a URL: `--proxy`, or HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.errors import ConfigError
from scrapers.fetch.request_url import DEFAULT_PORTS, WebAddress, parse_address, without_credentials
from scrapers.fetch.response import FetchError


@dataclass(frozen=True, kw_only=True)
class Proxies:
    """A proxy for each scheme; `direct` are the entries of NO_PROXY.

    `loopback`: this machine's own servers are requested through it, too; only if the user said so.
    """

    by_scheme: Mapping[str, WebAddress]
    direct: tuple[str, ...] = ()
    loopback: bool = False

    def of(self, address: WebAddress) -> WebAddress | None:
        """The proxy for a URL, None to connect directly."""
        proxy = self.by_scheme.get(address.scheme)
        if proxy is None or (not self.loopback and _is_loopback(address.host)):
            return None
        skipped = any(_names(entry, address.host, address.port) for entry in self.direct)
        return None if skipped else proxy


def find_proxies(option: str | None, environment: Mapping[str, str]) -> Proxies:
    """The proxies of `--proxy`, else of the environment; variables in lower case take precedence, as in curl.

    Raises ConfigError for a proxy that can't be used.
    """
    direct = tuple(_variable("no_proxy", environment).replace(",", " ").split())
    if option is not None:
        proxy = _proxy(option, "--proxy")
        return Proxies(by_scheme=dict.fromkeys(DEFAULT_PORTS, proxy), direct=direct, loopback=True)
    by_scheme = {}
    for scheme in DEFAULT_PORTS:
        for name in (f"{scheme}_proxy", "all_proxy"):
            if found := _variable(name, environment):
                by_scheme[scheme] = _proxy(found, name.upper())
                break
    return Proxies(by_scheme=by_scheme, direct=direct)


def _variable(name: str, environment: Mapping[str, str]) -> str:
    if name == "http_proxy" and "REQUEST_METHOD" in environment:
        return environment.get(
            name, ""
        )  # In CGI scripts, HTTP_PROXY is a header of the client's request.
    return environment.get(name) or environment.get(name.upper(), "")


def _proxy(text: str, name: str) -> WebAddress:
    url = text if "://" in text else f"http://{text}"
    try:
        return parse_address(url)
    except FetchError as error:
        shown = without_credentials(url)
        raise ConfigError(
            f"{name} is {shown!r}; expected an HTTP proxy, such as "
            "http://proxy.example.org:3128 or https://user:password@proxy.example.org."
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY matches a host: a name and its subdomains, an address, a network, `*`."""
    if entry == "*":
        return True
    name, colon, digits = entry.rpartition(":")
    if colon and digits.isdigit() and (":" not in name or name.endswith("]")):
        return int(digits) == port and _names(name, host, port)
    name = entry.strip("[]").lower().removeprefix("*").strip(".")
    if name and (host == name or host.endswith(f".{name}")):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False
