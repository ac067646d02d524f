"""Captions in a CSV or TSV file, by the names of images; kept in a temporary database on disk."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import ConfigError
from scrapers.sources.remarks import Remarks

_NAMES = ("file_name", "filename", "file", "image", "image_path", "path", "image_id", "key", "name")
_CAPTIONS = ("caption", "text", "title", "description", "comment", "captions")
_DELIMITERS = ("\t", ";", "|")
_MAX_FIELD_CHARS = 1 << 20


class CaptionTable:
    """The captions of a file with a header, such as `file_name,caption`."""

    def __init__(self, path: Path, database: sqlite3.Connection, remarks: Remarks) -> None:
        """Read the file. Raises ConfigError if it can't be read or lacks a column."""
        self._path = path
        self._database = database
        self._remarks = remarks
        database.execute("CREATE TABLE listed(name TEXT, caption TEXT, used INTEGER DEFAULT 0)")
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = _rows(file, path)
                database.executemany("INSERT INTO listed(name, caption) VALUES(?, ?)", rows)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"--captions-from csv:{path} can't be read: {error}.") from error
        database.execute("CREATE INDEX listed_names ON listed(name)")

    def captions_of(self, name: str) -> tuple[str, ...]:
        """The captions of an image, whose `name` is its path: found by its path, file name or stem."""
        base = name.rpartition("/")[2]
        for candidate in dict.fromkeys((name, base, base.rpartition(".")[0])):
            found = self._database.execute(
                "SELECT caption FROM listed WHERE name = ? ORDER BY rowid", (candidate,)
            ).fetchall()
            if found:
                self._database.execute("UPDATE listed SET used = 1 WHERE name = ?", (candidate,))
                return tuple(caption for (caption,) in found)
        return ()

    def note_unused(self) -> None:
        """Count the rows that no image has asked for."""
        for (name,) in self._database.execute("SELECT name FROM listed WHERE NOT used"):
            self._remarks.note(f"Rows of {self._path.name} without an image", name)


def _rows(file: Iterator[str], path: Path) -> Iterator[tuple[str, str]]:
    head = next(file, "").rstrip("\r\n")
    delimiter = next((mark for mark in _DELIMITERS if mark in head), ",")
    columns = [column.strip() for column in next(csv.reader([head], delimiter=delimiter), [])]
    name, caption = _find(columns, _NAMES), _find(columns, _CAPTIONS)
    if name is None or caption is None:
        raise ConfigError(
            f"--captions-from csv:{path} needs a header with a column for the image (file_name, image, "
            f"path…) and one for the caption (caption, text…); found {', '.join(columns) or 'nothing'}."
        )
    csv.field_size_limit(_MAX_FIELD_CHARS)
    for row in csv.reader(file, delimiter=delimiter):
        if len(row) > max(name, caption) and row[caption].strip():
            yield row[name].strip().removeprefix("./"), row[caption].strip()


def _find(columns: list[str], names: tuple[str, ...]) -> int | None:
    lower = [column.lower() for column in columns]
    return next((lower.index(name) for name in names if name in lower), None)
