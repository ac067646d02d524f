"""Checkpoints of dalle-pytorch: reading all versions, and writing them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.export import dalle_pytorch_codec, write_dalle_pt
from pipeline.models.checkpoints.foreign import DallePytorchCodec, read_foreign
from pipeline.models.codecs.discrete_vae import DiscreteVAE, DiscreteVAEConfig
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sparse_layout import draw_layout, layout_tensor
from tests.oracles.checkpoints import (
    PLAIN,
    assert_same_after_a_step,
    assert_same_logits,
    ours,
    saved_dict,
    trained_stock,
)
from tests.oracles.dalle import randomise, stock_dalle, stock_vae

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {
        "attn_types": ("full", "conv_like", "axial_row"),
        "stable": True,
        "sandwich_norm": True,
        "shift_tokens": True,
        "rotary_emb": True,
    },
    "two streams, shared": {
        "reversible": True,
        "shared_attn_ids": (0,),
        "shared_ff_ids": ("a", "b"),
        "share_input_output_emb": True,
    },
}


def make_config(changes: dict[str, Any]) -> DalleConfig:
    return DalleConfig(**{**PLAIN.as_dict(), **changes})


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_a_dalle_pytorch_checkpoint_is_read(changes: dict[str, Any], tmp_path: Path) -> None:
    config = make_config(changes)
    stock, _ = trained_stock(config)
    torch.save(saved_dict(config, stock), tmp_path / "dalle.pt")
    imported = read_foreign(tmp_path / "dalle.pt")
    assert imported.config == config
    assert (imported.epoch, imported.version) == (4, "1.6.6")
    assert imported.moments is None
    assert imported.codec.class_name == "DiscreteVAE"
    assert "codebook.weight" in imported.codec.weights
    assert_same_logits(ours(imported), stock)


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_training_continues_with_the_moments(changes: dict[str, Any], tmp_path: Path) -> None:
    """One more step of each leaves the same weights."""
    config = make_config(changes)
    stock, optimizer = trained_stock(config)
    saved = {**saved_dict(config, stock), "opt_state": optimizer.state_dict()}
    torch.save(saved, tmp_path / "dalle.pt")
    imported = read_foreign(tmp_path / "dalle.pt")
    assert imported.learning_rate == 1e-3
    assert imported.moments is not None
    assert_same_after_a_step(imported, stock, optimizer)


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_dalle_pytorch_loads_what_we_write(changes: dict[str, Any], tmp_path: Path) -> None:
    from tests.oracles.codecs import dalle_pytorch

    config = make_config({**changes, "image_fmap_size": 8})
    torch.manual_seed(0)
    model = Dalle(config)
    randomise(model)
    codec = dalle_pytorch_codec(
        DiscreteVAE(
            DiscreteVAEConfig(
                image_size=16, num_tokens=13, codebook_dim=4, num_layers=1, hidden_dim=4
            )
        )
    )
    path = tmp_path / "dalle.pt"
    write_dalle_pt(path, config=config, weights=model.state_dict(), codec=codec, epoch=7)

    saved = torch.load(path, weights_only=True)  # from here on as generate.py does
    vae = dalle_pytorch().DiscreteVAE(**saved["vae_params"])
    stock = dalle_pytorch().DALLE(vae=vae, **saved["hparams"])
    stock.load_state_dict(saved["weights"])
    assert saved["vae_class_name"] == "DiscreteVAE"
    assert saved["epoch"] == 7
    assert_same_logits(model, stock)

    back = read_foreign(path)
    assert back.config == config
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.weights[name], tensor)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = Dalle(PLAIN)
    for name in ("a.pt", "b.pt"):
        write_dalle_pt(tmp_path / name, config=PLAIN, weights=model.state_dict())
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


# --- Older versions ------------------------------------------------------------------------------


def older(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of a version before 1.4.0: no wrappers for a cache, and a mask beside the weights."""
    fewer = {"0": {3: 2, 5: 3}, "1": {2: 2, 4: 3}}  # of attentions, of feed-forwards

    def unwrapped(match: re.Match[str]) -> str:
        wrappers = "fn." * fewer[match["branch"]][match["fn"].count("fn")]
        return f"{match['layer']}{match['branch']}.{wrappers}{match['leaf']}"

    pattern = (
        r"(?P<layer>transformer\.layers\.layers\.\d+\.)(?P<branch>[01])\."
        r"(?P<fn>(?:fn\.)+)(?P<leaf>(?:to_|net).*)"
    )
    named = {re.sub(pattern, unwrapped, name): tensor for name, tensor in weights.items()}
    return {**named, "logits_mask": torch.zeros(1, 21, 29, dtype=torch.bool)}


