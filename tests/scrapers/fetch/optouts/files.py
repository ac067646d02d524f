"""Images with metadata that refuse, made byte by byte."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from tests.core.image_decode.files import chunk, encode, insert_chunks, insert_segment, photo

VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
PROHIBITED = f"{VOCABULARY}DMI-PROHIBITED-GENAIMLTRAINING"
PLUS = 'xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/"'


def packet(inner: str, attributes: str = "") -> bytes:
    """An XMP packet as programs write it, with its wrapper and padding."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Image::ExifTool 12.76">\n'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        f'<rdf:Description rdf:about="" {PLUS} {attributes}>{inner}</rdf:Description>\n'
        f'</rdf:RDF>\n</x:xmpmeta>\n{" " * 200}\n<?xpacket end="w"?>'
    ).encode()


def prohibiting(value: str = PROHIBITED) -> bytes:
    return packet(f"<plus:DataMining>{value}</plus:DataMining>")


# --- XMP in files --------------------------------------------------------------------------------

XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"


def jpeg_with_xmp(xmp: bytes) -> bytes:
    return insert_segment(encode(photo(1), "JPEG"), 0xE1, XMP_HEAD + xmp)


def jpeg_with_extended_xmp(xmp: bytes, *, size: int = 300) -> bytes:
    """The packet in parts, the last one first, behind a main packet that names it."""
    data = encode(photo(1), "JPEG")
    guid = b"0123456789ABCDEF0123456789ABCDEF"
    head = b"http://ns.adobe.com/xmp/extension/\0" + guid
    for at in range(0, len(xmp), size):
        part = head + struct.pack(">II", len(xmp), at) + xmp[at : at + size]
        data = insert_segment(data, 0xE1, part)
    main = packet("", f'xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="{guid.decode()}"')
    return insert_segment(data, 0xE1, XMP_HEAD + main)


def png_with_xmp(xmp: bytes, *, compressed: bool = False) -> bytes:
    text = zlib.compress(xmp) if compressed else xmp
    head = b"XML:com.adobe.xmp\0" + (b"\1\0" if compressed else b"\0\0") + b"\0\0"
    return insert_chunks(encode(photo(1)), chunk(b"iTXt", head + text))


def png_with_raw_profile(xmp: bytes) -> bytes:
    """As ImageMagick writes it."""
    text = f"\nxmp\n{len(xmp):8}\n{xmp.hex()}\n".encode()
    data = b"Raw profile type xmp\0\0" + zlib.compress(text)
    return insert_chunks(encode(photo(1)), chunk(b"zTXt", data))


def gif_with_application(name: bytes, data: bytes, *, sub_blocks: bool) -> bytes:
    """A GIF with an application extension in front of its trailer."""
    if sub_blocks:
        parts = [data[n : n + 255] for n in range(0, len(data), 255)]
        data = b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
    gif = encode(photo(1), "GIF")
    return gif[:-1] + b"\x21\xff" + bytes([len(name)]) + name + data + gif[-1:]


def gif_with_xmp(xmp: bytes) -> bytes:
    """XMP lies there as one text; 258 magic bytes lead any reader of sub-blocks to its end."""
    magic = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    return gif_with_application(b"XMP DataXMP", xmp + magic, sub_blocks=False)


def with_xmp(file_format: str, xmp: bytes) -> bytes:
    """By Pillow's own writer."""
    options: dict[str, Any] = {"xmp": xmp}
    if file_format == "TIFF":
        tags = ImageFileDirectory_v2()
        tags[700], tags.tagtype[700] = xmp, 1
        options = {"tiffinfo": tags}
    return encode(Image.fromarray(photo(1)), file_format, **options)


# --- CBOR ----------------------------------------------------------------------------------------


