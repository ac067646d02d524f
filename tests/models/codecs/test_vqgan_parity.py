"""The VQGAN has the codes and images of taming-transformers and of dalle-pytorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.models.codecs.vqgan import VQGAN
from pipeline.models.codecs.vqgan_files import load_vqgan
from tests.helpers.codecs import vqgan_settings, write_yaml
from tests.oracles.codecs import assert_same_codes, dalle_pytorch, taming_vqgan, without_noise

NETWORKS: dict[str, dict[str, Any]] = {
    "three levels": {},
    "no attention at a level": {"attn_resolutions": [64]},
    "attention at two levels": {"attn_resolutions": [32, 8], "num_res_blocks": 2},
    "one level": {"ch_mult": [2]},
    "five levels": {"ch_mult": [1, 1, 2, 2, 3], "attn_resolutions": [2]},
    "no convolutions between levels": {"resamp_with_conv": False},
    "dropout in training": {"dropout": 0.5},
}


def make_reference(settings: dict[str, Any], images_BCHW: Tensor) -> Any:
    """A reference with random weights, its codebook among the latents of the images."""
    model = taming_vqgan()
    params = settings["model"]["params"]
    network = getattr(model, settings["model"]["target"].rpartition(".")[2])(**params).eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:  # norms and biases, which start as ones and zeros
            torch.nn.init.normal_(parameter, parameter.mean().item(), 0.1)
    latents_BDRS = latents_of(network, images_BCHW)
    latents_XD = latents_BDRS.permute(0, 2, 3, 1).flatten(0, 2)
    if hasattr(network.quantize, "embedding"):
        picked = torch.randint(len(latents_XD), (params["n_embed"],))
        network.quantize.embedding.weight.data = latents_XD[picked] + 0.01 * torch.randn(
            params["n_embed"], params["embed_dim"]
        )
    else:
        mean_D, spread_D = latents_XD.mean(0), latents_XD.std(0)
        weight_KD = torch.randn(params["n_embed"], params["embed_dim"]) / spread_D
        network.quantize.proj.weight.data = weight_KD[:, :, None, None]
        network.quantize.proj.bias.data = -weight_KD @ mean_D
    return network


@torch.no_grad()
def latents_of(reference: Any, images_BCHW: Tensor) -> Tensor:
    latents_BDRS: Tensor = reference.quant_conv(reference.encoder(2 * images_BCHW - 1))
    return latents_BDRS


@torch.no_grad()
def costs_of(reference: Any, images_BCHW: Tensor) -> Tensor:
    """What each entry would cost, [B, N, K]: a squared distance, or a negative logit."""
    latents_BDRS = latents_of(reference, images_BCHW)
    if not hasattr(reference.quantize, "embedding"):
        return -reference.quantize.proj(latents_BDRS).flatten(2).transpose(1, 2)
    latents_BND = latents_BDRS.flatten(2).transpose(1, 2)
    entries_KD = reference.quantize.embedding.weight
    return (latents_BND[:, :, None] - entries_KD).square().sum(-1)


def write_files(folder: Path, settings: dict[str, Any], reference: Any) -> tuple[Path, Path]:
    torch.save({"state_dict": reference.state_dict()}, folder / "model.ckpt")
    return write_yaml(folder / "model.yaml", settings), folder / "model.ckpt"


@torch.no_grad()
def check_parity(
    codec: VQGAN, reference: Any, images_BCHW: Tensor, monkeypatch: pytest.MonkeyPatch
) -> Tensor:
    with without_noise(monkeypatch):
        quantised_BDRS, _, (_, _, indices) = reference.encode(2 * images_BCHW - 1)
    codes_BN = indices.reshape(len(images_BCHW), -1)
    assert_same_codes(codec.encode(images_BCHW), codes_BN, costs_of(reference, images_BCHW))
    decoded_BCHW = (reference.decode(quantised_BDRS).clamp(-1, 1) + 1) / 2
    assert decoded_BCHW.std() > 0.01
    torch.testing.assert_close(codec.decode(codes_BN), decoded_BCHW, atol=5e-5, rtol=0)
    return codes_BN


@pytest.mark.parametrize("gumbel", [False, True], ids=["nearest", "gumbel"])
@pytest.mark.parametrize("network", NETWORKS)
def test_codes_and_images_are_those_of_taming(
    tmp_path: Path, network: str, gumbel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images_BCHW = torch.rand(6, 3, 32, 32)
    settings = vqgan_settings(gumbel=gumbel, **NETWORKS[network])
    reference = make_reference(settings, images_BCHW)
    codec = load_vqgan(*write_files(tmp_path, settings, reference))
    check_parity(codec, reference, images_BCHW, monkeypatch)


@pytest.mark.parametrize("gumbel", [False, True], ids=["nearest", "gumbel"])
def test_so_are_they_at_a_size_it_was_not_trained_at(
    tmp_path: Path, gumbel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images_BCHW = torch.rand(3, 3, 48, 48)
    settings = vqgan_settings(gumbel=gumbel)
    reference = make_reference(settings, images_BCHW)
    codec = load_vqgan(*write_files(tmp_path, settings, reference), image_size=48)
    assert codec.grid == (12, 12)
    check_parity(codec, reference, images_BCHW, monkeypatch)


@pytest.mark.parametrize("gumbel", [False, True], ids=["nearest", "gumbel"])
@pytest.mark.parametrize(
    ("side", "network"),
    [
        (32, {}),
        (48, {}),  # another size than it was trained at
        (64, {"resolution": 64, "attn_resolutions": [16]}),
        # The reference guesses the downsampling from attn_resolutions, here as 1 and 4 instead of 4 and 8.
        (32, {"attn_resolutions": [32]}),
        (32, {"ch_mult": [1, 1, 2, 2], "attn_resolutions": [8]}),
    ],
    ids=str,
)
def test_codes_and_images_are_those_of_dalle_pytorch(
    tmp_path: Path,
    side: int,
    network: dict[str, Any],
    gumbel: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images_BCHW = torch.rand(6, 3, side, side)
    settings = vqgan_settings(gumbel=gumbel, **network)
    reference = make_reference(settings, images_BCHW)
    files = write_files(tmp_path, settings, reference)
    theirs = dalle_pytorch().VQGanVAE(str(files[1]), str(files[0])).eval()
    codec = load_vqgan(*files, image_size=side)
    levels = len(settings["model"]["params"]["ddconfig"]["ch_mult"])
    assert codec.downsampling == 2 ** (levels - 1)
    with without_noise(monkeypatch):
        codes_BN = theirs.get_codebook_indices(images_BCHW)
    assert_same_codes(codec.encode(images_BCHW), codes_BN, costs_of(reference, images_BCHW))
    with torch.no_grad():
        decoded_BCHW = theirs.decode(codes_BN)
    torch.testing.assert_close(codec.decode(codes_BN), decoded_BCHW, atol=5e-5, rtol=0)
