"""The codecs of the workspace: originals beside reconstructions, PSNR, and use of the codebook."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.integrity import checked_files
from pipeline.core.inventory import Folder
from pipeline.core.kept_images import read_tables
from pipeline.core.parsing import read_small_file
from pipeline.report.curves import curves, read_log
from pipeline.report.page import Section, Tile, figures, image_tag, pairs, shown, tiles
from pipeline.report.plots import histogram, line_plot
from pipeline.report.reconstructions import encode_and_decode, load_folder, most_decoded
from pipeline.report.samples import KEPT_COLUMNS, SampleBook
from pipeline.report.view import View, thumbnail

_USE_IMAGES = 20_000
_SHOWN_IMAGES = 16


def codec_sections(view: View, book: SampleBook) -> Iterator[Section]:
    """Every codec with its numbers, images and curves, the latest first."""
    latest = view.latest("codec")
    folders = sorted(view.finished("codec"), key=lambda folder: folder != latest)
    for folder in folders:
        yield from _codec(view, folder, book if folder == latest else None)


def _codec(view: View, folder: Folder, book: SampleBook | None) -> Iterator[Section]:
    assert folder.manifest is not None
    numbers = tiles(_numbers(folder.manifest.details))
    plots = "".join(curves(read_log(folder.path), x_label="step"))
    yield Section(
        title=f"Codec {folder.path.name}",
        note="Measured on images of the validation split, or on training images if it has none.",
        body=numbers + (f'<div class="plots">{plots}</div>' if plots else ""),
    )
    if book is not None and view.finished("dedupe"):
        yield from _originals(view, folder, book)
    yield from _codebook_use(view, folder)
    yield from _sheet(folder)


def _numbers(details: Mapping[str, Any]) -> Iterator[Tile]:
    labels = {
        "psnr_db": ("PSNR", "{:.2f} dB"),
        "ssim": ("SSIM", "{:.3f}"),
        "lpips": ("LPIPS", "{:.3f}"),
        "loss": ("last training loss", "{:.4f}"),
        "codebook_used": ("codebook entries used", "{:,}"),
        "num_tokens": ("codebook entries", "{:,}"),
        "perplexity": ("perplexity of the codebook", "{:,.0f}"),
        "num_codes": ("codes an image", "{:,}"),
        "image_size": ("pixels a side", "{:,}"),
    }
    for name, (label, form) in labels.items():
        value = details.get(name)
        if isinstance(value, (int, float)) and math.isfinite(value):
            yield Tile(value=form.format(value), label=label)


def _originals(view: View, folder: Folder, book: SampleBook) -> Iterator[Section]:
    """Images of the validation split (else any) beside their reconstructions, with the PSNR of each."""
    rows = _spread_rows(view)
    if not rows:
        return
    codec = load_folder(view, folder.path)
    rows = rows[: most_decoded(codec, _SHOWN_IMAGES)]
    side, items = view.config.thumbnail, []
    originals = [view.pixels(row) for row in rows]
    for row, (decoded, quality) in zip(rows, encode_and_decode(codec, originals), strict=True):
        drawn = thumbnail(decoded, side, f"reconstruction: {row['caption']}")
        words = (
            f'<b>{quality:.1f} dB</b> <span class="text" dir="auto">{shown(row["caption"])}</span>'
        )
        images = [("original", book.button(row, str(row["caption"]))), ("reconstruction", drawn)]
        items.append((images, words))
    yield Section(
        title="Originals beside reconstructions",
        note="Images at even distances of the validation split, if there is one: the original, what "
        "the codec makes of its codes, and the PSNR against the square that the codec reads.",
        body=pairs(items),
    )


def _spread_rows(view: View) -> list[dict[str, Any]]:
    """Some rows of `kept` at even distances, of the validation split if it has any."""
    splits: dict[str, list[int]] = {}
    start = 0
    for batch in view.batches("kept/", ["split"]):
        values = batch["split"].to_numpy(zero_copy_only=False)
        for split in ("val", "train"):
            splits.setdefault(split, []).extend((np.flatnonzero(values == split) + start).tolist())
        start += len(batch)
    places = splits.get("val") or splits.get("train") or []
    chosen = (
        [places[turn * len(places) // _SHOWN_IMAGES] for turn in range(_SHOWN_IMAGES)]
        if places
        else []
    )
    return list(view.read_rows("kept/", list(KEPT_COLUMNS), chosen).values())


def _sheet(folder: Folder) -> Iterator[Section]:
    sheet = folder.path / "reconstructions.png"
    if sheet.exists():
        tag = image_tag(read_small_file(sheet), kind="png", alt="originals and reconstructions")
        yield Section(
            title=f"Sheet of codec {folder.path.name}",
            note="Made at the end of its training: originals above, their reconstructions from codes below.",
            body=figures([("", [tag])]),
        )


# --- The codebook -------------------------------------------------------------------------------------


def _codebook_use(view: View, folder: Folder) -> Iterator[Section]:
    """How often the entries of the codebook are used, from the tables of codes of this codec."""
    assert folder.manifest is not None
    fingerprint, size = (
        folder.manifest.details.get(name) for name in ("fingerprint", "num_tokens")
    )
    for codes in view.finished("codes"):
        assert codes.manifest is not None
        made_by = codes.manifest.details.get("codec", {})
        if isinstance(size, int) and made_by.get("fingerprint") == fingerprint:
            counts, images = _count_codes(codes, size)
            if counts.sum():
                yield _draw_use(counts, images)
            return


def _count_codes(folder: Folder, size: int) -> tuple[npt.NDArray[np.int64], int]:
    """The number of uses of each entry in the first images, and how many images these are."""
    assert folder.manifest is not None
    entries = [e for e in folder.manifest.files if e.path.endswith(".parquet")]
    counts, images = np.zeros(size, np.int64), 0
    for entry in entries:
        for batch in read_tables(checked_files(folder.path, [entry]), ["codes"], 4096):
            values = batch["codes"].flatten().to_numpy(zero_copy_only=False)
            counts += np.bincount(values, minlength=size)[:size]
            images += len(batch)
            if images >= _USE_IMAGES:
                return counts, images
    return counts, images


def _draw_use(counts: npt.NDArray[np.int64], images: int) -> Section:
    ordered = np.sort(counts)[::-1]
    share = 100 * ordered / ordered.sum()
    points = [(float(rank), float(value)) for rank, value in enumerate(share, 1) if value]
    used = int((counts > 0).sum())
    curve = line_plot(
        {"entries": points}, x_label="entries, most used first", y_label="share of all codes, %"
    )
    return Section(
        title="Use of the codebook",
        note=f"{used:,} of {len(counts):,} entries are used by the {images:,} images that were encoded.",
        body=f'<div class="plots">{curve}</div><div class="histograms">'
        f"{histogram('Entries by number of uses', _use_bins(counts), unit=' uses')}</div>",
    )


def _use_bins(counts: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
    edges = [0, 1, 10, 100, 1000, 10_000, 100_000, 1 << 62]
    labels = ["0", "1+", "10+", "100+", "1k+", "10k+", "100k+"]
    numbers = np.histogram(counts, bins=edges)[0].tolist()
    last = max(turn for turn, number in enumerate(numbers) if number)
    return list(zip(labels, numbers, strict=True))[: last + 1]
