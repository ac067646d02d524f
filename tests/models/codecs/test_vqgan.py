"""The published VQGAN files: what is read, what is refused, and the resulting codec."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.models.codecs.load import load_codec, save_codec
from pipeline.models.codecs.vqgan import VQGAN
from pipeline.models.codecs.vqgan_files import load_vqgan, read_vqgan_config
from tests.helpers.codecs import importable, vqgan_settings, write_yaml


def write_pair(
    folder: Path, settings: dict[str, Any] | None = None, **extra: Any
) -> tuple[Path, Path]:
    """A YAML and a checkpoint of random weights that fits it."""
    config_path = write_yaml(folder / "model.yaml", settings or vqgan_settings())
    state = VQGAN(read_vqgan_config(config_path)).state_dict()
    torch.save({"state_dict": state, **extra}, folder / "model.ckpt")
    return config_path, folder / "model.ckpt"


@pytest.mark.parametrize(
    ("multipliers", "resolution", "grid"),
    [([1, 1, 2, 2, 4], 256, 16), ([1, 1, 2, 4], 256, 32), ([1, 2], 64, 32), ([1], 8, 8)],
)
def test_downsampling_comes_from_the_levels(
    tmp_path: Path, multipliers: list[int], resolution: int, grid: int
) -> None:
    settings = vqgan_settings(ch_mult=multipliers, resolution=resolution, attn_resolutions=[])
    codec = VQGAN(read_vqgan_config(write_yaml(tmp_path / "m.yaml", settings)))
    assert (codec.image_size, codec.grid, codec.num_tokens) == (resolution, (grid, grid), 64)
    assert codec.downsampling == 2 ** (len(multipliers) - 1)


@pytest.mark.parametrize("gumbel", [False, True])
def test_a_loaded_pair_survives_the_way_through_a_folder(tmp_path: Path, gumbel: bool) -> None:
    codec = load_vqgan(*write_pair(tmp_path, vqgan_settings(gumbel=gumbel)), image_size=40)
    save_codec(codec, tmp_path / "codec")
    loaded = load_codec(tmp_path / "codec")
    images_BCHW = torch.rand(2, 3, 40, 40)
    codes_BN = codec.encode(images_BCHW)
    assert codes_BN.shape == (2, 100)
    assert loaded.fingerprint == codec.fingerprint
    assert torch.equal(loaded.encode(images_BCHW), codes_BN)
    assert torch.equal(loaded.decode(codes_BN), codec.decode(codes_BN))
    assert loaded.decode(codes_BN).shape == (2, 3, 40, 40)


def test_the_same_weights_have_another_fingerprint_at_another_size(tmp_path: Path) -> None:
    files = write_pair(tmp_path)
    assert load_vqgan(*files).fingerprint != load_vqgan(*files, image_size=64).fingerprint
    assert load_vqgan(*files).fingerprint == load_vqgan(*files).fingerprint


def test_a_size_that_does_not_fall_into_squares_is_refused(tmp_path: Path) -> None:
    files = write_pair(tmp_path)
    with pytest.raises(ModelError, match="34 pixels; expected a multiple of 4"):
        load_vqgan(*files, image_size=34)
    with pytest.raises(ModelError, match=r"expected \[B, \(3, 32, 32\)\]"):
        load_vqgan(*files).encode(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize("codes", [[[0] * 63], [[0] * 63 + [64]], [[0] * 63 + [-1]]])
def test_codes_that_do_not_fit_are_refused(tmp_path: Path, codes: list[list[int]]) -> None:
    with pytest.raises(ModelError, match=r"codebook|expected"):
        load_vqgan(*write_pair(tmp_path)).decode(torch.tensor(codes))


def test_the_critics_of_the_training_are_skipped(tmp_path: Path) -> None:
    config_path, checkpoint_path = write_pair(tmp_path)
    saved = torch.load(checkpoint_path, weights_only=True)
    saved["state_dict"]["loss.discriminator.main.0.weight"] = torch.zeros(3)
    torch.save(saved, checkpoint_path)
    assert load_vqgan(config_path, checkpoint_path).num_tokens == 64


class Anything:
    """For classes that only exist while a pickle is written."""

    def __init__(self) -> None:
        self.monitor = {"val/rec_loss": torch.tensor(0.5)}


@pytest.mark.parametrize("zipped", [True, False])
def test_what_lightning_pickles_beside_the_weights_is_skipped(tmp_path: Path, zipped: bool) -> None:
    callback = type("ModelCheckpoint", (Anything,), {})
    attributes = type("AttributeDict", (dict,), {})
    container = type("DictConfig", (Anything,), {})
    config_path, checkpoint_path = write_pair(tmp_path)
    saved = torch.load(checkpoint_path, weights_only=True)
    with (
        importable("pytorch_lightning.callbacks.model_checkpoint", ModelCheckpoint=callback),
        importable("pytorch_lightning.utilities.parsing", AttributeDict=attributes),
        importable("omegaconf.dictconfig", DictConfig=container),
    ):
        saved["callbacks"] = {callback: {"best_model_score": torch.tensor(0.1)}}
        saved["hyper_parameters"] = attributes(lr=1e-4, config=container())
        torch.save(saved, checkpoint_path, _use_new_zipfile_serialization=zipped)
    assert load_vqgan(config_path, checkpoint_path).num_tokens == 64


class Runs:
    """A pickle of it writes a file when it is read the ordinary way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "ran")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_wants_to_run_code_is_refused_and_named(
    tmp_path: Path, zipped: bool
) -> None:
    config_path, checkpoint_path = write_pair(tmp_path)
    saved = {"state_dict": {}, "callbacks": Runs(tmp_path / "ran")}
    torch.save(saved, checkpoint_path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"is refused: its pickle refers to .*(getattr|pathlib)"):
        load_vqgan(config_path, checkpoint_path)
    assert not (tmp_path / "ran").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(checkpoint_path, weights_only=False)
    assert (tmp_path / "ran").exists(), "the pickle of this test is harmless, so it proves nothing"


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_is_not_taken_for_a_checkpoint(tmp_path: Path, protocol: int) -> None:
    config_path, checkpoint_path = write_pair(tmp_path)
    checkpoint_path.write_bytes(pickle.dumps(Runs(tmp_path / "ran"), protocol=protocol))
    with pytest.raises(ModelError, match=str(checkpoint_path)):
        load_vqgan(config_path, checkpoint_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_half_a_checkpoint_is_refused(tmp_path: Path, size: int) -> None:
    config_path, checkpoint_path = write_pair(tmp_path)
    checkpoint_path.write_bytes(checkpoint_path.read_bytes()[:size])
    with pytest.raises(ModelError, match="can't be read"):
        load_vqgan(config_path, checkpoint_path)


def test_files_that_do_not_fit_name_the_first_missing_and_the_first_extra(tmp_path: Path) -> None:
    _, checkpoint_path = write_pair(tmp_path)
    other = write_yaml(
        tmp_path / "other.yaml", vqgan_settings(num_res_blocks=2, ch_mult=[1, 2], gumbel=True)
    )
    with pytest.raises(ModelError) as error:
        load_vqgan(other, checkpoint_path)
    words = str(error.value)
    assert "the first is encoder.down.0.block.1.norm1.weight (32,)" in words
    assert "the first is encoder.down.1.downsample.conv.weight (32, 32, 3, 3)" in words
    assert "tensor encoder.down.1.block.0.norm2.weight has the shape (32,), expected (64,)" in words
    assert str(other) in words
    assert str(checkpoint_path) in words


def test_a_codebook_of_another_length_has_both_shapes_named(tmp_path: Path) -> None:
    settings = vqgan_settings()
    _, checkpoint_path = write_pair(tmp_path, settings)
    settings["model"]["params"]["n_embed"] = 128
    with pytest.raises(
        ModelError,
        match=r"quantize.embedding.weight has the shape \(64, 8\), expected \(128, 8\)",
    ):
        load_vqgan(write_yaml(tmp_path / "other.yaml", settings), checkpoint_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ch": "128"}, "ddconfig.ch '128', expected an integer"),
        ({"ch": 48}, "expected multiples of 32"),
        ({"ch_mult": []}, "ddconfig.ch_mult"),
        ({"ch_mult": [1, True]}, "ddconfig.ch_mult True"),
        ({"double_z": True}, "double_z True, expected False"),
        ({"in_channels": 1}, "in_channels 1, expected 3"),
        ({"resolution": None}, "ddconfig.resolution None"),
    ],
)
def test_a_ddconfig_that_can_not_be_built_is_explained(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = write_yaml(tmp_path / "m.yaml", vqgan_settings(**change))
    with pytest.raises(ModelError, match=words):
        VQGAN(read_vqgan_config(path))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("just words", "at its top"),
        ({"model": {"target": "taming.models.vqgan.VQModel"}}, "no table model.params"),
        ({"model": {"target": "taming.models.cond_transformer.Net2NetTransformer"}}, "Net2Net"),
    ],
)
def test_a_yaml_of_something_else_is_refused(tmp_path: Path, settings: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_vqgan_config(write_yaml(tmp_path / "m.yaml", settings))


def test_a_yaml_can_not_make_objects(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("model: !!python/object/apply:os.getcwd []")
    with pytest.raises(ModelError, match="can't be read as YAML"):
        read_vqgan_config(tmp_path / "m.yaml")


def test_a_gumbel_codebook_needs_entries_as_wide_as_latents(tmp_path: Path) -> None:
    settings = vqgan_settings(gumbel=True)
    settings["model"]["params"]["embed_dim"] = 8
    with pytest.raises(ModelError, match="embed_dim 8 and z_channels 16"):
        VQGAN(read_vqgan_config(write_yaml(tmp_path / "m.yaml", settings)))
    with pytest.raises(ModelError, match="is missing"):
        read_vqgan_config(tmp_path / "nowhere.yaml")