def cbor(value: Any, *, indefinite: bool = False) -> bytes:
    """Strings, numbers, maps, arrays, truth values, null."""
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
    if isinstance(value, int):
        return _cbor_head(0, value) if value >= 0 else _cbor_head(1, -1 - value)
    if isinstance(value, str):
        return _cbor_head(3, len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return _cbor_head(2, len(value)) + value
    items = list(value.items()) if isinstance(value, dict) else [(item,) for item in value]
    body = b"".join(cbor(part, indefinite=indefinite) for item in items for part in item)
    major = 5 if isinstance(value, dict) else 4
    if indefinite:
        return bytes([major << 5 | 31]) + body + b"\xff"
    return _cbor_head(major, len(items)) + body


def _cbor_head(major: int, number: int) -> bytes:
    for info, form, limit in ((24, "B", 2**8), (25, ">H", 2**16), (26, ">I", 2**32)):
        if number < 24:
            return bytes([major << 5 | number])
        if number < limit:
            return bytes([major << 5 | info]) + struct.pack(form, number)
    return bytes([major << 5 | 27]) + struct.pack(">Q", number)


# --- Content Credentials -------------------------------------------------------------------------

TAIL = b"\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71"


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + kind + data


def superbox(kind: bytes, label: str, *contents: bytes) -> bytes:
    """A JUMBF box: its description with type and label, and what it holds."""
    description = box(b"jumd", kind + TAIL + b"\x03" + label.encode() + b"\0")
    return box(b"jumb", description + b"".join(contents))


def assertion(label: str, content: Any, *, as_json: bool = False) -> bytes:
    if as_json:
        return superbox(b"json", label, box(b"json", json.dumps(content).encode()))
    return superbox(b"cbor", label, box(b"cbor", cbor(content)))


def store(*assertions: bytes) -> bytes:
    """A manifest store with one manifest, its other assertions around those given."""
    others = assertion("c2pa.actions", {"actions": [{"action": "c2pa.created"}]})
    hashed = assertion("c2pa.hash.data", {"alg": "sha256", "hash": bytes(32), "pad": bytes(8)})
    claim = superbox(b"c2cl", "c2pa.claim", box(b"cbor", cbor({"dc:title": "a picture"})))
    held = superbox(b"c2as", "c2pa.assertions", others, *assertions, hashed)
    signature = superbox(b"c2cs", "c2pa.signature", box(b"cbor", cbor([bytes(9)])))
    manifest = superbox(b"c2ma", "urn:uuid:f1a3", held, claim, signature)
    return superbox(b"c2pa", "c2pa", manifest)


def training(use: str = "notAllowed", *, maker: str = "cawg", **more: str) -> dict[str, Any]:
    """The content of an assertion that says this of training, and allows the rest."""
    allowed = {"use": "allowed"}
    return {
        "entries": {
            f"{maker}.ai_inference": allowed,
            f"{maker}.ai_generative_training": {"use": use, **more},
            f"{maker}.data_mining": allowed,
        }
    }


def jpeg_with_store(boxes: bytes, *, size: int = 60_000, number: int = 1) -> bytes:
    """In as many APP11 segments as it takes, each with the head of the box."""
    parts: Iterable[bytes] = [boxes[8:][n : n + size] for n in range(0, len(boxes) - 8, size)]
    data = encode(photo(1), "JPEG")
    for turn, part in reversed(list(enumerate(parts, start=1))):
        head = b"JP" + struct.pack(">HI", number, turn) + boxes[:8]
        data = insert_segment(data, 0xEB, head + part)
    return data


def png_with_store(boxes: bytes) -> bytes:
    return insert_chunks(encode(photo(1)), chunk(b"caBX", boxes))


def webp_with_chunk(name: bytes, data: bytes) -> bytes:
    webp = encode(photo(1), "WEBP")
    webp += name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:]


def avif_with_store(boxes: bytes) -> bytes:
    """In a uuid box behind the first one."""
    avif = encode(photo(1), "AVIF")
    uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
    held = box(b"uuid", uuid + bytes(4) + b"manifest\0" + bytes(8) + boxes)
    return avif + held


def gif_with_store(boxes: bytes) -> bytes:
    return gif_with_application(b"C2PA_GIF\x01\x00\x00", boxes, sub_blocks=True)
