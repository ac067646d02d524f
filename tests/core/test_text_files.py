"""Text files as users have them: with a BOM, from Windows, with odd characters, or not text at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.parsing import read_small_file
from pipeline.core.regular_files import read_regular
from pipeline.core.text_files import read_lines, read_text, split_lines


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "captions.txt"


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a cat", ["a cat"]),
        (b"a cat\n", ["a cat"]),
        (b"a cat\r\na dog\r\n", ["a cat", "a dog"]),
        (b"a cat\n\na dog", ["a cat", "", "a dog"]),
        (b"\xef\xbb\xbfa cat\n\xef\xbb\xbfa dog\n", ["a cat", "\ufeffa dog"]),
        (
            "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1eh\ri\n".encode(),
            ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1eh\ri"],
        ),
        ("süße Grüße 猫\n".encode(), ["süße Grüße 猫"]),
    ],
)
def test_a_line_ends_at_a_newline_and_nowhere_else(
    data: bytes, lines: list[str], file: Path
) -> None:
    file.write_bytes(data)
    assert read_lines(file) == lines


def test_a_text_loses_its_bom_and_nothing_else(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[scrape]\r\n")
    assert read_text(file) == "[scrape]\r\n"


def test_lines_of_a_text_are_those_of_its_file() -> None:
    assert split_lines('{"prompt": "a\u2028b"}\n{"prompt": "c"}\n') == [
        '{"prompt": "a\u2028b"}',
        '{"prompt": "c"}',
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a cat\na caf\xe9\n", r"line 2 holds the byte 0xe9, which is not UTF-8"),
        ("a cat\n".encode("utf-16"), r"line 1 holds the byte 0xff.*looks like UTF-16"),
        (b"a cat\n\na\0dog\n", r"line 3 holds a NUL"),
        (b"a cat \xf0\x9f\x90", r"line 1 holds the byte 0xf0"),
    ],
)
def test_invalid_text_is_reported_with_its_line(data: bytes, message: str, file: Path) -> None:
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"captions\.txt can't be read: {message}"):
        read_lines(file)


def test_nothing_but_a_regular_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe", "it is a pipe"),
        (Path("/dev/zero"), "it is a device"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(ConfigError, match=f"can't be read: {kind}"):
            read_lines(path)
        with pytest.raises(ContractError, match=rf"can't be read: {kind}.*\. Bring it back\."):
            read_small_file(path, remedy="Bring it back.")
    with pytest.raises(ConfigError, match=r"nothing is missing\. Give another file\."):
        read_lines(tmp_path / "nothing")


def test_a_link_to_a_regular_file_is_read(tmp_path: Path, file: Path) -> None:
    file.write_bytes(b"a cat\n")
    (tmp_path / "link").symlink_to(file)
    assert read_lines(tmp_path / "link") == ["a cat"]


def test_a_file_of_more_than_the_allowed_bytes_is_not_read(file: Path) -> None:
    file.write_bytes(b"12345")
    assert read_regular(file, max_bytes=5) == b"12345"
    with pytest.raises(ConfigError, match="it has more than 4 bytes"):
        read_regular(file, max_bytes=4)
