"""Cookies go back to the host, the paths and the scheme that they were set for, as long as they last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError
from scrapers.fetch.cookies import CookieJar

NOW = 1_600_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jar(clock: Clock) -> CookieJar:
    return CookieJar(clock=clock)


def sent(
    jar: CookieJar, target: str = "/", *, host: str = "h.test", secure: bool = True
) -> str | None:
    return jar.field(host, target, secure=secure)


def test_a_cookie_goes_back_to_its_very_host(jar: CookieJar) -> None:
    empty = [jar.empty]
    jar.store("h.test", "/", ["a=1; Domain=test"])
    assert [*empty, jar.empty] == [True, False]
    assert sent(jar) == "a=1"
    for host in ("test", "x.h.test", "other.test"):
        assert sent(jar, host=host) is None


@pytest.mark.parametrize(
    ("path", "asked", "goes"),
    [
        ("/", "/x", True),
        ("/x", "/x", True),
        ("/x", "/x/y", True),
        ("/x", "/x?y", True),
        ("/x", "/xy", False),
        ("/x", "/", False),
        ("/x/", "/x", False),
        ("/x/", "/x/y", True),
        ("/x", "/X", False),
    ],
)
def test_a_path_covers_itself_and_what_is_below_it(
    path: str, asked: str, goes: bool, jar: CookieJar
) -> None:
    jar.store("h.test", "/", [f"a=1; Path={path}"])
    assert sent(jar, asked) == ("a=1" if goes else None)


@pytest.mark.parametrize(
    ("target", "asked", "goes"),
    [
        ("/x/y.png", "/x/z.png", True),
        ("/x/y.png", "/x", True),
        ("/x/y.png", "/", False),
        ("/y.png", "/z", True),
        ("/x/y?a/b", "/x/z", True),
        ("/x/y?a/b", "/", False),
    ],
)
def test_without_a_path_it_is_that_of_the_folder_that_was_asked(
    target: str, asked: str, goes: bool, jar: CookieJar
) -> None:
    jar.store("h.test", target, ["a=1"])
    assert sent(jar, asked) == ("a=1" if goes else None)


def test_a_secure_cookie_goes_over_https_alone(jar: CookieJar) -> None:
    jar.store("h.test", "/", ["a=1; Secure", "b=2"])
    assert sent(jar, secure=True) == "a=1; b=2"
    assert sent(jar, secure=False) == "b=2"


@pytest.mark.parametrize(
    ("attributes", "seconds"),
    [
        ("Max-Age=100", 100),
        ("Max-Age=100; Expires=Thu, 01 Jan 1970 00:00:00 GMT", 100),
        ("Expires=Sun, 13 Sep 2020 12:28:20 GMT", 100),
        ("Expires=Sun, 13-Sep-2020 12:28:20 GMT", 100),
        ("Max-Age=0", 0),
        ("Max-Age=-5", 0),
        ("Expires=nonsense", None),
        ("", None),
    ],
)
def test_a_cookie_ends_when_it_says(
    attributes: str, seconds: int | None, jar: CookieJar, clock: Clock
) -> None:
    jar.store("h.test", "/", [f"a=1; {attributes}"])
    ends = NOW + (100 if seconds is None else seconds)
    for later in (-1, 0, 1):
        clock.now = ends + later
        there = seconds is None or (later < 0 < seconds)
        assert sent(jar) == ("a=1" if there else None)


def test_a_cookie_is_replaced_and_ended_by_its_name_and_path(jar: CookieJar) -> None:
    jar.store("h.test", "/", ["a=1; Path=/", "a=2; Path=/x", "b=3"])
    assert sent(jar, "/x") == "a=2; a=1; b=3"
    jar.store("h.test", "/", ["a=4; Path=/", "a=; Path=/x; Max-Age=0"])
    assert sent(jar, "/x") == "b=3; a=4"


@pytest.mark.parametrize(("number", "first"), [(49, 0), (50, 0), (51, 1), (60, 10)])
def test_a_host_has_up_to_50_cookies_the_last_ones(number: int, first: int, jar: CookieJar) -> None:
    jar.store("h.test", "/", [f"n{at}=x" for at in range(number)])
    expected = [f"n{at}=x" for at in range(first, number)]
    assert (sent(jar) or "").split("; ") == expected


@pytest.mark.parametrize(("size", "taken"), [(4095, True), (4096, True), (4097, False)])
def test_a_cookie_has_up_to_4096_bytes(size: int, taken: bool, jar: CookieJar) -> None:
    jar.store("h.test", "/", ["a=" + "x" * (size - 2)])
    assert (sent(jar) is not None) is taken


@pytest.mark.parametrize("field", ["", "a", "=1", "  =1", "a=\x1b[2J", "a=b\tc", "a=\udce9"])
def test_what_can_not_go_back_is_not_kept(field: str, jar: CookieJar) -> None:
    jar.store("h.test", "/", [field])
    assert sent(jar) is None


# --- Given in a file -----------------------------------------------------------------------------


def load(jar: CookieJar, tmp_path: Path, *lines: str) -> None:
    file = tmp_path / "cookies.txt"
    file.write_text("\n".join(lines))
    jar.load(file)


def line(
    domain: str = "h.test", subdomains: str = "FALSE", path: str = "/", secure: str = "FALSE",
    expires: str = "0", name: str = "a", value: str = "1",
) -> str:  # fmt: skip
    return "\t".join((domain, subdomains, path, secure, expires, name, value))


def test_nothing_but_a_regular_file_of_cookies_is_read(jar: CookieJar, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file, found in (
        (tmp_path / "pipe", "it is a pipe"),
        (tmp_path, "it is a folder"),
        (Path("/dev/zero"), "it is a device"),
        (tmp_path / "none", "none is missing"),
    ):
        with pytest.raises(ConfigError, match=f"--cookie-file .*{found}"):
            jar.load(file)


def test_a_file_of_cookies_with_a_bom_and_windows_lines_is_read(
    jar: CookieJar, tmp_path: Path
) -> None:
    file = tmp_path / "cookies.txt"
    lines = [line(name="a", value="1"), line(name="b", value="2"), ""]
    file.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    jar.load(file)
    assert jar.field("h.test", "/", secure=False) == "a=1; b=2"


def test_a_file_of_curl_is_read(jar: CookieJar, tmp_path: Path) -> None:
    load(
        jar,
        tmp_path,
        "# Netscape HTTP Cookie File",
        "",
        line(),
        "#HttpOnly_" + line(name="b", secure="TRUE"),
        line(domain=".wide.test", subdomains="TRUE", name="c"),
    )
    assert sent(jar) == "a=1; b=1"
    assert sent(jar, secure=False) == "a=1"
    assert sent(jar, host="x.h.test") is None
    assert sent(jar, host="wide.test") == sent(jar, host="x.y.wide.test") == "c=1"
    assert sent(jar, host="xwide.test") is None


def test_what_the_host_has_set_stands_for_the_same_cookie_of_a_file(
    jar: CookieJar, tmp_path: Path
) -> None:
    load(jar, tmp_path, line(domain="h.test", subdomains="TRUE"))
    jar.store("h.test", "/", ["a=2; Path=/"])
    assert sent(jar) == "a=2"


@pytest.mark.parametrize(("expires", "there"), [(-1, False), (0, False), (1, True)])
def test_a_cookie_of_a_file_that_has_ended_is_passed_over(
    expires: int, there: bool, jar: CookieJar, tmp_path: Path
) -> None:
    load(jar, tmp_path, line(expires=str(int(NOW) + expires)))
    assert (sent(jar) is not None) is there


@pytest.mark.parametrize(
    "bad", ["a b", line()[:-2], line() + "\tx", line(expires="soon"), line(value="x;y")]
)
def test_a_line_that_is_none_is_named_without_its_value(
    bad: str, jar: CookieJar, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"line 2 is not a cookie") as error:
        load(jar, tmp_path, line(), bad)
    assert "x;y" not in str(error.value)
