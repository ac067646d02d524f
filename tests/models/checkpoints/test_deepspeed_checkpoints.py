"""DeepSpeed's folders: with every kind of optimizer, and with missing files."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.foreign import read_foreign
from pipeline.models.dalle.config import DalleConfig
from tests.oracles.checkpoints import (
    PLAIN,
    assert_same_after_a_step,
    assert_same_logits,
    ours,
    saved_dict,
    trained_stock,
)


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


def write_deepspeed(
    folder: Path, stock: Any, optimizer: Any, *, kind: str, config: DalleConfig = PLAIN
) -> None:
    """A checkpoint folder in DeepSpeed's layout, with fp16 weights if float32 masters are beside them."""
    step = folder / "global_step2"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step2")
    client = {"hparams": saved_dict(config, stock)["hparams"], "vae_params": None, "epoch": 4}
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
        state = {
            "step": torch.tensor(2.0),
            **{key: shares[rank].clone() for key, shares in vectors.items()},
        }
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
def test_training_continues_from_a_deepspeed_folder(kind: str, tmp_path: Path) -> None:
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
        ("global_step2/zero_pp_rank_1_mp_rank_00optim_states.pt", "lacks the shard of rank 1"),
        ("global_step2/zero_pp_rank_2_mp_rank_00optim_states.pt", "holds 2 of 3 shards"),
        ("global_step2/mp_rank_00_model_states.pt", r"no mp_rank_00_model_states\.pt"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(gone: str, message: str, tmp_path: Path) -> None:
    stock, optimizer = trained_stock(PLAIN)
    write_deepspeed(tmp_path, stock, optimizer, kind="zero2")
    (tmp_path / gone).unlink()
    with pytest.raises(ModelError, match=message):
        read_foreign(tmp_path)


def test_every_parameter_counts_its_own_steps(tmp_path: Path) -> None:
    """ZeRO keeps one count for all; were it shared, every parameter's step would add to it."""
    stock, optimizer = trained_stock(PLAIN)
    write_deepspeed(tmp_path, stock, optimizer, kind="zero2")
    moments = read_foreign(tmp_path).moments or {}
    steps = [value for name, value in moments.items() if name.endswith("/step")]
    assert len({value.data_ptr() for value in steps}) == len(steps) > 10
    assert {value.item() for value in steps} == {2.0}


def test_moments_of_parameters_in_another_order_are_left_out(tmp_path: Path) -> None:
    """Without ZeRO an optimizer numbers its parameters, by its groups."""
    stock, optimizer = trained_stock(PLAIN)
    write_deepspeed(tmp_path, stock, optimizer, kind="fp32")
    path = tmp_path / "global_step2/mp_rank_00_model_states.pt"
    states = torch.load(path, weights_only=False)
    group = states["optimizer"]["param_groups"][0]
    group["params"] = group["params"][::-1]
    torch.save(states, path)
    assert read_foreign(tmp_path).moments is None


def test_the_states_of_a_step_can_be_given_by_themselves(tmp_path: Path) -> None:
    """`global_step2/mp_rank_00_model_states.pt`: read with the files beside it, like the folder."""
    for kind in ("fp32", "zero2", "zero3"):
        stock, optimizer = trained_stock(PLAIN)
        write_deepspeed(tmp_path / kind, stock, optimizer, kind=kind)
        imported = read_foreign(tmp_path / kind / "global_step2/mp_rank_00_model_states.pt")
        assert imported.config == PLAIN
        assert imported.epoch == 4
        assert_same_logits(ours(imported), stock)
        assert_same_after_a_step(imported, stock, optimizer)


def test_states_alone_that_say_their_hyper_parameters_are_a_model(tmp_path: Path) -> None:
    stock, optimizer = trained_stock(PLAIN)
    write_deepspeed(tmp_path / "ds", stock, optimizer, kind="fp32")
    alone = tmp_path / "alone.pt"
    (tmp_path / "ds/global_step2/mp_rank_00_model_states.pt").rename(alone)
    assert_same_logits(ours(read_foreign(alone)), stock)


def test_states_of_zero_3_without_their_shares_say_where_the_weights_are(tmp_path: Path) -> None:
    stock, optimizer = trained_stock(PLAIN)
    write_deepspeed(tmp_path / "ds", stock, optimizer, kind="zero3")
    (tmp_path / "ds/global_step2/mp_rank_00_model_states.pt").rename(tmp_path / "alone.pt")
    with pytest.raises(ModelError, match=r"weights are in the zero_pp_rank_"):
        read_foreign(tmp_path / "alone.pt")


@pytest.mark.parametrize("form", ["bin", "bin, several", "safetensors", "safetensors, several"])
@pytest.mark.parametrize("by_folder", [False, True])
def test_what_zero_to_fp32_wrote_is_read_with_the_auxiliary_beside_it(
    form: str, by_folder: bool, tmp_path: Path
) -> None:
    stock, _ = trained_stock(PLAIN)
    hparams = saved_dict(PLAIN, stock)["hparams"]
    torch.save({"hparams": hparams, "epoch": 4, "weights": "elsewhere"}, tmp_path / "auxiliary.pt")
    tensors = {name: tensor.clone() for name, tensor in stock.state_dict().items()}
    path = write_consolidated(tmp_path, tensors, form)
    imported = read_foreign(tmp_path if by_folder else path)
    assert imported.config == PLAIN
    assert (imported.epoch, imported.moments) == (4, None)
    assert_same_logits(ours(imported), stock)


def write_consolidated(folder: Path, tensors: dict[str, Tensor], form: str) -> Path:
    kind, _, several = form.partition(", ")
    stem = "pytorch_model" if kind == "bin" else "model"
    names = list(tensors)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]] if several else [names]
    index: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        middle = f"-0000{number}-of-00002" if several else ""
        path = folder / f"{stem}{middle}.{kind}"
        content = OrderedDict((name, tensors[name]) for name in part)
        if kind == "bin":
            torch.save(content, path)
        else:
            safetensors.torch.save_file(content, path)
        index |= dict.fromkeys(part, path.name)
    if several:
        path = folder / f"{stem}.{kind}.index.json"
        path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    return path


