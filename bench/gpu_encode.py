"""The encoding parts of bench/gpu.py: the f16-16384 VQGAN with random weights, from pixels and from PNGs.

Ours is what `pipeline encode` runs on CUDA: bf16, compiled, batches of one shape, codes copied behind an
event. The peer is dalle-pytorch's `VQGanVAE.get_codebook_indices`.
"""

from __future__ import annotations

import gc
import io
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.gpu import Place, Row
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.vqgan import VQGAN, NearestEntries, VQGANConfig
from pipeline.models.devices import is_out_of_memory, matmul_rate, peak_bytes

PUBLISHED = VQGANConfig(
    num_tokens=16384,
    code_dim=256,
    channels=128,
    multipliers=(1, 1, 2, 2, 4),
    blocks=2,
    attention_sizes=(16,),
    training_size=256,
    latents=256,
    image_size=256,
)
TINY = VQGANConfig(
    num_tokens=32,
    code_dim=8,
    channels=32,
    multipliers=(1, 2),
    blocks=1,
    attention_sizes=(16,),
    training_size=32,
    latents=8,
    image_size=32,
)
BATCH = 256
PIECE = 16  # images that a thread decodes at once, as in `pipeline encode`
FLOPS = 140.6e9  # of an image at 256²


def make_codec(place: Place) -> VQGAN:
    """The codec on the device; its codebook lies among the latents of random images."""
    torch.manual_seed(0)
    codec = VQGAN(TINY if place.smoke else PUBLISHED).requires_grad_(False).eval().to(place.device)
    side = codec.image_size
    latents_BDRS = codec.encode_latents(torch.rand(4, 3, side, side, device=place.device))
    latents_XD = latents_BDRS.permute(0, 2, 3, 1).flatten(0, 2)
    assert isinstance(codec.quantize, NearestEntries)
    entries_KD = codec.quantize.embedding.weight
    picked_K = torch.randint(len(latents_XD), (len(entries_KD),), device=place.device)
    noise_KD = latents_XD.std() * torch.randn_like(entries_KD)
    entries_KD.copy_(latents_XD[picked_K] + noise_KD)
    return codec


def measure_encoding(place: Place) -> Iterator[Row]:
    """Images per second from pixels, ours by precision and compiler."""
    try:
        from pipeline.encode.encoder import Encoder  # needs Pillow
        from pipeline.models.codecs.precision import use_precision
    except ImportError as error:
        yield {"what": f"not measured: {error}"}
        return
    codec, batch = make_codec(place), 4 if place.smoke else BATCH
    pixels_BHWC = random_pixels(batch, codec.image_size)
    exact_BN: Tensor | None = None
    for precision, compiled in (("fp32", False), ("bf16", False), ("bf16", True), ("tf32", False)):
        if precision == "tf32" and place.device == "cpu":
            continue
        use_precision(codec, precision)  # type: ignore[arg-type]
        encoder = Encoder(codec, batch)
        if compiled:
            encoder.compile("eager" if place.smoke else "inductor")
        row: Row = {"what": f"ours, {precision}{', compiled' if compiled else ''}", "batch": batch}
        yield row | time_encoding(encoder.encode, pixels_BHWC, codec, place)
        codes_BN = encoder.encode(pixels_BHWC)
        exact_BN = codes_BN if exact_BN is None else exact_BN
        if compiled:
            changed = (codes_BN != exact_BN).float().mean().item()
            yield {"what": "codes that bf16 changes", "share": changed}


def measure_stock_encoding(place: Place) -> Iterator[Row]:
    """The peer, as it comes (float32), up to the batch that is fastest."""
    try:
        from bench.encode import Job, make_stock, write_files  # needs PyYAML and Pillow
    except ImportError as error:
        yield {"what": f"not measured: {error}"}
        return
    if place.smoke:
        # The peer has only its published size: half a minute an image on a CPU.
        yield {"what": f"left out in small: {make_stock.__name__}", "images/s": 0.0}
        return
    best = 0.0
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        for batch in (16, 64, 128, 256):
            job = Job(
                name="stock",
                batch=batch,
                compiled=False,
                device=place.device,
                images=batch,
                repeats=1,
                folder=Path(folder),
            )
            try:
                encode = make_stock(job)
            except (ImportError, AttributeError) as error:
                yield {"what": f"not measured: {error}"}
                return
            row = time_encoding(encode, random_pixels(batch, 256), None, place)
            yield {"what": "VQGanVAE, fp32", "batch": batch, **row}
            speed = row.get("images/s", 0.0)
            if not isinstance(speed, float) or speed < best:
                return
            best = speed