def test_a_checkpoint_before_1_0_has_neither_shift_nor_rotary_positions(tmp_path: Path) -> None:
    """As 0.9 wrote it: few hyper-parameters, `weights_0`, two `fn`, no version."""
    stock, _ = trained_stock(PLAIN)
    weights = {
        name.replace("image_pos_emb.weights.", "image_pos_emb.weights_"): tensor
        for name, tensor in older(stock.state_dict()).items()
    }
    assert "transformer.layers.layers.0.0.fn.fn.to_qkv.weight" in weights
    names = ("num_text_tokens", "text_seq_len", "dim", "depth", "heads", "dim_head", "reversible")
    hparams = {name: getattr(PLAIN, name) for name in (*names, "loss_img_weight")}
    torch.save({"hparams": hparams, "vae_params": None, "weights": weights}, tmp_path / "dalle.pt")
    imported = read_foreign(tmp_path / "dalle.pt")
    assert imported.config == PLAIN
    assert (imported.epoch, imported.version, imported.codec.class_name) == (0, None, None)
    assert_same_logits(ours(imported), stock)


def test_shift_shows_in_the_number_of_wrappers_before_1_4(tmp_path: Path) -> None:
    config = make_config({"shift_tokens": True, "rotary_emb": True})
    stock, _ = trained_stock(config)
    weights = older(stock.state_dict())
    assert "transformer.layers.layers.0.1.fn.fn.fn.net.0.weight" in weights
    # up to 1.1.2 the angles had one axis more and lacked the last position
    weights["transformer.pos_emb"] = weights["transformer.pos_emb"][None, :, :-1]
    saved = saved_dict(config, stock) | {"weights": weights}
    del saved["version"]
    torch.save(saved, tmp_path / "dalle.pt")
    imported = read_foreign(tmp_path / "dalle.pt")
    assert imported.config == config
    assert_same_logits(ours(imported), stock)


def test_conv_like_before_1_5_is_centred_on_the_code(tmp_path: Path) -> None:
    """Its mask, code by code, against stock full attention under the mask of that version."""
    config = make_config({"attn_types": ("conv_like",), "image_fmap_size": 8})
    stock, _ = trained_stock(config)
    for version, centred in (("1.4.2", True), ("1.5.0", False), ("1.6.6", False)):
        saved = saved_dict(config, stock) | {"version": version}
        torch.save(saved, tmp_path / "dalle.pt")
        assert read_foreign(tmp_path / "dalle.pt").config.conv_centred == centred
    torch.save(saved_dict(config, stock) | {"version": "1.4.2"}, tmp_path / "dalle.pt")
    model = ours(read_foreign(tmp_path / "dalle.pt"))
    full = stock_dalle(config, attn_types=("full",))
    full.load_state_dict(stock.state_dict())
    for layer in full.transformer.layers.layers:
        layer[0].fn.fn.fn.static_mask = centred_mask(text=5, size=8)
    assert_same_logits(model, full)
    with pytest.raises(ModelError, match=r"before 1\.5\.0"):
        write_dalle_pt(tmp_path / "out.pt", config=model.config, weights=model.state_dict())


