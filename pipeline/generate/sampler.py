"""The loaded model with its tokenizer and codec, which completes prompts and draws images.

Legend: B images of a batch, U prompts, T text positions, N codes, P codes of the `--prime` image.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import Choice, complete_captions, image_seed, sample_codes
from pipeline.models.devices import is_out_of_memory, pick_device
from pipeline.models.tokenizers.load import TextTokenizer

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_PRIME_BYTES = 256 << 20
MAX_PRIME_PIXELS = 1 << 27
PRIMED_SHARE = (
    0.4375  # of the codes, as in DALLE-pytorch's `generate_images`: "OpenAI used 14 * 32"
)
TEXT_INDEX = -1  # the index for the seed of a prompt's completion; images have 0, 1, 2 …


@dataclass(frozen=True, kw_only=True)
class ImageSampler:
    """Draws images with the options of `config`; every image starts with `first_codes_P`, if any."""

    config: GenerateConfig
    model: Dalle
    tokenizer: TextTokenizer
    codec: Codec
    device: torch.device
    first_codes_P: Tensor | None

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
        for start in range(0, len(prompts), self.config.batch_size):
            given = prompts[start : start + self.config.batch_size]
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
        start, size, codes = 0, self.config.batch_size, self.model.config.image_seq_len
        while start < len(orders):
            batch = orders[start : start + size]

            def report(drawn: int, start: int = start, images: int = len(batch)) -> None:
                if isinstance(progress, Announced):
                    progress.measure((start + images * drawn / codes) / len(orders))
                progress(start, len(orders), {NOW: f"code {drawn} of {codes}"})

            pixels_BHWC = self._try_to_draw(batch, report)
            if pixels_BHWC is None:
                size = len(batch) // 2
                logger.warning("Out of memory with %d images at once; trying %d.", len(batch), size)
                continue
            yield batch, pixels_BHWC
            start += len(batch)
            progress(start, len(orders), None)

    def _try_to_draw(self, orders: Sequence[Order], report: Callable[[int], None]) -> Pixels | None:
        """The images; None if memory runs out but might suffice for fewer."""
        try:
            return self.draw(orders, report)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(orders) == 1:
                raise ModelError(
                    f"Out of memory with a single image ({error}). Use --precision bf16, or another "
                    "--device."
                ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def draw(
        self, orders: Sequence[Order], report: Callable[[int], None] = lambda _: None
    ) -> Pixels:
        """The images of one batch, uint8 [B, H, W, 3]; `report` gets the number of codes an image has."""
        texts = list(dict.fromkeys(order.prompt.text for order in orders))
        tokens_UT = self.tokenizer.encode_batch(texts, self.model.config.text_seq_len)
        codes_BN = sample_codes(
            self.model,
            torch.from_numpy(tokens_UT).to(self.device, torch.int64),
            rows=[texts.index(order.prompt.text) for order in orders],
            image_seeds=[order.seed for order in orders],
            choice=self.choice,
            first_codes_P=self.first_codes_P,
            report=report,
        )
        return to_pixels(self.codec.decode(codes_BN))


def load_sampler(config: GenerateConfig, model_inputs: ModelInputs) -> ImageSampler:
    """Load the model, its codec and the `--prime` image.

    Raises ModelError if files are damaged or do not match each other, ConfigError for a `--prime` image that
    can't be read or leaves nothing to draw.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    model, codec = model_inputs.load(device)
    model.to(PRECISIONS[config.precision]).pack()
    return ImageSampler(
        config=config,
        model=model,
        tokenizer=model_inputs.tokenizer,
        codec=codec,
        device=device,
        first_codes_P=_read_first_codes(config, codec, device),
    )


def _read_first_codes(config: GenerateConfig, codec: Codec, device: torch.device) -> Tensor | None:
    """The codes of the upper part of the `--prime` image, int64 [P]."""
    if config.prime is None:
        return None
    rows, columns = codec.grid
    if config.prime_rows is not None and config.prime_rows >= rows:
        raise ConfigError(
            f"--prime-rows {config.prime_rows} leaves nothing to draw: an image has {rows} rows of "
            "codes. Give fewer."
        )
    pixels_HWC = _prime_pixels(config.prime, codec.image_size)
    codes_1N = codec.encode(to_images(pixels_HWC[None], device))
    count = config.prime_rows * columns if config.prime_rows else int(PRIMED_SHARE * rows * columns)
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
