"""Writing pictures: PNGs that say how they were made, and the sheet that shows them all. Pure.

Legend: H rows, W columns of pixels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, PngImagePlugin

THUMBNAIL_PX = 128
CAPTION_PX = 16
MARGIN_PX = 4
SHEET_COLUMNS = 8
SHEET_ROWS = 64


def encode_png(pixels_HWC: npt.NDArray[np.uint8], record: Mapping[str, str]) -> bytes:
    """A picture as PNG with `record` as its text entries."""
    text = PngImagePlugin.PngInfo()
    for name, value in record.items():
        text.add_itxt(name, value)
    return _png_bytes(Image.fromarray(pixels_HWC), text)


def contact_sheet(rows: Sequence[tuple[str, Sequence[bytes]]]) -> bytes:
    """A PNG that shows prompts with their pictures beneath: at most 64 prompts, 8 pictures of each."""
    shown = [(prompt, pictures[:SHEET_COLUMNS]) for prompt, pictures in rows[:SHEET_ROWS]]
    columns = max(len(pictures) for _, pictures in shown)
    cell, line = THUMBNAIL_PX + MARGIN_PX, THUMBNAIL_PX + CAPTION_PX + MARGIN_PX
    width = max(columns * cell, 4 * cell) + MARGIN_PX
    sheet = Image.new("RGB", (width, len(shown) * line + MARGIN_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (prompt, pictures) in enumerate(shown):
        top = MARGIN_PX + row * line
        draw.text((MARGIN_PX, top), _shorten(prompt, width // 7), fill="black")
        for column, picture in enumerate(pictures):
            sheet.paste(_thumbnail(picture), (MARGIN_PX + column * cell, top + CAPTION_PX))
    return _png_bytes(sheet, None)


def _thumbnail(picture: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    return image.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC)


def _shorten(text: str, letters: int) -> str:
    # The font that Pillow carries in every build has Latin-1 only.
    plain = text.encode("latin-1", "replace").decode("latin-1")
    return (
        plain
        if len(plain) <= letters
        else plain[: letters - 1] + "…".encode("latin-1", "replace").decode()
    )


def _png_bytes(image: Image.Image, text: PngImagePlugin.PngInfo | None) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=text)
    return file.getvalue()
