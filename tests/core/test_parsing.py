"""File content is parsed into its type, or an error names file, field, found and expected."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.core.config import option
from pipeline.core.errors import ContractError
from pipeline.core.parsing import (
    MAX_DEPTH,
    parse_dataclass,
    parse_json,
    parse_json_file,
    read_json_lines,
)


@dataclass(frozen=True, kw_only=True)
class Part:
    path: Path
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    count: int = field(metadata={"low": 0})
    share: float = option(0.5, "A share.", low=0, high=1)
    is_big: bool = False
    kind: Literal["a", "b", 3] = "a"
    pair: tuple[int, str] = (1, "x")
    parts: tuple[Part, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)
    layers: tuple[int | str, ...] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "nobody":
            raise ValueError("name is nobody's, expected somebody's.")


def parse(**fields: object) -> Whole:
    return parse_dataclass(Whole, {"name": "n", "count": 1, **fields}, source="x.json")


def test_every_kind_of_field_is_read() -> None:
    whole = parse(
        share=1,
        is_big=True,
        kind=3,
        pair=[2, "y"],
        parts=[{"path": "a/b", "rows": None}, {"path": "c", "rows": 4}],
        numbers={"done": 7},
        layers=[1, "one"],
        more={"any": [1.5, None, {"path": "\udcff.png"}]},
    )
    assert whole == Whole(
        name="n",
        count=1,
        share=1.0,
        is_big=True,
        kind=3,
        pair=(2, "y"),
        parts=(Part(path=Path("a/b")), Part(path=Path("c"), rows=4)),
        numbers={"done": 7},
        layers=(1, "one"),
        more={"any": [1.5, None, {"path": "\udcff.png"}]},
    )
    assert isinstance(whole.share, float)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": 3}, "name is 3, expected text"),
        ({"count": True}, "count is true, expected a whole number"),
        ({"count": "1"}, "count is '1', expected a whole number"),
        ({"count": 1.0}, "count is 1.0, expected a whole number"),
        ({"count": -1}, "count is -1, expected 0 or more"),
        ({"count": 10**30}, "count is a number of more than 64 bits, expected a whole number"),
        ({"share": 10**400}, "share is a number of more than 64 bits, expected a finite number"),
        ({"share": float("nan")}, "share is nan, expected a finite number"),
        ({"share": float("inf")}, "share is inf, expected a finite number"),
        ({"share": 1.5}, "share is 1.5, expected 1 or less"),
        ({"is_big": 1}, "is_big is 1, expected true or false"),
        ({"kind": "c"}, 'kind is \'c\', expected one of "a", "b", 3'),
        ({"pair": [1]}, "pair is a list of 1, expected a list of 2"),
        ({"pair": "1x"}, "pair is '1x', expected a list"),
        ({"pair": [1, None]}, r"pair[1] is null, expected text"),
        ({"parts": {}}, "parts is an object of 0, expected a list"),
        ({"parts": [{}]}, "parts[0].path is missing, expected a path"),
        ({"parts": [{"path": "a", "rows": []}]}, "parts[0].rows is a list of 0, expected a whole"),
        ({"numbers": {"done": "x"}}, "numbers['done'] is 'x', expected a whole number"),
        ({"layers": [None]}, "layers[0] is null, expected a whole number or text"),
        ({"name": "nobody"}, "name is nobody's, expected somebody's"),
        ({"name": "a\0b"}, r"'a\x00b' holds a NUL"),
        ({"more": {"deep": ["\0"]}}, "holds a NUL"),
        ({"name": "y" * 1000 + "\0"}, "yyy…"),
    ],
)
def test_a_mismatch_names_file_field_found_and_expected(
    fields: dict[str, object], said: str
) -> None:
    with pytest.raises(ContractError) as caught:
        parse(**fields)
    assert str(caught.value).startswith("x.json: ")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [None, [], "text", 3, True])
def test_a_value_that_is_not_an_object_is_reported_as_the_whole(value: object) -> None:
    with pytest.raises(ContractError, match=r"the whole is .*, expected an object"):
        parse_dataclass(Whole, value, source="x.json")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ContractError, match=r"x\.json: count is missing, expected a whole number"):
        parse_dataclass(Whole, {"name": "n"}, source="x.json")


def test_unknown_keys_are_ignored_unless_they_change_the_meaning() -> None:
    assert parse(later="added by a later version").name == "n"
    value = {"name": "n", "count": 1, "parts": [{"path": "a", "size": 3}]}
    with pytest.raises(ContractError, match=r"parts\[0\]\.size is unknown, expected path, rows"):
        parse_dataclass(Whole, value, source="x.json", unknown="refuse")


def nested(depth: int) -> bytes:
    return b'{"name": "n", "count": 1, "more": {"x": ' + b"[" * depth + b"]" * depth + b"}}"


def test_depth_is_bounded() -> None:
    assert parse_json(Whole, nested(MAX_DEPTH - 3), source="x").name == "n"
    for depth in (MAX_DEPTH, 500, 100_000):
        with pytest.raises(ContractError, match="nested"):
            parse_json(Whole, nested(depth), source="x")


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"{", b"\xff\xfe\xfd", b"1" * 5000, b'{"a": }'])
def test_invalid_json_is_refused(data: bytes) -> None:
    with pytest.raises(ContractError, match="x is"):
        parse_json(int, data, source="x")


def test_a_byte_order_mark_does_not_matter() -> None:
    data = b"\xef\xbb\xbf" + json.dumps({"name": "n", "count": 2}).encode()
    assert parse_json(Whole, data, source="x").count == 2


def test_a_list_at_the_top_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "parts.json"
    path.write_text('[{"path": "a"}, {"path": "b", "rows": 1}]')
    assert parse_json_file(path, tuple[Part, ...])[1] == Part(path=Path("b"), rows=1)


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("fifo", "folder", "missing", "loop", "zero", "folder/../missing/x", "n\0ul"):
        with pytest.raises(ContractError, match="remedy"):
            parse_json_file(tmp_path / name, Whole, remedy="The remedy.")


def test_a_huge_file_is_not_read_completely(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(ContractError, match="more than"):
        parse_json_file(path, Whole)


@pytest.mark.parametrize(("depth", "refused"), [(63, False), (64, False), (65, True)])
def test_values_may_be_nested_64_levels_deep(depth: int, refused: bool) -> None:
    assert MAX_DEPTH == 64
    text = b"[" * depth + b"1" + b"]" * depth
    if not refused:
        parse_json(list[Any], text, source="x")
        return
    with pytest.raises(ContractError, match="nested more than 64 levels deep"):
        parse_json(list[Any], text, source="x")


@pytest.mark.parametrize(
    ("value", "refused"),
    [(-(2**63) - 1, True), (-(2**63), False), (2**63 - 1, False), (2**63, True)],
)
def test_a_whole_number_has_64_bits(value: int, refused: bool) -> None:
    text = str(value).encode()
    if not refused:
        assert parse_json(int, text, source="x") == value
        return
    with pytest.raises(ContractError, match="a number of more than 64 bits"):
        parse_json(int, text, source="x")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", []),
        (b'{"a": 1}\n', [{"a": 1}]),
        (b'{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        (b'{"a": 1}\n{"a": 2}', [{"a": 1}]),
        (b'{"a": 1}\n{"a', [{"a": 1}]),
        (b'{"a', []),
    ],
)
def test_a_last_line_that_was_not_ended_is_dropped(
    text: bytes, lines: list[object], tmp_path: Path
) -> None:
    path = tmp_path / "lines.jsonl"
    assert read_json_lines(path, dict[str, int]) == []
    path.write_bytes(text)
    assert read_json_lines(path, dict[str, int]) == lines


def test_a_line_in_the_middle_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a\n{"a": 3}\n')
    with pytest.raises(ContractError, match=r"lines\.jsonl line 2 is not JSON"):
        read_json_lines(path, dict[str, int])
