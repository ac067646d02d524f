"""Checkpoints of dalle-pytorch: read as they were written through the years, and written for it."""

from __future__ import annotations

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.checkpoints.export import stock_codec, write_dalle_pt
from pipeline.models.checkpoints.foreign import Imported, StockCodec, read_foreign
from pipeline.models.codecs.discrete_vae import DiscreteVAE, DiscreteVAEConfig
from pipeline.models.dalle import Dalle
from pipeline.models.dalle_config import DalleConfig
from pipeline.models.sparse_layout import draw_layout, layout_tensor
from tests.oracles.dalle import STOCK_FIELDS, own_logits, randomise, stock_dalle, stock_vae

PLAIN = DalleConfig(
    dim=20,
    depth=2,
    heads=2,
    dim_head=14,
    text_seq_len=5,
    num_text_tokens=11,
    num_image_tokens=13,
    image_fmap_size=4,
    loss_img_weight=3.0,
)
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


def trained_stock(config: DalleConfig) -> tuple[Any, torch.optim.Adam]:
    """A stock model after two steps, as `train_dalle.py` makes them, and its optimizer."""
    torch.manual_seed(0)
    model = stock_dalle(config)
    randomise(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        model(*make_batch(config), return_loss=True).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def make_batch(config: DalleConfig) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(1, 11, (3, config.text_seq_len), generator=generator)
    tokens_BT[1, 2:] = 0
    return tokens_BT, torch.randint(0, 13, (3, config.image_seq_len), generator=generator)


def saved_dict(config: DalleConfig, model: Any) -> dict[str, Any]:
    return {
        "hparams": {
            name: getattr(config, name) for name in STOCK_FIELDS if name != "sandwich_norm"
        },
        "vae_params": None,
        "weights": model.state_dict(),
        "epoch": 4,
        "version": "1.6.6",
        "vae_class_name": "DiscreteVAE",
    }


def ours(imported: Imported) -> Dalle:
    model = Dalle(imported.config)
    model.load_state_dict(dict(imported.weights))
    return model


def assert_same_logits(model: Dalle, stock: Any) -> None:
    batch = make_batch(model.config)
    model.eval()
    with torch.no_grad():
        for mine, theirs in zip(
            model.logits(*batch), own_logits(stock.eval(), *batch), strict=True
        ):
            scale = float(theirs.abs().max())
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_a_stock_checkpoint_is_read(changes: dict[str, Any], tmp_path: Path) -> None:
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
def test_training_goes_on_with_the_moments(changes: dict[str, Any], tmp_path: Path) -> None:
    """One more step of each leaves the same weights."""
    config = make_config(changes)
    stock, optimizer = trained_stock(config)
    saved = {**saved_dict(config, stock), "opt_state": optimizer.state_dict()}
    torch.save(saved, tmp_path / "dalle.pt")
    imported = read_foreign(tmp_path / "dalle.pt")
    assert imported.learning_rate == 1e-3
    assert imported.moments is not None
    assert_same_after_a_step(imported, stock, optimizer)


def assert_same_after_a_step(imported: Imported, stock: Any, optimizer: Any) -> None:
    model = ours(imported).train()
    own = torch.optim.Adam(model.parameters(), lr=1e-3)
    assert imported.moments is not None
    for name, value in imported.moments.items():
        parameter, _, key = name.rpartition("/")
        own.state[model.get_parameter(parameter)][key] = value.clone()
    batch = make_batch(imported.config)
    model(*batch).total.backward()
    own.step()
    stock.train()(*batch, return_loss=True).backward()
    optimizer.step()
    assert_same_logits(model, stock)


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_stock_loads_what_we_write(changes: dict[str, Any], tmp_path: Path) -> None:
    from tests.oracles.codecs import dalle_pytorch

    config = make_config({**changes, "image_fmap_size": 8})
    torch.manual_seed(0)
    model = Dalle(config)
    randomise(model)
    codec = stock_codec(
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


def test_conv_like_before_1_5_lies_around_the_code(tmp_path: Path) -> None:
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
    for message in ("dim 512, in truth 20", "depth 9, in truth 2", "text_seq_len 256, in truth 5"):
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
def test_a_checkpoint_cut_short_is_refused(
    share: float, saved: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "dalle.pt"
    torch.save(saved, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=r"cut short|can't be read"):
        read_foreign(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "look into consolidating"}, "DeepSpeed folder"),
        ({"weights": None}, "no `hparams` and `weights`"),
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


def test_a_codec_object_in_the_hyper_parameters_is_not_brought_to_life(
    saved: dict[str, Any], tmp_path: Path
) -> None:
    saved["hparams"]["vae"] = stock_vae(PLAIN)
    torch.save(saved, tmp_path / "dalle.pt")
    assert read_foreign(tmp_path / "dalle.pt").config == PLAIN


# --- DeepSpeed -----------------------------------------------------------------------------------


def shapes_of(stock: Any) -> OrderedDict[str, torch.Size]:
    return OrderedDict((n, p.shape) for n, p in stock.named_parameters() if p.requires_grad)


def flat(tensors: list[Tensor], *, ranks: int, align: bool) -> list[Tensor]:
    """One vector of all, in equal shares; the padding of the last is kept or cut as DeepSpeed does."""
    vector = torch.cat([tensor.detach().flatten() for tensor in tensors])
    size = -(-len(vector) // (2 * ranks)) * 2
    padded = torch.nn.functional.pad(vector, (0, size * ranks - len(vector)))
    shares = list(padded.split(size))
    if not align:
        shares[-1] = shares[-1][: len(vector) - size * (ranks - 1)]
    return shares


def by_parameter(tensors: list[Tensor], *, ranks: int) -> list[Tensor]:
    """Each tensor in equal shares, padded, one after the other: ZeRO 3."""
    shares: list[list[Tensor]] = [[] for _ in range(ranks)]
    for tensor in tensors:
        size = -(-tensor.numel() // ranks)
        padded = torch.nn.functional.pad(
            tensor.detach().flatten(), (0, size * ranks - tensor.numel())
        )
        for rank, part in enumerate(padded.split(size)):
            shares[rank].append(part)
    return [torch.cat(parts) for parts in shares]


def write_deepspeed(folder: Path, stock: Any, optimizer: Any, *, kind: str) -> None:
    """A checkpoint folder as DeepSpeed lays it out, with fp16 weights where masters lie beside them."""
    step = folder / "global_step2"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step2")
    client = {"hparams": saved_dict(PLAIN, stock)["hparams"], "vae_params": None, "epoch": 4}
    torch.save({**client, "weights": "look into consolidating"}, folder / "auxiliary.pt")
    module = stock.state_dict()
    states: dict[str, Any] = {**client, "module": module, "global_steps": 2, "optimizer": None}
    parameters = [p for p in stock.parameters() if p.requires_grad]
    moments = {
        key: [optimizer.state[p][key] for p in parameters] for key in ("exp_avg", "exp_avg_sq")
    }
    ranks = 3
    if kind == "fp32":
        states["optimizer"] = optimizer.state_dict()
    else:
        states["module"] = {name: tensor.half() for name, tensor in module.items()}
    if kind == "fp16":
        whole = {key: flat(tensors, ranks=1, align=False)[0] for key, tensors in moments.items()}
        states["optimizer"] = {
            "fp32_groups_flat": flat(parameters, ranks=1, align=False),
            "optimizer_state_dict": {
                "state": {0: {"step": 2, **whole}},
                "param_groups": [{"lr": 1e-3, "params": [0]}],
            },
        }
    if kind == "fp16, unfused":
        states["optimizer"] = {
            "fp32_groups": [[p.detach() for p in parameters]],
            "optimizer_state_dict": optimizer.state_dict(),
        }
    if kind.startswith("zero"):
        states["param_shapes"] = [shapes_of(stock)]
        write_shares(step, parameters, moments, kind=kind, ranks=ranks)
    if kind == "zero3":
        states["module"] = {name: t.new_zeros(0) for name, t in module.items()}
    torch.save(states, step / "mp_rank_00_model_states.pt")


def write_shares(
    step: Path, parameters: list[Tensor], moments: dict[str, list[Tensor]], *, kind: str, ranks: int
) -> None:
    def cut(tensors: list[Tensor]) -> list[Tensor]:
        if kind == "zero3":
            return by_parameter(tensors, ranks=ranks)
        return flat(tensors, ranks=ranks, align=kind == "zero2, rigid")

    masters, vectors = cut(parameters), {key: cut(tensors) for key, tensors in moments.items()}
    for rank in range(ranks):
        state = {"step": 2, **{key: shares[rank].clone() for key, shares in vectors.items()}}
        whole = {"state": {0: state}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
        share: dict[str, Any] = {
            "partition_count": ranks,
        }
        if kind == "zero3":
            share |= {"fp32_flat_groups": [masters[rank]], "optimizer_state_dict": whole}
        else:
            base = whole if kind == "zero2, rigid" else [state]
            share |= {
                "single_partition_of_fp32_groups": [masters[rank].clone()],
                "base_optimizer_state": base,
            }
        between = "" if kind == "zero2" else "_"
        name = f"zero_pp_rank_{rank}_mp_rank_00{between}optim_states.pt"
        torch.save({"optimizer_state_dict": share}, step / name)


@pytest.mark.parametrize(
    "kind", ["fp32", "fp16", "fp16, unfused", "zero2", "zero2, rigid", "zero3"]
)
def test_training_goes_on_from_a_deepspeed_folder(kind: str, tmp_path: Path) -> None:
    stock, optimizer = trained_stock(PLAIN)
    write_deepspeed(tmp_path / "dalle-ds-cp", stock, optimizer, kind=kind)
    if kind == "zero3":  # the buffers and the codec are not needed
        assert (tmp_path / "dalle-ds-cp/global_step2/mp_rank_00_model_states.pt").exists()
    imported = read_foreign(tmp_path / "dalle-ds-cp")
    assert imported.config == PLAIN
    assert imported.epoch == 4
    assert_same_logits(ours(imported), stock)
    assert_same_after_a_step(imported, stock, optimizer)


def test_the_folder_of_a_step_can_be_given(tmp_path: Path) -> None:
    stock, optimizer = trained_stock(PLAIN)
    write_deepspeed(tmp_path / "ds", stock, optimizer, kind="zero2")
    assert read_foreign(tmp_path / "ds/global_step2").config == PLAIN


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("global_step2/zero_pp_rank_1_mp_rank_00optim_states.pt", "lacks the share of rank 1"),
        ("global_step2/zero_pp_rank_2_mp_rank_00optim_states.pt", "holds 2 shares of 3"),
        ("global_step2/mp_rank_00_model_states.pt", r"no mp_rank_00_model_states\.pt"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(gone: str, message: str, tmp_path: Path) -> None:
    stock, optimizer = trained_stock(PLAIN)
    write_deepspeed(tmp_path, stock, optimizer, kind="zero2")
    (tmp_path / gone).unlink()
    with pytest.raises(ModelError, match=message):
        read_foreign(tmp_path)


def test_a_model_without_a_codec_is_written_too(tmp_path: Path) -> None:
    model = Dalle(PLAIN)
    write_dalle_pt(tmp_path / "dalle.pt", config=PLAIN, weights=model.state_dict())
    imported = read_foreign(tmp_path / "dalle.pt")
    assert imported.codec == StockCodec(class_name=None, params=None, weights={})
