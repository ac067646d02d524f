"""Drawing codes at the dalleblog shape: ours with its cache against dalle-pytorch's `generate_images`.

    python bench/generate.py                          # 32 images a batch: four minutes on two cores
    python bench/generate.py --whole --batch-size 1   # dalle-pytorch run whole, to check the sums

The same random weights in both (depth 12, dim 544, 16 heads of 64, 96 text ids of 49,408, 256 codes of
16,384), other captions for every image, the sampling of both included, decoding left out. Ours is run
whole. Without a cache dalle-pytorch takes an hour for 32 images here, so it is measured at the first, the
middle and the last position, where the caption and 0, 128, 255 codes have been read, and the whole is
their Simpson sum: the cost of a position is a polynomial of the second degree in its length.

`generate_images(use_cache=True)` uses no cache unless `cond_scale` is not 1: `forward_with_cond_scale`
leaves it out. The row "its own cache" is dalle-pytorch with that one argument passed on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import Choice, sample_codes
from tests.oracles.dalle import stock_twin

CONFIG = DalleConfig(
    dim=544,
    depth=12,
    heads=16,
    dim_head=64,
    text_seq_len=96,
    num_text_tokens=49_408,
    num_image_tokens=16_384,
    image_fmap_size=16,
)
CODES = CONFIG.image_seq_len
THRESHOLD = 0.9


class EnoughError(Exception):
    """As many positions as wanted are drawn."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--whole", action="store_true", help="run dalle-pytorch whole, beside its sums"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = Dalle(CONFIG).eval()
    captions_BT = torch.randint(1, 49_408, (arguments.batch_size, CONFIG.text_seq_len))
    captions_BT[:, 16:] = 0
    stock = stock_twin(model)
    print(f"{arguments.batch_size} images a batch, {arguments.threads} threads, fp32")
    print(f"largest difference of first logits: {first_difference(model, stock, captions_BT):.1e}")
    if arguments.whole:
        compare_sums(stock, captions_BT)
    else:
        print_table(model, stock, captions_BT)


def first_difference(model: Dalle, stock: Any, captions_BT: Tensor) -> float:
    """Of the logits of the first code, for the first captions."""
    with torch.inference_mode():
        ours_BV, _ = model.start_images(captions_BT[:2])
        theirs_BV = stock(captions_BT[:2].clone())[:, -1, CONFIG.total_text_tokens :]
    return float((ours_BV - theirs_BV).abs().max())


# --- Ours ----------------------------------------------------------------------------------------


def time_ours(model: Dalle, captions_UT: Tensor, images: int, **choice: float) -> float:
    """Seconds for a batch of `images`, the captions taking turns."""
    started = time.perf_counter()
    sample_codes(
        model,
        captions_UT,
        rows=[image % len(captions_UT) for image in range(images)],
        image_seeds=range(images),
        choice=Choice(filter_thres=THRESHOLD, **choice),
    )
    return time.perf_counter() - started


# --- dalle-pytorch -------------------------------------------------------------------------------


def stock_positions(
    stock: Any, captions_BT: Tensor, *, given: int, count: int, cached: bool
) -> list[float]:
    """Seconds of each of `count` positions after `given` codes, as `generate_images` draws them."""
    moments: list[float] = []
    options: dict[str, Any] = {"use_cache": cached}
    if given:
        size = stock.vae.image_size
        image_BCHW = torch.rand(len(captions_BT), 3, size, size, device=captions_BT.device)
        options |= {"img": image_BCHW}
        options |= {"num_init_img_tokens": given}
    with watched(stock, lambda: mark(moments, count), cached=cached), suppress(EnoughError):
        stock.generate_images(captions_BT.clone(), filter_thres=THRESHOLD, **options)
    return [after - before for before, after in pairwise(moments)]


