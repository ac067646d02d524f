"""`--where`: a condition over the columns of a list, evaluated batch by batch. Nothing in it is executed.

    expression = all ("or" all)*
    all = one ("and" one)*
    one = "not" one | "(" expression ")" | test
    test = value (= | == | != | <> | < | <= | > | >=) value
         | column ["not"] "in" "(" value ("," value)* ")" | column "is" ["not"] "null" | column

A value is a column, a number, 'text', true or false. A column whose name is no plain word is written
"in double quotes". Compared with a number, text counts as the number that it spells. A comparison with what
is missing, or with text that is no number, is false.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import ConfigError
from pipeline.core.suggestions import name_choices

Columns = Mapping[str, pa.Array]
Test = Callable[[Columns], pa.Array]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])"
    r"|(?P<text>'(?:[^']|'')*')|(?P<quoted>\"[^\"]+\"|`[^`]+`)|(?P<word>[^\W\d][\w.]*)"
    r"|(?P<mark><=|>=|==|!=|<>|[=<>(),]))"
)
_COMPARE = {
    "=": pc.equal, "==": pc.equal, "!=": pc.not_equal, "<>": pc.not_equal,
    "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal,
}  # fmt: skip
_SPELLS_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
_MAX_DEPTH = 64


@dataclass(frozen=True)
class Condition:
    """A parsed condition: the columns that it reads, and its test."""

    columns: tuple[str, ...]
    test: Test

    def mask(self, columns: Columns) -> pa.Array:
        """True for each row that fulfils the condition; never null."""
        return self.test(columns)


class _Token(NamedTuple):
    kind: str
    text: str


class _Value(NamedTuple):
    """A column by its name, or a literal."""

    column: str | None
    literal: Any = None


def parse_condition(text: str, columns: Sequence[str]) -> Condition:
    """The condition that `text` means for a list with these columns.

    Raises ConfigError that quotes what can't be read, or names the columns that there are.
    """
    return _Parser(text, columns).parse()


class _Parser:
    def __init__(self, text: str, columns: Sequence[str]) -> None:
        self._text = text
        self._names = columns
        self._used: dict[str, None] = {}
        self._tokens = self._split(text)
        self._at = 0
        self._depth = 0

    def parse(self) -> Condition:
        test = self._any()
        if self._at < len(self._tokens):
            raise self._error(f"{self._tokens[self._at].text!r} is unexpected")
        return Condition(tuple(self._used), test)

    def _error(self, why: str) -> ConfigError:
        return ConfigError(
            f"--where {self._text!r} can't be read: {why}. Expected a condition such as "
            "\"width >= 256 and lang = 'en'\"."
        )

    def _split(self, text: str) -> list[_Token]:
        tokens, at = [], 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error(f"{text[at:].strip()[:20]!r} is unexpected")
            assert match.lastgroup is not None
            tokens.append(_Token(match.lastgroup, match[match.lastgroup]))
            at = match.end()
        if not tokens:
            raise self._error("it is empty")
        return tokens

    # --- The grammar ------------------------------------------------------------------------------

    def _any(self) -> Test:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error("it is nested too deeply")
        tests = [self._all()]
        while self._take_word("or"):
            tests.append(self._all())
        self._depth -= 1
        return _joined(pc.or_, tests)

    def _all(self) -> Test:
        tests = [self._one()]
        while self._take_word("and"):
            tests.append(self._one())
        return _joined(pc.and_, tests)

    def _one(self) -> Test:
        negated = False
        while self._take_word("not"):
            negated = not negated
        if self._take_mark("("):
            test = self._any()
            if not self._take_mark(")"):
                raise self._error("a parenthesis is not closed")
        else:
            test = self._test()
        return _inverted(test) if negated else test

    def _test(self) -> Test:
        left = self._value()
        if self._take_word("is"):
            negated = self._take_word("not")
            if not self._take_word("null"):
                raise self._error("'is' needs null or not null")
            return _is_null(left) if not negated else _inverted(_is_null(left))
        if self._take_word("not"):
            if not self._take_word("in"):
                raise self._error("'not' needs in after a column")
            return _inverted(self._in(left))
        if self._take_word("in"):
            return self._in(left)
        token = self._peek()
        if token is not None and token.kind == "mark" and token.text in _COMPARE:
            self._at += 1
            return _comparison(token.text, left, self._value())
        if left.column is None:
            raise self._error("a value alone is no condition")
        return _comparison("=", left, _Value(None, True))

    def _in(self, left: _Value) -> Test:
        if not self._take_mark("("):
            raise self._error("'in' needs a list in parentheses")
        tests = [_comparison("=", left, self._value())]
        while self._take_mark(","):
            tests.append(_comparison("=", left, self._value()))
        if not self._take_mark(")"):
            raise self._error("a parenthesis is not closed")
        return _joined(pc.or_, tests)

    def _value(self) -> _Value:
        token = self._peek()
        if token is None:
            raise self._error("it ends too early")
        self._at += 1
        if token.kind == "number":
            return _Value(None, float(token.text))
        if token.kind == "text":
            return _Value(None, token.text[1:-1].replace("''", "'"))
        if token.kind == "word" and token.text.lower() in ("true", "false"):
            return _Value(None, token.text.lower() == "true")
        if token.kind in ("word", "quoted"):
            return _Value(self._column(token))
        raise self._error(f"{token.text!r} is unexpected")

    def _column(self, token: _Token) -> str:
        name = token.text if token.kind == "word" else token.text[1:-1]
        found = find_column(name, self._names)
        if found is None:
            hint = "" if token.kind == "word" else " Text is written in single quotes."
            raise ConfigError(
                f"--where {self._text!r}: there is no column {name!r}.{hint} "
                f"{name_choices(name, self._names)}"
            )
        self._used[found] = None
        return found

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take_word(self, word: str) -> bool:
        token = self._peek()
        found = token is not None and token.kind == "word" and token.text.lower() == word
        self._at += found
        return found

    def _take_mark(self, mark: str) -> bool:
        found = self._peek() == _Token("mark", mark)
        self._at += found
        return found


def find_column(name: str, columns: Sequence[str]) -> str | None:
    """The column of this name: as it is written, or else in any case if only one fits."""
    if name in columns:
        return name
    fitting = [column for column in columns if column.lower() == name.lower()]
    return fitting[0] if len(fitting) == 1 else None


# --- Evaluation -----------------------------------------------------------------------------------


def _joined(operation: Any, tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    return lambda columns: reduce(operation, (test(columns) for test in tests))


def _inverted(test: Test) -> Test:
    return lambda columns: pc.invert(test(columns))


def _is_null(value: _Value) -> Test:
    if value.column is None:
        return lambda columns: _repeated(False, columns)
    name = value.column
    return lambda columns: _is_missing(columns[name])


def _is_missing(array: pa.Array) -> pa.Array:
    """Null, and empty text: delimited files have no other way to leave out a value."""
    if not is_text(array.type):
        return pc.is_null(array, nan_is_null=True)
    return pc.fill_null(pc.equal(array, ""), True)


def _comparison(mark: str, left: _Value, right: _Value) -> Test:
    operation = _COMPARE[mark]

    def test(columns: Columns) -> pa.Array:
        one, other = _alike(_resolve(left, columns), _resolve(right, columns))
        result = operation(one, other)
        if isinstance(result, pa.Scalar):
            return _repeated(bool(result.as_py()), columns)
        return pc.fill_null(result, False)

    return test


def _resolve(value: _Value, columns: Columns) -> Any:
    if value.column is None:
        return pa.scalar(value.literal)
    array = columns[value.column]
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array if not pa.types.is_nested(array.type) else as_text(array)


def _alike(one: Any, other: Any) -> tuple[Any, Any]:
    """Both sides in a type that can be compared."""
    kinds = {_kind(one.type), _kind(other.type)}
    if len(kinds) == 1 and kinds != {"number"}:
        return one, other
    if "number" in kinds:
        return _as_number(one), _as_number(other)
    return _lowered(one), _lowered(other)


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    return "bool" if pa.types.is_boolean(kind) else "text" if is_text(kind) else str(kind)


def _as_number(value: Any) -> Any:
    if pa.types.is_integer(value.type):
        return value
    if is_text(value.type):
        spelled = pc.match_substring_regex(value, _SPELLS_NUMBER)
        number = pc.if_else(spelled, value, pa.scalar(None, value.type))
        return pc.cast(pc.utf8_trim_whitespace(pc.cast(number, pa.string())), pa.float64())
    return pc.cast(value, pa.float64(), safe=False)


def _lowered(value: Any) -> Any:
    """Text in lower case, for a comparison with true or false."""
    return pc.utf8_lower(pc.cast(value, pa.string()))


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds text."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def as_text(array: pa.Array) -> pa.Array:
    """Any column as strings; what is nested as JSON-like text, what can't be decoded as null."""
    kind = array.type
    if pa.types.is_string(kind):
        return array
    if pa.types.is_dictionary(kind):
        return as_text(array.dictionary_decode())
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.string())
    if pa.types.is_nested(kind):
        return pa.array([None if v is None else str(v) for v in array.to_pylist()], pa.string())
    try:
        return array.cast(pa.string())
    except pa.ArrowException:
        return pa.array([_decoded(value) for value in array.to_pylist()], pa.string())


def _decoded(value: Any) -> str | None:
    if not isinstance(value, bytes):
        return None if value is None else str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _repeated(value: bool, columns: Columns) -> pa.Array:
    length = len(next(iter(columns.values()))) if columns else 0
    return pa.repeat(value, length)