def centred_mask(text: int, size: int) -> Tensor:
    length = text + size**2
    mask = torch.ones(length, length, dtype=torch.bool)
    for query in range(size**2 - 1):
        for key in range(size**2 - 1):
            rows, columns = (abs(query // size - key // size), abs(query % size - key % size))
            mask[text + 1 + query, text + 1 + key] = rows <= 2 and columns <= 2
    return mask


# --- Sparse layouts ------------------------------------------------------------------------------


def sparse_checkpoint(layouts: dict[int, Tensor], **hparams: Any) -> dict[str, Any]:
    """A checkpoint of 32 positions whose layers carry these layouts, as DeepSpeed keeps them."""
    config = make_config({"text_seq_len": 16, "depth": 3})
    stock = stock_dalle(config)
    weights = stock.state_dict()
    for layer, layout in layouts.items():
        prefix = f"transformer.layers.layers.{layer}.0.fn.fn.fn."
        weights[f"{prefix}attn_fn.master_layout"] = layout
    saved = saved_dict(config, stock) | {"weights": weights}
    saved["hparams"] = {**saved["hparams"], "attn_types": ("full", "sparse", "sparse"), **hparams}
    return saved


def some_layout(*rows: str) -> Tensor:
    return layout_tensor(rows, heads=2)


def test_the_layout_of_the_first_sparse_layer_serves_all(tmp_path: Path) -> None:
    first, second = some_layout("10", "01"), some_layout("10", "11")
    torch.save(sparse_checkpoint({2: second, 1: first}), tmp_path / "dalle.pt")
    imported = read_foreign(tmp_path / "dalle.pt")
    assert imported.config.attn_types == ("full", "sparse", "sparse")
    assert imported.config.sparse_layout == ("10", "01")
    assert read_foreign(tmp_path / "dalle.pt", redraw_layout=3).config == imported.config
    write_dalle_pt(tmp_path / "again.pt", config=imported.config, weights=imported.weights)
    again = torch.load(tmp_path / "again.pt", weights_only=True)["weights"]
    for layer in (1, 2):
        name = f"transformer.layers.layers.{layer}.0.fn.fn.fn.attn_fn.master_layout"
        assert torch.equal(again[name], first)
    assert read_foreign(tmp_path / "again.pt").config == imported.config


def test_a_layout_shows_which_layers_are_sparse(tmp_path: Path) -> None:
    torch.save(
        sparse_checkpoint({0: some_layout("11", "11")}, attn_types=None), tmp_path / "dalle.pt"
    )
    assert read_foreign(tmp_path / "dalle.pt").config.attn_types == ("sparse", "full", "full")


def test_sparse_attention_without_its_layout_is_refused_unless_one_is_drawn(
    tmp_path: Path,
) -> None:
    path = tmp_path / "dalle.pt"
    torch.save(sparse_checkpoint({}), path)
    with pytest.raises(ModelError, match="--redraw-layout"):
        read_foreign(path)
    assert read_foreign(path, redraw_layout=3).config.sparse_layout == draw_layout(32, 3)


# --- What is wrong with a file -------------------------------------------------------------------


@pytest.fixture
def saved() -> dict[str, Any]:
    return saved_dict(PLAIN, trained_stock(PLAIN)[0])


def test_where_hyper_parameters_and_tensors_disagree_the_tensors_count(
    saved: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved["hparams"] |= {"dim": 512, "depth": 9, "text_seq_len": 256, "num_text_tokens": 49408}
    torch.save(saved, tmp_path / "dalle.pt")
    with caplog.at_level(logging.WARNING):
        assert read_foreign(tmp_path / "dalle.pt").config == PLAIN
    for message in (
        "dim is 512, but the tensors have 20",
        "depth is 9, but the tensors have 2",
        "text_seq_len is 256, but the tensors have 5",
    ):
        assert message in caplog.text


class _Harm:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/harmed",)


@pytest.mark.parametrize("key", ["hparams", "extra"])
def test_a_pickle_with_code_is_refused_by_name(
    key: str, saved: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(saved | {key: _Harm()}, tmp_path / "dalle.pt")
    with pytest.raises(ModelError, match=r"posix\.system"):
        read_foreign(tmp_path / "dalle.pt")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.999])
def test_a_truncated_checkpoint_is_refused(
    share: float, saved: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "dalle.pt"
    torch.save(saved, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=r"truncated|can't be read"):
        read_foreign(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "look into consolidating"}, "DeepSpeed folder"),
        ({"weights": None}, "lacks `hparams` or `weights`"),
        ({"weights": {"a": torch.zeros(1)}}, "not those of a DALLE"),
        ({"hparams": {"heads": 2, "attn_types": ("mlp",)}}, "'mlp'"),
        ({"hparams": {}}, "Neither `heads` nor"),
    ],
)
def test_what_is_no_model_is_refused(
    change: dict[str, Any], message: str, saved: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(saved | change, tmp_path / "dalle.pt")
    with pytest.raises(ModelError, match=message):
        read_foreign(tmp_path / "dalle.pt")


def test_a_missing_tensor_is_named(saved: dict[str, Any], tmp_path: Path) -> None:
    del saved["weights"]["transformer.layers.layers.1.1.fn.fn.net.3.bias"]
    torch.save(saved, tmp_path / "dalle.pt")
    with pytest.raises(ModelError, match=r"feed_forwards\.1\.to_out\.bias"):
        read_foreign(tmp_path / "dalle.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"dalle\.pt can't be read"):
        read_foreign(tmp_path / "dalle.pt")


def test_a_codec_object_in_the_hyper_parameters_is_not_instantiated(
    saved: dict[str, Any], tmp_path: Path
) -> None:
    saved["hparams"]["vae"] = stock_vae(PLAIN)
    torch.save(saved, tmp_path / "dalle.pt")
    assert read_foreign(tmp_path / "dalle.pt").config == PLAIN


def test_a_model_without_a_codec_is_written_too(tmp_path: Path) -> None:
    model = Dalle(PLAIN)
    write_dalle_pt(tmp_path / "dalle.pt", config=PLAIN, weights=model.state_dict())
    imported = read_foreign(tmp_path / "dalle.pt")
    assert imported.codec == DallePytorchCodec(class_name=None, params=None, weights={})
