"""Look through a pickle before it is built: what would take memory or stack out of proportion. Layer 3."""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from typing import IO

_DEEPEST_TUPLE = 64  # hashing one takes stack for each level, and no error stops that


def scan_pickle(stream: IO[bytes]) -> None:
    """Read the operations of a pickle without doing them.

    Raises ValueError where it is damaged, where its memo would be larger than what it stores there (one
    number can ask for gigabytes), or where tuples are nested so deeply that hashing them would end the
    process.
    """
    stack: list[int] = []  # of each object, how deeply tuples are nested in it
    marks: list[int] = []
    memo: dict[int, int] = {}
    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            _remember(memo, len(memo) if name == "MEMOIZE" else int(str(argument)), stack)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(str(argument))])
        else:
            _do(operation, stack, marks)


def _remember(memo: dict[int, int], place: int, stack: Sequence[int]) -> None:
    if not 0 <= place <= 2 * len(memo) + 1024:
        raise ValueError("it asks for a memo that is far larger than what it stores")
    memo[place] = stack[-1]


def _do(operation: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> None:
    """What an operation takes from the stack and leaves there."""
    taken = list(operation.stack_before)
    inner: list[int] = []
    if pickletools.markobject in taken:
        start = marks.pop()
        inner = stack[start:]
        del stack[start:]
        taken = taken[: taken.index(pickletools.markobject)]
    if len(taken) > len(stack):
        raise ValueError("it takes more from its stack than there is")
    for _ in taken:
        inner.append(stack.pop())
    depth = 0
    if operation.name.startswith(("TUPLE", "FROZENSET")):
        depth = 1 + max(inner, default=0)
    if depth > _DEEPEST_TUPLE:
        raise ValueError(f"tuples are nested more than {_DEEPEST_TUPLE} levels deep")
    if operation.name == "DUP":
        depth = max(inner, default=0)
    stack.extend([depth] * len(operation.stack_after))
