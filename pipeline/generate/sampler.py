"""The loaded model with its tokenizer and codec, which completes prompts and draws images.

Legend: B images of a batch, U prompts, T text positions, N codes, P codes of the `--prime` image.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.estimate import Announced
from pipeline.core.image_decode import DecodeError, decode_image
from pipeline.core.progress import NOW, Progress
from pipeline.core.regular_files import read_regular
from pipeline.generate.config import GenerateConfig
from pipeline.generate.inputs import ModelInputs
from pipeline.generate.prompts import Order, Prompt
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.pixels import square_pixels, to_images, to_pixels
from pipeline.models.codecs.precision import decode_in_bf16
from pipeline.models.dalle.feed_forward import FEED_FORWARD_MULT
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import (
    Choice,
    complete_captions,
    image_seed,
    sample_codes,
    with_first_codes,
)
from pipeline.models.dalle.static_cache import row_bytes
from pipeline.models.dalle.static_decoder import FixedShapes
from pipeline.models.devices import claim_gpu, is_out_of_memory, pick_device
from pipeline.models.tokenizers.load import TextTokenizer

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
Watch = Callable[[Tensor], None]  # is called after each row of codes with the codes_BP so far

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Precision = Literal["auto", "fp32", "bf16", "fp16"]
T = TypeVar("T")

_CPU_BATCH = 32
_CUDA_BATCH = (
    512  # the weights are then a twentieth of what a position reads: more is hardly faster
)
_USED = 0.8  # of the free memory
MOST_DECODED = 64  # a VQGAN's layers take 33 MB per image in float32
_WORTH_COMPILING = 20_000  # images: at 800 a second, a tenth of their time is what compiling takes
MAX_PRIME_BYTES = 256 << 20
MAX_PRIME_PIXELS = 1 << 27
PRIMED_SHARE = (
    0.4375  # of the codes, as in DALLE-pytorch's `generate_images`: "OpenAI used 14 * 32"
)
TEXT_INDEX = -1  # the index for the seed of a prompt's completion; images have 0, 1, 2 …


@dataclass(kw_only=True)
class ImageSampler:
    """Draws images with the options of `config`; every image starts with `first_codes_P`, if any.

    `batch_size` images are drawn and `decode_size` decoded at once; both are halved when memory runs out.
    `fixed` draws by operators of fixed shapes, as CUDA wants.
    """

    config: GenerateConfig
    model: Dalle
    tokenizer: TextTokenizer
    codec: Codec
    device: torch.device
    first_codes_P: Tensor | None
    batch_size: int
    decode_size: int = MOST_DECODED
    fixed: FixedShapes | None = None

    @property
    def choice(self) -> Choice:
        """The sampling parameters for codes and text."""
        return Choice(
            filter_thres=self.config.top_k,
            temperature=self.config.temperature,
            cond_scale=self.config.cond_scale,
        )

    def too_long(self, prompts: Sequence[Prompt]) -> list[bool]:
        """For each prompt, whether it has more tokens than the model's text length."""
        ids = self.tokenizer.ids([prompt.text for prompt in prompts])
        return [len(words) > self.model.config.text_seq_len for words in ids]

    def complete(self, prompts: Sequence[str]) -> list[Prompt]:
        """Have the model complete the prompts."""
        completed: list[Prompt] = []
        for start in range(0, len(prompts), self.batch_size):
            given = prompts[start : start + self.batch_size]
            seeds = [image_seed(self.config.seed, prompt, TEXT_INDEX) for prompt in given]
            words = complete_captions(
                self.model, self.tokenizer.ids(given), seeds=seeds, choice=self.choice
            )
            completed += [
                Prompt(text=self.tokenizer.decode(ids), given=prompt)
                for prompt, ids in zip(given, words, strict=True)
            ]
        return completed

    def draw_all(
        self, orders: Sequence[Order], progress: Progress
    ) -> Iterator[tuple[Sequence[Order], Pixels]]:
        """Draw all images in batches across prompts; yields each batch with its pixels uint8 [B, H, W, 3].

        If memory runs out, the batch size is halved; images do not depend on their batch.
        """
        if self.fixed is not None:
            self.fixed.compile = should_compile(self.config.compile, len(orders), self.device)
        start = 0
        while start < len(orders):
            batch = orders[start : start + self.batch_size]
            seen = partial(self._report_codes, progress, (start, len(batch), len(orders)))
            yield batch, self.draw(batch, seen)
            start += len(batch)
            progress(start, len(orders), None)

    def _report_codes(
        self, progress: Progress, numbers: tuple[int, int, int], codes_BP: Tensor
    ) -> None:
        """Report how far a batch is; `numbers` are the images before it, in it, and in all."""
        (before, images, total), drawn = numbers, codes_BP.shape[1]
        of_each = self.model.config.image_seq_len
        if isinstance(progress, Announced):
            progress.measure((before + images * drawn / of_each) / total)
        progress(before, total, {NOW: f"code {drawn} of {of_each}"})

    def draw(self, orders: Sequence[Order], watch: Watch | None = None) -> Pixels:
        """The images of one batch, uint8 [B, H, W, 3].

        If memory runs out, the rest of the batch is drawn in halves, from the codes that are already drawn.
        Raises ModelError if it does not suffice for a single image.
        """
        waiting, codes = deque([_Piece(orders=orders, first_codes_P=self.first_codes_P)]), []
        while waiting:
            piece, drawn = waiting.popleft(), list[Tensor]()
            codes_BN = self._try(lambda: self._draw_codes(piece, drawn, watch), len(piece.orders))  # noqa: B023
            if codes_BN is None:
                self.batch_size = _halved(len(piece.orders))
                if self.fixed is not None:
                    self.fixed.forget()
                waiting.extendleft(reversed(piece.split(drawn)))
            else:
                codes.append(codes_BN)
        return self.decode(torch.cat(codes))

    @torch.inference_mode()
    def _draw_codes(self, piece: _Piece, drawn: list[Tensor], watch: Watch | None) -> Tensor:
        """The codes of a piece, int64 [B, N]; `drawn` receives them position by position."""
        texts = list(dict.fromkeys(order.prompt.text for order in piece.orders))
        tokens_UT = self.tokenizer.encode_batch(texts, self.model.config.text_seq_len)
        return sample_codes(
            self.model,
            torch.from_numpy(tokens_UT).to(self.device, torch.int64),
            rows=[texts.index(order.prompt.text) for order in piece.orders],
            image_seeds=[order.seed for order in piece.orders],
            choice=self.choice,
            first_codes_P=piece.first_codes_P,
            fixed=self.fixed,
            drawn=drawn,
            watch=watch,
        )

    def decode(self, codes_BN: Tensor) -> Pixels:
        """The images of codes, uint8 [B, H, W, 3], `decode_size` at once.

        Raises ModelError if memory does not suffice for a single image.
        """
        pixels: list[Pixels] = []
        start = 0
        while start < len(codes_BN):
            part_BN = codes_BN[start : start + self.decode_size]
            found = self._try(lambda: to_pixels(self._decode_some(part_BN)), len(part_BN))  # noqa: B023
            if found is None:
                self.decode_size = _halved(len(part_BN))
            else:
                pixels.append(found)
                start += len(part_BN)
        return np.concatenate(pixels)

    @torch.inference_mode()
    def _decode_some(self, codes_BN: Tensor) -> Tensor:
        return self.codec.decode(codes_BN)

    def _try(self, compute: Callable[[], T], images: int) -> T | None:
        """The result; None if memory runs out but might suffice for fewer images."""
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if images == 1:
                raise ModelError(
                    f"Out of memory with a single image ({error}). Use --precision bf16, or another "
                    "--device."
                ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Images to be drawn together; `first_codes_P` as for `sample_codes`."""

    orders: Sequence[Order]
    first_codes_P: Tensor | None

    def split(self, drawn: Sequence[Tensor]) -> list[_Piece]:
        """Halves that go on from the codes_B that are `drawn` so far."""
        first_codes_P, half = self.first_codes_P, (len(self.orders) + 1) // 2
        if drawn:
            first_codes_P = with_first_codes(drawn, first_codes_P)
        of_each = first_codes_P is not None and first_codes_P.dim() == 2
        return [
            _Piece(
                orders=self.orders[part],
                first_codes_P=first_codes_P[part]
                if of_each and first_codes_P is not None
                else first_codes_P,
            )
            for part in (slice(half), slice(half, None))
        ]


def _halved(images: int) -> int:
    logger.warning("Out of memory with %d images at once; trying %d.", images, images // 2)
    return images // 2


def load_sampler(config: GenerateConfig, model_inputs: ModelInputs) -> ImageSampler:
    """Load the model, its codec and the `--prime` image.

    Raises ModelError if files are damaged or do not match each other, ConfigError for a `--prime` image that
    can't be read or leaves nothing to draw.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    claim_gpu(device)
    precision = pick_precision(config.precision, config.device)
    model, codec = model_inputs.load(device)
    first_codes_P = _read_first_codes(config, codec, device)
    model.to(PRECISIONS[precision]).pack()
    on_cuda = device.type == "cuda"
    if on_cuda and precision == "bf16":
        decode_in_bf16(codec)
    guided = config.cond_scale != 1
    return ImageSampler(
        config=config,
        model=model,
        tokenizer=model_inputs.tokenizer,
        codec=codec,
        device=device,
        first_codes_P=first_codes_P,
        batch_size=config.batch_size or pick_batch_size(model, guided=guided),
        fixed=FixedShapes() if on_cuda else None,
    )


def pick_precision(wanted: Precision, device: str) -> Precision:
    """`wanted`, or for `auto` bf16 on a CUDA device that computes in it, else fp32.

    Raises ConfigError if the device does not exist.
    """
    if wanted != "auto":
        return wanted
    on_cuda = pick_device(device).type == "cuda"
    # Older devices only emulate it, which is slower than float32.
    return "bf16" if on_cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def pick_batch_size(model: Dalle, *, guided: bool) -> int:
    """32 images on a CPU; on CUDA as many as fit in its free memory, at most 512."""
    device = model.to_logits.weight.device
    if device.type != "cuda":
        return _CPU_BATCH
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return fitting_images(free_bytes, image_bytes(model, guided=guided))


def image_bytes(model: Dalle, *, guided: bool) -> int:
    """An estimate of the memory that drawing an image takes.

    Its keys and values; the widest layer of its caption's positions twice; the logits and what sampling makes
    of them: several copies in float32 and in float64.
    """
    config = model.config
    number_bytes = model.to_logits.weight.element_size()
    widest = 2 * FEED_FORWARD_MULT * config.dim * (config.text_seq_len + 1)
    logits = (number_bytes + 4 * 4 + 3 * 8) * config.num_image_tokens
    return (1 + guided) * (row_bytes(model) + 2 * number_bytes * widest + logits)


def fitting_images(free_bytes: int, each_bytes: int) -> int:
    """How many images fit in four fifths of the free memory, from 1 to 512."""
    return max(1, min(_CUDA_BATCH, int(_USED * free_bytes) // each_bytes))


def should_compile(wanted: str, images: int, device: torch.device) -> bool:
    """Whether to compile the layers: if asked to, or with `auto` on CUDA for many images."""
    if wanted == "auto":
        return device.type == "cuda" and images >= _WORTH_COMPILING
    return wanted == "on"


def _read_first_codes(config: GenerateConfig, codec: Codec, device: torch.device) -> Tensor | None:
    """The codes of the upper part of the `--prime` image, int64 [P]."""
    if config.prime is None:
        return None
    if config.prime_rows is not None and config.prime_rows >= codec.grid[0]:
        raise ConfigError(
            f"--prime-rows {config.prime_rows} leaves nothing to draw: an image has {codec.grid[0]} rows of "
            "codes. Give fewer."
        )
    pixels_HWC = _prime_pixels(config.prime, codec.image_size)
    return encode_prime(pixels_HWC, codec, device, rows=config.prime_rows)


def encode_prime(
    pixels_HWC: Pixels, codec: Codec, device: torch.device, *, rows: int | None
) -> Tensor:
    """The codes of the upper part of a square image of the codec's size, int64 [P].

    `rows` is the number of rows of codes; None takes DALLE-pytorch's share.
    """
    codes_1N = codec.encode(to_images(pixels_HWC[None], device))
    count = rows * codec.grid[1] if rows else int(PRIMED_SHARE * codec.grid[0] * codec.grid[1])
    return codes_1N[0, :count]


def read_prime(file: Path) -> bytes:
    """The bytes of the `--prime` image; raises ConfigError if it is not a regular file."""
    try:
        return read_regular(file, max_bytes=MAX_PRIME_BYTES)
    except ConfigError as error:
        raise ConfigError(f"--prime {error}") from error


def _prime_pixels(file: Path, side: int) -> Pixels:
    try:
        raster = decode_image(read_prime(file), max_pixels=MAX_PRIME_PIXELS)
    except DecodeError as error:
        raise ConfigError(f"--prime {file} can't be read ({error}). Give an image file.") from error
    return square_pixels(Image.fromarray(raster.pixels_HWC), side)
