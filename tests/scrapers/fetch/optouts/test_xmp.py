"""plus:DataMining in the XMP of every format."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scrapers.fetch.optouts.embedded import find_in_bytes
from scrapers.fetch.sniff import sniff
from tests.core.image_decode.files import encode, insert_segment, photo
from tests.scrapers.fetch.optouts.files import (
    PROHIBITED,
    VOCABULARY,
    gif_with_xmp,
    jpeg_with_extended_xmp,
    jpeg_with_xmp,
    packet,
    png_with_raw_profile,
    png_with_xmp,
    prohibiting,
    with_xmp,
)


def find(body: bytes) -> str | None:
    kind = sniff(body).format
    assert kind is not None
    found = find_in_bytes(body, kind)
    return None if found is None else found.text


PLACES: dict[str, Callable[[bytes], bytes]] = {
    "JPEG": jpeg_with_xmp,
    "JPEG, extended": jpeg_with_extended_xmp,
    "PNG": png_with_xmp,
    "PNG, compressed": lambda xmp: png_with_xmp(xmp, compressed=True),
    "PNG, raw profile": png_with_raw_profile,
    "GIF": gif_with_xmp,
    "JPEG by Pillow": lambda xmp: with_xmp("JPEG", xmp),
    "WebP by Pillow": lambda xmp: with_xmp("WEBP", xmp),
    "TIFF by Pillow": lambda xmp: with_xmp("TIFF", xmp),
    "AVIF by Pillow": lambda xmp: with_xmp("AVIF", xmp),
}


@pytest.mark.parametrize("place", PLACES)
def test_it_is_found_in_every_format(place: str) -> None:
    body = PLACES[place](prohibiting())
    assert sniff(body).whole
    assert find(body) == "plus:DataMining = DMI-PROHIBITED-GENAIMLTRAINING"
    assert find(PLACES[place](prohibiting(f"{VOCABULARY}DMI-ALLOWED"))) is None


@pytest.mark.parametrize(
    "value",
    [
        "DMI-PROHIBITED",
        "DMI-PROHIBITED-AIMLTRAINING",
        "DMI-PROHIBITED-GENAIMLTRAINING",
        "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING",
        "DMI-PROHIBITED-SEECONSTRAINT",
        "DMI-PROHIBITED-SEEEMBEDDEDRIGHTSEXPR",
        "DMI-PROHIBITED-SEELINKEDRIGHTSEXPR",
    ],
)
def test_every_prohibition_refuses(value: str) -> None:
    assert find(jpeg_with_xmp(prohibiting(VOCABULARY + value))) == f"plus:DataMining = {value}"
    assert find(jpeg_with_xmp(prohibiting(value))) == f"plus:DataMining = {value}"


@pytest.mark.parametrize("value", ["DMI-UNSPECIFIED", "DMI-ALLOWED", "", "no idea"])
def test_other_values_refuse_nothing(value: str) -> None:
    assert find(jpeg_with_xmp(prohibiting(VOCABULARY + value))) is None


@pytest.mark.parametrize(
    "xmp",
    [
        packet("", f'plus:DataMining="{PROHIBITED}"'),
        packet(f'<plus:DataMining rdf:resource="{PROHIBITED}"/>'),
        packet(
            f"<plus:DataMining><rdf:Bag><rdf:li>{PROHIBITED}</rdf:li></rdf:Bag></plus:DataMining>"
        ),
        packet(f"<plus:DataMining>\n  {PROHIBITED}\n</plus:DataMining>"),
        packet(
            f"<p:DataMining>{PROHIBITED}</p:DataMining>",
            'xmlns:p="http://ns.useplus.org/ldf/xmp/1.0/"',
        ),
        packet(f"<!-- a note --><plus:DataMining>{PROHIBITED}</plus:DataMining>"),
        prohibiting().decode().encode("utf-16"),
        # No XML, and clear all the same.
        prohibiting().replace(b"</rdf:RDF>", b""),
        prohibiting() + b"<more",
        prohibiting()[: prohibiting().index(b"</plus")],
    ],
    ids=[
        "attribute",
        "resource",
        "bag",
        "blanks",
        "prefix",
        "comment",
        "UTF-16",
        "open",
        "more",
        "cut",
    ],
)
def test_every_way_to_write_it_is_read(xmp: bytes) -> None:
    assert find(jpeg_with_xmp(xmp)) == "plus:DataMining = DMI-PROHIBITED-GENAIMLTRAINING"


@pytest.mark.parametrize(
    "xmp",
    [
        packet(""),
        packet(f"<dc:description>{PROHIBITED} is what plus:DataMining may say</dc:description>",
               'xmlns:dc="http://purl.org/dc/elements/1.1/"'),
        packet(f"<x:DataMining>{PROHIBITED}</x:DataMining>"),
        packet(f"<!-- <plus:DataMining>{PROHIBITED}</plus:DataMining> -->"),
        b"",
        b"\0\0\0",
    ],
    ids=["nothing", "a text about it", "another namespace", "a comment", "empty", "zeros"],
)  # fmt: skip
def test_what_is_something_else_refuses_nothing(xmp: bytes) -> None:
    assert find(jpeg_with_xmp(xmp)) is None


@pytest.mark.timeout(60)  # minutes, where entities are expanded or patterns backtrack
def test_hostile_packets_cost_nothing() -> None:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    laughs = f'<!DOCTYPE x [<!ENTITY l0 "DataMining">{lol}]><x>&l9;</x>'.encode()
    for xmp in (
        laughs,
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><DataMining>&e;</DataMining>',
        b"<a>" * 20_000 + b"DataMining",
    ):
        assert find(png_with_xmp(xmp)) is None
    bomb = png_with_xmp(b"DataMining" + bytes(50 << 20), compressed=True)
    assert find(bomb) is None
    many = encode(photo(1), "TIFF") + b"<x:xmpmeta DataMining " * 200_000
    assert find(many) is None


def test_the_place_is_part_of_the_evidence() -> None:
    found = find_in_bytes(jpeg_with_xmp(prohibiting()), "jpg")
    assert found is not None
    assert (found.signal, found.reason) == ("iptc-data-mining", "iptc_data_mining")
    assert found.where == "XMP (JPEG APP1)"


def test_an_image_without_metadata_refuses_nothing() -> None:
    for file_format in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"):
        assert find(encode(photo(1), file_format)) is None
    assert find(insert_segment(encode(photo(1), "JPEG"), 0xE1, b"Exif\0\0MM\0*")) is None
