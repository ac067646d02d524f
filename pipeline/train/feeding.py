"""Batches on the device before they are needed: a thread reads them from the shards and copies them.

Ids are 16 bits wide until they are on the device, if the vocabularies allow. On CUDA they go through a few
pinned buffers, which are used in turn, and are copied on a stream of their own, so the device never waits for
a copy and the training loop never for a read. On a CPU the same code runs without pinning and streams.

Legend: B samples of a batch, T text positions, N codes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.train.data import Position
from pipeline.webdata.reader import TokenBatch

AHEAD = 2  # steps that are ready or being read while another trains
SLOTS = 4  # buffers for batches whose copy may not have ended
_NARROW = 2**16


@dataclass(frozen=True, kw_only=True)
class DeviceBatch:
    """int64 ids on the device, and the rows of the shards that they come from.

    `copied` is set if the copy may not have ended: `wait` before using the tensors.
    """

    tokens_BT: Tensor
    codes_BN: Tensor
    rows: npt.NDArray[np.int64]
    copied: torch.cuda.Event | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, samples: int) -> DeviceBatch:
        """The first samples alone."""
        return DeviceBatch(
            tokens_BT=self.tokens_BT[:samples],
            codes_BN=self.codes_BN[:samples],
            rows=self.rows[:samples],
        )

    def wait(self) -> None:
        """Have the current stream wait for the copy; the CPU goes on."""
        if self.copied is None:
            return
        stream = torch.cuda.current_stream(self.tokens_BT.device)
        stream.wait_event(self.copied)
        for tensor in (self.tokens_BT, self.codes_BN):
            tensor.record_stream(stream)


Step = tuple[Sequence[DeviceBatch], Position]


@dataclass
class Uploader:
    """Copies batches to a device through buffers that are used in turn.

    `vocabulary` is the number of ids of the larger vocabulary; ids must be below it.
    """

    device: torch.device
    vocabulary: int
    _slots: list[_Slot] = field(default_factory=list)
    _next: int = 0
    _stream: torch.cuda.Stream | None = None

    def upload(self, batch: TokenBatch) -> DeviceBatch:
        """The batch on the device."""
        slot = self._take_slot(batch.tokens_BT.size + batch.codes_BN.size)
        halves = (batch.tokens_BT, batch.codes_BN)
        filled = slot.fill(halves)
        if self.device.type != "cuda":
            tokens_BT, codes_BN = (_widen(half) for half in filled)
            return DeviceBatch(tokens_BT=tokens_BT, codes_BN=codes_BN, rows=batch.rows)
        self._stream = self._stream or torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._stream):
            tokens_BT, codes_BN = (
                _widen(half.to(self.device, non_blocking=True)) for half in filled
            )
            slot.copied = torch.cuda.Event()
            slot.copied.record(self._stream)
        return DeviceBatch(
            tokens_BT=tokens_BT, codes_BN=codes_BN, rows=batch.rows, copied=slot.copied
        )

    def _take_slot(self, numbers: int) -> _Slot:
        """The buffer that was used longest ago, free again and large enough."""
        if len(self._slots) < SLOTS:
            self._slots.append(_Slot())
        slot = self._slots[self._next % SLOTS]
        self._next += 1
        slot.make_free(
            numbers, narrow=self.vocabulary <= _NARROW, pinned=self.device.type == "cuda"
        )
        return slot


@dataclass
class _Slot:
    """A buffer, and the event that its last copy ended."""

    numbers: Tensor | None = None
    copied: torch.cuda.Event | None = None

    def make_free(self, size: int, *, narrow: bool, pinned: bool) -> None:
        if self.copied is not None:
            self.copied.synchronize()
        if self.numbers is None or len(self.numbers) < size:
            kind = torch.int16 if narrow else torch.int32
            self.numbers = torch.empty(size, dtype=kind, pin_memory=pinned)

    def fill(self, arrays: Sequence[npt.NDArray[np.int32]]) -> list[Tensor]:
        """Copy the arrays into the buffer, one after another; returns the parts."""
        assert self.numbers is not None
        filled, start = [], 0
        for array in arrays:
            part = self.numbers[start : start + array.size].view(array.shape)
            np.copyto(part.numpy(), array, casting="unsafe")  # keeps the lowest bits
            filled.append(part)
            start += array.size
        return filled


def _widen(ids: Tensor) -> Tensor:
    """int64 ids of int16 or int32, whose bits are an unsigned number; a copy."""
    wide = ids.to(torch.int64)
    return wide & (_NARROW - 1) if ids.dtype == torch.int16 else wide


class _Ended:
    """The steps have ended, or reading them failed."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def feed(
    steps: Iterator[tuple[Sequence[TokenBatch], Position]],
    uploader: Uploader,
    check: Callable[[TokenBatch], None],
) -> Generator[Step, None, None]:
    """The steps in their order, their batches on the device, read ahead by a thread.

    `check` is called with each batch in the thread. What it or reading raises is raised here, when the step
    is asked for. The thread ends when this iterator is closed.
    """
    ready: queue.Queue[Step | _Ended] = queue.Queue(maxsize=AHEAD - 1)  # one more is being read
    closed = threading.Event()
    thread = threading.Thread(
        target=_read_ahead, args=(steps, uploader, check, ready, closed), name="feed", daemon=True
    )
    thread.start()
    try:
        while not isinstance(item := ready.get(), _Ended):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        closed.set()
        with contextlib.suppress(queue.Empty):
            ready.get_nowait()
        thread.join()


def _read_ahead(
    steps: Iterator[tuple[Sequence[TokenBatch], Position]],
    uploader: Uploader,
    check: Callable[[TokenBatch], None],
    ready: queue.Queue[Step | _Ended],
    closed: threading.Event,
) -> None:
    try:
        if uploader.device.type == "cuda":
            torch.cuda.set_device(uploader.device)
        for batches, position in steps:
            uploaded = []
            for batch in batches:
                check(batch)
                uploaded.append(uploader.upload(batch))
            if not _put(ready, (uploaded, position), closed):
                return
        _put(ready, _Ended(), closed)
    except BaseException as error:
        _put(ready, _Ended(error), closed)


def _put(ready: queue.Queue[Step | _Ended], item: Step | _Ended, closed: threading.Event) -> bool:
    """Put an item into the queue; returns whether there was room before the reader left."""
    while not closed.is_set():
        with contextlib.suppress(queue.Full):
            ready.put(item, timeout=0.1)
            return True
    return False
