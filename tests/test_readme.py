"""The README is true: commands and options exist, its tree is the code, links lead somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer.main

from pipeline.app.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = typer.main.get_group(app).commands


def code_blocks() -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def shown_commands() -> list[str]:
    """Every line of a code block that calls `pipeline` or `make`, continued lines joined."""
    lines = "\n".join(code_blocks()).replace("\\\n", " ").splitlines()
    return [
        line.removeprefix("$ ").strip()
        for line in lines
        if re.match(r"(\$ )?(pipeline|make) ", line)
    ]


def test_the_readme_shows_every_command() -> None:
    shown = {line.split()[1] for line in shown_commands() if line.startswith("pipeline")}
    assert set(COMMANDS) <= shown


@pytest.mark.parametrize("line", shown_commands())
def test_a_shown_command_exists_with_its_options(line: str) -> None:
    program, name, *rest = shlex.split(line, comments=True)
    if program == "make":
        assert re.search(rf"^{re.escape(name)}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert name in COMMANDS
    known = {
        flag for param in COMMANDS[name].params for flag in (*param.opts, *param.secondary_opts)
    }
    given = {word.split("=")[0] for word in rest if word.startswith("--")}
    assert given <= known | {"--help"}


def test_the_code_layout_is_what_the_packages_say_of_themselves() -> None:
    program = runpy.run_path(str(ROOT / "docs" / "code_layout.py"))
    assert program["with_layout"](README) == README
    assert "  fetch/" in README


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []
