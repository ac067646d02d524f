"""Exported files load and generate in dalle-pytorch's own programs, with its own classes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import list_checkpoints, load_dalle
from pipeline.models.codecs.load import load_codec, save_codec
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.models.codecs.vqgan_files import load_vqgan
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import Choice, sample_codes
from pipeline.models.tokenizers.load import load_tokenizer
from pipeline.train.config import ExportConfig, TrainConfig
from pipeline.train.export import export
from pipeline.train.run import run
from tests.helpers.codecs import vqgan_settings, write_yaml
from tests.helpers.training import changed, write_shards
from tests.oracles.codecs import dalle_pytorch, taming_critic, taming_vqgan
from tests.oracles.programs import draw_greedily, load_as_generate_py, train_file

MakeConfig = Callable[..., TrainConfig]
CRITIC_TENSORS = 55  # of the loss of every published VQGAN
CPU = torch.device("cpu")


def write_vqgan(folder: Path) -> tuple[Path, Path]:
    """A VQGAN with its critic, 256 pixels and 16 × 16 codes, as taming saves it."""
    settings = vqgan_settings(resolution=256, ch_mult=[1, 1, 1, 1, 1], attn_resolutions=[16])
    settings["model"]["params"] |= {"n_embed": 16, "lossconfig": taming_critic()}
    torch.manual_seed(3)
    network = taming_vqgan().VQModel(**settings["model"]["params"])
    torch.save({"state_dict": network.state_dict()}, folder / "model.ckpt")
    return write_yaml(folder / "model.yaml", settings), folder / "model.ckpt"


@pytest.fixture
def vqgan(workspace: Workspace, tmp_path: Path) -> tuple[Path, Path]:
    """Its files; the workspace holds it as a codec, and shards of its codes."""
    files = write_vqgan(tmp_path)
    codec = load_vqgan(*files)
    save_codec(codec, workspace.codec("vqgan"))
    write_shards(workspace, grid=(16, 16), codec=codec.fingerprint, train=8, val=0)
    return files


def do_export(workspace: Workspace, **options: Any) -> Path:
    out = workspace.root / "dalle.pt"
    export(ExportConfig(workspace=workspace.root, run="tiny", out=out, **options))
    return out


def our_model(workspace: Workspace) -> Dalle:
    return load_dalle(list_checkpoints(workspace.run("tiny") / "checkpoints")[-1], device=CPU)


def our_codes(workspace: Workspace, tokens_BT: Tensor) -> Tensor:
    return sample_codes(
        our_model(workspace),
        tokens_BT,
        rows=range(len(tokens_BT)),
        image_seeds=[0] * len(tokens_BT),
        choice=Choice(filter_thres=1.0),
    )


def some_tokens(workspace: Workspace) -> Tensor:
    tokenizer = load_tokenizer(workspace.run("tiny"))
    tokens = tokenizer.encode_batch(["a red cube", "a blue cube"], 6)
    return torch.from_numpy(tokens).to(torch.int64)


def test_a_model_on_a_vqgan_with_a_critic_draws_in_generate_py(
    workspace: Workspace, make_config: MakeConfig, vqgan: tuple[Path, Path]
) -> None:
    run(make_config(steps=1, batch_size=4))
    path = do_export(workspace, codec_checkpoint=vqgan[1])
    critic = [n for n in torch.load(path)["weights"] if n.startswith("vae.model.loss.")]
    assert len(critic) == CRITIC_TENSORS
    stock = load_as_generate_py(path, vqgan=vqgan)
    tokens_BT = some_tokens(workspace)
    codes_BN = our_codes(workspace, tokens_BT)
    with torch.no_grad():
        torch.testing.assert_close(draw_greedily(stock, tokens_BT), stock.vae.decode(codes_BN))
    images_BCHW = load_codec(workspace.codec("vqgan")).decode(codes_BN)
    torch.testing.assert_close(stock.vae.decode(codes_BN), images_BCHW, atol=5e-5, rtol=0)


def test_without_its_checkpoint_the_critic_is_missed_in_a_warning(
    workspace: Workspace,
    make_config: MakeConfig,
    vqgan: tuple[Path, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(make_config(steps=1, batch_size=4))
    with caplog.at_level(logging.WARNING):
        path = do_export(workspace)
    assert "--codec-checkpoint" in caplog.text
    with pytest.raises(RuntimeError, match=r"Missing key.*vae\.model\.loss\."):
        load_as_generate_py(path, vqgan=vqgan)


def test_a_run_that_started_from_a_dalle_pt_keeps_its_critic(
    workspace: Workspace,
    make_config: MakeConfig,
    vqgan: tuple[Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Through a run, a resumed run, and a run that starts from it."""
    begun = write_stock(vqgan, tmp_path)
    run(make_config(name="first", steps=1, batch_size=4, resume_from=begun))
    grown = make_config(name="first", steps=2, batch_size=4, resume_from=begun, lr_decay="constant")
    run(changed(grown, name="second", steps=1))
    run(changed(grown, name="second"))
    run(make_config(name="tiny", steps=1, batch_size=4, resume_from=workspace.run("second")))
    with caplog.at_level(logging.WARNING):
        path = do_export(workspace)
    assert "--codec-checkpoint" not in caplog.text
    load_as_generate_py(path, vqgan=vqgan)
    weights, before = torch.load(path)["weights"], torch.load(begun)["weights"]
    names = [name for name in before if name.startswith("vae.")]
    assert len(names) > CRITIC_TENSORS
    assert all(torch.equal(weights[name], before[name]) for name in names)


