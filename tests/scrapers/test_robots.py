"""robots.txt by RFC 9309."""

from __future__ import annotations

import pytest

from scrapers.robots import parse_robots, robots_for_status

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
