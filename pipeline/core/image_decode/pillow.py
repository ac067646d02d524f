"""Pillow: its process-wide settings, its plugins, and the only place that opens files with it."""

from __future__ import annotations

import importlib.util
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.core.image_decode.background import flatten
from pipeline.core.image_decode.errors import (
    DecodeError,
    MissingDecoderError,
    Pixels,
    check_size,
    tidy,
)
from pipeline.core.image_decode.orientation import orientation_of, turn
from pipeline.core.image_files import boxes

# Formats in use on the web. Others are disabled: some run interpreters (EPS), few are well tested.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")

# Formats that need an additional package: its module, and the extra that installs it.
PLUGINS = {"HEIF": ("pillow_heif", "heif"), "JXL": ("pillow_jxl", "jxl")}
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})

# Format, mode of the file, has alpha, pixels.
Opened = tuple[str, str, bool, Pixels]


def open_with_pillow(
    data: bytes, max_pixels: int | None, *, metadata_of: bytes | None = None
) -> Opened:
    """Decode a file with Pillow. Raises DecodeError with the reason.

    `metadata_of` is the original file if parts of it that Pillow should not read were removed from `data`.
    """
    formats = (*FORMATS, *_plugin_for(data))
    try:
        with quiet_pillow(), Image.open(io.BytesIO(data), formats=formats) as image:
            check_size(*image.size, max_pixels)
            kind, mode = (image.format or "").lower(), image.mode
            has_alpha = mode in _ALPHA_MODES or "transparency" in image.info
            orientation = orientation_of(metadata_of or data, image.info)
            if isinstance(image, TiffImageFile):
                _leave_unturned(image)
            rgb = to_rgb(image, has_alpha)
            return kind, mode, has_alpha, np.asarray(turn(rgb, orientation))
    except UnidentifiedImageError:
        # Pillow's message contains a memory address.
        raise DecodeError("no image format that Pillow knows") from None
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise arbitrary exceptions for broken data
        raise DecodeError(f"broken image: {tidy(error)}") from error


def _leave_unturned(image: TiffImageFile) -> None:
    """Keep Pillow from rotating a TIFF itself, for which it reads and rewrites all of its tags."""
    image.load_end = lambda: None  # type: ignore[method-assign]
    image.load()
    image._size = image.im.size  # Pillow had already set the rotated image's size


def to_rgb(image: Image.Image, has_alpha: bool) -> Image.Image:
    """The image with three channels of 8 bits; transparency is flattened over its background."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(to_8_bits(np.asarray(image), image.mode)).convert("RGB")
    return flatten(image.convert("RGBA")) if has_alpha else image.convert("RGB")


def to_8_bits(values: npt.NDArray[np.generic], mode: str) -> Pixels:
    """16-bit grey by its upper byte; floats clipped to 0..255, 32-bit integers to 0..65535."""
    if mode == "F":
        return np.nan_to_num(values.astype(np.float64)).clip(0, 255).astype(np.uint8)
    wide = values.astype(np.int64).clip(0, 65535)
    return (wide >> 8).astype(np.uint8)


def _plugin_for(data: bytes) -> tuple[str, ...]:
    """The format of a file that needs a plugin, after loading it."""
    if data.startswith((boxes.JXL_CONTAINER, boxes.JXL_CODESTREAM)):
        return (_load_plugin("JXL"),)
    return (_load_plugin("HEIF"),) if boxes.brand_of(data) == "heic" else ()


def has_decoder(name: str) -> bool:
    """Whether the package for a format of `PLUGINS` is installed."""
    return name in PLUGINS and importlib.util.find_spec(PLUGINS[name][0]) is not None


def _load_plugin(name: str) -> str:
    module, extra = PLUGINS[name]
    try:
        plugin = importlib.import_module(module)
    except ImportError:
        raise MissingDecoderError(
            f"{name} images need the package {module.replace('_', '-')}: "
            f"pip install 'dalle-pipeline[{extra}]'"
        ) from None
    if name not in Image.OPEN:
        plugin.register_heif_opener()
    return name


class _OwnPixelLimit:
    """Disable Pillow's own pixel limit in favour of `max_pixels`, and silence its warnings.

    Both are process-wide settings: the first thread to enter changes them, the last one to leave restores
    them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._undo = ExitStack()

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                self._undo.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                Image.MAX_IMAGE_PIXELS = None

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()


_LIMIT = _OwnPixelLimit()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Disable Pillow's pixel limit and warnings; thread-safe."""
    _LIMIT.enter()
    try:
        yield
    finally:
        _LIMIT.leave()
