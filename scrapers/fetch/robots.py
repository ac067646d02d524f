"""robots.txt by RFC 9309: groups by user agent, the longest match wins, `*` and `$`. Pure.

Not the standard library's parser, which takes the first match and knows no wildcards. Not protego either: it
returns no rule, which we keep as evidence of a refusal; it ignores `Content-Usage` rules
(draft-ietf-aipref-attach, section 3), takes `dalle` for our product token `dalle-pipeline`, loses the first
group after a byte order mark, and ends lines at form feeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

from scrapers.fetch.optouts.preferences import refuses_training
from scrapers.fetch.optouts.signals import Refusal

MAX_ROBOTS_BYTES = 512 * 1024  # RFC 9309, 2.5: at least 500 KiB must be read.
_ALWAYS = "/robots.txt"
_LINE_END = re.compile(r"\r\n?|\n")

Policy = Literal["rules", "open", "closed"]


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A path in which `*` matches anything and a final `$` the end: `parts` are between the stars."""

    length: int
    parts: tuple[str, ...]
    anchored: bool

    def matches(self, path: str) -> bool:
        """Whether a normalized `path` begins with the pattern (if anchored: equals it); in linear time."""
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


@dataclass(frozen=True, slots=True)
class Rule:
    """A line `Allow` or `Disallow`."""

    allow: bool
    pattern: PathPattern
    line: str


@dataclass(frozen=True, slots=True)
class UsageRule:
    """A line `Content-Usage`: whether it refuses training."""

    refuses: bool
    pattern: PathPattern
    line: str


@dataclass(frozen=True, kw_only=True)
class Robots:
    """What one host allows one user agent. `closed` forbids everything for now (RFC 9309, 2.3.1.4)."""

    policy: Policy = "rules"
    rules: tuple[Rule, ...] = ()
    usage_rules: tuple[UsageRule, ...] = ()
    crawl_delay_s: float | None = None

    def allows(self, path: str) -> bool:
        """Whether `path` (with its query, as in the request line) may be requested."""
        if self.policy != "rules" or path == _ALWAYS:
            return self.policy != "closed"
        rule = self._rule_for(path)
        return rule is None or rule.allow

    def refusal(self, path: str, *, where: str) -> Refusal | None:
        """The rule that forbids a path, None if there is none; `where` is the URL of the file."""
        if self.policy != "rules" or path == _ALWAYS:
            return None
        rule = self._rule_for(path)
        if rule is not None and not rule.allow:
            return Refusal(signal="robots.txt", reason="robots", where=where, text=rule.line)
        usage = self._usage_for(path)
        if usage is None:
            return None
        return Refusal(
            signal="robots-content-usage",
            reason="robots_content_usage",
            where=where,
            text=usage.line,
        )

    def _rule_for(self, path: str) -> Rule | None:
        if not self.rules:
            return None
        wanted = normalize_path(path)
        found = [rule for rule in self.rules if rule.pattern.matches(wanted)]
        return max(found, key=lambda rule: (rule.pattern.length, rule.allow), default=None)

    def _usage_for(self, path: str) -> UsageRule | None:
        """The refusing rule among those with the longest path; None if they allow or say nothing."""
        if not self.usage_rules:
            return None
        wanted = normalize_path(path)
        found = [rule for rule in self.usage_rules if rule.pattern.matches(wanted)]
        longest = max((rule.pattern.length for rule in found), default=0)
        return next((r for r in found if r.refuses and r.pattern.length == longest), None)


OPEN = Robots(policy="open")
CLOSED = Robots(policy="closed")


def robots_for_status(status: int, body: bytes, agent: str) -> Robots:
    """The meaning of a response to `/robots.txt`: 2xx its rules, 4xx all open, 429 and 5xx closed."""
    if 200 <= status < 300:
        return parse_robots(body[:MAX_ROBOTS_BYTES].decode("utf-8", "replace"), agent)
    if 400 <= status < 500 and status != 429:
        return OPEN
    return CLOSED


def parse_robots(text: str, agent: str) -> Robots:
    """The rules for `agent` (a product token): its own groups, else those for `*`."""
    own: list[tuple[str, str]] = []
    anyone: list[tuple[str, str]] = []
    everyone: list[tuple[str, str]] = []
    named = False
    agents: list[str] = []
    in_rules = True
    for field, value in _fields(text):
        if field == "user-agent":
            agents = [value.lower()] if in_rules else [*agents, value.lower()]
            in_rules = False
            named = named or agent.lower() in agents
            continue
        if field not in ("allow", "disallow", "crawl-delay", "content-usage"):
            continue
        in_rules = True
        if agent.lower() in agents:
            own.append((field, value))
        if "*" in agents:
            anyone.append((field, value))
        # Many sites put it at the top, as a statement about the whole site.
        if not agents and field == "content-usage":
            everyone.append((field, value))
    return _read_rules([*everyone, *(own if named else anyone)])


def _read_rules(chosen: list[tuple[str, str]]) -> Robots:
    rules = tuple(
        Rule(field == "allow", make_pattern(value), f"{field.capitalize()}: {value}")
        for field, value in chosen
        if field in ("allow", "disallow") and value
    )
    usage = tuple(_usage_rule(value) for field, value in chosen if field == "content-usage")
    delays = [_seconds(value) for field, value in chosen if field == "crawl-delay"]
    return Robots(
        rules=rules,
        usage_rules=usage,
        crawl_delay_s=max((d for d in delays if d is not None), default=None),
    )


def _usage_rule(value: str) -> UsageRule:
    """The path, if there is one, begins with a slash and ends before the first blank."""
    path, statement = "", value
    if value.startswith("/"):
        path, _, statement = value.replace("\t", " ").partition(" ")
    return UsageRule(refuses_training(statement), make_pattern(path), f"Content-Usage: {value}")


def _fields(text: str) -> Iterable[tuple[str, str]]:
    for line in _LINE_END.split(text.lstrip("\ufeff")):
        field, colon, value = line.partition("#")[0].partition(":")
        if colon:
            yield field.strip().lower(), value.strip()


def make_pattern(value: str) -> PathPattern:
    """The pattern of a path as written in a robots.txt or a TDMRep file."""
    wanted = normalize_path(value)
    anchored = wanted.endswith("$")
    parts = (wanted[:-1] if anchored else wanted).split("*")
    return PathPattern(len(wanted), tuple(parts), anchored)


def normalize_path(path: str) -> str:
    """Make percent-encoding the same on both sides; `*`, `$` and reserved characters stay."""
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
