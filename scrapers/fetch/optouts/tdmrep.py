"""The TDMRep file of a host, `/.well-known/tdmrep.json`: paths whose TDM rights are reserved. Pure.

"TDM File on the Origin Server" of the specification: an array of rules; the first whose `location` matches
counts, and paths are matched as in robots.txt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.robots import PathPattern, make_pattern, normalize_path

TDMREP_PATH = "/.well-known/tdmrep.json"
MAX_TDMREP_BYTES = 2**20
_MAX_RULES = 10_000


@dataclass(eq=False, slots=True)
class TdmRule:
    """One rule. `set_aside`: whether headers override it at a first URL; None if not checked yet."""

    pattern: PathPattern
    reserved: bool
    refusal: Refusal
    set_aside: bool | None = None


@dataclass(frozen=True)
class Reservations:
    """The rules of a host, in the order of the file."""

    rules: tuple[TdmRule, ...] = field(default=())

    def reserving(self, path: str) -> TdmRule | None:
        """The first rule that matches a path (with its query), if it reserves; else None."""
        if not self.rules:
            return None
        wanted = normalize_path(path)
        found = next((rule for rule in self.rules if rule.pattern.matches(wanted)), None)
        return found if found is not None and found.reserved else None


NO_RESERVATIONS = Reservations()


def parse_tdmrep(body: bytes, *, url: str) -> Reservations:
    """The rules of the file at `url`. Raises ValueError, in words, for what is none."""
    try:
        found: Any = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from error
    listed = found if isinstance(found, list) else [found]  # a lone rule without its brackets
    rules = tuple(_read_rules(listed[:_MAX_RULES], url))
    if not rules and listed:
        raise ValueError("JSON without a rule that has location and tdm-reservation")
    return Reservations(rules)


def _read_rules(listed: list[Any], url: str) -> Iterator[TdmRule]:
    for rule in listed:
        if not isinstance(rule, dict) or not isinstance(rule.get("location"), str):
            continue
        value = rule.get("tdm-reservation")
        reserved = str(value) == "1" or value is True
        # Other values are protocol errors: the reservation is unset, as if no rule stood there.
        if not reserved and str(value) != "0" and value is not False:
            continue
        yield TdmRule(_pattern_of(rule["location"]), reserved, _refusal(rule, url))


def _pattern_of(location: str) -> PathPattern:
    """Some write a whole URL, and some leave out the first slash."""
    if location.startswith(("http://", "https://")):
        location = urlsplit(location)._replace(scheme="", netloc="").geturl()
    return make_pattern(location if location.startswith(("/", "*")) else f"/{location}")


def _refusal(rule: dict[str, Any], url: str) -> Refusal:
    shown = {
        name: rule[name] for name in ("location", "tdm-reservation", "tdm-policy") if name in rule
    }
    return Refusal(signal="tdmrep.json", reason="tdmrep_file", where=url, text=json.dumps(shown))
