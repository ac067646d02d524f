"""A body in chunks: read however it is cut, refused where it is none, and its limits at their edges."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrapers.fetch import chunks as limits
from scrapers.fetch.chunks import BadChunk, Chunks


def read(*parts: bytes) -> tuple[bytes, bool, bytes]:
    """The body of what comes in `parts`, whether it has ended, and what lies behind it."""
    chunks = Chunks()
    body = b"".join(piece for part in parts for piece in chunks.feed(part))
    return body, chunks.ended, chunks.rest


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    behind=st.binary(max_size=5),
)
def test_however_it_is_cut_the_body_is_that_of_its_chunks(
    pieces: list[bytes], cuts: list[int], behind: bytes
) -> None:
    whole = chunked(*pieces)
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    parts = [whole[a:b] for a, b in itertools.pairwise(places)]
    parts[-1:] = [parts[-1] + behind] if parts else []
    assert read(*parts) == (b"".join(pieces), True, behind)


def test_extensions_and_trailers_are_passed_over() -> None:
    assert read(b"3;x=y\r\nabc\r\n0\r\nA: b\r\nC: d\r\n\r\nrest") == (b"abc", True, b"rest")


@pytest.mark.parametrize("start", [b"3\r\nab", b"3\r\nabc", b"3\r\nabc\r\n0\r\n", b"3", b""])
def test_a_body_that_was_cut_has_not_ended(start: bytes) -> None:
    assert read(start)[1] is False


@pytest.mark.parametrize(
    "line", [b"x", b"-1", b"+3", b"0x3", b" 3 3", b"3_0", b"\xb2", b"g" * 50, b"f" * 16]
)
def test_what_is_no_length_is_refused(line: bytes) -> None:
    with pytest.raises(BadChunk, match="not a chunk length"):
        read(line + b"\r\n")


def test_a_length_has_up_to_15_digits() -> None:
    assert read(b"0" * 14 + b"3\r\nabc\r\n0\r\n\r\n")[0] == b"abc"
    with pytest.raises(BadChunk):
        read(b"0" * 15 + b"3\r\nabc\r\n0\r\n\r\n")


@pytest.mark.parametrize(("size", "refused"), [(4095, False), (4096, False), (4097, True)])
def test_a_line_between_chunks_may_have_4096_bytes(size: int, refused: bool) -> None:
    chunks = Chunks()
    if refused:
        with pytest.raises(BadChunk, match="a line of more than 4096 bytes"):
            chunks.feed(b"1;" + b"x" * (size - 2))
    else:
        assert chunks.feed(b"1;" + b"x" * (size - 2)) == []


@pytest.mark.parametrize(("more", "refused"), [(-1, False), (0, False), (1, True)])
def test_trailers_may_have_64_kib(more: int, refused: bool) -> None:
    line = b"A: " + b"x" * 1021  # 1024 bytes
    last = b"B: " + b"x" * (1021 + more)
    body = b"0\r\n" + (line + b"\r\n") * 63 + last + b"\r\n\r\n"
    assert limits.MAX_TRAILER_BYTES == 64 * 1024
    if refused:
        with pytest.raises(BadChunk, match="trailers of more than 65536 bytes"):
            read(body)
    else:
        assert read(body)[1] is True
