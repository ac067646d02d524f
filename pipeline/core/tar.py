"""Headers of plain ustar members: regular files whose headers differ in name and size only. Pure.

Format: POSIX.1-1988 ustar, https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.core.errors import ContractError

BLOCK = 512
MAX_MEMBER_BYTES = 8**11 - 1
# The two empty blocks at the end of a tar.
END = bytes(2 * BLOCK)
_MODE_OWNER = b"0000644\0" + b"0000000\0" * 2
_PADDING = [bytes(-size % BLOCK) for size in range(BLOCK)]

# Makes the header of a member from its name and its size.
MakeHeader = Callable[[bytes, int], bytes]


def padding(size: int) -> bytes:
    """The zeros between a member's data of `size` bytes and the next header."""
    return _PADDING[size % BLOCK]


def header_maker(*, time_s: int = 0, device: bytes = b"") -> MakeHeader:
    """A function that makes headers with this time; owner and group are 0, the mode is 0644.

    `device` are the bytes of the device numbers. The function raises ContractError for a member that is too
    large.
    """
    before, after = _MODE_OWNER, b"%011o\0" % time_s
    kind = b"0" + bytes(100) + b"ustar\0" + b"00" + bytes(64) + device
    rest = kind.ljust(BLOCK - 156, b"\0")
    constant = sum(before) + sum(after) + 8 * ord(" ") + sum(rest)

    def header(name: bytes, size: int) -> bytes:
        if size > MAX_MEMBER_BYTES:
            raise ContractError(
                f"A member of {size} bytes: ustar holds at most {MAX_MEMBER_BYTES}."
            )
        length = b"%011o\0" % size
        checksum = constant + sum(name) + sum(length)
        return b"%b%b%b%b%06o\0 %b" % (
            name.ljust(100, b"\0"),
            before,
            length,
            after,
            checksum,
            rest,
        )

    return header
