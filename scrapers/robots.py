"""robots.txt as RFC 9309 has it: groups by user agent, the longest match wins, `*` and `$`.

Pure: text in, answers out. The standard library's parser takes the first match and knows no
wildcards, which forbids and allows the wrong things.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

MAX_ROBOTS_BYTES = 512 * 1024  # RFC 9309, 2.5: at least 500 KiB must be read.
_ALWAYS = "/robots.txt"
_LINE_END = re.compile(r"\r\n?|\n")

Policy = Literal["rules", "open", "closed"]


@dataclass(frozen=True)
class Rule:
    """A line `Allow` or `Disallow`: `parts` are what stands between the stars of its path."""

    allow: bool
    length: int
    parts: tuple[str, ...]
    anchored: bool

    def matches(self, path: str) -> bool:
        """Whether `path` begins (if anchored: is) as the rule says; in linear time."""
        first, *others = self.parts
        if not path.startswith(first):
            return False
        end = len(first)
        if not others:
            return not self.anchored or end == len(path)
        last = others.pop() if self.anchored else ""
        for part in others:
            found = path.find(part, end)
            if found < 0:
                return False
            end = found + len(part)
        return path.endswith(last) and len(path) - len(last) >= end


@dataclass(frozen=True, kw_only=True)
class Robots:
    """What one host allows one user agent. `closed` forbids everything for now (RFC 9309, 2.3.1.4)."""

    policy: Policy = "rules"
    rules: tuple[Rule, ...] = ()
    crawl_delay_s: float | None = None

    def allows(self, path: str) -> bool:
        """Whether `path` (with its query, as in the request line) may be asked for."""
        if self.policy != "rules" or path == _ALWAYS:
            return self.policy != "closed"
        if not self.rules:
            return True
        wanted = _normalized(path)
        found = [rule for rule in self.rules if rule.matches(wanted)]
        if not found:
            return True
        return max(found, key=lambda rule: (rule.length, rule.allow)).allow


OPEN = Robots(policy="open")
CLOSED = Robots(policy="closed")


def robots_for_status(status: int, body: bytes, agent: str) -> Robots:
    """What the answer to `/robots.txt` means: 2xx its rules, 4xx all open, 429 and 5xx closed."""
    if 200 <= status < 300:
        return parse_robots(body[:MAX_ROBOTS_BYTES].decode("utf-8", "replace"), agent)
    if 400 <= status < 500 and status != 429:
        return OPEN
    return CLOSED


def parse_robots(text: str, agent: str) -> Robots:
    """The rules for `agent` (a product token): its own groups, else those for `*`."""
    own: list[tuple[str, str]] = []
    anyone: list[tuple[str, str]] = []
    named = False
    agents: list[str] = []
    in_rules = True
    for field, value in _fields(text):
        if field == "user-agent":
            agents = [value.lower()] if in_rules else [*agents, value.lower()]
            in_rules = False
            named = named or agent.lower() in agents
            continue
        if field not in ("allow", "disallow", "crawl-delay"):
            continue
        in_rules = True
        if agent.lower() in agents:
            own.append((field, value))
        if "*" in agents:
            anyone.append((field, value))
    chosen = own if named else anyone
    rules = tuple(
        _rule(field == "allow", value)
        for field, value in chosen
        if field != "crawl-delay" and value
    )
    delays = [_seconds(value) for field, value in chosen if field == "crawl-delay"]
    return Robots(
        rules=rules, crawl_delay_s=max((d for d in delays if d is not None), default=None)
    )


def _fields(text: str) -> list[tuple[str, str]]:
    pairs = []
    for line in _LINE_END.split(text.lstrip("\ufeff")):
        field, colon, value = line.partition("#")[0].partition(":")
        if colon:
            pairs.append((field.strip().lower(), value.strip()))
    return pairs


def _rule(allow: bool, value: str) -> Rule:
    wanted = _normalized(value)
    anchored = wanted.endswith("$")
    parts = (wanted[:-1] if anchored else wanted).split("*")
    return Rule(allow, len(wanted), tuple(parts), anchored)


def _normalized(path: str) -> str:
    """Percent-encoding made the same on both sides; `*`, `$` and reserved characters stay."""
    return quote(
        unquote(path, errors="surrogateescape"),
        safe="/*$?=&%+,;:@!~'()[]",
        errors="surrogateescape",
    )


def _seconds(value: str) -> float | None:
    try:
        delay = float(value)
    except ValueError:
        return None
    return delay if 0 < delay < 3600 else None
