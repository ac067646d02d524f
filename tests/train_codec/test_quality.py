"""What a codec is worth: entries used, perplexity, PSNR."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.models.codecs.reconstruct import psnr
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.train_codec.quality import measure_codec, perplexity


@pytest.mark.parametrize(
    ("counts", "size"),
    [([5, 5, 5, 5], 4.0), ([7, 0, 0, 0], 1.0), ([1, 1, 0, 0], 2.0), ([3, 1], 4 / 3**0.75)],
)
def test_perplexity_is_the_size_of_a_codebook_used_evenly(counts: list[int], size: float) -> None:
    assert perplexity(torch.tensor(counts)) == pytest.approx(size)


def test_psnr_is_that_of_8_bit_pixels() -> None:
    black = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    (found,) = psnr(black, black + 5)
    assert found == pytest.approx(20 * math.log10(255 / 5))


def test_entries_that_occur_once_are_used() -> None:
    """A codec whose codes are the brightness of each patch: 3 patches dark, 1 bright."""
    codec = VQCodec(
        VQConfig(image_size=32, num_tokens=4, code_dim=1, channels=1, deep_encoder=False)
    )
    with torch.no_grad():
        codec.patch_encoder.weight.fill_(1 / 768)
        codec.patch_decoder.weight.fill_(1.0)
    codec.codebook_KD.copy_(torch.tensor([[-0.5], [-0.2], [0.2], [0.5]]))
    pixels = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    pixels[:, :16, :16] = 255
    quality = measure_codec(codec.eval(), pixels, torch.device("cpu"))
    assert quality.codebook_used == 2
    assert quality.perplexity == pytest.approx(4 / 3**0.75, abs=0.01)
    assert quality.psnr_db >= 60