def mark(moments: list[float], count: int) -> None:
    """Note the moment in which a position begins, or the one after the last."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    moments.append(time.perf_counter())
    if len(moments) > count:
        raise EnoughError


@contextmanager
def watched(stock: Any, mark_position: Callable[[], None], *, cached: bool) -> Iterator[None]:
    """Call `mark_position` before every position and before decoding; pass the cache on if `cached`."""
    decode = stock.vae.decode

    def logits(text: Tensor, image: Tensor, *, cache: Any, **_options: float) -> Tensor:
        mark_position()
        return stock(text, image, cache=cache if cached else None)

    def stop(_codes_BN: Tensor) -> Tensor:
        mark_position()
        return torch.empty(0)

    stock.forward_with_cond_scale, stock.vae.decode = logits, stop
    try:
        yield
    finally:
        del stock.forward_with_cond_scale
        stock.vae.decode = decode


def simpson(first: float, middle: float, last: float) -> float:
    """The mean of a parabola through three values."""
    return (first + 4 * middle + last) / 6


def sum_plain(stock: Any, captions_BT: Tensor) -> tuple[float, list[float]]:
    """Seconds for all positions without a cache, from those of three."""
    codes = stock.image_seq_len
    costs = [
        stock_positions(stock, captions_BT, given=given, count=1, cached=False)[0]
        for given in (0, codes // 2, codes - 1)
    ]
    return simpson(*costs) * codes, costs


def sum_cached(stock: Any, captions_BT: Tensor) -> tuple[float, list[float]]:
    """Seconds with its cache: reading the caption, then 255 positions, from three times three of them."""
    costs, read, codes = [], 0.0, stock.image_seq_len
    for given in (0, codes // 2 - 2, codes - 4):
        first, *rest = stock_positions(stock, captions_BT, given=given, count=4, cached=True)
        read = first if given == 0 else read
        costs.append(statistics.median(rest))
    return read + simpson(*costs) * (codes - 1), [read, *costs]


# --- The tables ----------------------------------------------------------------------------------


def print_table(model: Dalle, stock: Any, captions_BT: Tensor) -> None:
    """Both, in one run."""
    images = len(captions_BT)
    model.pack()  # as `pipeline generate` does once it has loaded a model
    time_ours(model, captions_BT[:1], 4)  # what is made on the first call is made here
    ours = time_ours(model, captions_BT, images)
    one = time_ours(model, captions_BT[:1], images)
    guided = time_ours(model, captions_BT, images, cond_scale=3.0)
    model.to(torch.bfloat16).pack()
    half = time_ours(model, captions_BT, images)
    rows = [
        ("ours, its cache", ours, ""),
        ("ours, all images of one caption", one, ""),
        ("ours, cond_scale 3", guided, ""),
        ("ours, bf16", half, ""),
    ]
    cached, costs = sum_cached(stock, captions_BT)
    rows.append(("dalle-pytorch, its own cache", cached, numbers(costs)))
    plain, costs = sum_plain(stock, captions_BT)
    rows.append(("dalle-pytorch, no cache (use_cache changes nothing)", plain, numbers(costs)))
    print("| what | seconds | images/s | x ours | seconds of (reading and) three positions |")
    print("|---|---|---|---|---|")
    for name, seconds, measured in rows:
        print(
            f"| {name} | {seconds:,.1f} | {images / seconds:.3f} | {seconds / ours:.2f} | {measured} |"
        )


def compare_sums(stock: Any, captions_BT: Tensor) -> None:
    """How far the sums are from whole runs."""
    for cached, summed in (
        (True, sum_cached(stock, captions_BT)),
        (False, sum_plain(stock, captions_BT)),
    ):
        whole = sum(stock_positions(stock, captions_BT, given=0, count=CODES, cached=cached))
        print(f"cached {cached}: sum {summed[0]:.1f} s, whole {whole:.1f} s ({numbers(summed[1])})")


def numbers(costs: list[float]) -> str:
    """Seconds, for a cell of the table."""
    return ", ".join(f"{cost:.2f}" for cost in costs)


if __name__ == "__main__":
    main()
