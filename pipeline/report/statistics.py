"""Distributions over all kept images, from one pass over the tables: sizes, shapes, bytes, captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.report.gallery import thin_out
from pipeline.report.page import Section
from pipeline.report.plots import histogram
from pipeline.report.tokens import load_tokenizer_of
from pipeline.report.view import View

if TYPE_CHECKING:
    import pyarrow as pa

TOKENIZED = 20_000
_ENDLESS = float("inf")
_PIXELS = (0, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, _ENDLESS)
_SHAPES = (0, 0.4, 0.5, 0.67, 0.75, 0.9, 0.9999, 1.0001, 1.11, 1.33, 1.5, 2, 2.5, _ENDLESS)
_BYTES = (0, *(1000 * 2**power for power in range(13)), _ENDLESS)
_LENGTHS = (0, 10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500, 1000, _ENDLESS)
_TOKENS = (0, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, _ENDLESS)


@dataclass(kw_only=True)
class _Distribution:
    """Counts between edges; a value at an edge belongs to the bin that begins there."""

    title: str
    unit: str
    edges: tuple[float, ...]
    counts: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.edges) - 1, np.int64)

    def add(self, values: npt.NDArray[Any]) -> None:
        places = np.searchsorted(self.edges, values, side="right") - 1
        self.counts += np.bincount(places, minlength=len(self.counts))[: len(self.counts)]

    def draw(self) -> str:
        """A histogram from the first to the last bin with images."""
        used = np.flatnonzero(self.counts)
        if not len(used):
            return ""
        bins = range(used[0], used[-1] + 1)
        return histogram(
            self.title, [(self._label(n), int(self.counts[n])) for n in bins], unit=self.unit
        )

    def _label(self, number: int) -> str:
        low, high = self.edges[number], self.edges[number + 1]
        if low > 1 - 1e-3 and high < 1 + 1e-3:
            return "1"
        return f"{_short(low)}+" if high == _ENDLESS else _short(low)


def _short(value: float) -> str:
    return (
        f"{value / 1000:g}k"
        if value >= 2000 and value % 1000 == 0
        else f"{value:.3g}"
        if value < 10
        else f"{value:g}"
    )


def statistics(view: View) -> Iterator[Section]:
    """Histograms of the kept images and their captions."""
    import pyarrow.compute as pc

    if not view.finished("dedupe"):
        return
    longer = _Distribution(title="Longer side", unit=" pixels and more", edges=_PIXELS)
    shape = _Distribution(title="Width ÷ height", unit=" and more", edges=_SHAPES)
    size = _Distribution(title="File size", unit=" bytes and more", edges=_BYTES)
    length = _Distribution(title="Caption length in characters", unit=" and more", edges=_LENGTHS)
    several = _Distribution(
        title="Captions of an image", unit="", edges=(0, 1, 2, 3, 4, 5, 6, 8, 10, _ENDLESS)
    )
    for batch in view.batches("kept/", ["width", "height", "bytes", "caption", "captions"]):
        width, height = (batch[name].to_numpy(zero_copy_only=False) for name in ("width", "height"))
        known = ~(np.isnan(width) | np.isnan(height))
        longer.add(np.maximum(width, height)[known])
        shape.add(width[known] / np.maximum(height[known], 1))
        size.add(batch["bytes"].to_numpy(zero_copy_only=False))
        length.add(_lengths(batch))
        several.add(pc.list_value_length(batch["captions"]).to_numpy(zero_copy_only=False))
    drawn = [each.draw() for each in (longer, shape, size, length)]
    drawn += [*_token_lengths(view), *_images_of_captions(view), several.draw()]
    if any(drawn):
        yield Section(
            title="Distributions",
            note="All kept images. A label is the lower end of its bin; a bar's tooltip has its number.",
            body=f'<div class="histograms">{"".join(drawn)}</div>',
        )


def _lengths(batch: pa.RecordBatch) -> npt.NDArray[Any]:
    import pyarrow.compute as pc

    values: npt.NDArray[Any] = pc.utf8_length(batch["captions"].flatten()).to_numpy(
        zero_copy_only=False
    )
    return values


def _read_captions(view: View) -> tuple[list[str], npt.NDArray[Any]]:
    """The distinct captions with images, in the order of the table, and the number of images of each."""
    texts: list[str] = []
    numbers: list[npt.NDArray[Any]] = [np.zeros(0, np.int64)]
    for batch in view.batches("captions.parquet", ["caption", "images"]):
        images = batch["images"].to_numpy(zero_copy_only=False)
        used = np.flatnonzero(images > 0)
        texts += batch["caption"].take(used.tolist()).to_pylist()
        numbers.append(images[used])
    return texts, np.concatenate(numbers)


def _token_lengths(view: View) -> Iterator[str]:
    tokenizer = load_tokenizer_of(view)
    if tokenizer is None:
        return
    texts, _ = _read_captions(view)
    chosen: Sequence[str] = thin_out(texts, TOKENIZED) if texts else []
    of = f" ({len(chosen):,} of {len(texts):,} captions)" if len(chosen) < len(texts) else ""
    tokens = _Distribution(title=f"Caption length in tokens{of}", unit=" and more", edges=_TOKENS)
    if chosen:
        tokens.add(np.array([len(ids) for ids in tokenizer.ids(list(chosen))]))
    yield tokens.draw()


def _images_of_captions(view: View) -> Iterator[str]:
    _, images = _read_captions(view)
    edges = (0, 1, 2, 3, 4, 8, 16, 24, 31, 32, 33, 64, 128, 512, _ENDLESS)
    numbers = _Distribution(title="Images of a caption", unit=" and more", edges=edges)
    numbers.add(images)
    yield numbers.draw()