def test_whole_weights_without_hyper_parameters_say_what_is_missing(tmp_path: Path) -> None:
    stock, _ = trained_stock(PLAIN)
    torch.save(stock.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no auxiliary\.pt with them beside it or one level up"):
        read_foreign(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("name", ["../model.bin", "/etc/passwd", "", 7, "none.bin"])
def test_an_index_names_files_in_its_own_folder(tmp_path: Path, name: object) -> None:
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match=r"index\.json|none\.bin"):
        read_foreign(path)


@pytest.mark.parametrize("latest", [b"../..", b"/etc", b"", b"\xff\xfe", b"a" * 5000, b"none"])
def test_latest_names_a_folder_beside_it(tmp_path: Path, latest: bytes) -> None:
    (tmp_path / "latest").write_bytes(latest)
    with pytest.raises(ModelError, match="latest names"):
        read_foreign(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"param_shapes": [{"a": [10**9]}]},
        {"param_shapes": "text"},
        {"param_shapes": [[1]]},
        {"param_shapes": {"a": None}},
        {"hparams": 3},
        {"module": 1},
    ],
    ids=str,
)
def test_states_of_another_layout_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    stock, optimizer = trained_stock(PLAIN)
    write_deepspeed(tmp_path, stock, optimizer, kind="zero2")
    path = tmp_path / "global_step2/mp_rank_00_model_states.pt"
    torch.save(torch.load(path, weights_only=False) | change, path)
    with pytest.raises(ModelError, match="global_step2"):
        read_foreign(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"partition_count": None},
        {"partition_count": "many"},
        {"single_partition_of_fp32_groups": None},
        {"single_partition_of_fp32_groups": [torch.zeros(3)]},
        {"base_optimizer_state": None},
        {"base_optimizer_state": [{"step": "x"}]},
        {"base_optimizer_state": {"state": []}},
    ],
    ids=lambda change: str(change)[:60],
)
def test_shares_of_another_layout_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    stock, optimizer = trained_stock(PLAIN)
    write_deepspeed(tmp_path, stock, optimizer, kind="zero2")
    path = tmp_path / "global_step2/zero_pp_rank_0_mp_rank_00optim_states.pt"
    share = torch.load(path, weights_only=False)["optimizer_state_dict"]
    torch.save({"optimizer_state_dict": share | change}, path)
    with pytest.raises(ModelError, match="global_step2"):
        read_foreign(tmp_path)
