"""Opt-outs in headers: X-Robots-Tag, TDMRep, Content-Usage."""

from __future__ import annotations

import pytest

from scrapers.fetch.optouts.headers import HeaderSignals, find_directive, read_headers
from scrapers.fetch.optouts.preferences import parse_dictionary, refuses_training

AGENT = "dalle-pipeline"
URL = "https://example.org/a.png"


def read(*headers: tuple[str, str]) -> HeaderSignals:
    def getall(name: str) -> list[str]:
        return [value for found, value in headers if found.lower() == name]

    return read_headers(getall, agent=AGENT, url=URL)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["nofollow, noindex"], "noindex"),
        (["noimageindex"], "noimageindex"),
        (["all", "none"], "none"),
        (["nofollow"], None),
        ([""], None),
        # A robot's name makes what follows it that robot's, in any case of its letters.
        (["otherbot: noai"], None),
        (["dalle-pipeline: noai"], "noai"),
        (["Dalle-Pipeline : NOAI"], "noai"),
        (["dalle-pipeline/2.0: noai"], "noai"),
        (["*: noai"], "noai"),
        (["otherbot: noindex", "noai"], "noai"),
        (["otherbot: nofollow, noai"], None),
        (["otherbot: nofollow, dalle-pipeline: noai"], "noai"),
        (["dalle-pipeline: nofollow, otherbot: noai"], None),
        (["noai, otherbot: nofollow"], "noai"),
        (["otherbot: noai", "other2: noindex", "dalle-pipeline: none"], "none"),
        # Directives with a colon are no robots, and neither are the dates in them.
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        (["unavailable_after: Saturday, 25-Jun-30 15:00:00 PST, noai"], "noai"),
        (["unavailable_after: Sat, 25 Jun 2030 15:00:00 GMT, noai"], "noai"),
        (["unavailable_after: Sat Jun 25 15:00:00 2030, noai"], "noai"),
        (["unavailable_after: 2030-06-25T15:00:00+00:00,noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], None),
        (["max-snippet:50, noai"], "noai"),
        (["noai, max-snippet:50"], "noai"),
        (["max-image-preview: none"], None),
    ],
)
def test_robots_tags(tags: list[str], found: str | None) -> None:
    assert find_directive(tags, AGENT) == found


@pytest.mark.parametrize("agent", ["dalle-pipeline", "Dalle-Pipeline", "DALLE-PIPELINE"])
@pytest.mark.parametrize("named", ["dalle-pipeline", "Dalle-Pipeline", "DALLE-PIPELINE"])
@pytest.mark.parametrize("directive", ["noai", "NoAI", "NOAI"])
def test_agents_and_directives_are_the_same_in_any_case(
    agent: str, named: str, directive: str
) -> None:
    assert find_directive([f"{named}: {directive}"], agent) == "noai"
    assert find_directive([f"x{named}: {directive}"], agent) is None
    assert find_directive([f"Max-Snippet: 50, {directive}"], agent) == "noai"


def test_a_robots_tag_is_evidence() -> None:
    refusal = read(("X-Robots-Tag", "otherbot: noindex"), ("X-Robots-Tag", "noai")).refusal
    assert refusal is not None
    assert (refusal.signal, refusal.reason) == ("x-robots-tag", "x_robots_noai")
    assert (refusal.where, refusal.text) == (URL, "X-Robots-Tag: otherbot: noindex; noai")


@pytest.mark.parametrize(
    ("values", "reservation"),
    [
        (["1"], 1),
        ([" 1 "], 1),
        (["0"], 0),
        (["0", "1"], 1),
        (["1, 1"], 1),
        (["true"], None),
        (["2"], None),
        ([""], None),
        ([], None),
    ],
)
def test_tdm_reservations(values: list[str], reservation: int | None) -> None:
    found = read(*(("TDM-Reservation", value) for value in values))
    assert found.tdm_reservation == reservation
    assert (found.refusal is not None) == (reservation == 1)