def measure_encoding_files(place: Place) -> Iterator[Row]:
    """From PNGs in memory: decoded by all cores, ahead of the encoder."""
    try:
        from pipeline.encode.encoder import Encoder, Fetched
        from pipeline.models.codecs.precision import pick_precision, use_precision

        decode, decoder = find_decoder()
    except ImportError as error:
        yield {"what": f"not measured: {error}"}
        return
    codec = make_codec(place)
    side, batch = codec.image_size, 4 if place.smoke else BATCH
    files = make_pngs(4 if place.smoke else 64, side)
    use_precision(codec, pick_precision("auto", torch.device(place.device)))
    encoder = Encoder(codec, batch)
    encoder.compile("eager" if place.smoke else "inductor")
    encoder.encode(random_pixels(batch, side))
    cores = len(os.sched_getaffinity(0))

    count = 3 if place.smoke else 40
    wait_for(place)
    began = time.perf_counter()
    with ThreadPoolExecutor(cores) as threads:
        computing: Fetched | None = None
        for pixels_BHWC in decode_ahead(threads, decode, files, batch=batch, count=count):
            fetched = Fetched(encoder.encode(pixels_BHWC))
            if computing is not None:
                computing.wait()
            computing = fetched
        assert computing is not None
        computing.wait()
    seconds = time.perf_counter() - began
    yield {
        "what": f"ours, from PNGs ({decoder})",
        "cores": cores,
        "batch": batch,
        "images/s": count * batch / seconds,
    }
    began = time.perf_counter()
    decode(files)
    yield {
        "what": "decoding alone, one core",
        "images/s": len(files) / (time.perf_counter() - began),
    }


def find_decoder() -> tuple[Callable[[Sequence[bytes]], Any], str]:
    """A function from PNGs to uint8 [B, H, W, 3], and its name: ours, or Pillow's without its packages."""
    from PIL import Image

    try:
        import kornia_rs  # noqa: F401
    except ImportError:

        def decode_by_pillow(piece: Sequence[bytes]) -> Any:
            return np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in piece])

        return decode_by_pillow, "Pillow's decoder: kornia-rs is missing"
    from pipeline.models.codecs.pixels import read_square

    def decode(piece: Sequence[bytes]) -> Any:
        sides = [Image.open(io.BytesIO(data)).width for data in piece]
        return np.stack([read_square(data, side) for data, side in zip(piece, sides, strict=True)])

    return decode, "our decoder"


def decode_ahead(
    threads: ThreadPoolExecutor,
    decode: Callable[[Sequence[bytes]], Any],
    files: Sequence[bytes],
    *,
    batch: int,
    count: int,
) -> Iterator[Any]:
    """`count` batches of the files over and over, four ahead."""
    endless = cycle(files)
    waiting: deque[list[Future[Any]]] = deque()
    for number in range(count + 4):
        if number < count:
            some = list(islice(endless, batch))
            pieces = [some[start : start + PIECE] for start in range(0, batch, PIECE)]
            waiting.append([threads.submit(decode, piece) for piece in pieces])
        if number >= 4 and waiting:
            yield np.concatenate([piece.result() for piece in waiting.popleft()])


def time_encoding(
    encode: Callable[[Any], Tensor], pixels_BHWC: Any, codec: Codec | None, place: Place
) -> Row:
    """Speed of an encoder on one batch over and over, and its share of the matrix rate."""
    if place.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        began = time.perf_counter()
        encode(pixels_BHWC)
        wait_for(place)
        first_s = time.perf_counter() - began
        encode(pixels_BHWC)
        wait_for(place)
        count, began = 0, time.perf_counter()
        while count < 1 or (not place.smoke and time.perf_counter() - began < 2):
            encode(pixels_BHWC)
            wait_for(place)
            count += 1
        seconds = time.perf_counter() - began
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"images/s": "out of memory"}
    finally:
        gc.collect()
    speed = count * len(pixels_BHWC) / seconds
    row: Row = {
        "images/s": speed,
        "peak GB": peak_bytes(torch.device(place.device)) / 1e9,
        "first batch s": first_s,
    }
    if codec is not None and not place.smoke:
        row["MFU"] = speed * FLOPS / matmul_rate(torch.device(place.device), torch.bfloat16)
    return row


def random_pixels(count: int, side: int) -> Any:
    """uint8 [count, side, side, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def make_pngs(count: int, side: int) -> list[bytes]:
    """Smooth images of many colours as files, about as large as the blog's."""
    from PIL import Image

    small = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    files = []
    for pixels_HWC in small:
        file = io.BytesIO()
        image = Image.fromarray(pixels_HWC).resize((side, side), Image.Resampling.BICUBIC)
        image.save(file, "PNG")
        files.append(file.getvalue())
    return files


def wait_for(place: Place) -> None:
    """Until the device has done all that it was given."""
    if place.device == "cuda":
        torch.cuda.synchronize()