def write_stock(vqgan: tuple[Path, Path], folder: Path) -> Path:
    hparams = {
        "num_text_tokens": 300,
        "text_seq_len": 6,
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "dim_head": 8,
        "loss_img_weight": 7,
        "rotary_emb": False,
        "shift_tokens": False,
    }
    vae = dalle_pytorch().VQGanVAE(str(vqgan[1]), str(vqgan[0]))
    torch.save(
        train_file(dalle_pytorch().DALLE(vae=vae, **hparams), hparams, None), folder / "stock.pt"
    )
    return folder / "stock.pt"


def test_the_checkpoint_of_another_codec_is_refused(
    workspace: Workspace, make_config: MakeConfig, vqgan: tuple[Path, Path]
) -> None:
    run(make_config(steps=1, batch_size=4))
    saved = torch.load(vqgan[1])
    saved["state_dict"]["decoder.conv_out.bias"] += 1
    torch.save(saved, vqgan[1])
    with pytest.raises(ModelError, match=r"tensor decoder\.conv_out\.bias differs"):
        do_export(workspace, codec_checkpoint=vqgan[1])
    assert not (workspace.root / "dalle.pt").exists()


def test_a_codec_of_our_own_has_no_checkpoint(
    workspace: Workspace, make_config: MakeConfig, vqgan: tuple[Path, Path]
) -> None:
    codec = VQCodec(VQConfig(image_size=48, num_tokens=16, code_dim=4, channels=4))
    save_codec(codec, workspace.codec("vq"))
    write_shards(workspace, codec=codec.fingerprint)
    run(make_config(steps=1))
    with pytest.raises(ConfigError, match=r"--codec-checkpoint: .* of the kind 'vq'"):
        do_export(workspace, codec_checkpoint=vqgan[1])


@pytest.mark.parametrize("kind", ["VQGAN", "vq"])
def test_a_codec_that_dalle_pytorch_can_not_decode_is_reported(
    kind: str,
    workspace: Workspace,
    make_config: MakeConfig,
    vqgan: tuple[Path, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    codec = (
        load_vqgan(*vqgan, image_size=48)
        if kind == "VQGAN"
        else VQCodec(VQConfig(image_size=48, num_tokens=16, code_dim=4, channels=4))
    )
    save_codec(codec, workspace.codec("other"))
    write_shards(workspace, codec=codec.fingerprint)
    run(make_config(steps=1))
    with caplog.at_level(logging.WARNING):
        do_export(workspace)
    words = "images of 256 pixels, this codec has 48" if kind == "VQGAN" else "--kind discrete-vae"
    assert words in caplog.text
