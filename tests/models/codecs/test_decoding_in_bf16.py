"""Decoding in bf16, as `generate` does on CUDA: the images of float32 but for rounding."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.discrete_vae import DiscreteVAE, DiscreteVAEConfig
from pipeline.models.codecs.dvae import OpenAIDVAE, OpenAIDVAEConfig
from pipeline.models.codecs.precision import decode_in_bf16
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.models.codecs.vqgan import VQGAN, VQGANConfig
from tests.test_extending import blocks

CODES = 64
VQGAN_CONFIG = VQGANConfig(
    num_tokens=CODES,
    code_dim=8,
    channels=32,
    multipliers=(1, 2, 2, 2),
    blocks=1,
    attention_sizes=(8,),
    training_size=64,
    latents=8,
    image_size=64,
)
MAKE = {
    "vq": lambda: VQCodec(VQConfig(image_size=64, num_tokens=CODES, code_dim=8, channels=16)),
    "vqgan": lambda: VQGAN(VQGAN_CONFIG),
    "discrete-vae": lambda: DiscreteVAE(
        DiscreteVAEConfig(
            image_size=64, num_tokens=CODES, codebook_dim=16, num_layers=3, hidden_dim=16
        )
    ),
    "openai-dvae": lambda: OpenAIDVAE(
        OpenAIDVAEConfig(
            image_size=64,
            num_tokens=CODES,
            encoder_channels=8,
            decoder_channels=8,
            code_channels=16,
            blocks=1,
        )
    ),
}


@pytest.mark.parametrize("kind", MAKE)
def test_images_are_those_of_float32_but_for_rounding(kind: str) -> None:
    """bf16 has 8 bits: on average the images differ by less than 2 of 255 values."""
    torch.manual_seed(0)
    codec: Codec = MAKE[kind]().eval()
    for tensor in (*codec.parameters(), *codec.buffers()):
        if not tensor.any():  # what training begins with
            nn.init.normal_(tensor, std=0.2)
    codes_BN = torch.randint(CODES, (4, codec.num_codes))
    exact_BCHW = codec.decode(codes_BN)
    decode_in_bf16(codec)
    images_BCHW = codec.decode(codes_BN)
    assert images_BCHW.dtype == torch.float32
    difference = (images_BCHW - exact_BCHW).abs()
    assert 0 < difference.mean() < 2 / 255
    assert difference.max() < 0.1
    assert exact_BCHW.std() > 0.01  # there is something to see


def test_a_codec_without_a_decoder_decodes_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worked example of docs/extending.md."""
    (source,) = (block for block in blocks("python") if "class Palette(" in block)
    (tmp_path / "palette.py").write_text(source)
    (tmp_path / "palette.txt").write_text("255 0 0\n0 0 255\n")
    spec = importlib.util.spec_from_file_location("palette", tmp_path / "palette.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "palette", module)
    spec.loader.exec_module(module)
    codec: Codec = module.load_palette(tmp_path / "palette.txt")
    codes_BN = torch.arange(64)[None] % 2
    exact_BCHW = codec.decode(codes_BN)
    decode_in_bf16(codec)
    assert torch.equal(codec.decode(codes_BN), exact_BCHW)
