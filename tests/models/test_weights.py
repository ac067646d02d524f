"""Weights with NaN or infinity are refused wherever they are loaded; wrapper prefixes are accepted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.foreign import read_foreign
from pipeline.models.checkpoints.native import (
    AVERAGE_FILE,
    MODEL_FILE,
    CheckpointInfo,
    load_dalle,
    write_checkpoint,
)
from pipeline.models.codecs.discrete_vae import DiscreteVAE, DiscreteVAEConfig, load_discrete_vae
from pipeline.models.codecs.dvae import load_openai_dvae
from pipeline.models.codecs.load import load_codec, save_codec
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.models.codecs.vqgan import VQGAN
from pipeline.models.codecs.vqgan_files import load_vqgan, read_vqgan_config
from pipeline.models.dalle.model import Dalle
from pipeline.models.weights import check_tensors, fill, strip_prefix, tensors_in
from pipeline.train.resume import read_warm_start
from tests.helpers.codecs import vqgan_settings, write_yaml
from tests.oracles.checkpoints import PLAIN, saved_dict, trained_stock
from tests.oracles.codecs import dall_e


@dataclass(frozen=True)
class Case:
    """How one kind of file is written with a tensor changed, and read."""

    tensor: str
    write: Callable[[Path, Callable[[Tensor], Tensor]], None]
    read: Callable[[Path], object]


Change = Callable[[Tensor], Tensor]


def changed(weights: dict[str, Tensor], name: str, change: Change) -> dict[str, Tensor]:
    return {**weights, name: change(weights[name].clone())}


def write_dalle(folder: Path, change: Change) -> None:
    stock, _ = trained_stock(PLAIN)
    saved = saved_dict(PLAIN, stock)
    saved["weights"] = changed(saved["weights"], DALLE_TENSOR, change)
    torch.save(saved, folder / "dalle.pt")


def write_moments(folder: Path, change: Change) -> None:
    stock, optimizer = trained_stock(PLAIN)
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = change(state["state"][0]["exp_avg"].clone())
    torch.save({**saved_dict(PLAIN, stock), "opt_state": state}, folder / "dalle.pt")


def write_own(folder: Path, change: Change, file: str = MODEL_FILE) -> None:
    info = CheckpointInfo(
        step=1, epoch=0, consumed=1, model=PLAIN, codec="c", tokenizer="t", shards="s"
    )
    whole = Dalle(PLAIN).state_dict()
    files = {MODEL_FILE: whole, file: changed(whole, "to_logits.bias", change)}
    write_checkpoint(folder / "step-000001", info, files)


def write_codec(folder: Path, change: Change) -> None:
    codec = VQCodec(VQConfig(image_size=32, num_tokens=16, code_dim=4, channels=4))
    codec.load_state_dict(changed(codec.state_dict(), "codebook_KD", change))
    save_codec(codec, folder / "codec")


def write_vqgan(folder: Path, change: Change) -> None:
    config = read_vqgan_config(write_yaml(folder / "m.yaml", vqgan_settings()))
    state = changed(VQGAN(config).state_dict(), "decoder.conv_out.bias", change)
    torch.save({"state_dict": state}, folder / "m.ckpt")


def write_vae(folder: Path, change: Change) -> None:
    hparams = {"image_size": 16, "num_layers": 1, "hidden_dim": 8, "codebook_dim": 4}
    state = DiscreteVAE(DiscreteVAEConfig(**hparams)).state_dict()  # type: ignore[arg-type]
    weights = changed(state, "codebook.weight", change)
    torch.save({"hparams": hparams, "weights": weights}, folder / "vae.pt")


def write_dvae(folder: Path, change: Change) -> None:
    modules = dall_e()
    decoder = modules.Decoder(n_hid=64, n_init=16, vocab_size=64)
    weight = decoder.blocks.input.w
    weight.data = change(weight.data.clone())
    torch.save(modules.Encoder(n_hid=64, vocab_size=64), folder / "encoder.pkl")
    torch.save(decoder, folder / "decoder.pkl")


DALLE_TENSOR = "transformer.layers.layers.1.0.fn.fn.fn.to_qkv.weight"
CPU = torch.device("cpu")
CASES = {
    "dalle.pt": Case(DALLE_TENSOR, write_dalle, lambda f: read_foreign(f / "dalle.pt")),
    "moments of a dalle.pt": Case(
        r"[\w.]+/exp_avg", write_moments, lambda f: read_warm_start(f / "dalle.pt")
    ),
    "our checkpoint": Case(
        "to_logits.bias", write_own, lambda f: load_dalle(f / "step-000001", device=CPU)
    ),
    "our mean of weights": Case(
        "to_logits.bias",
        lambda f, change: write_own(f, change, AVERAGE_FILE),
        lambda f: load_dalle(f / "step-000001", device=CPU),
    ),
    "our codec": Case("codebook_KD", write_codec, lambda f: load_codec(f / "codec")),
    "VQGAN": Case(
        "decoder.conv_out.bias", write_vqgan, lambda f: load_vqgan(f / "m.yaml", f / "m.ckpt")
    ),
    "vae.pt": Case("codebook.weight", write_vae, lambda f: load_discrete_vae(f / "vae.pt")),
    "OpenAI's dVAE": Case(
        "decoder.input.weight",
        write_dvae,
        lambda f: load_openai_dvae(f / "encoder.pkl", f / "decoder.pkl"),
    ),
}


def with_last(value: float) -> Change:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_number_that_is_not_finite_is_refused_with_tensor_and_file(
    case: Case, value: float, tmp_path: Path
) -> None:
    case.write(tmp_path, with_last(value))
    with pytest.raises(
        ModelError, match=rf"contains NaN or infinity in tensor {case.tensor}"
    ) as error:
        case.read(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_whole_numbers_are_read(case: Case, tmp_path: Path) -> None:
    case.write(tmp_path, with_last(0.5))
    case.read(tmp_path)


def test_a_double_that_float32_can_not_hold_is_not_finite_here() -> None:
    check_tensors({"a": torch.tensor([1e38], dtype=torch.float64)}, "f")
    with pytest.raises(ModelError, match="tensor a"):
        check_tensors({"a": torch.tensor([1e39], dtype=torch.float64)}, "f")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_numbers_of_fewer_bits_are_checked_too(kind: torch.dtype) -> None:
    check_tensors({"a": torch.tensor([1.5]).to(kind), "n": torch.tensor([7])}, "f")
    with pytest.raises(ModelError, match="tensor a"):
        check_tensors({"a": torch.tensor([1.5, float("nan")]).to(kind)}, "f")


def test_a_description_that_asks_for_terabytes_costs_nothing() -> None:
    def make() -> nn.Module:
        return nn.Linear(1 << 20, 1 << 20)

    with pytest.raises(
        ModelError, match=r"A does not match B: tensor weight .*\(1048576, 1048576\)"
    ):
        fill(make, nn.Linear(2, 2).state_dict(), source="A", complaint="A does not match B")


# --- Names ---------------------------------------------------------------------------------------

WRAPPED: dict[str, Callable[[str], str]] = {
    "DDP": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "a compiled part": lambda name: name.replace("layers.", "_orig_mod.layers.", 1),
    "FSDP": lambda name: name.replace("layers.", "_fsdp_wrapped_module.layers.", 1),
    "Lightning": lambda name: f"model.{name}",
    "Lightning with DeepSpeed": lambda name: f"_forward_module.dalle.{name}",
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_dalle_pt_is_read_whatever_it_was_wrapped_in(
    wrap: Callable[[str], str], tmp_path: Path
) -> None:
    stock, optimizer = trained_stock(PLAIN)
    saved = {**saved_dict(PLAIN, stock), "opt_state": optimizer.state_dict()}
    torch.save(saved, tmp_path / "plain.pt")
    saved["weights"] = {wrap(name): tensor for name, tensor in saved["weights"].items()}
    torch.save(saved, tmp_path / "dalle.pt")
    found, expected = (read_foreign(tmp_path / name) for name in ("dalle.pt", "plain.pt"))
    assert found.config == expected.config
    assert_same(found.weights, expected.weights)
    assert_same(found.moments, expected.moments)
    assert_same(found.codec.weights, expected.codec.weights)


def assert_same(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


def test_two_models_in_one_file_are_refused() -> None:
    tensors = {f"{model}.a.weight": torch.zeros(1) for model in ("net", "ema")}
    with pytest.raises(ModelError, match=r"f holds several models \(net, ema\)"):
        strip_prefix(tensors, "a.weight", "f")
    with pytest.raises(ModelError, match="under several wrapper prefixes"):
        tensors_in({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "f")


@pytest.mark.parametrize("values", [None, [torch.zeros(1)], {3: torch.zeros(1)}], ids=str)
def test_what_is_no_state_dict_is_refused(values: Any) -> None:
    with pytest.raises(ModelError, match="f is not a state dict"):
        tensors_in(values, "f")


def test_shapes_are_learnt_without_torchs_compiler() -> None:
    """Importing it takes seconds, which every command that loads a model would take longer."""
    code = """
import sys
from torch import nn, ones
from pipeline.models.weights import fill
assert fill(lambda: nn.Embedding(2, 3), {"weight": ones(2, 3)}, complaint="").weight.sum() == 6
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
