"""How fast images are inspected, beside the bare decoders.

    python bench/dedupe_images.py [decoders] [inspect] [--repeats 3]

The peers, where they are there: `pip install pyspng opencv-python-headless imagecodecs pywuffs`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from kornia_rs.io import decode_image_png_u8
from meter import ResourceMeter, peer
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.core.engine import count_cores, map_parts
from pipeline.dedupe.inspection import ImageLocation, InspectionPart, inspect_part

PART_IMAGES = 64
SIDE = 256
FILES = 192
Decoder = Callable[[bytes], Any]


def make_photos(count: int) -> list[bytes]:
    """PNGs with the spectrum of photographs, some 150 kB each at 256×256."""
    rng = np.random.default_rng(0)
    down, across = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
    falloff = np.maximum(np.hypot(down, across), 1 / SIDE) ** 1.2
    files = []
    for _ in range(count):
        spectrum = np.fft.rfft2(rng.normal(size=(3, SIDE, SIDE))) / falloff
        values = np.fft.irfft2(spectrum, axes=(1, 2))
        values = (values - values.mean()) / values.std() * 50 + 128
        pixels = np.clip(values, 0, 255).astype(np.uint8).transpose(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


@functools.cache
def decoders() -> dict[str, Decoder]:
    """Whatever is installed and turns a PNG into RGB or BGR."""
    found: dict[str, Decoder] = {
        "kornia-rs": lambda data: decode_image_png_u8(data, (SIDE, SIDE), "rgb"),
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data))),
    }
    if pyspng := peer("pyspng"):
        found["pyspng"] = pyspng.load
    if cv2 := peer("cv2"):
        found["OpenCV"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), 1)
    if imagecodecs := peer("imagecodecs"):
        found["imagecodecs, libspng"] = imagecodecs.spng_decode
        found["imagecodecs, libpng"] = imagecodecs.png_decode
    if wuffs := peer("pywuffs"):
        from pywuffs.aux import ImageDecoder, ImageDecoderConfig

        config = ImageDecoderConfig()
        config.enabled_decoders = [wuffs.ImageDecoderType.PNG]
        config.pixel_format = wuffs.PixelFormat.BGR
        decoder = ImageDecoder(config)
        found["Wuffs"] = lambda data: decoder.decode(data).pixbuf
    return found


def bench_decoders(repeats: int) -> None:
    """Each decoder alone, on one core."""
    files = make_photos(60)
    size = statistics.mean(map(len, files)) / 1000
    print(f"Decoders, {SIDE}×{SIDE} PNG of {size:.0f} kB, images a second of processor time:")
    expected = [np.asarray(Image.open(io.BytesIO(data))) for data in files]
    for name, decode in decoders().items():
        found = [np.asarray(decode(data)) for data in files]
        exact = all(
            np.array_equal(one, other) or np.array_equal(one[..., ::-1], other)
            for one, other in zip(found, expected, strict=True)
        )
        rates = [_rate(decode, files) for _ in range(repeats)]
        print(f"  {name:<24} {statistics.median(rates):6.0f}/s  {'exact' if exact else 'DIFFERS'}")


def _rate(decode: Decoder, files: list[bytes]) -> float:
    started = time.process_time()
    for data in files:
        decode(data)
    return len(files) / (time.process_time() - started)


def decode_part(part: tuple[str, InspectionPart]) -> int:
    """What a worker does that only reads and decodes, with the decoder of this name."""
    name, places = part
    decode = decoders()[name]
    with (places.segments / "00000.tar").open("rb", buffering=0) as segment:
        for place in places.places:
            decode(os.pread(segment.fileno(), place.bytes, place.offset))
    return len(places.places)


def bench_inspect(repeats: int, images: int = 3_072) -> None:
    """The same images from the same segment in as many processes, decoded bare and inspected."""
    print(f"Inspection from a segment on {count_cores()} cores, images a second of the clock:")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = _write_segment(folder)
        bare = [peer_name for peer_name in ("kornia-rs", "pyspng") if peer_name in decoders()]
        rates: dict[str, list[float]] = {}
        for _ in range(repeats):
            for decoder in bare:
                parts = ((decoder, part) for part in _parts(folder, places, images))
                rates.setdefault(f"bare {decoder}", []).append(_run(decode_part, parts, images))
            rates.setdefault("inspection", []).append(
                _run(inspect_part, _parts(folder, places, images), images)
            )
    ours = statistics.median(rates["inspection"])
    for name, found in rates.items():
        rate = statistics.median(found)
        print(f"  {name:<24} {rate:6.0f}/s   inspection is {ours / rate:4.2f} × this")


def bench_memory(repeats: int) -> None:
    """Inspection of more and more images: memory must not grow."""
    print("Memory of inspection, main process and workers:")
    with tempfile.TemporaryDirectory() as name:
        places = _write_segment(Path(name))
        for images in (1_024, 4_096, 16_384):
            with ResourceMeter() as meter:
                _run(inspect_part, _parts(Path(name), places, images), images)
            print(
                f"  {images:>6} images  {meter.wall_s:6.1f} s  {meter.peak_mb:5.0f} MB", flush=True
            )
    del repeats


def _write_segment(folder: Path) -> list[ImageLocation]:
    places, offset = [], 0
    with (folder / "00000.tar").open("wb") as segment:
        for data in make_photos(FILES):
            segment.write(data)
            digest = hashlib.sha256(data).hexdigest()
            places.append(ImageLocation(digest, "00000.tar", offset, len(data), False))
            offset += len(data)
    return places


def _parts(folder: Path, places: list[ImageLocation], images: int) -> Iterator[InspectionPart]:
    for start in range(0, images, PART_IMAGES):
        chosen = tuple(places[n % len(places)] for n in range(start, start + PART_IMAGES))
        yield InspectionPart(folder, 10**7, chosen)


def _run(function: Callable[[Any], Any], parts: Iterator[Any], images: int) -> float:
    """Images a second, from the first part that comes back: workers have started by then."""
    results = map_parts(function, parts)
    assert next(results).failure is None
    started = time.perf_counter()
    assert all(result.failure is None for result in results)
    return (images - PART_IMAGES) / (time.perf_counter() - started)


PIECES: dict[str, Callable[[int], None]] = {
    "decoders": bench_decoders,
    "inspect": bench_inspect,
    "memory": bench_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the inspection of images.")
    parser.add_argument("pieces", nargs="*", choices=[*PIECES, []], help=" ".join(PIECES))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.pieces or PIECES:
        PIECES[name](arguments.repeats)
        print()


if __name__ == "__main__":
    main()
