"""Decode and encode the images of a part: in this process, or in pieces by others, one process per device.

Legend: B views of a batch, N codes of a view.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.core.engine import WORKER, Engine, count_cores, map_parts
from pipeline.core.errors import PipelineError
from pipeline.core.part_result import PartResult
from pipeline.encode.batches import Batch, Failure, Task, decode_parts
from pipeline.encode.draft import Done, count_images
from pipeline.encode.encoder import Encoder, Fetched, pick_batch_size, should_compile
from pipeline.encode.parts import FailedRow
from pipeline.models.codecs.load import load_codec
from pipeline.models.codecs.precision import Precision, use_huge_pages, use_precision

# About this many images per piece: a second on a GPU, and half a minute on a CPU.
_CUDA_PIECE, _CPU_PIECE = 2048, 64
_CUDA_THREADS = 4  # threads that decode for one GPU, on Ray

EncodeTasks = Callable[[Sequence[Task]], Iterator[Done]]


def start_encoding(
    encoder: Encoder,
    segments: Path,
    threads: ThreadPoolExecutor,
    parts: Sequence[Sequence[Task]],
    done: int,
) -> EncodeTasks:
    """A function that encodes the parts one after another; the first `done` images have codes.

    While a part is written, the threads decode the next one.
    """
    rest = [part[done if number == 0 else 0 :] for number, part in enumerate(parts)]
    return functools.partial(_take_images, _encode_parts(encoder, segments, threads, rest))


def _encode_parts(
    encoder: Encoder,
    segments: Path,
    threads: ThreadPoolExecutor,
    parts: Sequence[Sequence[Task]],
) -> Iterator[Done]:
    """The encoded batches; the next one is computed while a batch's codes are copied and used."""
    computing: tuple[Batch, Fetched] | None = None
    for batch in decode_parts(
        segments,
        parts,
        side=encoder.codec.image_size,
        batch_size=encoder.batch_size,
        threads=threads,
    ):
        codes = Fetched(encoder.encode(batch.pixels_BHWC))
        if computing is not None:
            yield _done(*computing)
        computing = batch, codes
    if computing is not None:
        yield _done(*computing)


def _take_images(results: Iterator[Done], tasks: Sequence[Task]) -> Iterator[Done]:
    """The next results, until they cover `tasks`."""
    left = len(tasks)
    while left > 0:
        done = next(results)
        left -= done.images
        yield done


def _done(batch: Batch, codes: Fetched) -> Done:
    return Done(
        images=batch.images + len(batch.failures),
        views=batch.views,
        codes_BN=codes.wait().astype(np.uint16),
        failed=tuple(map(_failed_row, batch.failures)),
    )


def _failed_row(failure: Failure) -> FailedRow:
    image = failure.image
    return FailedRow(
        pixel_sha256=image.pixel_sha256, key=image.key, status="failed", detail=failure.detail
    )


# --- In other processes --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a process needs to encode as this one does.

    `threads` is its share of the cores, `num_images` its share of the images.
    """

    codec: Path
    segments: Path
    precision: Precision
    device: str
    threads: int
    batch_size: str
    compile: str
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Images for one process."""

    recipe: Recipe
    tasks: tuple[Task, ...]


def threads_per_process(engine: str, device: str, devices: int | None) -> int:
    """A task on Ray has one CPU; an encoder on a GPU must decode faster than that."""
    if engine == "ray":
        return _CUDA_THREADS if device == "cuda" else 1
    return max(1, count_cores() // (devices or 1))


def encode_piece(piece: Piece) -> Done:
    """Encode a piece; the codec stays loaded for the next one."""
    recipe = piece.recipe
    encoder = _load_encoder(recipe)
    with ThreadPoolExecutor(recipe.threads) as threads:
        return _join(list(_encode_parts(encoder, recipe.segments, threads, [piece.tasks])))


@functools.lru_cache(maxsize=1)
def _load_encoder(recipe: Recipe) -> Encoder:
    use_huge_pages()
    device = torch.device(recipe.device)
    if device.type == "cuda":
        # Ray shows each of its workers one device; ours see all of them.
        device = torch.device("cuda", int(os.environ.get(WORKER, 0)) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(recipe.threads)
    codec = load_codec(recipe.codec, device)
    use_precision(codec, recipe.precision)
    encoder = Encoder(codec, pick_batch_size(recipe.batch_size, codec))
    if should_compile(recipe.compile, recipe.num_images, device):
        encoder.compile()
    return encoder


def _join(batches: Sequence[Done]) -> Done:
    return Done(
        images=count_images(batches),
        views=tuple(view for batch in batches for view in batch.views),
        codes_BN=np.concatenate([batch.codes_BN for batch in batches]),
        failed=tuple(row for batch in batches for row in batch.failed),
    )


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Encodes parts in pieces by several processes, which start once for all of them."""

    recipe: Recipe
    engine: Engine
    workers: int | None
    piece_images: int

    @classmethod
    def of(cls, recipe: Recipe, engine: Engine, *, workers: int | None, batch_size: int) -> Spread:
        """Pieces of whole batches of `batch_size`, so that the codes are those of one process."""
        about = _CUDA_PIECE if recipe.device == "cuda" else _CPU_PIECE
        size = batch_size * max(1, about // batch_size)
        return cls(recipe=recipe, engine=engine, workers=workers, piece_images=size)

    def start(self, parts: Sequence[Sequence[Task]], done: int) -> EncodeTasks:
        """A function that encodes the parts one after another; the first `done` images have codes."""
        results = map_parts(
            encode_piece,
            self._pieces(parts, done),
            workers=self.workers,
            engine=self.engine,
        )
        return functools.partial(_take, results)

    def _pieces(self, parts: Sequence[Sequence[Task]], done: int) -> Iterator[Piece]:
        for part in parts:
            for start in range(done, len(part), self.piece_images):
                yield Piece(
                    recipe=self.recipe, tasks=tuple(part[start : start + self.piece_images])
                )
            done = 0


def _take(results: Iterator[PartResult[Piece, Done]], tasks: Sequence[Task]) -> Iterator[Done]:
    return _take_images(map(_checked, results), tasks)


def _checked(result: PartResult[Piece, Done]) -> Done:
    if result.failure is not None:
        raise PipelineError(
            f"Encoding stopped: {result.failure}. It may have run out of memory: give a smaller "
            "--batch-size or fewer --devices. The same command resumes."
        )
    return result.result
