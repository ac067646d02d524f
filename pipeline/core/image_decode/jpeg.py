"""JPEGs whose data end before the image does.

A decoder fills the rest with grey without an error. It can still be detected: bytes inserted before the end
marker are skipped if the image was complete, and decoded as more of the image if it was not. So the two
rasters are equal if nothing is missing, and an image that just has a grey bottom is not suspected.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pipeline.core.image_decode.errors import Pixels
from pipeline.core.image_decode.pillow import quiet_pillow
from pipeline.core.image_files import jpeg

_SCAN = b"\xff\xda"

# Bits that decode as many different codes but contain no marker. Decoders read missing data as zeros, so the
# first bits are ones: otherwise a last block that lacks little more than its end would look complete.
_MORE = b"\xfe" + bytes(53 * n % 255 for n in range(1, 512))
# The same for images with restart intervals: the eight restart markers in turn.
_MORE_INTERVALS = b"".join(
    bytes([0xFF, 0xD0 + n % 8]) + _MORE[n * 7 : n * 7 + 48] for n in range(32)
)


def with_end(data: bytes) -> bytes:
    """The same JPEG with an end marker appended if it has none."""
    if data.endswith(jpeg.END) or jpeg.find_end(data) is not None:
        return data
    return data.rstrip(b"\xff") + jpeg.END


def with_more(data: bytes) -> bytes:
    """The same JPEG with extra bytes before its end marker, which a complete image ignores."""
    end = jpeg.find_end(data) or len(data)  # None if a broken segment contains the marker
    in_intervals = any(segment.marker == jpeg.DRI for segment in jpeg.walk_segments(data))
    more = _MORE + _MORE_INTERVALS if in_intervals else _MORE
    return data[: end - len(jpeg.END)].rstrip(b"\xff") + more + jpeg.END


def ends_early(data: bytes) -> bool:
    """Whether a JPEG without an end marker lacks more than that marker."""
    if not uses_huffman_codes(data):
        return not jpeg.has_scan(data)
    ended = with_end(data)
    try:
        return not np.array_equal(_decode(ended), _decode(with_more(ended)))
    except Exception:  # Pillow's decoders raise whatever broken data makes them raise
        return True


def uses_huffman_codes(data: bytes) -> bool:
    """Whether it is a Huffman-coded JPEG; arithmetic-coded ones may omit zeros at their end."""
    if not data.startswith(jpeg.SIGNATURE):
        return False
    markers = {segment.marker for segment in jpeg.walk_segments(data)}
    return bool(markers & jpeg.HUFFMAN_FRAMES) and jpeg.SOS in markers


def is_baseline(data: bytes) -> bool:
    """Whether all data of a JPEG are in one scan, block after block."""
    markers = {segment.marker for segment in jpeg.walk_segments(data)}
    return jpeg.PROGRESSIVE not in markers and data.count(_SCAN) == 1


def without_metadata(data: bytes) -> bytes:
    """The same image without segments that no decoder needs: texts, profiles, thumbnails."""
    pieces, position = [data[:2]], 2
    for segment in jpeg.walk_segments(data):
        if segment.marker in jpeg.METADATA and not _says_colours(data, segment):
            pieces.append(data[position : segment.start - 4])
            position = segment.end
    return b"".join([*pieces, data[position:]])


def _says_colours(data: bytes, segment: jpeg.Segment) -> bool:
    """Whether it is the JFIF or Adobe segment, which define how colours are decoded."""
    held = data[segment.start : segment.end]
    is_jfif = segment.marker == jpeg.APP0 and held.startswith(b"JFIF\0") and len(held) >= 14
    is_adobe = segment.marker == jpeg.APP14 and held.startswith(b"Adobe") and len(held) >= 12
    return is_jfif or is_adobe


def _decode(data: bytes) -> Pixels:
    with quiet_pillow(), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return np.asarray(image)
