"""README and docs are true: commands and options exist, generated parts are current, links lead somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer.main

from pipeline.app.cli import app
from scrapers.options import own_fields
from scrapers.source import SourceKind, source_kinds

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
README = PAGES[0].read_text()
COMMANDS = typer.main.get_group(app).commands
# A command and an option of the worked examples, which their own test runs.
OF_EXAMPLES = {"count-words", "--gallery-url"}


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def shown_commands(*pages: Path) -> list[str]:
    """Every line of a code block that calls `pipeline` or `make`, continued lines joined."""
    blocks = [block for page in pages for block in code_blocks(page.read_text())]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        line.removeprefix("$ ").strip()
        for line in lines
        if re.match(r"(\$ )?(pipeline|make) ", line)
    ]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_shows_every_command() -> None:
    shown = {line.split()[1] for line in shown_commands(PAGES[0]) if line.startswith("pipeline")}
    assert set(COMMANDS) <= shown


@pytest.mark.parametrize("line", dict.fromkeys(shown_commands(*PAGES)))
def test_a_shown_command_exists_with_its_options(line: str) -> None:
    program, name, *rest = shlex.split(line, comments=True)
    if name in OF_EXAMPLES:
        return
    if program == "make":
        assert re.search(rf"^{re.escape(name)}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert name in COMMANDS
    known = {
        flag for param in COMMANDS[name].params for flag in (*param.opts, *param.secondary_opts)
    }
    given = {word.split("=")[0] for word in rest if word.startswith("--")}
    assert given <= known | {"--help"} | OF_EXAMPLES


def test_the_code_layout_is_what_the_packages_say_of_themselves() -> None:
    program = runpy.run_path(str(ROOT / "docs" / "code_layout.py"))
    assert program["with_layout"](README) == README, "run docs/code_layout.py --write"
    assert "  fetch/" in README


def test_the_page_of_options_is_what_the_configs_declare() -> None:
    program = runpy.run_path(str(ROOT / "docs" / "option_tables.py"))
    assert program["PAGE"].read_text() == program["page"](), "run docs/option_tables.py --write"


@pytest.mark.parametrize("kind", source_kinds().values(), ids=lambda kind: str(kind.name))
def test_the_page_of_options_has_the_help_of_each_source_of_its_own(kind: SourceKind) -> None:
    page = (ROOT / "docs" / "options.md").read_text()
    section = page.partition(f"### pipeline scrape {kind.name}\n")[2].partition("\n##")[0]
    for field in own_fields(kind.config):
        help_text = field.metadata["help"].replace("|", "\\|").replace("<", "&lt;")
        assert f"| {help_text} |" in section, field.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def test_the_readme_links_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", README))
    assert linked == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_python_that_a_page_shows_compiles(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:pipeline|scrapers|dags|tests|bench)/[\w./-]+)`", page.read_text())
    of_examples = set(re.findall(r"^# ((?:pipeline|scrapers)/[\w./]+)$", page.read_text(), re.M))
    assert [name for name in named if name not in of_examples and not (ROOT / name).exists()] == []
