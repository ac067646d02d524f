"""The thread that reads ahead: order, buffers, errors and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.core.errors import ContractError
from pipeline.train.data import Position
from pipeline.train.feeding import AHEAD, SLOTS, Uploader, feed
from pipeline.webdata.reader import TokenBatch

CPU = torch.device("cpu")
Steps = Iterator[tuple[list[TokenBatch], Position]]


def batch(number: int, size: int = 3) -> TokenBatch:
    """A batch whose numbers say which it is."""
    tokens = np.full((size, 2), number, np.int32)
    codes = np.arange(size * 4, dtype=np.int32).reshape(size, 4) + number
    return TokenBatch(tokens, codes, np.arange(size, dtype=np.int64) + 10 * number)


def steps_of(count: int, taken: list[int] | None = None) -> Steps:
    for step in range(count):
        if taken is not None:
            taken.append(step)
        batches = [batch(2 * step, 1 + step % 3), batch(2 * step + 1)]
        yield batches, Position(epoch=step, consumed=0)


def uploader(vocabulary: int = 2**16) -> Uploader:
    return Uploader(device=CPU, vocabulary=vocabulary)


def accept(_: TokenBatch) -> None:
    """No batch is refused."""


def test_steps_come_in_order_with_their_own_ids_however_often_the_buffers_are_reused() -> None:
    count = 5 * SLOTS
    fed = list(feed(steps_of(count), uploader(), accept))
    assert [position.epoch for _, position in fed] == list(range(count))
    for (found, _), (expected, _) in zip(fed, steps_of(count), strict=True):
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.tokens_BT.dtype == ours.codes_BN.dtype == torch.int64
            assert ours.tokens_BT.tolist() == theirs.tokens_BT.tolist()
            assert ours.codes_BN.tolist() == theirs.codes_BN.tolist()
            assert ours.rows.tolist() == theirs.rows.tolist()


@pytest.mark.parametrize(("vocabulary", "kind"), [(2**16, torch.int16), (2**16 + 1, torch.int32)])
def test_ids_are_narrow_until_they_are_on_the_device(vocabulary: int, kind: torch.dtype) -> None:
    copying = uploader(vocabulary)
    largest = vocabulary - 1
    ids = np.array([[0, 2**15 - 1, 2**15, largest]], np.int32)
    uploaded = copying.upload(TokenBatch(ids, ids[:, ::-1], np.array([0])))
    assert uploaded.tokens_BT.tolist() == ids.tolist()
    assert uploaded.codes_BN.tolist() == ids[:, ::-1].tolist()
    numbers = copying._slots[0].numbers
    assert numbers is not None
    assert numbers.dtype == kind


def test_buffers_are_used_in_turn() -> None:
    copying = uploader()
    used = []
    for number in range(2 * SLOTS):
        copying.upload(batch(number))
        used.append([slot.numbers[0].item() for slot in copying._slots if slot.numbers is not None])
    assert used[SLOTS - 1] == list(range(SLOTS))
    assert used[-1] == list(range(SLOTS, 2 * SLOTS))


def test_no_more_is_read_ahead_than_asked_for() -> None:
    taken: list[int] = []
    steps = feed(steps_of(100, taken), uploader(), accept)
    next(steps)
    settled = time.monotonic() + 20
    while len(taken) < 1 + AHEAD and time.monotonic() < settled:
        time.sleep(0.01)
    time.sleep(0.3)
    read = len(taken)
    steps.close()
    assert read == 1 + AHEAD


def test_an_error_is_raised_where_its_step_is_due() -> None:
    def check(tested: TokenBatch) -> None:
        if tested.rows[0] == 70:
            raise ContractError("a code too large")

    steps = feed(steps_of(10), uploader(), check)
    assert [next(steps)[1].epoch for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ContractError, match="a code too large"):
        next(steps)


def test_the_thread_ends_with_its_reader() -> None:
    before = threading.active_count()
    steps = feed(steps_of(100), uploader(), accept)
    next(steps)
    assert threading.active_count() == before + 1
    steps.close()
    assert threading.active_count() == before


def test_the_first_samples_of_a_batch_keep_their_rows() -> None:
    first = uploader().upload(batch(4)).first(2)
    assert (len(first), first.rows.tolist(), first.tokens_BT.tolist()) == (
        2,
        [40, 41],
        [[4, 4]] * 2,
    )
