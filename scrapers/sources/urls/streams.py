"""The bytes of a list as a stream: decompressed, in UTF-8, lines ended by newlines.

The compression is recognised by the content, so a wrong or missing suffix does no harm.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa

from pipeline.core.errors import SourceError
from scrapers.sources.urls.list_files import ListFile

BLOCK_BYTES = 4 * 2**20
HEAD_BYTES = 2**20
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\x28\xb5\x2f\xfd", "zstd"))
_BOM = codecs.BOM_UTF8
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_LONE_CR = re.compile(rb"\r(?!\n)")


@contextlib.contextmanager
def open_bytes(file: ListFile) -> Iterator[Any]:
    """A pyarrow file over the content, decompressed; not seekable if it was compressed.

    Raises SourceError if it can't be read or decompressed.
    """
    with reading(file), contextlib.ExitStack() as stack:
        raw = _open_raw(file, stack)
        head = raw.read(4)
        raw.seek(0)
        for magic, codec in _MAGIC:
            if head.startswith(magic):
                raw = stack.enter_context(pa.CompressedInputStream(raw, codec))
        yield raw


@contextlib.contextmanager
def reading(file: ListFile) -> Iterator[None]:
    """Translate the errors of reading a list to a SourceError that names it."""
    try:
        yield
    except (OSError, EOFError, pa.ArrowException) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(
            f"The list {file.name} can't be read: {why.rstrip('.')}. Is it complete, and in the format that "
            "its name says?"
        ) from error


def _open_raw(file: ListFile, stack: contextlib.ExitStack) -> Any:
    if file.is_local:
        return stack.enter_context(pa.OSFile(file.path))
    return pa.PythonFile(_Remote(stack.enter_context(file.store.open(file.path, "rb"))), mode="r")


class _Remote:
    """A file of a store; the errors that only this store has become OSErrors."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class TextStream:
    """A file for pyarrow with the text of a list: UTF-8 without a BOM.

    UTF-16 with a BOM is converted. With `mends_cr` a carriage return that ends no line becomes a space, where
    pyarrow would begin a new row.
    """

    closed = False

    def __init__(self, raw: Any, *, mends_cr: bool) -> None:
        self._raw = raw
        self._mends_cr = mends_cr
        self._decoder: codecs.IncrementalDecoder | None = None
        head = self._read_raw(HEAD_BYTES)
        for mark, encoding in _UTF16.items():
            if head.startswith(mark):
                self._decoder = codecs.getincrementaldecoder(encoding)("replace")
                head = self._decode(head[len(mark) :])
        self._rest = self._mend(head.removeprefix(_BOM))
        # The first block, which `read` returns again.
        self.head = self._rest

    def readable(self) -> bool:
        """It is open for reading."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes; fewer only at the end, since pyarrow takes each answer for a block."""
        pieces, length = [], 0
        while length < size or size < 0:
            piece = self._rest or self._next()
            if not piece:
                break
            room = len(piece) if size < 0 else size - length
            self._rest = piece[room:]
            pieces.append(piece[:room])
            length += len(pieces[-1])
        return b"".join(pieces)

    def close(self) -> None:
        """The file beneath is closed by its owner."""
        self.closed = True

    def _next(self) -> bytes:
        while block := self._read_raw(BLOCK_BYTES):
            if made := self._mend(self._decode(block)):
                return made
        return self._decoder.decode(b"", True).encode() if self._decoder else b""

    def _read_raw(self, size: int) -> bytes:
        data: bytes = self._raw.read(size)
        return data

    def _decode(self, block: bytes) -> bytes:
        return block if self._decoder is None else self._decoder.decode(block).encode()

    def _mend(self, block: bytes) -> bytes:
        if not self._mends_cr or b"\r" not in block:
            return block
        while block.endswith(b"\r") and (more := self._decode(self._read_raw(BLOCK_BYTES))):
            block += more
        return _LONE_CR.sub(b" ", block)


def lines_of(stream: TextStream) -> Iterator[bytes]:
    """The lines of a text, without their ends; the last one may lack its own."""
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest
