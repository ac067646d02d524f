"""The user's own list of what is not to be used: `--opt-outs FILE`.

One entry per line: a domain (`example.org`, which includes its subdomains), a URL prefix
(`https://example.org/people/`, for http and https alike), or the SHA-256 of an image's bytes, 64 hex digits.
Text after a `#` at the beginning of a line or after white space is a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import ConfigError
from pipeline.core.text_files import read_lines
from scrapers.fetch.optouts.signals import Refusal

_HASH = re.compile(r"(?:sha256[:=])?([0-9a-fA-F]{64})")
_DOMAIN = re.compile(r"(?:\*?\.)?([\w-]+(?:\.[\w-]+)+|localhost)\.?")
_AFTER_SCHEME = re.compile(r"([^/?#]*)(.*)", re.S)
_COMMENT = re.compile(r"(?:^|\s)#.*")

# The number of a line, and its entry.
_Entry = tuple[int, str]


@dataclass(frozen=True, kw_only=True)
class OptOutList:
    """The entries of a list; prefixes are without their scheme."""

    file: str = ""
    domains: dict[str, _Entry] = field(default_factory=dict)
    prefixes: dict[str, _Entry] = field(default_factory=dict)
    hashes: dict[bytes, _Entry] = field(default_factory=dict)
    prefix_lengths: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        """Whether it has any entry."""
        return bool(self.domains or self.prefixes or self.hashes)

    def url_refusal(self, url: str) -> Refusal | None:
        """The entry that matches a URL by its host or prefix, None if none does."""
        if not self.domains and not self.prefixes:
            return None
        place = _place_of(url)
        host = place.partition("/")[0].partition(":")[0].rstrip(".")
        labels = host.split(".")
        for n in range(len(labels)):
            if (entry := self.domains.get(".".join(labels[n:]))) is not None:
                return self._refusal(entry)
        for length in self.prefix_lengths:
            if (entry := self.prefixes.get(place[:length])) is not None:
                return self._refusal(entry)
        return None

    def bytes_refusal(self, sha256: bytes) -> Refusal | None:
        """The entry that matches bytes by their hash, None if none does."""
        entry = self.hashes.get(sha256)
        return None if entry is None else self._refusal(entry)

    def _refusal(self, entry: _Entry) -> Refusal:
        line, text = entry
        return Refusal(
            signal="opt-outs-file", reason="listed", where=f"{self.file}:{line}", text=text
        )


NO_LIST = OptOutList()


def read_opt_outs(file: Path) -> OptOutList:
    """Read a list. Raises ConfigError if it can't be read, and for a line that is none of the three."""
    domains: dict[str, _Entry] = {}
    prefixes: dict[str, _Entry] = {}
    hashes: dict[bytes, _Entry] = {}
    for number, line in enumerate(read_lines(file), start=1):
        entry = _COMMENT.sub("", line).strip()
        kept = (number, entry)
        if hashed := _HASH.fullmatch(entry):
            hashes.setdefault(bytes.fromhex(hashed[1]), kept)
        elif entry.lower().startswith(("http://", "https://")):
            prefixes.setdefault(_place_of(entry), kept)
        elif named := _DOMAIN.fullmatch(entry):
            domains.setdefault(_ascii_name(named[1]), kept)
        elif entry:
            raise ConfigError(
                f"--opt-outs {file}, line {number}: {entry[:100]!r} is neither a domain, nor a URL with "
                "http:// or https://, nor a SHA-256 of 64 hex digits."
            )
    return OptOutList(
        file=str(file),
        domains=domains,
        prefixes=prefixes,
        hashes=hashes,
        prefix_lengths=tuple(sorted({len(prefix) for prefix in prefixes})),
    )


def _place_of(url: str) -> str:
    """Host, in the form in which it is requested, and path; without scheme, user and password."""
    found = _AFTER_SCHEME.fullmatch(url.partition("://")[2])
    assert found is not None
    host, rest = found.groups()
    slash = "" if rest.startswith("/") else "/"
    return f"{_ascii_name(host.rpartition('@')[2])}{slash}{rest}"


def _ascii_name(domain: str) -> str:
    if domain.isascii():
        return domain.lower()
    try:
        return domain.encode("idna").decode().lower()
    except UnicodeError:
        return domain.lower()
