"""`--model dalle-pytorch`: the reference's class in our loop, and its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import DependencyError, ModelError
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.export import write_dalle_pt
from pipeline.models.checkpoints.foreign import read_foreign
from pipeline.models.checkpoints.native import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    list_checkpoints,
    load_dalle,
    read_info,
    read_tensors,
)
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sparse_layout import draw_layout
from pipeline.train.config import ExportConfig, TrainConfig
from pipeline.train.export import export
from pipeline.train.model import DallePytorchModel, new_model
from pipeline.train.run import run
from pipeline.webdata.index import read_index
from pipeline.webdata.reader import ShardReader
from tests.helpers.cli import run_command
from tests.helpers.training import StoppedError, log_of, open_workspace, stop_at, tree, write_shards
from tests.models.checkpoints.test_deepspeed_checkpoints import write_deepspeed
from tests.oracles.checkpoints import saved_dict, trained_stock
from tests.oracles.codecs import dalle_pytorch
from tests.oracles.dalle import own_logits, stock_dalle

MakeConfig = Callable[..., TrainConfig]
CPU = torch.device("cpu")
PLAIN: dict[str, Any] = {"ff_dropout": 0.0, "attn_dropout": 0.0, "steps": 8}


@pytest.fixture(autouse=True)
def package() -> Any:
    """The real package; it stays importable once its missing requirements were stood in for."""
    return dalle_pytorch()


def batch_of(workspace: Workspace) -> tuple[torch.Tensor, torch.Tensor]:
    batch = ShardReader(workspace.shards("default"), "train").gather(range(6))
    return torch.from_numpy(batch.tokens_BT).long(), torch.from_numpy(batch.codes_BN).long()


def test_the_loss_is_the_classs_own(workspace: Workspace, make_config: MakeConfig) -> None:
    model = DallePytorchModel(
        new_model(read_index(workspace.shards("default")), make_config(**PLAIN).model)
    )
    tokens_BT, codes_BN = batch_of(workspace)
    own = model.dalle(tokens_BT, codes_BN, return_loss=True)
    assert torch.equal(model(tokens_BT, codes_BN).total, own)


@pytest.mark.parametrize(
    "options",
    [{}, {"rotary_emb": True, "shift_tokens": True, "shared_attn_ids": "0,0", "dim_head": 24}],
)
def test_both_classes_go_the_same_way(
    workspace: Workspace, make_config: MakeConfig, options: dict[str, Any]
) -> None:
    """From the same weights, the losses of 8 steps are equal, and so are the checkpoints."""
    run(make_config(name="begin", learning_rate=0.0, **PLAIN | {"steps": 1}, **options))
    begin = workspace.run("begin")
    run(make_config(name="ours", resume_from=begin, ema_decay=0.5, **PLAIN))
    run(make_config(name="stock", resume_from=begin, ema_decay=0.5, model="dalle-pytorch", **PLAIN))
    ours, stock = log_of(workspace.run("ours")), log_of(workspace.run("stock"))
    assert [r.keys() for r in ours] == [r.keys() for r in stock]
    for mine, theirs in zip(ours, stock, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    folders = [
        list_checkpoints(workspace.run(name) / "checkpoints")[-1] for name in ("ours", "stock")
    ]
    for file in (MODEL_FILE, OPTIMIZER_FILE):
        expected, found = (read_tensors(folder, file) for folder in folders)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-4, msg=name)
    load_dalle(folders[1], device=CPU)


def test_a_stopped_dalle_pytorch_run_ends_in_the_same_bytes(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    config = make_config(model="dalle-pytorch", ema_decay=0.9, steps=8, save_every=3)
    run(config)
    whole = tree(workspace.run("tiny"))
    workspace.run("tiny").rename(workspace.root / "elsewhere")
    with pytest.raises(StoppedError):
        run(config, stop_at(7))
    run(config)
    assert tree(workspace.run("tiny")) == whole


def test_its_sparse_attention_is_refused(workspace: Workspace, make_config: MakeConfig) -> None:
    plain = new_model(read_index(workspace.shards("default")), make_config().model)
    sparse = dataclasses.replace(plain, attn_types=("sparse",), text_seq_len=7)
    with pytest.raises(ModelError, match=r"fails in every forward pass since 1\.4\.0"):
        DallePytorchModel(sparse)


def test_the_package_that_is_not_there_is_asked_for(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dalle_pytorch", None)
    with pytest.raises(DependencyError, match=r"Install dalle-pytorch 1\.6\.6"):
        run(make_config(model="dalle-pytorch"))


def test_training_continues_from_a_dalle_pt(workspace: Workspace, make_config: MakeConfig) -> None:
    config = new_model(read_index(workspace.shards("default")), make_config(**PLAIN, depth=3).model)
    model = Dalle(config)
    path = workspace.root / "9L_8HD_2H_16I_6T_colours_3E.pt"
    write_dalle_pt(path, config=config, weights=model.state_dict())
    run(make_config(name="auto", resume_from=path, learning_rate=0.0, steps=5))
    folder = workspace.run("custom_transformer/3L_8HD_2H_16I_6T_colours-3E_default-1E")
    weights = read_tensors(list_checkpoints(folder / "checkpoints")[-1], MODEL_FILE)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_training_continues_from_a_deepspeed_folder(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    """Its weights and moments are those of the first step."""
    write_shards(workspace, grid=(4, 4))  # the class's own codec makes powers of two
    config = new_model(read_index(workspace.shards("default")), make_config(**PLAIN).model)
    stock, optimizer = trained_stock(config)
    folder = workspace.root / "dalle-ds-cp"
    write_deepspeed(folder, stock, optimizer, kind="zero2", config=config)
    flat = {"learning_rate": 0.0, "steps": 1, "warmup_steps": 0}
    run(make_config(resume_from=folder, **PLAIN | flat))
    saved = list_checkpoints(workspace.run("tiny") / "checkpoints")[-1]
    expected = read_foreign(folder)
    weights, moments = read_tensors(saved, MODEL_FILE), read_tensors(saved, OPTIMIZER_FILE)
    assert all(torch.equal(weights[name], value) for name, value in expected.weights.items())
    assert {v.item() for name, v in moments.items() if name.endswith("/step")} == {3.0}
    name = "to_logits.bias/exp_avg"  # 0.9 of the old and 0.1 of the step's gradient
    before = (expected.moments or {})[name]
    assert torch.cosine_similarity(moments[name], before, dim=0) > 0.5


def test_the_command_draws_a_layout_when_asked_to(
    workspace: Workspace, make_config: MakeConfig, tmp_path: Path
) -> None:
    open_workspace(workspace)
    write_shards(workspace, text_seq_len=16, grid=(4, 4))  # two blocks of 16 positions
    index = read_index(workspace.shards("default"))
    config = new_model(index, make_config(**PLAIN).model)
    saved = saved_dict(config, stock_dalle(config))
    saved["hparams"] |= {"attn_types": ("sparse",)}
    torch.save(saved, tmp_path / "dalle.pt")
    options = ["train", "--workspace", str(workspace.root), "--name", "tiny", "--steps", "2"]
    options += ["--resume-from", str(tmp_path / "dalle.pt"), "--device", "cpu", "--no-tensorboard"]
    refused = run_command(options)
    assert refused.exit_code != 0
    assert "--redraw-layout" in refused.stderr
    assert run_command([*options, "--redraw-layout"]).exit_code == 0
    model = read_info(list_checkpoints(workspace.run("tiny") / "checkpoints")[-1]).model
    assert model.attn_types == ("sparse",)
    assert model.sparse_layout == draw_layout(32, 0)


def test_a_run_is_exported_to_a_file_that_the_class_of_dalle_pytorch_loads(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(ema_decay=0.5, **PLAIN))
    out = workspace.root / "dalle.pt"
    export(ExportConfig(workspace=workspace.root, run="tiny", out=out))
    folder = list_checkpoints(workspace.run("tiny") / "checkpoints")[-1]
    ours = load_dalle(folder, device=CPU)
    saved = torch.load(out, weights_only=True)
    stock = DallePytorchModel(ours.config).dalle.eval()
    missing = stock.load_state_dict(saved["weights"], strict=False)
    assert all(name.startswith("vae.") for name in missing.missing_keys)
    assert not missing.unexpected_keys
    tokens_BT, codes_BN = batch_of(workspace)
    for mine, theirs in zip(
        ours.logits(tokens_BT, codes_BN), own_logits(stock, tokens_BT, codes_BN), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert saved["epoch"] == 1
