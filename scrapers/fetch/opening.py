"""The client of a run, made from its options: User-Agent, credentials, proxies, TLS."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pipeline.core.errors import ConfigError
from pipeline.core.version import __version__
from scrapers.config import USER_AGENT, ScrapeConfig
from scrapers.fetch.client import Client
from scrapers.fetch.cookies import CookieJar
from scrapers.fetch.proxies import find_proxies
from scrapers.fetch.request_headers import GivenFields, header_hosts, parse_fields
from scrapers.fetch.request_url import parse_address
from scrapers.fetch.resolving import FixedResolver
from scrapers.fetch.response import FetchError
from scrapers.fetch.tls import Trust
from scrapers.source import Source


def open_client(config: ScrapeConfig, source: Source | None = None) -> Client:
    """A client with our User-Agent. Raises ConfigError for options that can't be used."""
    addresses = [parse_address(url) for url in own_urls(config, source)]
    own = frozenset(f"{address.host}:{address.port}" for address in addresses)
    trust = Trust(
        ca_file=config.ca_file, client_cert=config.client_cert, client_key=config.client_key
    )
    trust.check()
    cookies = CookieJar()
    if config.cookie_file is not None:
        cookies.load(config.cookie_file)
    client = Client(
        user_agent=user_agent(config.contact),
        timeout_s=config.timeout_s,
        resolver=_fixed_resolver(config.connect_to) if config.connect_to else None,
        given=GivenFields(
            fields=parse_fields(config.header), hosts=own | header_hosts(config.header_host)
        ),
        proxies=find_proxies(config.proxy, os.environ),
        trust=trust,
        cookies=cookies,
    )
    for url in own_urls(config, source):
        client.remember_user(url)
    return client


def own_hosts(config: ScrapeConfig, source: Source) -> frozenset[str]:
    """The hosts that the user named, which may be at any address."""
    hosts = frozenset(parse_address(url).host for url in own_urls(config, source))
    return hosts | config.named_hosts()


async def is_guarded(config: ScrapeConfig, source: Source, client: Client) -> bool:
    """Whether the URLs were named by a page on the public internet.

    A saved page counts as one, unless the user gives the URL where it comes from; what is built in was named
    by nobody else.
    """
    if source.start_url is not None:
        return await client.is_public_host(source.start_url)
    url = config.saved_from()
    return await client.is_public_host(url) if isinstance(url, str) else url


def own_urls(config: ScrapeConfig, source: Source | None) -> Iterator[str]:
    """The URLs that the user gave, or that the source begins with; each one can be requested."""
    flags = config.own_urls()
    if source is not None and source.start_url is not None and "--page-url" not in flags:
        flags["the page"] = source.start_url
    for flag, url in flags.items():
        try:
            parse_address(url)
        except FetchError as error:
            raise ConfigError(f"{flag} can't be requested: {error}.") from error
        yield url


def user_agent(contact: str | None) -> str:
    """Name, version and, if given, a contact. Raises ConfigError for what a header can't contain."""
    if contact is not None and not (contact.isascii() and contact.isprintable()):
        raise ConfigError(f"--contact {contact!r} can't be in a header: use plain ASCII.")
    return f"{USER_AGENT}/{__version__}" + (f" (+{contact})" if contact else "")


def _fixed_resolver(address: str) -> FixedResolver:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--connect-to {address!r} is not HOST:PORT, such as 127.0.0.1:8000.")
    return FixedResolver(host.strip("[]"), int(port))
