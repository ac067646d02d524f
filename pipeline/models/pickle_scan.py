"""Scan a pickle before loading it, for operations that would exhaust memory or the stack."""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from typing import IO

_DEEPEST_TUPLE = 64  # hashing recurses in C for each level, and a stack overflow kills the process


def scan_pickle(stream: IO[bytes]) -> None:
    """Read a pickle's operations without executing them.

    Raises ValueError if it is damaged, if its memo would be far larger than its contents (a single number
    can request gigabytes), or if tuples are nested so deeply that hashing them would crash the process.
    """
    stack: list[int] = []  # for each object, how deeply tuples are nested in it
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
            _simulate(operation, stack, marks)


def _remember(memo: dict[int, int], place: int, stack: Sequence[int]) -> None:
    if not 0 <= place <= 2 * len(memo) + 1024:
        raise ValueError("it requests a memo far larger than its contents")
    memo[place] = stack[-1]


def _simulate(operation: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> None:
    """Simulate an operation's effect on the stack."""
    taken = list(operation.stack_before)
    inner: list[int] = []
    if pickletools.markobject in taken:
        start = marks.pop()
        inner = stack[start:]
        del stack[start:]
        taken = taken[: taken.index(pickletools.markobject)]
    if len(taken) > len(stack):
        raise ValueError("it pops from an empty stack")
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
