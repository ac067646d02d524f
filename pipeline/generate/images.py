"""Image files: PNGs with metadata on how they were made, and the contact sheet. No I/O.

Legend: H rows, W columns of pixels.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from pipeline.core.image_decode import decode_image

THUMBNAIL_PX = 128
CAPTION_PX = 20
FONT_PX = 14
MARGIN_PX = 4
SHEET_COLUMNS = 8
SHEET_LINES = 64
LINES_OF_A_PROMPT = 4

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def encode_png(pixels_HWC: npt.NDArray[np.uint8], record: Mapping[str, str]) -> bytes:
    """A image as PNG with `record` as its text entries."""
    text = PngImagePlugin.PngInfo()
    for name, value in record.items():
        text.add_itxt(name, value)
    return _png_bytes(Image.fromarray(pixels_HWC), text)


def images_shown(prompts: int) -> int:
    """The number of images per prompt that fit on a sheet with this many prompts."""
    return SHEET_COLUMNS * min(LINES_OF_A_PROMPT, max(1, SHEET_LINES // prompts))


def contact_sheet(rows: Sequence[tuple[str, Sequence[bytes]]]) -> bytes:
    """A PNG of prompts with their images below: at most 64 lines of 8 images."""
    rows = rows[:SHEET_LINES]
    shown = [(prompt, images[: images_shown(len(rows))]) for prompt, images in rows]
    columns = min(SHEET_COLUMNS, max(len(images) for _, images in shown))
    cell = THUMBNAIL_PX + MARGIN_PX
    width = max(columns, 4) * cell + MARGIN_PX
    heights = [CAPTION_PX + -(-len(images) // SHEET_COLUMNS) * cell for _, images in shown]
    sheet = Image.new("RGB", (width, sum(heights) + MARGIN_PX), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    top = MARGIN_PX
    for (prompt, images), height in zip(shown, heights, strict=True):
        caption = _shorten(prompt, font, width - 2 * MARGIN_PX)
        draw.text((MARGIN_PX, top), caption, fill="black", font=font)
        for number, image in enumerate(images):
            line, column = divmod(number, SHEET_COLUMNS)
            corner = (MARGIN_PX + column * cell, top + CAPTION_PX + line * cell)
            sheet.paste(_thumbnail(image), corner)
        top += height
    return _png_bytes(sheet, None)


def _thumbnail(data: bytes) -> Image.Image:
    image = Image.fromarray(decode_image(data).pixels_HWC)
    return image.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC)


def _shorten(text: str, font: Font, width: int) -> str:
    """`text` truncated to fit in `width` pixels."""
    plain = _in_ascii(text)
    if len(plain) <= width and font.getlength(plain) <= width:
        return plain
    kept = plain[:width]
    while font.getlength(f"{kept}...") > width:
        kept = kept[:-1]
    return f"{kept}..."


def _in_ascii(text: str) -> str:
    """ASCII, which Pillow's built-in font can show in every build: letters lose their accents."""
    letters = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return bare.encode("ascii", "replace").decode("ascii")


def _png_bytes(image: Image.Image, text: PngImagePlugin.PngInfo | None) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=text)
    return file.getvalue()
