"""The presets are the published hyper-parameters and can be selected by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.app.option_files import find_preset
from pipeline.core.storage import read_manifest, write_json
from pipeline.core.workspace import Workspace
from pipeline.models.dalle.config import DalleConfig
from pipeline.train.config import ExportConfig
from tests.helpers.cli import run_command


def train(workspace: Workspace, *options: str) -> tuple[int, str]:
    marker = {"format": "dalle-pipeline/workspace", "version": 1, "source": "dalleblog"}
    if not workspace.marker.exists():
        write_json(workspace.marker, marker)
    command = ["train", "--workspace", str(workspace.root), *options]
    result = run_command(command)
    return result.exit_code, result.output


def test_a_preset_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        find_preset(Path("dalleblog"))
        .read_text()
        .startswith("# The model trained on the blog's images")
    )
    assert find_preset(Path("nothing")) == Path("nothing")
    (tmp_path / "demo").write_text("")
    assert find_preset(Path("demo")) == Path("demo")


def test_dalleblog_is_the_published_model(workspace: Workspace) -> None:
    """Made small by the flags that follow: the rest comes from the preset."""
    small = (
        "--dim",
        "16",
        "--depth",
        "1",
        "--attn-types",
        "full",
        "--heads",
        "2",
        "--batch-size",
        "8",
    )
    quick = ("--steps", "3", "--precision", "fp32", "--device", "cpu", "--sample-every", "0")
    code, output = train(workspace, "--config", "dalleblog", *small, *quick)
    assert code == 0, output
    folder = workspace.run("custom_transformer/1L_64HD_2H_16I_6T_dalleblog_1E")
    config = read_manifest(folder, "run").config
    assert config["loss_img_weight"] == 1.0
    assert (config["attn_dropout"], config["ff_dropout"]) == (0.01, 0.01)
    assert (config["learning_rate"], config["lr_decay"], config["warmup_type"]) == (
        3e-4,
        "linear",
        "log",
    )
    assert config["keep_n_checkpoints"] == 10


@pytest.mark.parametrize("preset", ["dalleblog", "cc12m"])
def test_every_preset_makes_a_model(preset: str) -> None:
    import tomllib

    tables = tomllib.loads(find_preset(Path(preset)).read_text())
    names = {"dim", "depth", "heads", "dim_head", "attn_dropout", "ff_dropout", "loss_img_weight"}
    names |= {"reversible", "attn_types"}
    chosen = {name: value for name, value in tables["train"].items() if name in names}
    model = DalleConfig.from_dict(
        {
            **chosen,
            "text_seq_len": tables["shard"]["text_seq_len"],
            "num_text_tokens": 49408,
            "num_image_tokens": 16384,
            "image_fmap_size": 16,
        }
    )
    expected = {"dalleblog": (544, 96, 12, 16, 64, False), "cc12m": (756, 128, 64, 8, 64, True)}
    found = (model.dim, model.text_seq_len, model.depth, model.heads, model.dim_head)
    assert (*found, model.reversible) == expected[preset]


def test_the_card_describes_the_model_in_the_zoos_form(workspace: Workspace) -> None:
    options = (
        "--dim",
        "16",
        "--heads",
        "2",
        "--dim-head",
        "8",
        "--steps",
        "4",
        "--batch-size",
        "8",
    )
    code, output = train(workspace, *options, "--device", "cpu", "--no-tensorboard")
    assert code == 0, output
    card = (workspace.run("dalle") / "README.md").read_text()
    for line in ("MODEL_DIM = 16", "DIM_HEAD = 8", "LOSS_IMG_WEIGHT = 7", "ATTN_TYPES = ('full',)"):
        assert line in card
    assert "c" * 64 in card  # the codec's fingerprint
    assert "| val_loss_image |" in card
    assert 'pipeline generate --run dalle "a' in card


def test_an_exported_run_is_a_dalle_pt(workspace: Workspace, tmp_path: Path) -> None:
    import torch

    train(workspace, "--dim", "16", "--steps", "2", "--batch-size", "8", "--device", "cpu")
    out = tmp_path / "dalle.pt"
    command = ["export", "--workspace", str(workspace.root), "--out", str(out), "--json"]
    result = run_command(command)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.strip().splitlines()[-1])
    assert report["outputs"] == [str(out)]
    assert torch.load(out, weights_only=True)["hparams"]["dim"] == 16
    assert ExportConfig().out == Path("dalle.pt")


def test_status_and_verify_see_a_run_of_the_zoos_name(workspace: Workspace) -> None:
    train(workspace, "--name", "auto", "--dim", "16", "--steps", "2", "--device", "cpu")
    result = run_command(["status", "--workspace", str(workspace.root), "--json"])
    names = json.loads(result.stdout.strip().splitlines()[-1])["details"]
    assert "runs/custom_transformer/2L_64HD_8H_16I_6T_dalleblog_1E" in names
    assert "runs/custom" not in names
