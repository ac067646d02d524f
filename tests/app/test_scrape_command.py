"""`pipeline scrape`: its list of sources, its help for one of them, options of other sources."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.app import cli, scrape_command
from pipeline.core.config import option
from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError
from scrapers import options as scrape_options
from scrapers.config import ScrapeConfig
from scrapers.options import all_options, build_config
from scrapers.source import SourceKind, source_kinds
from tests.helpers.cli import run_command


def invoke(*arguments: str) -> str:
    done = run_command(list(arguments), env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return done.output


def test_alone_it_lists_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    output = invoke("scrape")
    for kind in source_kinds().values():
        assert re.search(rf"  {kind.name} +{re.escape(kind.help)}\n", output)
    assert not list(tmp_path.iterdir())


def test_only_the_help_of_a_source_shows_its_own_options() -> None:
    assert "--cdn-url" in invoke("scrape", "dalleblog", "--help")
    assert "--rate" in invoke("scrape", "dalleblog", "--help")
    assert invoke("help", "scrape", "dalleblog") == invoke("scrape", "--help", "dalleblog")
    output = invoke("scrape", "--help")
    assert "--cdn-url" not in output
    assert "--rate" in output
    assert source_kinds()["dalleblog"].help in output


@pytest.fixture
def _two_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SourceKind(name="other", help="Another source.", opener="nowhere:Other")
    kinds = {**source_kinds(), "other": other}
    monkeypatch.setattr(scrape_options, "find_source", kinds.__getitem__)


@pytest.mark.usefixtures("_two_sources")
def test_options_of_another_source_are_refused_with_what_was_meant() -> None:
    message = r"The source other has no option --page-url\. .*`pipeline scrape other --help`"
    with pytest.raises(ConfigError, match=message):
        build_config({"source": "other", "page_url": "http://h/", "rate": 2.0})


@pytest.mark.usefixtures("_two_sources")
def test_defaults_of_options_of_other_sources_are_no_options() -> None:
    values = {name: field.default for name, field in all_options().__dataclass_fields__.items()}
    assert type(build_config({**values, "source": "other"})) is ScrapeConfig


def test_two_sources_may_not_declare_one_option_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Clashing(ScrapeConfig):
        """An option of dalleblog with another type."""

        page_url: int = option(0, "A number.")

    kinds = {
        **source_kinds(),
        "other": SourceKind(name="other", help="", config=Clashing, opener="nowhere:Other"),
    }
    monkeypatch.setattr(scrape_options, "source_kinds", lambda: kinds)
    with pytest.raises(TypeError, match="page_url"):
        all_options.__wrapped__()


@dataclass(frozen=True, kw_only=True)
class ListsConfig(ScrapeConfig):
    """The options of a source with positional arguments."""

    inputs: tuple[str, ...] = option(
        (), "The lists to read.", metavar="LIST", runtime=True, remember=True
    )


@pytest.fixture
def _source_of_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = SourceKind(name="lists", help="Lists.", config=ListsConfig, opener="nowhere:Lists")
    kinds = {**source_kinds(), "lists": lists}
    for module in (scrape_options, scrape_command):
        monkeypatch.setattr(module, "source_kinds", lambda: kinds)
    monkeypatch.setattr(scrape_options, "find_source", kinds.__getitem__)
    monkeypatch.setattr("scrapers.source.source_to_open", lambda config: config.source)


def given_inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> object:
    """The `inputs` with which a command line starts the stage."""
    seen: list[tuple[str, ...]] = []

    def watch(_stage: str, config: ScrapeConfig, _call: object) -> StageReport:
        seen.append(config.inputs)
        return StageReport(stage="scrape", outcome="done")

    monkeypatch.setattr(cli, "watch_stage", watch)
    invoke("scrape", *arguments, "--workspace", str(tmp_path / "w"))
    return seen[0]


@pytest.mark.usefixtures("_source_of_lists")
def test_arguments_after_the_source_are_its_inputs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = given_inputs(monkeypatch, tmp_path, "lists", "a.tsv", "s3://b/c.parquet", "--rate", "2")
    assert given == ("a.tsv", "s3://b/c.parquet")
    assert given_inputs(monkeypatch, tmp_path, "lists", "--rate", "2", "b.csv") == ("b.csv",)


@pytest.mark.usefixtures("_source_of_lists")
def test_inputs_come_from_environment_and_file_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "options.toml"
    file.write_text('[scrape]\nsource = "lists"\ninputs = ["a b.tsv", "c.tsv"]\n')
    assert given_inputs(monkeypatch, tmp_path, "--config", str(file)) == ("a b.tsv", "c.tsv")
    monkeypatch.setenv("PIPELINE_SCRAPE_INPUTS", "d.tsv|e f.tsv")
    assert given_inputs(monkeypatch, tmp_path, "lists") == ("d.tsv", "e f.tsv")


@pytest.mark.usefixtures("_source_of_lists")
def test_only_a_source_with_inputs_shows_them_in_its_help() -> None:
    assert "[LIST]..." in invoke("scrape", "lists", "--help")
    assert "The lists to read." in invoke("scrape", "lists", "--help")
    assert "INPUT" not in invoke("scrape", "dalleblog", "--help")
    assert "[INPUT]..." in invoke("scrape", "--help")


def test_inputs_of_a_source_without_any_are_refused() -> None:
    message = r"The source dalleblog takes no files or URLs as arguments, found 'a\.tsv'\."
    with pytest.raises(ConfigError, match=message):
        build_config({"source": "dalleblog", "inputs": ("a.tsv",)})
    assert build_config({"source": "dalleblog", "inputs": ()}).inputs == ()
