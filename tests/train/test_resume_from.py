"""`--resume-from`: runs that start from a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import ConfigError, ContractError, ModelError
from pipeline.core.storage import write_json
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.export import write_dalle_pt
from pipeline.models.checkpoints.native import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    list_checkpoints,
    read_info,
    read_tensors,
)
from pipeline.models.dalle.model import Dalle
from pipeline.train.config import ExportConfig, TrainConfig
from pipeline.train.export import export
from pipeline.train.model import new_model
from pipeline.train.resume import read_warm_start
from pipeline.train.run import run
from pipeline.webdata.index import CodecRef, read_index, write_index
from tests.helpers.training import StoppedError, stop_at, tree, write_shards
from tests.models.checkpoints.test_deepspeed_checkpoints import write_deepspeed
from tests.oracles.checkpoints import trained_stock

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def first(workspace: Workspace, make_config: MakeConfig) -> Workspace:
    """The workspace after the run `first`."""
    run(make_config(name="first", steps=10, lr_decay="constant", dataset="colours"))
    return workspace


def test_a_run_starts_with_the_weights_and_moments_of_another(
    first: Workspace, make_config: MakeConfig
) -> None:
    checkpoint = list_checkpoints(first.run("first") / "checkpoints")[-1]
    config = make_config(
        resume_from=checkpoint,
        dim=999,
        learning_rate=0.0,
        steps=1,
        lr_decay="constant",
        warmup_steps=0,
    )
    run(config)
    after = list_checkpoints(first.run("tiny") / "checkpoints")[-1]
    before, now = read_tensors(checkpoint, MODEL_FILE), read_tensors(after, MODEL_FILE)
    assert all(torch.equal(before[name], now[name]) for name in before)
    steps = {
        v.item() for k, v in read_tensors(after, OPTIMIZER_FILE).items() if k.endswith("/step")
    }
    assert steps == {11.0}
    assert read_info(after).model.dim == 16


def test_the_folder_of_a_run_means_its_last_checkpoint(first: Workspace) -> None:
    checkpoint = read_warm_start(first.run("first"))
    assert checkpoint.passes == {"colours": 2}  # 10 steps of 8 of 40 samples
    assert checkpoint.codec == "c" * 64


def test_the_checkpoint_of_a_run_to_begin_with_is_found_and_hashed_once(
    first: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run may go on meanwhile: what the digest names is what is read."""
    checked: list[str] = []

    def check(checkpoint: Path) -> None:
        checked.append(checkpoint.name)

    monkeypatch.setattr("pipeline.models.checkpoints.locate.check_weights", check)
    run(make_config(name="auto", resume_from=first.run("first"), steps=1))
    assert checked == ["step-000010"]


def test_a_run_names_the_data_of_all_its_past(first: Workspace, make_config: MakeConfig) -> None:
    report = run(
        make_config(
            name="auto", resume_from=first.run("first"), dataset="wit", steps=None, epochs=1
        )
    )
    assert report.outputs[0].endswith("/runs/custom_transformer/2L_8HD_2H_16I_6T_colours-2E_wit-1E")
    again = run(
        make_config(
            name="auto", resume_from=first.run("first"), dataset="colours", steps=None, epochs=3
        )
    )
    assert again.outputs[0].endswith("/runs/custom_transformer/2L_8HD_2H_16I_6T_colours_5E")


def test_shards_of_another_codec_are_refused(first: Workspace, make_config: MakeConfig) -> None:
    folder = first.shards("default")
    index = read_index(folder)
    other = CodecRef(name="other", fingerprint="d" * 64, image_size=24)
    write_index(folder, dataclasses.replace(index, codec=other))
    with pytest.raises(
        ContractError, match="the codec: cccccccccccc, but the shards 'default' have dddd"
    ):
        run(make_config(resume_from=first.run("first")))


def test_a_truncated_checkpoint_is_refused(first: Workspace, make_config: MakeConfig) -> None:
    checkpoint = list_checkpoints(first.run("first") / "checkpoints")[-1]
    path = checkpoint / OPTIMIZER_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"optimizer.safetensors.*truncated"):
        run(make_config(resume_from=checkpoint))


