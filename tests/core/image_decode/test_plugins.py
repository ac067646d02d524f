"""HEIC and JPEG XL: decoded if their packages are installed, otherwise reported."""

from __future__ import annotations

import sys

import pytest

from pipeline.core.image_decode import DecodeError, MissingDecoderError, decode_image
from tests.core.image_decode.files import encode, photo

PLUGINS = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}


@pytest.mark.parametrize(("file_format", "module"), PLUGINS.items())
def test_they_are_decoded_or_reported_as_missing(
    file_format: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = pytest.importorskip(module)
    if file_format == "HEIF":
        plugin.register_heif_opener()
    data = encode(photo(1), file_format)
    found = decode_image(data)
    assert (found.format, found.pixels_HWC.shape) == (file_format.lower(), (48, 64, 3))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDecoderError, match=f"{module.replace('_', '-')}.*pip install"):
        decode_image(data)


@pytest.mark.parametrize(
    "start", [b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", b"\xff\x0a"]
)
def test_broken_ones_are_refused(start: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_image(start + bytes(100))
