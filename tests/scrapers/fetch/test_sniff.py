"""What a body is by its bytes: whatever the decoder reads is known, and oddities at the end cost nothing."""

from __future__ import annotations

import pytest
from PIL import Image

from pipeline.core.image_decode import FORMATS, decode_image
from scrapers.fetch.sniff import Flaw, ImageFormat, sniff
from scrapers.fetch.verdict import judge_response
from tests.core.image_decode.files import encode, photo, webp_of_odd_length

NAMES: dict[str, ImageFormat] = {
    "PNG": "png",
    "JPEG": "jpg",
    "GIF": "gif",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tiff",
    "AVIF": "avif",
    "HEIF": "heic",
    "JXL": "jxl",
}
PLUGIN_FORMATS = ("HEIF", "JXL")


def image(kind: str, **options: object) -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if kind == "JXL":
        pytest.importorskip("pillow_jxl")
    return encode(photo(1), kind, **options)


@pytest.mark.parametrize("kind", [*FORMATS, *PLUGIN_FORMATS])
def test_what_the_decoder_reads_is_known_and_whole(kind: str) -> None:
    body = image(kind)
    assert sniff(body) == (NAMES[kind], True, None)
    assert decode_image(body).pixels_HWC.shape == (48, 64, 3)


@pytest.mark.parametrize("kind", [*FORMATS, "HEIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_image_that_is_cut_is_not_whole(kind: str, share: float) -> None:
    body = image(kind)
    cut = sniff(body[: int(len(body) * share)])
    assert (cut.format, cut.whole) == (NAMES[kind], False)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("size", [(64, 48), (1, 1), (301, 7)])
def test_a_tiff_of_any_compression_is_whole(compression: str | None, size: tuple[int, int]) -> None:
    picture = Image.fromarray(photo(1)).resize(size)
    body = encode(picture, "TIFF", compression=compression)
    assert sniff(body) == ("tiff", True, None)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_a_bmp_of_any_depth_is_whole(mode: str) -> None:
    body = encode(Image.fromarray(photo(1)).convert(mode), "BMP")
    assert sniff(body) == ("bmp", True, None)
    assert not sniff(body[:-1]).whole


def test_a_text_that_begins_with_bm_is_no_image() -> None:
    assert sniff(b"BMW is a maker of cars, and this is a page about them.").format is None


def test_a_film_is_no_image() -> None:
    film = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(100)
    assert sniff(film).format is None


MP4 = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom\x00\x00\x20\x08mdat" + bytes(8192)


def odd(name: str) -> bytes:
    jpeg, png = image("JPEG"), image("PNG")
    return {
        "JPEG, zeros behind": jpeg + bytes(5000),
        "JPEG, an MP4 behind": jpeg + MP4,
        "JPEG, a line end behind": jpeg + b"\r\n",
        "progressive JPEG, zeros behind": image("JPEG", progressive=True) + bytes(700),
        "JPEG without its end": jpeg[:-2],
        "JPEG without half of its end": jpeg[:-1],
        "progressive JPEG without its end": image("JPEG", progressive=True)[:-2],
        "grey JPEG without its end": encode(photo(1)[..., 0], "JPEG")[:-2],
        "PNG, text behind": png + b"<!-- served by cache -->",
        "GIF, a line end behind": image("GIF") + b"\r\n",
        "GIF, zeros behind": image("GIF") + bytes(64),
        "GIF without its end": image("GIF")[:-1],
        "WebP, bytes behind": image("WEBP") + b"\r\n\r\n",
        "WebP without its pad byte": webp_of_odd_length()[:-1],
        "WebP that does not count its pad byte": shorten(webp_of_odd_length()),
        "BMP, bytes behind": image("BMP") + bytes(12),
        "AVIF, text behind": image("AVIF") + b"<!-- served by cache -->",
    }[name]


def shorten(webp: bytes) -> bytes:
    """Without the pad byte, in the header too."""
    size = int.from_bytes(webp[4:8], "little") - 1
    return webp[:4] + size.to_bytes(4, "little") + webp[8:-1]


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        ("JPEG, zeros behind", "trailing_bytes"),
        ("JPEG, an MP4 behind", "trailing_bytes"),
        ("JPEG, a line end behind", "trailing_bytes"),
        ("progressive JPEG, zeros behind", "trailing_bytes"),
        ("JPEG without its end", "no_end"),
        ("JPEG without half of its end", "no_end"),
        ("progressive JPEG without its end", "no_end"),
        ("grey JPEG without its end", "no_end"),
        ("PNG, text behind", "trailing_bytes"),
        ("GIF, a line end behind", "trailing_bytes"),
        ("GIF, zeros behind", "trailing_bytes"),
        ("GIF without its end", "no_end"),
        ("WebP, bytes behind", "trailing_bytes"),
        ("WebP without its pad byte", "unpadded"),
        ("WebP that does not count its pad byte", "unpadded"),
        ("BMP, bytes behind", "trailing_bytes"),
        ("AVIF, text behind", "trailing_bytes"),
    ],
)
def test_an_odd_end_is_flagged_stored_and_decoded(name: str, flaw: Flaw) -> None:
    body = odd(name)
    verdict = judge_response(200, None, body)
    assert (verdict.state, verdict.reason) == ("done", flaw)
    assert decode_image(body).pixels_HWC.size


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_jpeg_that_lacks_more_than_its_end_is_truncated(progressive: bool, share: float) -> None:
    body = image("JPEG", progressive=progressive, quality=90)
    verdict = judge_response(200, None, body[: int(len(body) * share)])
    assert (verdict.state, verdict.retry) == ("truncated", True)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image() -> None:
    thumbnail = image("JPEG")
    exif = Image.Exif()
    exif[0x9286] = thumbnail
    body = encode(photo(2, 300, 300), "JPEG", exif=exif)
    assert body.count(b"\xff\xd9") == 2
    assert sniff(body) == ("jpg", True, None)
    assert sniff(body[: len(body) // 2 + len(thumbnail)]).whole is False


@pytest.mark.parametrize("kind", [*FORMATS])
def test_no_cut_and_no_damage_makes_it_fail(kind: str) -> None:
    body = image(kind)
    for size in range(0, len(body), max(1, len(body) // 150)):
        sniff(body[:size])
        damaged = bytearray(body)
        damaged[size : size + 4] = b"\xff\xff\xff\xff"
        sniff(bytes(damaged))
