"""DALLE-pytorch's checkpoints generate the same images as our own checkpoint of the model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.storage import sha256_file, write_bytes
from pipeline.core.workspace import Workspace
from pipeline.generate import foreign
from pipeline.generate.config import GenerateConfig
from pipeline.generate.run import run
from pipeline.models.checkpoints.dalle_pytorch_names import LAYOUT_LEAF
from pipeline.models.checkpoints.export import (
    dalle_pytorch_codec,
    dalle_pytorch_hparams,
    dalle_pytorch_weights,
    write_dalle_pt,
)
from pipeline.models.checkpoints.foreign import DallePytorchCodec
from pipeline.models.checkpoints.native import MODEL_FILE, read_info, read_tensors
from pipeline.models.codecs.discrete_vae import DiscreteVAE, DiscreteVAEConfig
from pipeline.models.codecs.load import load_codec, save_codec
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.models.codecs.vqgan_files import load_vqgan
from pipeline.models.dalle.model import Dalle
from pipeline.models.tokenizers.load import train_bpe
from tests.generate.images import hashes_by_prompt, records_of
from tests.helpers.codecs import vqgan_settings
from tests.helpers.generate import finish, write_run
from tests.models.codecs.test_vqgan import write_pair

MakeConfig = Callable[..., GenerateConfig]


def write_stock(workspace: Workspace, path: Path, codec: DallePytorchCodec | None = None) -> Path:
    """The model of runs/dalle as a dalle.pt."""
    checkpoint = workspace.run("dalle") / "checkpoints/step-000003"
    weights = read_tensors(checkpoint, MODEL_FILE)
    write_dalle_pt(path, config=read_info(checkpoint).model, weights=weights, codec=codec)
    return path


@pytest.fixture
def stock(workspace: Workspace, tmp_path: Path) -> dict[str, Any]:
    """Options that draw with the model of runs/dalle, as DALLE-pytorch would have saved it."""
    return {
        "checkpoint": write_stock(workspace, tmp_path / "dalle.pt"),
        "codec": "mine",
        "tokenizer": f"hf:{workspace.run('dalle') / 'tokenizer.json'}",
        "name": "stock",
    }


@pytest.mark.parametrize("by_folder", [False, True])
def test_a_dalle_pt_draws_the_images_of_our_checkpoint(
    by_folder: bool, workspace: Workspace, make_config: MakeConfig, stock: dict[str, Any]
) -> None:
    run(make_config())
    codec = str(workspace.codec("mine")) if by_folder else "mine"
    assert run(make_config(**{**stock, "codec": codec})).outcome == "done"
    assert hashes_by_prompt(workspace, "stock") == hashes_by_prompt(workspace)
    digests = {record["checkpoint"] for record in records_of(workspace, "stock")}
    assert digests == {sha256_file(stock["checkpoint"])}


def test_a_folder_of_deepspeed_draws_the_same(
    workspace: Workspace, make_config: MakeConfig, stock: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = workspace.run("dalle") / "checkpoints/step-000003"
    config = read_info(checkpoint).model
    step = tmp_path / "dalle-ds-cp/global_step3"
    step.mkdir(parents=True)
    write_bytes(step.parent / "latest", b"global_step3")
    weights = dalle_pytorch_weights(config, read_tensors(checkpoint, MODEL_FILE))
    states = {"module": weights, "hparams": dalle_pytorch_hparams(config)}
    torch.save(states, step / "mp_rank_00_model_states.pt")
    run(make_config())
    run(make_config(**{**stock, "checkpoint": step.parent}))
    assert hashes_by_prompt(workspace, "stock") == hashes_by_prompt(workspace)


def test_a_codec_within_the_checkpoint_is_used(
    workspace: Workspace, make_config: MakeConfig, stock: dict[str, Any]
) -> None:
    torch.manual_seed(5)
    codec = DiscreteVAE(
        DiscreteVAEConfig(image_size=16, num_tokens=16, codebook_dim=4, num_layers=2, hidden_dim=4)
    )
    save_codec(codec, workspace.codec("vae"))
    finish(workspace.codec("vae"), "codec")
    write_run(workspace, codec=codec.fingerprint)
    write_stock(workspace, stock["checkpoint"], dalle_pytorch_codec(codec))
    run(make_config())
    run(make_config(**{**stock, "codec": None}))
    assert hashes_by_prompt(workspace, "stock") == hashes_by_prompt(workspace)
    run(make_config(**{**stock, "name": "other"}))
    assert hashes_by_prompt(workspace, "other") != hashes_by_prompt(workspace)


@pytest.mark.parametrize("resolution", [16, 32, 256])
def test_a_vqgan_draws_at_the_size_of_the_checkpoint_whatever_its_yaml_says(
    resolution: int,
    workspace: Workspace,
    make_config: MakeConfig,
    stock: dict[str, Any],
    tmp_path: Path,
) -> None:
    """A grid of 4 x 4 codes of 4 pixels each: DALLE-pytorch reads no resolution when it draws."""
    settings = vqgan_settings(resolution=resolution, attn_resolutions=[])
    settings["model"]["params"]["n_embed"] = 16
    files = write_pair(tmp_path, settings)
    drawn = {"vqgan_config": files[0], "vqgan_checkpoint": files[1], "codec": None}
    run(make_config(**{**stock, **drawn}))
    codec = load_vqgan(*files, image_size=16)
    save_codec(codec, workspace.codec("vqgan"))
    finish(workspace.codec("vqgan"), "codec")
    write_run(workspace, codec=codec.fingerprint)
    run(make_config())
    assert hashes_by_prompt(workspace, "stock") == hashes_by_prompt(workspace)


def test_a_codec_of_the_workspace_that_was_trained_elsewhere_has_that_size_too(
    workspace: Workspace, make_config: MakeConfig, stock: dict[str, Any], tmp_path: Path
) -> None:
    settings = vqgan_settings(attn_resolutions=[])
    settings["model"]["params"]["n_embed"] = 16
    files = write_pair(tmp_path, settings)
    save_codec(load_vqgan(*files, image_size=64), workspace.codec("wide"))
    run(make_config(**{**stock, "codec": "wide"}))
    drawn = {"vqgan_config": files[0], "vqgan_checkpoint": files[1], "codec": None}
    run(make_config(**{**stock, **drawn, "name": "files"}))
    assert hashes_by_prompt(workspace, "stock") == hashes_by_prompt(workspace, "files")
    run(make_config(**{**stock, "codec": f"vqgan:{files[0]},{files[1]}", "name": "kind"}))
    assert hashes_by_prompt(workspace, "stock") == hashes_by_prompt(workspace, "kind")


def test_a_published_codec_is_fetched(
    workspace: Workspace,
    make_config: MakeConfig,
    stock: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = (workspace.codec("mine") / "codec.json",)
    fetch = {"openai_dvae": files}.__getitem__
    load = {"openai_dvae": lambda path, image_size: load_codec(path.parent)}
    monkeypatch.setattr(foreign, "fetch_codec", fetch)
    monkeypatch.setattr(foreign, "LOADERS", load)
    run(make_config())
    run(make_config(**{**stock, "codec": "openai_dvae"}))
    assert hashes_by_prompt(workspace, "stock") == hashes_by_prompt(workspace)


def test_the_same_command_again_changes_nothing_another_tokenizer_does(
    make_config: MakeConfig, stock: dict[str, Any], tmp_path: Path
) -> None:
    assert run(make_config(**stock)).outcome == "done"
    assert run(make_config(**stock)).outcome == "unchanged"
    write_bytes(tmp_path / "other.json", train_bpe(["red a cube"] * 4, 270).json_bytes)
    stock["tokenizer"] = f"hf:{tmp_path / 'other.json'}"
    assert run(make_config(**stock)).outcome == "done"
    assert run(make_config(**{**stock, "codec": "third"})).outcome == "done"


def test_a_tokenizer_with_more_words_than_the_checkpoint_is_refused(
    make_config: MakeConfig, stock: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = train_bpe([f"the {n * 7919} things of {n * 104729}" for n in range(99)], 400)
    write_bytes(tmp_path / "big.json", tokenizer.json_bytes)
    stock["tokenizer"] = f"hf:{tmp_path / 'big.json'}"
    with pytest.raises(ModelError, match=r"tokenizer has 400 ids, but the checkpoint only 2\d\d"):
        run(make_config(**stock))


def test_a_tokenizer_with_fewer_words_gives_a_warning(
    make_config: MakeConfig,
    stock: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_bytes(tmp_path / "small.json", train_bpe(["a"] * 4, 260).json_bytes)
    with caplog.at_level(logging.WARNING):
        run(make_config(**{**stock, "tokenizer": f"hf:{tmp_path / 'small.json'}"}))
    assert "make sure that it is the tokenizer the model was trained with" in caplog.text


def test_a_codec_of_other_codes_is_refused(
    workspace: Workspace, make_config: MakeConfig, stock: dict[str, Any]
) -> None:
    few = VQCodec(VQConfig(image_size=128, num_tokens=16, code_dim=4, channels=4))
    save_codec(few, workspace.codec("wide"))
    with pytest.raises(ModelError, match=r"wide has 16 codes and 8 x 8 per image; .* 16 and 4 x 4"):
        run(make_config(**{**stock, "codec": "wide"}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokenizer": None}, ConfigError, "does not record its tokenizer"),
        ({"codec": None}, ModelError, "does not contain its complete codec"),
        ({"codec": "nothing"}, ConfigError, "No codec 'nothing'"),
        ({"checkpoint": None}, ConfigError, "Leave out --codec, --vqgan-config and --tokenizer"),
        ({"checkpoint": Path("nothing.pt")}, ConfigError, "there is no checkpoint"),
    ],
)
def test_what_is_missing_or_too_much_is_reported(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    make_config: MakeConfig,
    stock: dict[str, Any],
) -> None:
    with pytest.raises(error, match=message):
        run(make_config(**{**stock, **changes}))


def test_a_checkpoint_that_is_truncated_is_refused(
    make_config: MakeConfig, stock: dict[str, Any]
) -> None:
    stock["checkpoint"].write_bytes(stock["checkpoint"].read_bytes()[:-99])
    with pytest.raises(ModelError, match="truncated"):
        run(make_config(**stock))


def test_sparse_attention_without_its_layout_is_drawn_with_a_new_one_if_asked(
    workspace: Workspace, make_config: MakeConfig, stock: dict[str, Any]
) -> None:
    config = read_info(workspace.run("dalle") / "checkpoints/step-000003").model
    sparse = dataclasses.replace(config, text_seq_len=16, attn_types=("sparse",))
    path = stock["checkpoint"]
    write_dalle_pt(path, config=sparse, weights=Dalle(sparse).state_dict())
    saved = torch.load(path, weights_only=True)
    kept = {k: v for k, v in saved["weights"].items() if not k.endswith(LAYOUT_LEAF)}
    assert len(kept) < len(saved["weights"])
    torch.save({**saved, "weights": kept}, path)
    with pytest.raises(ModelError, match="--redraw-layout"):
        run(make_config(**stock))
    run(make_config(**stock, redraw_layout=True))
    run(make_config(**{**stock, "name": "again"}, redraw_layout=True))
    assert hashes_by_prompt(workspace, "stock") == hashes_by_prompt(workspace, "again")
