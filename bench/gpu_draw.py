"""The drawing parts of bench/gpu.py: codes of the `dalleblog` shape beside dalle-pytorch's.

Ours is what `pipeline generate` runs on CUDA. dalle-pytorch is measured at a few positions, from which its
whole is summed, as in bench/generate.py; that file says why it has two rows.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from bench.gpu import Place, Row
from bench.gpu_train import DALLEBLOG, TINY
from pipeline.models.dalle.attention_types import ATTENTION_TYPES
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.continuous import ContinuousBatch
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import Choice, sample_codes
from pipeline.models.dalle.static_decoder import FixedShapes
from pipeline.models.devices import is_out_of_memory, peak_bytes

IMAGES = 512
THRESHOLD = 0.9


def make_model(place: Place, *, kind: str = "full") -> Dalle:
    """The blog's shape with random weights, in the precision that is drawn with."""
    torch.manual_seed(0)
    config = DalleConfig(**(TINY if place.smoke else DALLEBLOG), attn_types=(kind,))
    dtype = torch.bfloat16 if place.device == "cuda" else torch.float32
    return Dalle(config).eval().to(place.device, dtype)


def make_captions(config: DalleConfig, count: int, place: Place) -> Tensor:
    """Captions of a sixth of the text positions, as the blog's."""
    tokens_UT = torch.randint(1, config.num_text_tokens, (count, config.text_seq_len))
    tokens_UT[:, max(1, config.text_seq_len // 6) :] = 0
    return tokens_UT.to(place.device)


def measure_drawing(place: Place) -> Iterator[Row]:
    """512 images: of one caption, of as many, guided; without graphs; and compiled."""
    model = make_model(place)
    images = 4 if place.smoke else IMAGES
    on_cuda = place.device == "cuda"
    variants: list[tuple[str, int, float, FixedShapes | None]] = [
        ("512 images of a caption", 1, 1.0, FixedShapes()),
        ("32 images of 16 captions", max(1, images // 32), 1.0, FixedShapes()),
        ("512 captions", images, 1.0, FixedShapes()),
        ("512 of a caption, guided", 1, 3.0, FixedShapes()),
        ("512 of a caption, no graphs", 1, 1.0, FixedShapes(graphs=False)),
        ("512 of a caption, growing cache", 1, 1.0, None),
        (
            "512 of a caption, compiled",
            1,
            1.0,
            FixedShapes(compile=True, backend="inductor" if on_cuda else "eager"),
        ),
    ]
    for what, captions, cond_scale, fixed in variants[1::2] if place.smoke else variants:
        tokens_UT = make_captions(model.config, captions, place)
        choice = Choice(filter_thres=THRESHOLD, cond_scale=cond_scale)
        yield {"what": f"ours, {what}"} | time_drawing(model, tokens_UT, images, choice, fixed)


def measure_drawing_kinds(place: Place) -> Iterator[Row]:
    """Each kind of attention, and a continuous batch with one image more at every step."""
    images = 4 if place.smoke else IMAGES
    for kind in ATTENTION_TYPES[:1] if place.smoke else ATTENTION_TYPES:
        model = make_model(place, kind=kind)
        tokens_UT = make_captions(model.config, 1, place)
        choice = Choice(filter_thres=THRESHOLD)
        yield {"what": kind} | time_drawing(model, tokens_UT, images, choice, FixedShapes())
    model = make_model(place)
    tokens_T = make_captions(model.config, 1, place)[0]
    batch = ContinuousBatch(model, rows=4 if place.smoke else 64)
    for counted in (False, True):  # the first pass records the graphs
        began, done, steps = time.perf_counter(), 0, 0
        while steps < (20 if place.smoke else 600):
            if batch.free:
                batch.admit(tokens_T, seeds=[steps], choice=Choice(filter_thres=THRESHOLD))
            batch.step()
            steps += 1
            done += len(batch.take_finished())
        if counted:
            seconds = time.perf_counter() - began
            yield {
                "what": "continuous",
                "images/s": done / seconds,
                "ms a step": seconds / steps * 1e3,
            }


def measure_stock_drawing(place: Place) -> Iterator[Row]:
    """dalle-pytorch in float32, as its generate.py draws, and under autocast."""
    try:
        from bench.generate import sum_cached, sum_plain
        from tests.oracles.dalle import stock_dalle
    except ImportError as error:
        yield {"what": f"not measured: {error}"}
        return
    torch.manual_seed(0)
    config = DalleConfig(**(TINY if place.smoke else DALLEBLOG))
    stock = stock_dalle(config).eval().to(place.device)
    for what, measure, largest in (("its cache", sum_cached, 512), ("no cache", sum_plain, 64)):
        for half in (False,) if place.smoke else (False, True):
            batch = 4 if place.smoke else largest
            name = f"dalle-pytorch, {what}, {'bf16 autocast' if half else 'fp32'}"
            while batch:
                tokens_BT = make_captions(config, batch, place)
                try:
                    with torch.autocast(place.device, torch.bfloat16, enabled=half):
                        seconds, _ = measure(stock, tokens_BT)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    batch //= 2
                    continue
                finally:
                    gc.collect()
                yield {"what": name, "batch": batch, "images/s": batch / seconds}
                break


def time_drawing(
    model: Dalle, tokens_UT: Tensor, images: int, choice: Choice, fixed: FixedShapes | None
) -> Row:
    """Draw once to record and compile, then once for the time."""
    device = tokens_UT.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rows = [image * len(tokens_UT) // images for image in range(images)]
    moments = [time.perf_counter()]
    try:
        for _ in range(2 if images < IMAGES else 3):  # at the second, graphs are recorded
            sample_codes(
                model,
                tokens_UT,
                rows=rows,
                image_seeds=range(images),
                choice=choice,
                fixed=fixed,
            ).cpu()
            moments.append(time.perf_counter())
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"images/s": "out of memory"}
    finally:
        if fixed is not None:
            fixed.forget()
        gc.collect()
    seconds = moments[-1] - moments[-2]
    return {
        "images/s": images / seconds,
        "ms a position": seconds / model.config.image_seq_len * 1e3,
        "peak GB": peak_bytes(device) / 1e9,
        "first batch s": moments[1] - moments[0],
    }
