"""The TDMRep file: the first rule that matches, paths as in robots.txt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scrapers.fetch.optouts.tdmrep import Reservations, parse_tdmrep

URL = "https://example.org/.well-known/tdmrep.json"


def parse(*rules: dict[str, Any]) -> Reservations:
    return parse_tdmrep(json.dumps(rules).encode(), url=URL)


def rule(location: str, reservation: object = 1, **more: str) -> dict[str, Any]:
    return {"location": location, "tdm-reservation": reservation, **more}


@pytest.mark.parametrize(
    ("rules", "path", "reserved"),
    [
        ([rule("/")], "/a.png", True),
        ([rule("/", 0)], "/a.png", False),
        ([rule("/a/")], "/a/b.png", True),
        ([rule("/a/")], "/b/a/", False),
        # The first match is the one that counts, however specific the others are.
        ([rule("/a/b/", 0), rule("/a/")], "/a/b/c", False),
        ([rule("/a/"), rule("/a/b/", 0)], "/a/b/c", True),
        ([rule("/a/b/", 0), rule("/a/")], "/a/c", True),
        ([rule("/images/*.jpg", 0), rule("/")], "/images/x.jpg", False),
        ([rule("/images/*.jpg", 0), rule("/")], "/images/x.png", True),
        ([rule("/exactly$")], "/exactly", True),
        ([rule("/exactly$")], "/exactly/not", False),
        ([rule("/%7ejoe/")], "/~joe/a", True),
        ([rule("/A/")], "/a/b", False),
        ([rule("*.png")], "/x/y.png", True),
        ([rule("/x?id=1")], "/x?id=12", True),
        # What is written in other ways than the specification's.
        ([rule("/", "1")], "/a", True),
        ([rule("/", True)], "/a", True),
        ([rule("a/")], "/a/b", True),
        ([rule("https://example.org/a/")], "/a/b", True),
        # Other values are errors: as if nothing was said there.
        ([rule("/", 2), rule("/", 0)], "/a", False),
        ([rule("/a/", "yes"), rule("/")], "/a/b", True),
    ],
)
def test_rules(rules: list[dict[str, Any]], path: str, reserved: bool) -> None:
    assert (parse(*rules).reserving(path) is not None) == reserved


def test_a_rule_is_evidence_with_its_policy() -> None:
    policy = "https://example.org/policies/1.json"
    found = parse(rule("/a/", **{"tdm-policy": policy})).reserving("/a/b")
    assert found is not None
    assert (found.refusal.signal, found.refusal.reason) == ("tdmrep.json", "tdmrep_file")
    assert found.refusal.where == URL
    assert json.loads(found.refusal.text)["tdm-policy"] == policy


def test_a_lone_rule_and_a_byte_order_mark_are_read() -> None:
    body = b"\xef\xbb\xbf" + json.dumps(rule("/")).encode()
    assert parse_tdmrep(body, url=URL).reserving("/a") is not None


def test_an_empty_list_reserves_nothing() -> None:
    assert parse_tdmrep(b"[]", url=URL).reserving("/a") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!DOCTYPE html><html></html>",
        b"[{]",
        b"[" * 100_000,
        b"\xff\xfe",
        b'[{"location": 7, "tdm-reservation": 1}]',
        b'["/"]',
        b"7",
    ],
)
def test_what_is_no_such_file_is_named(body: bytes) -> None:
    with pytest.raises(ValueError, match="JSON"):
        parse_tdmrep(body, url=URL)


@pytest.mark.timeout(60)  # years, where patterns backtrack
def test_a_hostile_pattern_costs_no_time() -> None:
    parse(rule("/" + "*" * 5000 + "x$"), rule("/" + "a*" * 25 + "b")).reserving("/" + "a" * 60)
