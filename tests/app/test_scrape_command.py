"""`pipeline scrape`: its list of sources, its help for one of them, options of other sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.app.cli import app
from pipeline.core.config import option
from pipeline.core.errors import ConfigError
from scrapers import options as scrape_options
from scrapers.config import ScrapeConfig
from scrapers.options import all_options, build_config
from scrapers.source import SourceKind, source_kinds


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return done.output


def test_alone_it_lists_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    output = invoke("scrape")
    for kind in source_kinds().values():
        assert f"{kind.name}  {kind.help}" in output
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
