"""DALLE-pytorch's discrete VAE: its file, and its codes and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.codecs.discrete_vae import DiscreteVAE, DiscreteVAEConfig, load_discrete_vae
from pipeline.models.codecs.load import load_codec, save_codec
from tests.oracles.codecs import assert_same_codes, dalle_pytorch

HPARAMS: dict[str, Any] = {
    "image_size": 32,
    "num_layers": 2,
    "num_tokens": 48,
    "codebook_dim": 12,
    "hidden_dim": 16,
    "num_resnet_blocks": 1,
}
UNLIKE = ((0.4, 0.5, 0.6, 0.0), (0.3, 0.2, 0.1, 1.0))


def make_reference(images_BCHW: Tensor, **hparams: Any) -> Any:
    """A reference with random weights whose logits are spread, so that many codes are in use."""
    reference = dalle_pytorch().DiscreteVAE(**hparams).eval()
    with torch.no_grad():
        logits_BKRS = reference(images_BCHW, return_logits=True)
        spread_K = logits_BKRS.std((0, 2, 3))
        last = reference.encoder[-1]
        last.bias -= logits_BKRS.mean((0, 2, 3))
        last.weight /= spread_K[:, None, None, None]
        last.bias /= spread_K
        reference.decoder[-1].weight *= 10
    return reference


def write_file(folder: Path, reference: Any, hparams: dict[str, Any], **extra: Any) -> Path:
    path = folder / "vae.pt"
    torch.save({"hparams": hparams, "weights": reference.state_dict(), **extra}, path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_resnet_blocks": 0},
        {"num_resnet_blocks": 2, "num_layers": 3},
        {"num_layers": 1, "image_size": 16},
        {"normalization": UNLIKE},
        {"normalization": None},
    ],
    ids=str,
)
@torch.no_grad()
def test_codes_and_images_are_those_of_dalle_pytorch(
    tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hparams = HPARAMS | change
    images_BCHW = torch.rand(6, 3, hparams["image_size"], hparams["image_size"])
    if hparams.get("normalization", ()) is None:  # the constructor of the reference can't take it
        reference = make_reference(
            images_BCHW, **(hparams | {"normalization": ((0,) * 4, (1,) * 4)})
        )
    else:
        reference = make_reference(images_BCHW, **hparams)
    codec = load_discrete_vae(write_file(tmp_path, reference, hparams))
    assert codec.downsampling == 2 ** hparams["num_layers"]
    codes_BN = reference.get_codebook_indices(images_BCHW)
    costs_BNK = -reference(images_BCHW, return_logits=True).flatten(2).transpose(1, 2)
    assert_same_codes(codec.encode(images_BCHW), codes_BN, costs_BNK)
    means_C, stds_C = (torch.tensor(values[:3]) for values in reference.normalization)
    normal_BCHW = reference.decode(codes_BN)
    assert normal_BCHW.std() > 0.05
    decoded_BCHW = normal_BCHW * stds_C[:, None, None] + means_C[:, None, None]
    torch.testing.assert_close(codec.decode(codes_BN), decoded_BCHW.clamp(0, 1), atol=5e-5, rtol=0)


def test_hparams_left_out_are_the_defaults_of_the_reference(tmp_path: Path) -> None:
    reference = dalle_pytorch().DiscreteVAE(hidden_dim=8)
    codec = load_discrete_vae(write_file(tmp_path, reference, {"hidden_dim": 8}))
    assert codec.config == DiscreteVAEConfig(hidden_dim=8)
    assert (codec.image_size, codec.num_tokens) == (reference.image_size, reference.num_tokens)
    assert reference.normalization == (codec.config.means, codec.config.stds)


def test_what_only_matters_in_training_is_skipped(tmp_path: Path) -> None:
    hparams = HPARAMS | {"smooth_l1_loss": True, "kl_div_loss_weight": 0.1, "temperature": 1.0}
    reference = dalle_pytorch().DiscreteVAE(**hparams)
    path = write_file(tmp_path, reference, hparams, epoch=3, optimizer={"state": {}})
    assert load_discrete_vae(path).num_tokens == 48


def test_a_codec_survives_the_way_through_a_folder(tmp_path: Path) -> None:
    codec = DiscreteVAE(DiscreteVAEConfig(**HPARAMS)).eval()
    save_codec(codec, tmp_path)
    loaded = load_codec(tmp_path)
    images_BCHW = torch.rand(2, 3, 32, 32)
    assert loaded.fingerprint == codec.fingerprint
    assert torch.equal(loaded.encode(images_BCHW), codec.encode(images_BCHW))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": 4}, "hparams.channels 4, expected 3"),
        ({"num_layers": "two"}, "num_layers 'two'"),
        ({"image_size": 30}, "multiple of 4"),
        ({"normalization": 7}, "normalization 7"),
        ({"normalization": ((0.5,) * 3, (0.0,) * 3)}, "normalization"),
        ({"num_tokens": 50}, r"codebook.weight has the shape \(48, 12\), expected \(50, 12\)"),
        ({"num_resnet_blocks": 0}, "tensors are unexpected, the first is encoder.2.net.0.weight"),
    ],
)
def test_hparams_that_do_not_fit_are_explained(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    reference = DiscreteVAE(DiscreteVAEConfig(**HPARAMS))
    with pytest.raises(ModelError, match=words):
        load_discrete_vae(write_file(tmp_path, reference, HPARAMS | change))


def test_another_file_of_torch_is_refused(tmp_path: Path) -> None:
    torch.save({"hparams": HPARAMS}, tmp_path / "vae.pt")
    with pytest.raises(ModelError, match=r"expected a vae\.pt"):
        load_discrete_vae(tmp_path / "vae.pt")
