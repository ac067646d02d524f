"""Cookies of one run, in memory: set by a host and sent only to that host, or given in a file.

RFC 6265 without `Domain`: what a server sets is sent only to the same host, so no list of public suffixes is
needed. A file's cookies are sent where the file says. Nothing is written to disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from pipeline.core.errors import ConfigError
from pipeline.core.regular_files import read_regular
from pipeline.core.text_files import split_lines

_MAX_PER_HOST = 50
MAX_HOSTS = 10_000
_MAX_BYTES = 4096
_MAX_FILE_BYTES = 1 << 24
_HTTP_ONLY = "#HttpOnly_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cookie:
    """`expires` is in seconds since the epoch, None for the end of the run."""

    name: str
    value: str
    path: str = "/"
    secure: bool = False
    expires: float | None = None


class CookieJar:
    """The cookies that hosts have set, and those of `--cookie-file`, by host."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._of_host: dict[str, dict[tuple[str, str], Cookie]] = {}
        self._of_domain: dict[str, dict[tuple[str, str], Cookie]] = {}
        self._in_file: set[str] = set()

    @property
    def empty(self) -> bool:
        """Whether there are none."""
        return not (self._of_host or self._of_domain)

    def field(self, host: str, target: str, *, secure: bool) -> str | None:
        """The value of the header `Cookie` for a request; None for none."""
        path = target.partition("?")[0]
        # A cookie that the host has set replaces a file's cookie of the same name.
        chosen: dict[tuple[str, str], Cookie] = {}
        for cookie in sorted(self._held(host), key=lambda one: -len(one.path)):
            if _covers(cookie.path, path) and (secure or not cookie.secure):
                chosen.setdefault((cookie.name, cookie.path), cookie)
        return "; ".join(f"{one.name}={one.value}" for one in chosen.values()) or None

    def store(self, host: str, target: str, fields: Iterable[str]) -> None:
        """Take the `Set-Cookie` headers of a response to `target`, and drop expired cookies."""
        now = self._clock()
        held = {
            place: cookie
            for place, cookie in self._of_host.pop(host, {}).items()
            if cookie.expires is None or cookie.expires > now
        }
        for field in fields:
            if (cookie := _read(field, target, now)) is None:
                continue
            held.pop((cookie.name, cookie.path), None)
            if cookie.expires is None or cookie.expires > now:
                held[cookie.name, cookie.path] = cookie
            while len(held) > _MAX_PER_HOST:
                del held[next(iter(held))]
        if held:
            self._of_host[host] = held
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Forget the cookies of the host that has set none for the longest time, if there are too many."""
        if len(self._of_host) - len(self._in_file) > MAX_HOSTS:
            del self._of_host[next(h for h in self._of_host if h not in self._in_file)]

    def load(self, file: Path) -> None:
        """Read cookies from a file in the format of Netscape and curl.

        Raises ConfigError that names the line, never a value.
        """
        try:
            data = read_regular(file, max_bytes=_MAX_FILE_BYTES)
        except ConfigError as error:
            raise ConfigError(f"--cookie-file {error}") from error
        text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        for number, line in enumerate(split_lines(text), 1):
            line = line.removeprefix(_HTTP_ONLY) if line.startswith(_HTTP_ONLY) else line
            if line.strip() and not line.startswith("#"):
                self._load_line(line, f"--cookie-file {file}, line {number}")

    def _load_line(self, line: str, place: str) -> None:
        parts = line.rstrip("\r\n").split("\t")
        if len(parts) != 7 or not parts[4].strip().lstrip("-").isdigit() or not _fits(*parts[5:]):
            raise ConfigError(
                f"{place} is not a cookie: expected 7 columns separated by tabs (domain, "
                "subdomains, path, secure, expires, name, value), as curl and browsers write them."
            )
        domain, subdomains, path, secure, expires, name, value = parts
        ends = float(expires) if int(expires) > 0 else None
        if ends is not None and ends <= self._clock():
            return
        cookie = Cookie(
            name=name, value=value, path=path or "/", secure=secure.upper() == "TRUE", expires=ends
        )
        host = domain.lower().lstrip(".")
        if subdomains.upper() == "TRUE":
            self._of_domain.setdefault(host, {})[name, cookie.path] = cookie
        else:
            self._in_file.add(host)
            self._of_host.setdefault(host, {})[name, cookie.path] = cookie

    def _held(self, host: str) -> Iterator[Cookie]:
        now = self._clock()
        tables = [self._of_host.get(host)]
        if self._of_domain:
            labels = host.split(".")
            tables += [self._of_domain.get(".".join(labels[at:])) for at in range(len(labels))]
        for table in tables:
            for cookie in (table or {}).values():
                if cookie.expires is None or cookie.expires > now:
                    yield cookie


def _read(field: str, target: str, now: float) -> Cookie | None:
    """A `Set-Cookie` header; None if it is invalid, or can't be sent back in a header."""
    pair, *attributes = field.split(";")
    name, equals, value = pair.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not name or not _fits(name, value):
        return None
    found = {}
    for attribute in attributes:
        key, _, content = attribute.partition("=")
        found[key.strip().lower()] = content.strip()
    path = found.get("path", "")
    return Cookie(
        name=name,
        value=value,
        path=path if path.startswith("/") else _folder(target),
        secure="secure" in found,
        expires=_expires(found, now),
    )


def _fits(name: str, value: str) -> bool:
    text = f"{name}={value}"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # raw bytes that are not UTF-8
        return False
    return size <= _MAX_BYTES and text.isprintable() and ";" not in text


def _folder(target: str) -> str:
    """The default path: all but the last part (RFC 6265, 5.1.4)."""
    path = target.partition("?")[0]
    return path[: path.rfind("/")] or "/"


def _covers(path: str, asked: str) -> bool:
    return asked.startswith(path) and (
        path.endswith("/") or len(asked) == len(path) or asked[len(path)] == "/"
    )


def _expires(attributes: dict[str, str], now: float) -> float | None:
    """When a cookie expires; `Max-Age` takes precedence."""
    age = attributes.get("max-age", "")
    if age.lstrip("-").isdigit() and age.isascii():
        return now + float(age[:12])
    try:
        return parsedate_to_datetime(attributes["expires"].replace("-", " ")).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
