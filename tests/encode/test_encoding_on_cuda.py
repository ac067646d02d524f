"""Encoding on a CUDA device: the codes of the CPU but for rounding; less memory than expected."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.encode.encoder import Encoder, Fetched, pick_batch_size
from pipeline.encode.precision_cost import switch_precision
from pipeline.models.codecs.pixels import Pixels
from pipeline.models.codecs.precision import use_precision
from pipeline.models.codecs.vqgan import VQGAN, NearestEntries, VQGANConfig

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
SIDE = 128


def make_codec() -> VQGAN:
    """A VQGAN of random weights, whose codebook is made of its latents."""
    torch.manual_seed(0)
    codec = VQGAN(
        VQGANConfig(
            num_tokens=1024,
            code_dim=16,
            channels=64,
            multipliers=(1, 2, 2),
            blocks=1,
            attention_sizes=(32,),
            training_size=SIDE,
            latents=16,
            image_size=SIDE,
        )
    )
    latents_BDRS = codec.encode_latents(torch.rand(2, 3, SIDE, SIDE)).detach()
    latents_XD = latents_BDRS.permute(0, 2, 3, 1).flatten(0, 2)
    assert isinstance(codec.quantize, NearestEntries)
    codec.quantize.embedding.weight.data = latents_XD[torch.randperm(len(latents_XD))[:1024]]
    return codec.requires_grad_(False).eval()


def noise(count: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("compiled", [False, True])
def test_codes_are_those_of_the_cpu_but_for_the_measured_share(
    compiled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pixels_BHWC = noise(8)
    codec = make_codec()
    expected_BN = Encoder(codec, 8).encode(pixels_BHWC)
    codec.to(DEVICE)
    use_precision(codec, "fp32")
    exact_BN = Encoder(codec, 8).encode(pixels_BHWC).cpu()
    assert (exact_BN != expected_BN).float().mean().item() < 0.002
    cost = switch_precision(codec, "bf16", pixels_BHWC)
    encoder = Encoder(codec, 8)
    if compiled:
        encoder.compile()
    codes_BN = encoder.encode(pixels_BHWC).cpu()
    assert "can't be compiled" not in caplog.text
    changed = (codes_BN != exact_BN).float().mean().item()
    assert changed == pytest.approx(cost.changed_codes, abs=0.02)
    # A smaller batch is filled up to the same shape, so its codes are the same bits.
    assert torch.equal(encoder.encode(pixels_BHWC[:3]).cpu(), codes_BN[:3])


def test_codes_are_copied_while_the_next_batch_is_encoded() -> None:
    encoder = Encoder(make_codec().to(DEVICE), 8)
    pixels_BHWC = noise(16)
    first = Fetched(encoder.encode(pixels_BHWC[:8]))
    second = Fetched(encoder.encode(pixels_BHWC[8:]))
    whole_BN = encoder.encode(pixels_BHWC).cpu().numpy()
    assert (np.concatenate([first.wait(), second.wait()]) == whole_BN).all()


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Half a gigabyte more than is in use."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (512 << 20)) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("little_memory")
def test_less_memory_than_expected_halves_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    """A layer of 64 channels takes 4 MB an image: three layers of 256 images take 3 GB."""
    encoder = Encoder(make_codec().to(DEVICE), 256)
    pixels_BHWC = noise(256)
    codes_BN = encoder.encode(pixels_BHWC)
    assert len(codes_BN) == 256
    assert encoder.batch_size < 256
    assert "continuing with 128" in caplog.text


def test_a_batch_fits_the_device() -> None:
    assert 1 <= pick_batch_size("auto", make_codec().to(DEVICE)) <= 256
