"""List the images and caption files of a folder into a temporary database on disk.

Memory stays constant for any number of files, also in one folder. Links to folders are followed, but no
folder is listed twice, so loops of links end.
"""

from __future__ import annotations

import heapq
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import SourceError
from scrapers.sources.remarks import Remarks

# Of files with one stem the last kind wins; png < jpg < jpeg < bmp is DALLE-pytorch's order.
IMAGE_SUFFIXES = (
    ".tif", ".tiff", ".jxl", ".heic", ".avif", ".gif", ".webp", ".png", ".jpg", ".jpeg", ".bmp",
)  # fmt: skip
IMAGE, CAPTION = 0, 1
_ROWS_AT_ONCE = 5_000
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE folders(id INTEGER PRIMARY KEY, path TEXT NOT NULL);
CREATE TABLE files(
  folder INTEGER NOT NULL, stem TEXT NOT NULL, suffix TEXT NOT NULL, kind INTEGER NOT NULL,
  bytes INTEGER NOT NULL, mtime INTEGER NOT NULL);
"""


class Listed(NamedTuple):
    """A file: its folder relative to the root ("" for the root), and its name in two parts."""

    folder: str
    stem: str
    suffix: str
    kind: int
    bytes: int
    mtime: int

    @property
    def name(self) -> str:
        """Its path relative to the root."""
        return f"{self.folder}/{self.stem}{self.suffix}" if self.folder else self.stem + self.suffix

    @property
    def rank(self) -> tuple[int, bool, str]:
        """Of several files with one stem the greatest counts: by kind, lower case before upper case."""
        lower = self.suffix.lower()
        kind = IMAGE_SUFFIXES.index(lower) if lower in IMAGE_SUFFIXES else 0
        return kind, self.suffix == lower, self.name


class Listing:
    """The files of `root` whose suffix is that of an image or, if given, `caption_suffix`."""

    def __init__(
        self, root: Path, remarks: Remarks, *, caption_suffix: str | None, leave_out: Path
    ) -> None:
        """`leave_out` is a folder that is not listed: the workspace."""
        self._root = root
        self._remarks = remarks
        self._caption_suffix = caption_suffix
        self._leave_out = os.path.relpath(leave_out, root)
        self._links: list[tuple[str, str]] = []
        self._visited: list[str] = []
        # An empty name: a temporary file that SQLite deletes.
        self.database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self.database.executescript(_TABLES)
        self._rows: list[tuple[object, ...]] = []
        self._num_folders = 0

    def read(self) -> None:
        """List everything. Raises SourceError if the root can't be read."""
        try:
            os.scandir(self._root).close()
        except OSError as error:
            raise SourceError(
                f"{self._root} can't be read: {error.strerror}. Give a folder of images."
            ) from error
        self._walk("", os.path.realpath(self._root))
        while self._links:
            self._follow(*heapq.heappop(self._links))
        self._flush()

    def _follow(self, relative: str, target: str) -> None:
        """List the folder that a link leads to, unless it was or will be listed by itself."""
        for visited in self._visited:
            if _is_within(target, visited) or _is_within(visited, target):
                self._remarks.note("Links to folders that are listed already", relative)
                return
        self._walk(relative, target)

    def _walk(self, relative: str, real: str) -> None:
        self._visited.append(real)
        waiting = [relative]
        while waiting:
            folder = waiting.pop()
            if folder != self._leave_out:
                waiting += sorted(self._scan(folder), reverse=True)

    def _scan(self, folder: str) -> list[str]:
        """List one folder; returns its folders."""
        self._num_folders += 1
        number = self._num_folders
        self.database.execute("INSERT INTO folders VALUES(?, ?)", (number, folder))
        inner: list[str] = []
        try:
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    self._take(entry, folder, number, inner)
        except OSError as error:
            self._remarks.note("Folders that can't be read", f"{folder} ({error.strerror})")
        return inner

    def _take(self, entry: os.DirEntry[str], folder: str, number: int, inner: list[str]) -> None:
        name = entry.name
        relative = f"{folder}/{name}" if folder else name
        if entry.is_dir():
            if entry.is_symlink():
                heapq.heappush(self._links, (relative, os.path.realpath(entry.path)))
            else:
                inner.append(relative)
            return
        stem, suffix = _split(name)
        lower = suffix.lower()
        is_image = lower in IMAGE_SUFFIXES
        if not is_image and lower != self._caption_suffix:
            return
        if not _is_utf_8(relative):
            self._remarks.note("Files whose name is not UTF-8", ascii(relative))
            return
        if not entry.is_file():
            self._remarks.note("Entries that are not regular files, or links to nothing", relative)
            return
        self._add(entry, relative, (number, stem, suffix, IMAGE if is_image else CAPTION))

    def _add(self, entry: os.DirEntry[str], relative: str, row: tuple[object, ...]) -> None:
        try:
            found = entry.stat()
        except OSError:
            self._remarks.note("Files that vanished while the folder was read", relative)
            return
        self._rows.append((*row, found.st_size, found.st_mtime_ns))
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self.database.execute("BEGIN")
        self.database.executemany("INSERT INTO files VALUES(?, ?, ?, ?, ?, ?)", self._rows)
        self.database.execute("COMMIT")
        self._rows.clear()

    def files(self) -> Iterator[Listed]:
        """All files, sorted by folder and stem."""
        rows = self.database.execute(
            "SELECT d.path, f.stem, f.suffix, f.kind, f.bytes, f.mtime FROM files f "
            "JOIN folders d ON d.id = f.folder ORDER BY f.folder, f.stem, f.suffix"
        )
        return map(Listed._make, rows)

    def close(self) -> None:
        """Delete the database."""
        self.database.close()


def _split(name: str) -> tuple[str, str]:
    """Stem and suffix as `Path` has them; a name that begins with its only dot has no suffix."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix) if stem else (name, "")


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_utf_8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