def test_the_policy_is_part_of_the_evidence() -> None:
    refusal = read(
        ("tdm-reservation", "1"), ("tdm-policy", "https://example.org/policy.json")
    ).refusal
    assert refusal is not None
    assert (refusal.signal, refusal.reason) == ("tdm-reservation", "tdm_reservation")
    assert refusal.text == "tdm-reservation: 1; tdm-policy: https://example.org/policy.json"
    assert read(("tdm-policy", "https://example.org/policy.json")).refusal is None


@pytest.mark.parametrize("name", ["X-Robots-Tag", "tdm-reservation", "Content-Usage"])
def test_what_an_archive_passes_on_counts(name: str) -> None:
    value = {"X-Robots-Tag": "noai", "tdm-reservation": "1", "Content-Usage": "train-ai=n"}[name]
    assert read((f"X-Archive-Orig-{name}", value)).refusal is not None


@pytest.mark.parametrize(
    ("statements", "refused"),
    [
        (["train-ai=n"], True),
        (["search=y, train-ai=n"], True),
        (["train-ai=y"], False),
        (["search=n"], False),
        # Several headers are several statements, and any refusal wins.
        (["train-ai=n", "train-ai=y"], True),
        (["train-ai=y", "train-ai=n"], True),
        (["broken=", "train-ai=n"], True),
    ],
)
def test_content_usage(statements: list[str], refused: bool) -> None:
    found = read(*(("Content-Usage", statement) for statement in statements)).refusal
    assert (found is not None) == refused
    if found is not None:
        assert (found.signal, found.reason) == ("content-usage", "content_usage")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("train-ai=n", {"train-ai": "n"}),
        ("a, b=?0,\tc=1.5 , d", None),
        ("a, b=?0,\tc=1.5, d", {"a": None, "b": "?0", "c": "1.5", "d": None}),
        ("train-ai=y, train-ai=n", {"train-ai": "n"}),
        ("train-ai=n, train-ai=y", {"train-ai": "y"}),
        ("train-ai=n;x;y=2", {"train-ai": "n"}),
        ('a="x, train-ai=y", train-ai=n', {"a": '"x, train-ai=y"', "train-ai": "n"}),
        ("a=(n y);p, b=()", {"a": "(n y)", "b": "()"}),
        ("a=:aGk=:, b=@123, c=-4", {"a": ":aGk=:", "b": "@123", "c": "-4"}),
        # What is no Dictionary says nothing (RFC 9651, 4.2).
        ("Train-AI=n", {}),
        ("train-ai=n,", {}),
        ("train-ai = n", {}),
        ("train-ai=n search=y", {}),
        ("train-ai=", {}),
        ('train-ai="n', {}),
        ("", {}),
    ],
)
def test_dictionaries(text: str, found: dict[str, str | None] | None) -> None:
    expected = {"a": None, "b": "?0", "c": "1.5", "d": None} if found is None else found
    assert parse_dictionary(text) == expected


@pytest.mark.parametrize("value", ["train-ai", 'train-ai="n"', "train-ai=no", "train-ai=?0"])
def test_values_that_are_no_token_n_say_nothing(value: str) -> None:
    assert not refuses_training(value)


@pytest.mark.timeout(60)  # years, where patterns backtrack
def test_hostile_headers_cost_no_time() -> None:
    for text in ("a=(" + "b " * 4000, "a" + ";b" * 4000 + "!", "(" * 8000, "a=" + '"\\' * 4000):
        parse_dictionary(text)
        find_directive([text * 20], AGENT)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("train-ai=n", {"train-ai": "n"}),
        ("a=1, train-ai=n", {"a": "1", "train-ai": "n"}),
        ("train-ai=y, train-ai=n", {"train-ai": "n"}),
        ("train-ai=n, train-ai=y", {"train-ai": "y"}),
        ("train-ai", {"train-ai": None}),
        ("train-ai=n,", {}),
        ("train-ai=n ,  ", {}),
        (",train-ai=n", {}),
        ("train-ai=n b", {}),
        ("", {}),
    ],
)
def test_a_statement_is_a_whole_dictionary_or_says_nothing(
    statement: str, found: dict[str, str | None]
) -> None:
    assert parse_dictionary(statement) == found
