"""The checks of the network settings: proxies, certificates, and names. No server gets a request."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.app.doctor.check import Check, describe_error
from pipeline.core.errors import PipelineError

_SECTION = "Network"
_TIMEOUT_S = 2.0


def check_proxies(environment: Mapping[str, str]) -> Check:
    """The proxies that a crawl would use, without their users and passwords."""
    try:
        from scrapers.fetch.proxies import find_proxies

        proxies = find_proxies(None, environment)
    except PipelineError as error:
        return Check(
            section=_SECTION, name="proxy", state="bad", found=str(error).rstrip("."), needed=True
        )
    except Exception as error:  # a package of the crawler that is broken
        return Check(
            section=_SECTION, name="proxy", state="bad", found=f"not known: {describe_error(error)}"
        )
    by_scheme = {scheme: address.origin for scheme, address in proxies.by_scheme.items()}
    found = ", ".join(f"{scheme} through {proxy}" for scheme, proxy in by_scheme.items()) or "none"
    if proxies.direct:
        found += f"; not for {', '.join(proxies.direct)}"
    return Check(section=_SECTION, name="proxy", state="ok", found=found, facts=by_scheme)


def check_certificates(environment: Mapping[str, str]) -> Check:
    """The file or folder of the certificate authorities that are trusted."""
    named = environment.get("SSL_CERT_FILE")
    paths = ssl.get_default_verify_paths()
    place = named or paths.cafile or paths.capath
    if place is not None and Path(place).exists():
        return Check(section=_SECTION, name="certificates", state="ok", found=place)
    found = f"SSL_CERT_FILE is {named}, which doesn't exist" if named else "none found"
    advice = "Install your system's package ca-certificates, or give a file as --ca-file"
    return Check(section=_SECTION, name="certificates", state="bad", found=found, advice=advice)


def hosts_of_the_blog() -> tuple[str, ...]:
    """The hosts of the blog post's page and of its images."""
    from scrapers.sources.dalleblog.captions import load_catalogue

    catalogue = load_catalogue()
    urls = (catalogue.page.split()[0], catalogue.cdn)
    return tuple(dict.fromkeys(str(urlsplit(url).hostname) for url in urls))


def check_names(
    hosts: Iterable[str],
    *,
    has_proxy: bool,
    resolve: Callable[[str], str] | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> list[Check]:
    """Whether the names of `hosts` can be resolved; behind a proxy they need not be."""
    return [_check_name(host, has_proxy, resolve or resolve_host, timeout_s) for host in hosts]


def resolve_host(host: str) -> str:
    """The first address of a host. Raises OSError."""
    return str(socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)[0][4][0])


def _check_name(
    host: str, has_proxy: bool, resolve: Callable[[str], str], timeout_s: float
) -> Check:
    name = f"name of {host}"
    address, problem = _resolve_in_time(host, resolve, timeout_s)
    if address is not None:
        return Check(section=_SECTION, name=name, state="ok", found=address)
    if has_proxy:
        found = "not resolved here; the proxy will do it"
        return Check(section=_SECTION, name=name, state="ok", found=found)
    advice = "Check the network and its name server; a proxy is given as --proxy or HTTPS_PROXY"
    return Check(section=_SECTION, name=name, state="bad", found=problem, advice=advice)


def _resolve_in_time(
    host: str, resolve: Callable[[str], str], timeout_s: float
) -> tuple[str | None, str]:
    """The address of a host, or why there is none. The system's resolver has no time limit of its own."""
    answers: queue.SimpleQueue[tuple[str | None, str]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((resolve(host), ""))
        except (OSError, UnicodeError) as error:
            answers.put((None, getattr(error, "strerror", None) or str(error)))

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=timeout_s)
    except queue.Empty:
        return None, f"not resolved within {timeout_s:g} s"
