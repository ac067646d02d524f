"""The command line: sources of option values, exit codes, JSON, and errors in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import pipeline.app.cli
from pipeline.app.option_files import find_preset
from pipeline.app.stages import STAGES
from pipeline.core.config import StageConfig, option_values
from pipeline.core.contracts import StageReport
from pipeline.core.progress import Progress
from pipeline.core.workspace import Workspace
from tests.helpers.cli import run_command


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return Workspace(tmp_path / "data").open(source="dalleblog").root


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[StageConfig]:
    """Configs that reached the dedupe stage, which is replaced by a stub."""
    configs: list[StageConfig] = []

    def entry_point(config: StageConfig, progress: Progress) -> StageReport:
        configs.append(config)
        progress(1, 1)
        return StageReport(stage="dedupe", outcome="done", counts={"rows": 3})

    monkeypatch.setattr("pipeline.core.stage.load_entry_point", lambda _: entry_point)
    return configs


def invoke(*args: str, env: Mapping[str, str] | None = None) -> Any:
    return run_command(list(args), env=dict(env or {}))


def pick(configs: list[StageConfig], name: str) -> Any:
    return option_values(configs[-1])[name]


def test_flag_wins_over_environment_over_file_over_default(
    tmp_path: Path, workspace: Path, seen: list[StageConfig]
) -> None:
    file = tmp_path / "options.toml"
    file.write_text("[dedupe]\nval-fraction = 0.2\n")
    base = ("dedupe", "--workspace", str(workspace))
    env = {"PIPELINE_DEDUPE_VAL_FRACTION": "0.3"}
    assert invoke(*base).exit_code == 0
    default = pick(seen, "val_fraction")
    invoke(*base, "--config", str(file))
    assert pick(seen, "val_fraction") == 0.2 != default
    invoke(*base, "--config", str(file), env=env)
    assert pick(seen, "val_fraction") == 0.3
    invoke(*base, "--config", str(file), "--val-fraction", "0.4", env=env)
    assert pick(seen, "val_fraction") == 0.4


def test_common_options_may_be_at_the_top_of_the_file(
    tmp_path: Path, workspace: Path, seen: list[StageConfig]
) -> None:
    file = tmp_path / "options.toml"
    file.write_text(f'workspace = "{workspace}"\njson = true\n')
    result = invoke("dedupe", "--config", str(file))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["counts"] == {"rows": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[dedupe]\nval_fractoin = 1\n", "val_fraction"),
        ("[dedup]\n", "dedupe"),
        ("worksapce = 'x'\n", "workspace"),
        ("[dedupe\n", "not TOML"),
        ("[dedupe]\nval_fraction = 7\n", "[dedupe] val_fraction is 7, expected 1 or less"),
        (b"[dedupe]\n# caf\xe9\n", "line 2 holds the byte"),
    ],
)
def test_an_invalid_file_is_a_usage_error(
    tmp_path: Path, workspace: Path, seen: list[StageConfig], text: str | bytes, said: str
) -> None:
    file = tmp_path / "options.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = invoke("dedupe", "--workspace", str(workspace), "--config", str(file))
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
    assert not seen


def test_a_file_with_windows_line_ends_is_read(
    tmp_path: Path, workspace: Path, seen: list[StageConfig]
) -> None:
    file = tmp_path / "options.toml"
    file.write_bytes(b"\xef\xbb\xbf[dedupe]\r\nval_fraction = 0.25\r\n")
    assert invoke("dedupe", "--workspace", str(workspace), "--config", str(file)).exit_code == 0
    assert pick(seen, "val_fraction") == 0.25


def test_a_folder_or_a_pipe_is_refused_as_a_config_file(
    tmp_path: Path, workspace: Path, seen: list[StageConfig]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path, "a folder"), (tmp_path / "pipe", "a pipe")):
        result = invoke("dedupe", "--workspace", str(workspace), "--config", str(path))
        assert result.exit_code == 2
        assert kind in " ".join(result.output.replace("│", " ").split())


def test_json_is_the_only_line_on_stdout(workspace: Path, seen: list[StageConfig]) -> None:
    result = invoke("dedupe", "--workspace", str(workspace), "--json")
    assert json.loads(result.stdout)["stage"] == "dedupe"
    assert "dedupe: done" in result.stderr


def test_quiet_prints_nothing(workspace: Path, seen: list[StageConfig]) -> None:
    result = invoke("dedupe", "--workspace", str(workspace), "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_failed_items_that_remain_are_exit_code_3(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = StageReport(stage="dedupe", outcome="incomplete", counts={"failed": 2})
    monkeypatch.setattr(
        "pipeline.core.stage.load_entry_point", lambda _: lambda config, progress: report
    )
    assert invoke("dedupe", "--workspace", str(workspace)).exit_code == 3


def test_an_interrupt_is_reported_and_has_its_exit_code(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entry_point(config: StageConfig, progress: Progress) -> StageReport:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.core.stage.load_entry_point", lambda _: entry_point)
    result = invoke("dedupe", "--workspace", str(workspace))
    assert result.exit_code == 130
    assert "same command" in result.output


def test_an_unexpected_error_shows_its_traceback_only_with_debug(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def entry_point(config: StageConfig, progress: Progress) -> StageReport:
        raise RuntimeError("boom")

    monkeypatch.setattr("pipeline.core.stage.load_entry_point", lambda _: entry_point)
    result = invoke("dedupe", "--workspace", str(workspace), "--json")
    assert result.exit_code == 1
    assert "boom" in result.stderr
    assert "Traceback" not in result.output
    assert json.loads(result.stdout.splitlines()[-1])["outcome"] == "failed"
    debugged = invoke("dedupe", "--workspace", str(workspace), "--debug")
    assert "Traceback" in debugged.output + capfd.readouterr().err


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path, seen: list[StageConfig]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for command in ("dedupe", "scrape", "status", "verify", "train"):
        result = invoke(command, "--workspace", str(tmp_path))
        assert result.exit_code == 1
        assert "not a workspace" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_run_beside_a_running_one_names_it(
    workspace: Path, seen: list[StageConfig]
) -> None:
    holder = start_holder(workspace, "scrape", writes=["raw"])
    result = invoke("dedupe", "--workspace", str(workspace))
    holder.kill()
    holder.wait()
    assert result.exit_code == 1
    assert f"raw is in use by `pipeline scrape` (process {holder.pid} on" in " ".join(
        result.output.split()
    )
    assert not seen


@pytest.mark.parametrize("command", ["dedupe", "generate", "report", "scrape", "encode"])
def test_training_locks_only_the_run_and_its_shards(
    workspace: Path, seen: list[StageConfig], command: str
) -> None:
    holder = start_holder(workspace, "train", writes=["runs/dalle"], reads=["shards/default"])
    try:
        assert (
            invoke(command, "--workspace", str(workspace), *WANTED.get(command, ())).exit_code == 0
        )
        assert invoke("train", "--name", "other", "--workspace", str(workspace)).exit_code == 0
        assert len(seen) == 2
        for refused in (("train", "--name", "dalle"), ("shard",)):
            assert invoke(*refused, "--workspace", str(workspace)).exit_code == 1
        assert invoke("shard", "--name", "other", "--workspace", str(workspace)).exit_code == 0
        assert len(seen) == 3
    finally:
        holder.kill()
        holder.wait()


WANTED = {"generate": ("a red cube on a table",)}


def start_holder(
    root: Path, stage: str, *, writes: list[str], reads: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Another process that runs a stage, until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from pipeline.app.run_log import keep_record\n"
        f"with keep_record(Path({str(root)!r}), 'pipeline {stage}') as record:\n"
        f"    with record.stage({stage!r}, writes={writes!r}, reads={reads!r}):\n"
        "        print('held', flush=True); time.sleep(120)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


def test_a_missing_package_names_the_extra(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    loaded = [name for name in sys.modules if name.startswith("pipeline.train.")]
    for name in (name for name in loaded if not name.endswith(".config")):
        monkeypatch.delitem(sys.modules, name)
    result = invoke("train", "--workspace", str(workspace))
    assert result.exit_code == 1
    assert "dalle-pipeline[train]" in result.output


def test_every_stage_has_its_command_and_help_for_each_option() -> None:
    for name in (*STAGES, "run", "verify", "status", "demo", "emoji", "replica"):
        result = invoke(name, "--help")
        assert result.exit_code == 0, (name, result.output)
        assert "--workspace" in result.output or name == "replica"


@pytest.mark.parametrize("arguments", [["dedupe", "--nonsense"], ["nonsense"], ["dedupe", "extra"]])
def test_a_usage_error_is_exit_code_2(arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


def test_an_empty_workspace_says_what_to_run_first(workspace: Path) -> None:
    for command in ("dedupe", "train-codec", "encode", "shard", "train"):
        result = invoke(command, "--workspace", str(workspace))
        assert result.exit_code == 1, (command, result.output)
        assert "unexpected error" not in result.output, (command, result.output)


def test_the_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dalle-pipeline ")
    assert pipeline.app.cli.app.info.name == "pipeline"


def test_listed_urls_are_the_only_output_on_stdout_and_no_workspace_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    result = invoke(
        *("scrape", "--list-urls", "--no-page", "--sections", "emojis", "--limit", "1"),
        *("--workspace", str(folder)),
    )
    assert result.exit_code == 0
    assert [line.split("\t")[:3:2] for line in result.stdout.splitlines()] == [
        ["emojis", str(rank)] for rank in range(32)
    ]
    assert not folder.exists()


def test_a_reader_that_exits_early_is_no_error() -> None:
    command = f"{sys.executable} -m pipeline scrape --list-urls --no-page | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("material\t")
    assert "rror" not in done.stderr


def test_an_interrupt_swallowed_by_the_interpreter_is_sent_again(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Swallowing:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def entry_point(config: StageConfig, progress: Progress) -> StageReport:
        Swallowing()
        time.sleep(10)
        return StageReport(stage="dedupe", outcome="done")

    monkeypatch.setattr("pipeline.core.stage.load_entry_point", lambda _: entry_point)
    result = invoke("dedupe", "--workspace", str(workspace))
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_counts_by_section_are_printed_with_totals(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {"emojis": {"done": 1000, "complete": 30}, "shape": {"done": 5, "absent": 2}}
    report = StageReport(stage="scrape", outcome="done", details={"sections": sections})
    monkeypatch.setattr(
        "pipeline.core.stage.load_entry_point", lambda _: lambda config, progress: report
    )
    lines = invoke("dedupe", "--workspace", str(workspace)).output.splitlines()
    (last,) = [line for line in lines if line.startswith("│ all")]
    assert [cell.strip() for cell in last.strip("│").split("│")] == ["all", "2", "30", "1,005"]


@pytest.mark.parametrize(
    "options",
    [
        ("--out", "z.parquet"),
        ("--list-urls", "--export", "z.parquet"),
        ("--retry-failed", "--refresh"),
        ("--captions", "/nonexistent"),
        ("nosuch",),
    ],
)
def test_invalid_options_leave_no_workspace(tmp_path: Path, options: tuple[str, ...]) -> None:
    folder = tmp_path / "new"
    result = invoke("scrape", *options, "--workspace", str(folder))
    assert result.exit_code in (1, 2), result.output
    assert "unexpected error" not in result.output
    assert not folder.exists()


def test_an_export_needs_an_existing_workspace(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    result = invoke("scrape", "--export", str(tmp_path / "x.parquet"), "--workspace", str(folder))
    assert result.exit_code == 1
    assert "is not a workspace" in result.output
    assert not folder.exists()


def test_a_command_that_is_not_a_table_is_a_usage_error(tmp_path: Path, workspace: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text("scrape = 3\n")
    result = invoke("status", "--workspace", str(workspace), "--config", str(file))
    assert result.exit_code == 2
    assert "[scrape]" in result.output


def test_several_values_in_the_environment_are_separated_by_bars(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[StageConfig] = []

    def entry_point(config: StageConfig, progress: Progress) -> StageReport:
        configs.append(config)
        return StageReport(stage="generate", outcome="done")

    monkeypatch.setattr("pipeline.core.stage.load_entry_point", lambda _: entry_point)
    env = {"PIPELINE_GENERATE_PROMPTS": "a red cube | a cat, asleep"}
    invoke("generate", "--workspace", str(workspace), env=env)
    assert pick(configs, "prompts") == ("a red cube", "a cat, asleep")
    invoke("generate", "--workspace", str(workspace), "a dog", env=env)
    assert pick(configs, "prompts") == ("a dog",)


def test_run_reports_an_invalid_option_before_it_begins(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    env = {"PIPELINE_DEDUPE_VAL_FRACTION": "2"}
    result = invoke("run", "--workspace", str(folder), env=env)
    assert result.exit_code == 2
    assert not folder.exists()


def test_a_read_only_command_reports_its_duration(workspace: Path) -> None:
    result = invoke("status", "--workspace", str(workspace), "--json")
    assert json.loads(result.stdout.splitlines()[-1])["seconds"] > 0


@pytest.mark.parametrize("words", [("-h",), ("help",)])
def test_help_lists_the_commands_in_groups(words: tuple[str, ...]) -> None:
    result = invoke(*words)
    assert result.exit_code == 0
    assert result.output == invoke("--help").output
    headings = ("Stages, in the order of the pipeline", "Inspect and check", "Try it")
    assert [heading in result.output for heading in headings] == [True] * 3


def test_the_help_of_a_command_can_be_asked_for_in_three_ways() -> None:
    said = invoke("dedupe", "--help").output
    assert "Options of every command" in said
    assert invoke("help", "dedupe").output == invoke("dedupe", "-h").output == said


def test_shells_complete_commands_and_options() -> None:
    environment = {**os.environ, "_PIPELINE_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    for words, expected in (("pipeline ded", "dedupe"), ("pipeline --ver", "--version")):
        done = subprocess.run(
            [str(Path(sys.executable).with_name("pipeline"))],
            env={**environment, "COMP_WORDS": words},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == [expected], done.stderr


def test_the_table_of_a_command_wins_over_the_top_of_the_file(
    tmp_path: Path, workspace: Path, seen: list[StageConfig]
) -> None:
    file = tmp_path / "options.toml"
    file.write_text(f'workspace = "{tmp_path / "other"}"\n[dedupe]\nworkspace = "{workspace}"\n')
    result = invoke("dedupe", "--config", str(file))
    assert result.exit_code == 0, result.output
    assert pick(seen, "workspace") == workspace


def test_a_file_stands_before_a_preset_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    preset = find_preset(Path("dalleblog"))
    assert preset.is_absolute()
    assert preset.name == "dalleblog.toml"
    Path("dalleblog").write_text("")
    assert find_preset(Path("dalleblog")) == Path("dalleblog")
    assert find_preset(Path("nothing")) == Path("nothing")
