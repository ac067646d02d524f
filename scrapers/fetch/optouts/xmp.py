"""The XMP packets of an image, and what they say about data mining (IPTC/PLUS). Pure.

Where XMP is in a file: XMP Specification Part 3 (Adobe), chapter 1; in other formats the packet is found by
its first and last element.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml import etree

from pipeline.core.image_files import gif, jpeg, png, riff
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.sniff import ImageFormat

_MAX_PACKET_BYTES = 4 * 2**20
_MAX_PACKETS = 16

_JPEG_MAIN = b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_EXTENSION_HEAD = (
    32 + 4 + 4
)  # the packet that it belongs to, the length of the whole, where this part begins
_PNG_KEYWORD = b"XML:com.adobe.xmp"
_GIF_NAME = b"XMP DataXMP"
# How a packet begins and ends in a file whose structure is not parsed.
_STARTS = (b"<x:xmpmeta", b"<rdf:RDF")
_ENDS = (b"</x:xmpmeta>", b"</rdf:RDF>")
_MARK = b"DataMining"

# The property, whatever prefix a file gives its namespace, and the values that refuse.
_PROPERTY = re.compile(r"\{http://ns\.useplus\.org/ldf/xmp/1\.0/?\}DataMining", re.I)
_RESOURCE = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}resource"
_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_PROHIBITED = re.compile(r"DMI-PROHIBITED[A-Z-]*")
# For packets that are not well-formed.
_WRITTEN = re.compile(rb"plus:DataMining[^<>]{0,40}[=>][^<>]{0,200}?(DMI-PROHIBITED[A-Z-]*)", re.S)


def find_data_mining(body: bytes, kind: ImageFormat) -> Refusal | None:
    """The property `plus:DataMining` in the XMP of an image, if it prohibits."""
    for place, packet in _packets(body, kind):
        value = _prohibition_in(packet)
        if value is not None:
            return Refusal(
                signal="iptc-data-mining",
                reason="iptc_data_mining",
                where=place,
                text=f"plus:DataMining = {value}",
            )
    return None


def _packets(body: bytes, kind: ImageFormat) -> Iterator[tuple[str, bytes]]:
    """Each packet that may contain the property, with the name of its place."""
    if kind == "jpg":
        yield from _packets_of_jpeg(body)
    elif kind == "png":
        packet = png.find_text(body, _PNG_KEYWORD, max_bytes=_MAX_PACKET_BYTES)
        raw = png.find_text(body, b"Raw profile type xmp", max_bytes=_MAX_PACKET_BYTES)
        yield "XMP (PNG iTXt)", packet or b""
        yield "XMP (PNG raw profile)", _from_hex(raw)
    elif kind == "webp":
        for chunk in riff.walk_riff(body):
            if chunk.name == b"XMP ":
                yield "XMP (WebP chunk)", body[chunk.start : chunk.end]
    elif kind == "gif":
        yield "XMP (GIF extension)", gif.find_application_raw(body, _GIF_NAME) or b""
    else:
        yield from ((f"XMP ({kind})", packet) for packet in _packets_anywhere(body))


def read_titles(body: bytes, kind: ImageFormat) -> tuple[str, ...]:
    """The titles (`dc:title`) in the XMP of an image or, without one, its descriptions (`dc:description`).

    Each language of a text counts once; the default comes first.
    """
    roots = [root for _, packet in _packets(body, kind) if (root := _parsed(packet)) is not None]
    for name in ("title", "description"):
        texts = (text for root in roots for text in _texts_of(root, f"{_DUBLIN_CORE}{name}"))
        if found := tuple(dict.fromkeys(filter(None, texts))):
            return found
    return ()


def _texts_of(root: etree._Element, name: str) -> Iterator[str]:
    for element in root.iter(etree.Element):
        if element.tag == name:
            items = list(element.iter(_ITEM)) or [element]
            items.sort(key=lambda each: each.get(_LANGUAGE) != "x-default")
            yield from ((each.text or "").strip() for each in items)
        elif (value := element.attrib.get(name)) is not None:
            yield str(value).strip()


def _packets_anywhere(body: bytes) -> Iterator[bytes]:
    """The text around each mention of the property, from the start of its packet to the end."""
    at = -1
    for _ in range(_MAX_PACKETS):
        at = body.find(_MARK, at + 1)
        if at < 0:
            return
        start = max(body.rfind(mark, 0, at) for mark in _STARTS)
        ends = [end + len(mark) for mark in _ENDS if (end := body.find(mark, at)) >= 0]
        yield body[max(start, at - _MAX_PACKET_BYTES // 2, 0) : min(ends, default=at + 1024)]
        at = min(ends, default=at)


def _packets_of_jpeg(body: bytes) -> Iterator[tuple[str, bytes]]:
    extended: dict[bytes, dict[int, bytes]] = {}
    for segment in jpeg.walk_segments(body):
        if segment.marker != jpeg.APP1:
            continue
        held = body[segment.start : segment.end]
        if held.startswith(_JPEG_MAIN):
            yield "XMP (JPEG APP1)", held[len(_JPEG_MAIN) :]
        elif held.startswith(_JPEG_EXTENSION):
            part = held[len(_JPEG_EXTENSION) :]
            offset = int.from_bytes(part[36:_EXTENSION_HEAD], "big")
            extended.setdefault(part[:32], {})[offset] = part[_EXTENSION_HEAD:]
    for parts in extended.values():
        yield "XMP (JPEG APP1, extended)", b"".join(parts[at] for at in sorted(parts))


def _prohibition_in(packet: bytes) -> str | None:
    """The value of the property, if it prohibits; searched as text if the packet is not well-formed XML."""
    if len(packet) > _MAX_PACKET_BYTES or not _may_hold_property(packet):
        return None
    root = _parsed(packet)
    if root is None:
        found = _WRITTEN.search(packet)
        return None if found is None else found[1].decode("ascii")
    values = (value for element in root.iter(etree.Element) for value in _values_of(element))
    prohibited = (_PROHIBITED.search(value.upper()) for value in values)
    return next((found[0] for found in prohibited if found is not None), None)


def _parsed(packet: bytes) -> etree._Element | None:
    """The root of a packet; None if it is not well-formed or too large."""
    if not packet or len(packet) > _MAX_PACKET_BYTES:
        return None
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(_trimmed(packet), parser)
    except (etree.XMLSyntaxError, ValueError):
        return None


def _may_hold_property(packet: bytes) -> bool:
    """Also in UTF-16, where every other byte is 0."""
    return _MARK in packet or b"D\0a\0t\0a\0M\0i\0n" in packet


def _trimmed(packet: bytes) -> bytes:
    """The packet from its first to its last bracket: blanks, lengths or magic bytes may surround it."""
    if packet.startswith((b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")):  # UTF-16
        return packet
    return packet[packet.find(b"<") : packet.rfind(b">") + 1]


def _values_of(element: etree._Element) -> Iterator[str]:
    """The value of the property: as an attribute, as text (or a list of texts), as a resource."""
    for name, value in element.attrib.items():
        if _PROPERTY.fullmatch(str(name)):
            yield str(value)
    if _PROPERTY.fullmatch(str(element.tag)):
        for inner in element.iter(etree.Element):
            yield inner.text or ""
            yield str(inner.get(_RESOURCE) or "")


def _from_hex(text: bytes | None) -> bytes:
    """ImageMagick's way of storing XMP as text: a name, a length, and hex digits."""
    try:
        return bytes.fromhex(b"".join((text or b"").split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""
