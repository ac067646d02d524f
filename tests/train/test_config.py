"""The options of `pipeline train` have sections in code and in the help, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.app.stages import STAGES
from pipeline.core.config import declared_options, option_values, resolved
from pipeline.train.config import LoggingOptions, ModelOptions, TrainConfig
from pipeline.train.resume import MONITORING
from tests.helpers.cli import run_command
from tests.helpers.training import MakeConfig, train_config

# As the manifests of runs before there were sections have it.
RECORDED = {
    "attn_dropout": 0.0,
    "attn_types": ["full"],
    "batch_size": 4,
    "beta2": 0.999,
    "clip_grad_norm": 0.5,
    "dataset": None,
    "depth": 2,
    "dim": 512,
    "dim_head": 64,
    "ema_decay": 0.0,
    "epochs": 20,
    "ff_dropout": 0.0,
    "ga_steps": 1,
    "heads": 8,
    "keep_n_checkpoints": 2,
    "learning_rate": 0.0003,
    "log_every": 10,
    "loss_img_weight": 7.0,
    "lr_decay": "cosine",
    "model": "dalle",
    "name": "dalle",
    "null_cond_prob": 0.0,
    "num_text_tokens": None,
    "optimizer": "adamw",
    "precision": "fp32",
    "redraw_layout": False,
    "reversible": False,
    "rotary_emb": False,
    "sample_every": 0,
    "sample_prompts": [],
    "sandwich_norm": False,
    "save_every": 1000,
    "seed": 0,
    "shards": "default",
    "share_input_output_emb": False,
    "shared_attn_ids": None,
    "shared_ff_ids": None,
    "shift_tokens": False,
    "stable": False,
    "steps": None,
    "text_seq_len": None,
    "val_every": 500,
    "val_samples": 1000,
    "warmup_steps": 100,
    "warmup_type": "linear",
    "weight_decay": 0.0,
}


def test_the_recorded_config_is_that_of_runs_before_there_were_sections() -> None:
    # What `auto` stands for is settled before a run records its options.
    assert resolved(TrainConfig()) == RECORDED | {"precision": "auto"}


def test_options_are_given_by_their_names_and_found_in_their_sections() -> None:
    given = {
        "dim": 16,
        "model": "dalle-pytorch",
        "parallel": "ddp",
        "optimizer": "adam",
        "steps": 3,
    }
    config = STAGES["train"].build(given)
    assert isinstance(config, TrainConfig)
    assert config.model == ModelOptions(kind="dalle-pytorch", dim=16)
    assert (config.parallel.kind, config.optimizer.kind) == ("ddp", "adam")
    assert config.schedule.steps == 3


def test_all_options_of_a_config_can_be_given_back(make_config: MakeConfig) -> None:
    config = make_config(attn_types=("full", "axial_row"), wandb="project", zero_stage=2)
    assert train_config(**option_values(config)) == config


def test_what_is_logged_and_kept_may_change_when_a_run_resumes() -> None:
    assert frozenset(declared_options(LoggingOptions)) == MONITORING
    assert MONITORING & RECORDED.keys() == {
        "log_every",
        "val_every",
        "val_samples",
        "save_every",
        "keep_n_checkpoints",
        "sample_every",
        "sample_prompts",
    }


def test_the_help_has_a_panel_for_each_section() -> None:
    text = run_command(["train", "--help"], env={"COLUMNS": "200"}).output
    panels = dict(re.findall(r"╭─ ([\w ]+?) ─+╮\n(.*?)╰─", text, re.DOTALL))
    assert list(panels) == [
        "Options",
        "Model",
        "Schedule",
        "Optimizer",
        "Logging",
        "Parallelism and devices",
        "Options of every command",
    ]
    for name, option in declared_options(TrainConfig).items():
        panel = "Options of every command" if name == "workspace" else option.panel or "Options"
        assert f"--{name.replace('_', '-')} " in panels[panel]


def test_a_toml_table_has_no_sections(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text("[train.model]\ndim = 16\n")
    result = run_command(["train", "--config", str(path)])
    assert result.exit_code == 2
    assert "[train] model is" in " ".join(result.output.split())
