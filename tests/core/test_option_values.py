"""Option values from flags, environment and TOML: errors say where, what was found and what was expected."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.config import StageConfig
from pipeline.core.contracts import StageReport
from pipeline.core.progress import Progress
from pipeline.core.workspace import Workspace
from tests.helpers.cli import run_command


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Workspace(tmp_path / "data").open(source="dalleblog").root


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    configs: list[Any] = []

    def entry_point(config: StageConfig, progress: Progress) -> StageReport:
        configs.append(config)
        return StageReport(stage="train", outcome="done")

    monkeypatch.setattr("pipeline.core.stage.load_entry_point", lambda _: entry_point)
    return configs


def invoke(*args: str, env: Mapping[str, str] | None = None) -> Any:
    return run_command(list(args), env=dict(env or {}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[dedupe]\nval_fraction = true\n",
            "[dedupe] val_fraction is true, expected a finite number",
        ),
        ("[dedupe]\nval_fraction = '0.2'\n", "[dedupe] val_fraction is '0.2', expected a finite"),
        (
            "[dedupe]\nval_fraction = nan\n",
            "[dedupe] val_fraction is nan, expected a finite number",
        ),
        ("[dedupe]\nradius = 99\n", "[dedupe] radius is 99, expected 8 or less"),
        ("[dedupe]\nradius = 1.5\n", "[dedupe] radius is 1.5, expected a whole number"),
        (
            "[dedupe]\nradius = 1979-05-27\n",
            "[dedupe] radius is datetime.date(1979, 5, 27), expected",
        ),
        ("[dedupe]\nmasked = 'kep'\n", 'expected one of "keep", "drop". Did you mean \'keep\'?'),
        ("[scrape]\ntimeout_s = inf\n", "[scrape] timeout_s is inf, expected a finite number"),
        ("[scrape]\nsections = 'emojis'\n", "[scrape] sections is 'emojis', expected a list"),
        ("[scrape]\nsections = [1]\n", "[scrape] sections[0] is 1, expected text"),
        ("[scrape]\nlimit = 99999999999999999999\n", "limit is a number of more than 64 bits"),
        ("[scrape]\npage = ''\n", "[scrape] page is empty"),
        ('[scrape]\npage = "a\\u0000b"\n', "holds a NUL"),
        ("workspace = 3\n", "workspace is 3, expected a path"),
        ("quiet = 'yes'\n", "quiet is 'yes', expected true or false"),
        ("[run]\nmetrics_port = 70000\n", "[run] metrics_port is 70000, expected 65535 or less"),
        ("x = " + "[" * 100_000 + "]" * 100_000, "too deeply"),
        ("x = " + "{x=" * 100_000, "too deeply"),
    ],
)
def test_an_invalid_value_in_a_file_names_file_key_found_and_expected(
    tmp_path: Path, root: Path, text: str, said: str
) -> None:
    file = tmp_path / "options.toml"
    file.write_text(text)
    result = invoke("status", "--workspace", str(root), "--config", str(file))
    assert result.exit_code == 2, result.output
    assert f"{file}" in result.output
    assert said in result.output


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e400", "x", "2", "1_0.5x", ""])
def test_flags_and_variables_are_checked_like_the_file(root: Path, value: str) -> None:
    flag = invoke("dedupe", "--workspace", str(root), "--val-fraction", value)
    assert flag.exit_code == 2, flag.output
    assert "--val-fraction is" in flag.output
    if value:
        env = {"PIPELINE_DEDUPE_VAL_FRACTION": value}
        result = invoke("dedupe", "--workspace", str(root), env=env)
        assert result.exit_code == 2, result.output
        assert "PIPELINE_DEDUPE_VAL_FRACTION is" in result.output


def test_a_number_is_accepted_for_a_text_option(
    tmp_path: Path, root: Path, seen: list[Any]
) -> None:
    file = tmp_path / "options.toml"
    file.write_text("[encode]\nbatch_size = 8\n")
    assert invoke("encode", "--workspace", str(root), "--config", str(file)).exit_code == 0
    assert seen[-1].batch_size == "8"


def test_home_is_expanded_in_paths_and_in_texts_that_may_be_paths(
    tmp_path: Path, root: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "options.toml"
    file.write_text('[shard]\ntokenizer = "hf:~/tokenizer.json"\ncodec = "~/codec"\n')
    env = {"PIPELINE_SHARD_VQGAN_CONFIG": "~/vqgan.yaml"}
    result = invoke("shard", "--workspace", "~/data", "--config", "~/options.toml", env=env)
    assert result.exit_code == 0, result.output
    assert seen[-1].workspace == root
    assert seen[-1].tokenizer == f"hf:{tmp_path}/tokenizer.json"
    assert seen[-1].codec == f"{tmp_path}/codec"
    assert seen[-1].vqgan_config == tmp_path / "vqgan.yaml"


def test_prompts_are_not_expanded_as_paths(
    root: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    invoke("generate", "--workspace", str(root), "~/ a tilde", "~")
    assert seen[-1].prompts == ("~/ a tilde", "~")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("statsu",), "status"),
        (("scrape", "dalleblgo"), "Did you mean 'dalleblog'?"),
        (("scrape", "--list-urls", "--no-page", "--sections", "emojs"), "Did you mean 'emojis'?"),
        (("run", "--until", "dedup"), "Did you mean 'dedupe'?"),
        (("status", "--config", "dalleblgo"), "Did you mean 'dalleblog'?"),
        (("dedupe", "--val-fractoin", "1"), "--val-fraction"),
    ],
)
def test_a_typo_is_answered_with_a_suggestion(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    place = ("--workspace", str(tmp_path / "data")) if len(arguments) > 1 else ()
    result = invoke(*arguments, *place)
    assert result.exit_code == 2, result.output
    assert said in result.output


def test_a_missing_stage_names_the_command_with_the_workspace(root: Path) -> None:
    for command, first in (
        ("dedupe", "scrape"),
        ("train-tokenizer", "dedupe"),
        ("train", "shard"),
    ):
        result = invoke(command, "--workspace", str(root))
        assert result.exit_code == 1
        assert f"Run `pipeline {first} --workspace {root}` first." in result.output


@pytest.mark.parametrize("how", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C"}])
def test_listed_urls_are_utf_8_whatever_the_terminal_is(how: dict[str, str]) -> None:
    command = ["scrape", "--list-urls", "--no-page", "--sections", "animal_concept_transfer"]
    process = [sys.executable, "-m", "pipeline", *command]
    done = subprocess.run(process, capture_output=True, env=os.environ | how, check=True)
    assert done.stdout == invoke(*command).stdout_bytes
    assert "a cat made of rubik’s cube" in done.stdout.decode()


@pytest.mark.parametrize("how", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C"}])
def test_tables_and_errors_are_printed_on_any_terminal(
    root: Path, tmp_path: Path, how: dict[str, str]
) -> None:
    base = [sys.executable, "-m", "pipeline", "status", "--workspace"]
    env = os.environ | how
    assert subprocess.run([*base, str(root)], env=env, capture_output=True).returncode == 0
    strange = os.fsencode(tmp_path) + b"/caf\xe9\xff"
    missing = subprocess.run([*base, strange], env=env, capture_output=True)
    assert missing.returncode == 1
    assert b"can't hold a workspace" in missing.stderr
    assert b"Traceback" not in missing.stderr
