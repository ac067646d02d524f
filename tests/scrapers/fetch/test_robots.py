"""robots.txt by RFC 9309."""

from __future__ import annotations

import pytest

from scrapers.fetch.robots import make_pattern, parse_robots, robots_for_status

AGENT = "dalle-pipeline"


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow: /", "/robots.txt", True),
        ("User-agent: *\nDisallow: /a", "/ab", False),
        ("User-agent: *\nDisallow: /a/", "/a", True),
        # The longest match wins, whatever the order; Allow wins a tie.
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("User-agent: *\nAllow: /a\nDisallow: /a/b", "/a/b/c", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a", "/a", True),
        # Wildcards and the end mark.
        ("User-agent: *\nDisallow: /*.png$", "/x/y.png", False),
        ("User-agent: *\nDisallow: /*.png$", "/x/y.png?z", True),
        ("User-agent: *\nDisallow: /a*b", "/a---b-", False),
        # Our own group counts alone.
        ("User-agent: *\nDisallow: /\n\nUser-agent: Dalle-Pipeline\nDisallow: /b", "/a", True),
        ("User-agent: *\nAllow: /\n\nUser-agent: dalle-pipeline\nDisallow: /", "/a", False),
        ("User-agent: dalle-pipeline\n\nUser-agent: *\nDisallow: /", "/a", False),
        ("User-agent: other\nUser-agent: dalle-pipeline\nDisallow: /", "/a", False),
        ("User-agent: other\nDisallow: /", "/a", True),
        ("User-agent: dalle\nDisallow: /", "/a", True),
        ("User-agent: dalle-pipeline\nDisallow: /a\nUser-agent: x\nDisallow: /\n"
         "User-agent: dalle-pipeline\nDisallow: /b", "/b", False),
        # Comments, white space, byte order mark, percent-encoding.
        ("\ufeffuser-agent : *  # all\n disallow :/a # no\n", "/a", False),
        ("User-agent: *\nDisallow: /%7ejoe", "/~joe/x", False),
        ("User-agent: *\nDisallow: /ü", "/%C3%BC", False),
        ("Sitemap: x\nnonsense\nDisallow: /", "/a", True),
        # A line ends at CR, LF or both, and nowhere else.
        ("User-agent: *\rDisallow: /a\r\nDisallow: /b", "/a", False),
        ("User-agent: *\nAllow: /b\fDisallow: /a\u2028Disallow: /a", "/a", True),
    ],
)  # fmt: skip
def test_rules(text: str, path: str, allowed: bool) -> None:
    assert parse_robots(text, AGENT).allows(path) is allowed


def test_the_crawl_delay_of_our_group_is_read() -> None:
    text = "User-agent: *\nCrawl-delay: 9\n\nUser-agent: dalle-pipeline\nCrawl-delay: 1.5\n"
    assert parse_robots(text, AGENT).crawl_delay_s == 1.5
    assert parse_robots("User-agent: *\nCrawl-delay: much\n", AGENT).crawl_delay_s is None


@pytest.mark.parametrize(
    ("status", "allowed"),
    [(200, False), (404, True), (403, True), (429, False), (500, False), (503, False)],
)
def test_statuses(status: int, allowed: bool) -> None:
    robots = robots_for_status(status, b"User-agent: *\nDisallow: /", AGENT)
    assert robots.allows("/a") is allowed


@pytest.mark.timeout(60)  # years, where patterns backtrack
def test_a_hostile_pattern_costs_no_time() -> None:
    text = "User-agent: *\nDisallow: /" + "*" * 5000 + "x$\nDisallow: /" + "a*" * 25 + "b"
    assert parse_robots(text, AGENT).allows("/" + "a" * 60)
    parse_robots("\xff\x00" * 200_000, AGENT)


GROUPS = """
User-agent: *
Disallow: /never/
Content-Usage: train-ai=n
Content-Usage: /ok/ train-ai=y
Content-Usage: /ok/but*.png$ train-ai=n, search=y
Content-Usage: /both train-ai=y
Content-Usage: /both train-ai=n
Content-Usage: /broken/ train ai = n

User-agent: otherbot
Content-Usage: train-ai=y
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/test", "Content-Usage: train-ai=n"),
        ("/ok/test", None),
        ("/ok/but-not.png", "Content-Usage: /ok/but*.png$ train-ai=n, search=y"),
        ("/ok/but-not.png?x", None),
        ("/both", "Content-Usage: /both train-ai=n"),
        ("/broken/x", None),
        ("/never/x", "Disallow: /never/"),
        ("/robots.txt", None),
    ],
)
def test_the_usage_rule_with_the_longest_path_counts(path: str, line: str | None) -> None:
    robots = parse_robots(GROUPS, AGENT)
    found = robots.refusal(path, where="https://example.org/robots.txt")
    assert (found and found.text) == line
    if found is not None:
        assert found.where == "https://example.org/robots.txt"
        assert found.signal == (
            "robots.txt" if "Disallow" in found.text else "robots-content-usage"
        )


def test_usage_rules_do_not_forbid_to_ask() -> None:
    assert parse_robots(GROUPS, AGENT).allows("/test")


def test_our_own_group_has_its_own_usage_rules() -> None:
    text = GROUPS + "\nUser-agent: Dalle-Pipeline\nContent-Usage: /a/\ttrain-ai=n\n"
    robots = parse_robots(text, AGENT)
    assert robots.refusal("/test", where="") is None
    assert robots.refusal("/a/test", where="") is not None


def test_a_usage_rule_above_all_groups_is_for_everyone() -> None:
    text = "Content-Usage: train-ai=n\n\nUser-agent: dalle-pipeline\nAllow: /\n"
    assert parse_robots(text, AGENT).refusal("/test", where="") is not None


def test_a_usage_rule_ends_the_names_of_a_group() -> None:
    text = "User-agent: dalle-pipeline\nContent-Usage: train-ai=n\nUser-agent: x\nDisallow: /\n"
    robots = parse_robots(text, AGENT)
    assert robots.allows("/a")
    assert robots.refusal("/a", where="") is not None


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/a", "/a", True),
        ("/a", "/ab", True),
        ("/a$", "/a", True),
        ("/a$", "/ab", False),
        ("/a$", "/", False),
        ("/a*$", "/ab", True),
        ("/a*b$", "/acb", True),
        ("/a*b$", "/acbd", False),
        ("/ab*b$", "/ab", False),  # no letter is used twice
        ("/*", "/", True),
        ("*", "/x", True),
        ("/$", "/", True),
        ("/$", "/x", False),
        ("/a*b*c", "/a--c--b--c", True),
        ("/a*b*c", "/a--c--b", False),
    ],
)
def test_a_pattern_matches_the_beginning_or_with_an_end_mark_the_whole(
    pattern: str, path: str, matches: bool
) -> None:
    assert make_pattern(pattern).matches(path) is matches


@pytest.mark.parametrize(
    ("delays", "found"),
    [
        (["2", "9", "3"], 9.0),
        (["0.5"], 0.5),
        (["0"], None),
        (["-1"], None),
        (["3599.9"], 3599.9),
        (["3600"], None),
        (["nan"], None),
        (["2", "3600"], 2.0),
    ],
)
def test_the_longest_delay_of_less_than_an_hour_counts(
    delays: list[str], found: float | None
) -> None:
    text = "User-agent: *\n" + "".join(f"Crawl-delay: {delay}\n" for delay in delays)
    assert parse_robots(text, AGENT).crawl_delay_s == found
