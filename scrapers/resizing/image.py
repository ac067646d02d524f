"""One image resized: decoded as by all stages, scaled, encoded. Runs in a worker process."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image

from pipeline.core.image_decode import DecodeError, decode_image, looks_cut
from scrapers.resizing.rule import Layout, ResizeRule

# As `dedupe` has it by default.
_MAX_PIXELS = 40_000_000
_WHITE = (255, 255, 255)


class Resized(NamedTuple):
    """The new bytes, or None if the image stays as it is; `failure` if it should have been resized."""

    body: bytes | None
    failure: str | None = None


def resize_image(part: tuple[ResizeRule, bytes]) -> Resized:
    """Resize one image file. Its bytes stay as they are if it is small enough, or can't be decoded whole.

    Scaling down averages the area of each pixel, scaling up is Lanczos. The result has no metadata: the image
    is turned as its orientation says, transparency is over white.
    """
    rule, data = part
    try:
        raster = decode_image(data, max_pixels=_MAX_PIXELS)
        if looks_cut(data, raster.pixels_HWC):
            return Resized(None, "its data end early")
    except DecodeError as error:
        return Resized(None, str(error))
    height, width = raster.pixels_HWC.shape[:2]
    layout = rule.layout(width, height)
    if layout is None:
        return Resized(None)
    return Resized(_encode(_lay_out(Image.fromarray(raster.pixels_HWC), layout), rule))


def _lay_out(image: Image.Image, layout: Layout) -> Image.Image:
    scaled, final = layout
    if scaled != image.size:
        shrinks = scaled.width * scaled.height < image.width * image.height
        how = Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS
        image = image.resize(scaled, how)
    if scaled == final:
        return image
    left, top = (scaled.width - final.width) // 2, (scaled.height - final.height) // 2
    if scaled.width >= final.width and scaled.height >= final.height:
        return image.crop((left, top, left + final.width, top + final.height))
    canvas = Image.new("RGB", final, _WHITE)
    # As img2dataset: of an odd rest the smaller half is above and to the left.
    canvas.paste(image, ((final.width - scaled.width) // 2, (final.height - scaled.height) // 2))
    return canvas


def _encode(image: Image.Image, rule: ResizeRule) -> bytes:
    file = io.BytesIO()
    if rule.format == "png":
        image.save(file, "PNG")
    elif rule.format == "webp":
        image.save(file, "WEBP", quality=rule.quality)
    else:
        image.save(file, "JPEG", quality=rule.quality)
    return file.getvalue()
