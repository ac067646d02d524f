"""The user's list: domains, URL prefixes, hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError
from scrapers.fetch.optouts.listed import NO_LIST, OptOutList, read_opt_outs

BODY = b"an image"
LIST = f"""\ufeff# who asked us
example.org          # all of it
*.other.example
münchen.example
https://Cdn.Example.net/people/
http://cdn.example.net/a?id=1
https://bare.example.com
{hashlib.sha256(BODY).hexdigest().upper()}  # a portrait

"""


@pytest.fixture
def listed(tmp_path: Path) -> OptOutList:
    file = tmp_path / "opt-outs.txt"
    file.write_text(LIST, encoding="utf-8")
    return read_opt_outs(file)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://example.org/a.png", 2),
        ("https://EXAMPLE.org:8443/a.png", 2),
        ("https://www.example.org/a.png", 2),
        ("https://user:secret@example.org/a.png", 2),
        ("https://example.org./a.png", 2),
        ("https://example.org", 2),
        ("https://notexample.org/a.png", None),
        ("https://example.org.evil.test/a.png", None),
        ("https://a.b.other.example/x", 3),
        ("https://xn--mnchen-3ya.example/x", 4),
        ("https://münchen.example/x", 4),
        ("https://cdn.example.net/people/a.png", 5),
        ("http://cdn.example.net/people/", 5),
        ("https://cdn.example.net/people", None),
        ("https://cdn.example.net/People/a.png", None),
        ("https://cdn.example.net/a?id=12", 6),
        ("https://cdn.example.net/a?id=2", None),
        ("https://bare.example.com/anything", 7),
        ("https://bare.example.community/", None),
    ],
)
def test_urls(url: str, line: int | None, listed: OptOutList) -> None:
    found = listed.url_refusal(url)
    assert (found and int(found.where.rpartition(":")[2])) == line
    if found is not None:
        assert (found.signal, found.reason) == ("opt-outs-file", "listed")


def test_hashes(listed: OptOutList) -> None:
    found = listed.bytes_refusal(hashlib.sha256(BODY).digest())
    assert found is not None
    assert found.where.endswith("opt-outs.txt:8")
    assert listed.bytes_refusal(hashlib.sha256(b"another").digest()) is None


def test_an_empty_list_refuses_nothing() -> None:
    assert NO_LIST.url_refusal("https://example.org/") is None
    assert NO_LIST.bytes_refusal(bytes(32)) is None


@pytest.mark.parametrize(
    "line", ["two words", "ftp://example.org/", "abc/def", "e3b0c44298fc1c149afbf4c8"]
)
def test_a_line_that_is_none_of_the_three_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text(f"example.org\n{line}\n")
    with pytest.raises(ConfigError, match=r"line 2: .*neither a domain, nor a URL"):
        read_opt_outs(file)


def test_a_list_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none is missing"):
        read_opt_outs(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_opt_outs(tmp_path / "bytes")


def test_a_long_list_is_looked_up_at_once(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("".join(f"https://cdn.example.net/{n}/\n" for n in range(20_000)))
    found = read_opt_outs(file).url_refusal("https://cdn.example.net/19999/a.png")
    assert found is not None
    assert found.where.endswith(":20000")
