"""Other people's VQGANs: wrapped, with extra tensors, of related classes; and malicious YAML files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.codecs.vqgan import VQGAN
from pipeline.models.codecs.vqgan_files import load_vqgan, read_vqgan_config
from tests.helpers.codecs import vqgan_settings, write_yaml

Rename = Callable[[str], str]


def write_files(
    folder: Path,
    *,
    rename: Rename = str,
    extras: dict[str, Tensor] | None = None,
    settings: dict[str, Any] | None = None,
) -> tuple[Path, Path]:
    config_path = write_yaml(folder / "model.yaml", settings or vqgan_settings())
    torch.manual_seed(1)
    state = VQGAN(read_vqgan_config(config_path)).state_dict()
    saved = {rename(name): tensor for name, tensor in {**state, **(extras or {})}.items()}
    torch.save({"state_dict": saved}, folder / "model.ckpt")
    return config_path, folder / "model.ckpt"


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "first_stage_model.", "vqgan.model."]
)
def test_a_checkpoint_is_read_whatever_it_was_wrapped_in(tmp_path: Path, prefix: str) -> None:
    plain = load_vqgan(*write_files(tmp_path))
    wrapped = load_vqgan(*write_files(tmp_path, rename=lambda name: f"{prefix}{name}"))
    assert wrapped.fingerprint == plain.fingerprint


def test_a_bare_state_dict_is_a_checkpoint(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    plain = load_vqgan(*files)
    torch.save(torch.load(files[1], weights_only=True)["state_dict"], files[1])
    assert load_vqgan(*files).fingerprint == plain.fingerprint


def test_what_has_no_part_in_drawing_is_counted_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = load_vqgan(*write_files(tmp_path))
    extras = {
        "loss.discriminator.main.0.weight": torch.full((3,), float("nan")),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.encoderconv_inweight": torch.zeros(2),
        "colorize": torch.zeros(3, 5, 1, 1),
        "quantize.embedding.cluster_size": torch.zeros(64),
    }
    files = write_files(tmp_path, extras=extras)
    with caplog.at_level(logging.INFO):
        assert load_vqgan(*files).fingerprint == plain.fingerprint
    assert "Ignored 5 tensors that the model does not use" in caplog.text
    assert "colorize.*, loss.*, model_ema.*, quantize.*" in caplog.text


def test_a_tensor_that_is_missing_is_refused_with_extras_beside_it(tmp_path: Path) -> None:
    files = write_files(tmp_path, extras={"colorize": torch.zeros(1)})
    saved = torch.load(files[1], weights_only=True)
    del saved["state_dict"]["quant_conv.bias"]
    torch.save(saved, files[1])
    with pytest.raises(ModelError, match=r"1 tensors are missing, the first is quant_conv\.bias"):
        load_vqgan(*files)


@pytest.mark.parametrize(
    "target",
    [
        "taming.models.vqgan.VQNoDiscModel",
        "taming.models.vqgan.EMAVQ",
        "taming.models.vqgan.VQModelInterface",
        "ldm.models.autoencoder.VQModelInterface",
    ],
)
def test_related_classes_have_the_same_network(tmp_path: Path, target: str) -> None:
    plain = load_vqgan(*write_files(tmp_path))
    settings = vqgan_settings()
    settings["model"]["target"] = target
    settings["model"]["params"]["sane_index_shape"] = True
    related = load_vqgan(*write_files(tmp_path, settings=settings))
    assert related.fingerprint == plain.fingerprint


def test_a_decoder_with_another_last_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tanh_out True, expected False"):
        read_vqgan_config(write_yaml(tmp_path / "m.yaml", vqgan_settings(tanh_out=True)))


# --- YAMLs ---------------------------------------------------------------------------------------


def with_line(line: str) -> str:
    return yaml.safe_dump(vqgan_settings()) + line + "\n"


def unfolding(levels: int, merge: bool) -> str:
    """Lines that each refer to the one before ten times: 10^levels values."""
    lines = ["a0: &a0 {k: v}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(
            f"a{level}: &a{level} {{<<: [{aliases}]}}"
            if merge
            else f"a{level}: &a{level} [{aliases}]"
        )
    return "\n".join(lines)


def test_an_invalid_date_is_text(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(with_line("trained: 2020-13-45"))
    assert read_vqgan_config(tmp_path / "m.yaml").num_tokens == 64
    settings = yaml.safe_dump(vqgan_settings()).replace("n_embed: 64", "n_embed: 2020-13-45")
    (tmp_path / "m.yaml").write_text(settings)
    with pytest.raises(ModelError, match="n_embed '2020-13-45', expected an integer"):
        read_vqgan_config(tmp_path / "m.yaml")


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"\xef\xbb\xbf" + with_line("").encode())
    assert read_vqgan_config(tmp_path / "m.yaml").num_tokens == 64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: " + "[" * 100_000, "nested more than 50"),
        ("a: " + "{b: " * 100_000, "nested more than 50"),
        ("- " * 100_000, "nested more than 50"),
        (unfolding(9, merge=False), "aliases expand to"),
        (unfolding(9, merge=True), "aliases expand to"),
        ("a: !!int x", "can't be read as YAML"),
        ("a: !!timestamp x", "can't be read as YAML"),
        ("? {a: b}\n: c", "can't be read as YAML"),
        ("? [a]\n: c", "can't be read as YAML|no table model"),
        ("a: 'open", "can't be read as YAML"),
        ("\0", "can't be read as YAML"),
        ("model: &a [*a]", "no table model"),
        ("model: {target: &a [*a]}", "model.target"),
        ("", "no table at its top"),
        ("x" * (1 << 20 | 1), "more than 1,048,576 bytes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_yaml_that_was_made_to_harm_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ModelError, match=words) as error:
        read_vqgan_config(tmp_path / "m.yaml")
    assert "m.yaml" in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ch", 10**12, "ddconfig.ch 1000000000000, expected an integer from 1 to 16,384"),
        ("ch", -32, "ddconfig.ch -32"),
        ("ch", float("nan"), "ddconfig.ch nan"),
        ("ch", float("inf"), "ddconfig.ch inf"),
        ("ch", 32.5, "ddconfig.ch 32.5"),
        ("num_res_blocks", 10**6, "num_res_blocks 1000000, expected an integer from 1 to 64"),
        ("ch_mult", [1] * 1000, "ch_mult"),
        ("resolution", 2**40, "resolution"),
        ("resamp_with_conv", "maybe", "resamp_with_conv 'maybe', expected true or false"),
    ],
)
def test_a_value_beyond_reason_is_refused_before_a_network_is_built(
    tmp_path: Path, key: str, value: Any, words: str
) -> None:
    files = write_files(tmp_path)
    write_yaml(files[0], vqgan_settings(**{key: value}))
    with pytest.raises(ModelError, match=words):
        load_vqgan(*files)


def test_a_codebook_of_a_million_is_compared_before_it_is_made(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    settings = vqgan_settings(ch=16384)
    settings["model"]["params"]["n_embed"] = 1 << 20
    write_yaml(files[0], settings)
    with pytest.raises(ModelError, match=r"has the shape .*, expected \(16384,"):
        load_vqgan(*files)


def test_a_network_that_can_not_be_counted_is_refused(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    write_yaml(files[0], vqgan_settings(ch=16384, ch_mult=[16384, 16384]))
    with pytest.raises(ModelError, match=r"model\.ckpt does not match .*model\.yaml"):
        load_vqgan(*files)


@pytest.mark.parametrize("place", ["folder", "pipe", "/dev/zero"])
def test_a_yaml_that_is_no_regular_file_is_not_read(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match=r"it is a (folder|pipe|device)"):
        read_vqgan_config(tmp_path / place)