def test_nothing_to_start_with_is_reported(workspace: Workspace, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        run(make_config(resume_from=workspace.root / "nowhere"))


def test_a_stopped_run_that_started_from_a_checkpoint_continues_with_its_own(
    first: Workspace, make_config: MakeConfig
) -> None:
    config = make_config(resume_from=first.run("first"), steps=8, save_every=3)
    run(config)
    whole = tree(first.run("tiny"))
    first.run("tiny").rename(first.root / "elsewhere")
    with pytest.raises(StoppedError):
        run(config, stop_at(7))
    run(config)
    assert tree(first.run("tiny")) == whole


def test_a_refused_start_leaves_nothing_behind(first: Workspace, make_config: MakeConfig) -> None:
    with pytest.raises(ModelError):
        run(make_config(resume_from=first.shards("default") / "index.json"))
    assert not first.run("tiny").exists()


def test_a_refused_start_leaves_the_run_that_is_there(
    first: Workspace, make_config: MakeConfig
) -> None:
    before = tree(first.run("first"))
    broken = first.shards("default") / "index.json"
    with pytest.raises(ModelError):
        run(make_config(name="first", resume_from=broken, on_change="restart"))
    assert tree(first.run("first")) == before


def share_of(path: Path) -> Path:
    return next(path.glob("*zero_pp_rank_0_*optim_states.pt"))


def edit_moments(path: Path) -> None:
    saved = torch.load(share_of(path), weights_only=False)
    state = saved["optimizer_state_dict"]
    state["single_partition_of_fp32_groups"] = [
        tensor[:5] for tensor in state["single_partition_of_fp32_groups"]
    ]
    torch.save(saved, share_of(path))


def edit_shapes(path: Path) -> None:
    saved = torch.load(path / "mp_rank_00_model_states.pt", weights_only=True)
    saved["param_shapes"] = [{"what": 3}]
    torch.save(saved, path / "mp_rank_00_model_states.pt")


def cut_file(path: Path) -> None:
    file = path / "mp_rank_00_model_states.pt"
    file.write_bytes(file.read_bytes()[:-100])


def edit_latest(path: Path) -> None:
    (path.parent / "latest").write_bytes(b"\xff\xfe\0")


def empty_state(path: Path) -> None:
    torch.save({"optimizer_state_dict": [3]}, share_of(path))


@pytest.mark.parametrize("damage", [edit_moments, edit_shapes, cut_file, edit_latest, empty_state])
def test_a_damaged_folder_of_deepspeed_is_refused_in_a_sentence(
    workspace: Workspace, make_config: MakeConfig, damage: Callable[[Path], None]
) -> None:
    write_shards(workspace, grid=(4, 4))  # the class's own codec makes powers of two
    config = new_model(read_index(workspace.shards("default")), make_config().model)
    stock, optimizer = trained_stock(config)
    folder = workspace.root / "dalle-ds-cp"
    write_deepspeed(folder, stock, optimizer, kind="zero2", config=config)
    (step,) = (path for path in folder.iterdir() if path.is_dir())
    damage(step)
    with pytest.raises(ModelError, match=str(folder)):
        run(make_config(resume_from=folder))
    assert not workspace.run("tiny").exists()


def test_the_name_of_the_folder_that_is_wrong_gives_a_warning(
    workspace: Workspace, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    model = Dalle(new_model(read_index(workspace.shards("default")), make_config(depth=3).model))
    path = workspace.root / "16L_8HD_2H_16I_6T_cc12m_cc3m_3E/dalle.pt"
    path.parent.mkdir()
    write_dalle_pt(path, config=model.config, weights=model.state_dict())
    run(make_config(resume_from=path, steps=1))
    assert f"The name of {path} claims depth 16, but its tensors have 3" in caplog.text
    assert read_warm_start(path).passes == {"cc12m_cc3m": 3}


def test_a_dataset_keeps_its_name_through_export_and_resume(
    first: Workspace, make_config: MakeConfig
) -> None:
    """As a file of that name, and as a run's folder."""
    options = {"name": "auto", "dataset": "cc12m_cc3m", "steps": None}
    report = run(make_config(epochs=4, resume_from=None, **options))
    name = "custom_transformer/2L_8HD_2H_16I_6T_cc12m_cc3m_4E"
    assert report.outputs[0].endswith(f"/runs/{name}")
    out = first.root / f"{Path(name).name}.pt"
    export(ExportConfig(workspace=first.root, run=name, out=out))
    for source in (out, first.run(name)):
        again = run(make_config(epochs=1, resume_from=source, on_change="restart", **options))
        assert again.outputs[0].endswith("2L_8HD_2H_16I_6T_cc12m_cc3m_5E")


def test_the_folder_of_a_run_goes_by_the_kind_of_its_codec(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    named = {"kind": "vqgan", "architecture": {}, "fingerprint": "c" * 64}
    facts = {**named, "num_tokens": 16, "image_size": 24, "downsampling": 8, "grid": [3, 3]}
    write_json(workspace.codec("tinyvq") / "codec.json", facts)
    report = run(make_config(name="auto", steps=1, dataset="blog"))
    assert report.outputs[0].endswith("/runs/taming_transformer/2L_8HD_2H_16I_6T_blog_1E")
