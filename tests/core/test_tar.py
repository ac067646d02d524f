"""Headers of tar members, beside those that Python's own `tarfile` writes."""

from __future__ import annotations

import tarfile

import pytest

from pipeline.core.errors import ContractError
from pipeline.core.tar import MAX_MEMBER_BYTES, header_maker, padding


@pytest.mark.parametrize("name", ["a.txt", "k" * 96 + ".png"])
@pytest.mark.parametrize("size", [0, 1, 512, 123_456, MAX_MEMBER_BYTES])
@pytest.mark.parametrize("time_s", [0, 1609804800])
def test_headers_are_those_of_the_standard_library(name: str, size: int, time_s: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, time_s
    expected = info.tobuf(tarfile.USTAR_FORMAT)
    assert header_maker(time_s=time_s)(name.encode(), size) == expected


def test_device_numbers_are_read_by_the_standard_library() -> None:
    header = header_maker(device=b"0000000\0" * 2)(b"a.txt", 7)
    info = tarfile.TarInfo.frombuf(header, "ascii", "strict")  # checks the checksum
    assert (info.name, info.size, info.devmajor, info.devminor) == ("a.txt", 7, 0, 0)
    assert header[329:345] == b"0000000\0" * 2


def test_a_member_may_have_8_gib_less_a_byte() -> None:
    assert MAX_MEMBER_BYTES == 2**33 - 1
    with pytest.raises(ContractError, match="ustar holds at most 8589934591"):
        header_maker()(b"a.txt", MAX_MEMBER_BYTES + 1)


@pytest.mark.parametrize(("size", "zeros"), [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)])
def test_a_member_ends_at_a_block(size: int, zeros: int) -> None:
    assert padding(size) == bytes(zeros)
