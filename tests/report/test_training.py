"""Training runs in the report: what validation says, runs that still train, comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from pipeline.core.errors import ConfigError
from pipeline.core.inventory import find_folders
from pipeline.core.workspace import Workspace
from pipeline.report.config import ReportConfig
from pipeline.report.run import run, why_run
from pipeline.report.training import Run, find_run, judge, read_run
from tests.report.test_card import declare


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "data").open(source="dalleblog")


def write_log(folder: Path, records: Sequence[Mapping[str, Any]], *, end: str = "\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath("log.jsonl").write_text("\n".join(map(json.dumps, records)) + end)


def losses(*validation: float, training: Sequence[float] = (3.0, 1.0)) -> list[dict[str, Any]]:
    """Validation losses at the steps 100, 200, … and training losses over the same steps."""
    last = 100 * len(validation)
    records: list[dict[str, Any]] = [
        {"step": round(last * (n + 1) / len(training)), "loss": value}
        for n, value in enumerate(training)
    ]
    return records + [{"step": 100 * n, "val_loss": v} for n, v in enumerate(validation, 1)]


def run_with(workspace: Workspace, *validation: float) -> Run:
    write_log(workspace.run("dalle"), losses(*validation))
    declare(workspace.run("dalle"), "run")
    return read_run(find_run(find_folders(workspace.root), workspace.root, "dalle"), "dalle")


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ((3.0, 2.5, 2.0), "lowest at the last measurement (2.000, step 300)"),
        ((3.0, 2.0, 2.019), "has been flat since (2.019 at step 300)"),
        ((3.0, 2.0, 2.5), "Overfitting: validation loss was lowest at step 200 (2.000)"),
        ((3.0, 2.0, 2.5), "risen by 25 % since (2.500 at step 300), while training loss fell"),
        ((2.0,), "measured once: 2.000 at step 100"),
        ((), "no validation loss in the log"),
    ],
)
def test_validation_is_judged_in_words(
    validation: tuple[float, ...], words: str, workspace: Workspace
) -> None:
    assert words in " ".join(judge(run_with(workspace, *validation)))


def test_the_best_checkpoint_is_named_if_it_is_there(workspace: Workspace) -> None:
    judged = " ".join(judge(run_with(workspace, 3.0, 2.0, 2.5)))
    assert "no longer there" in judged
    (workspace.run("dalle") / "checkpoints/step-000200").mkdir(parents=True)
    judged = " ".join(judge(run_with(workspace, 3.0, 2.0, 2.5)))
    assert "still there: runs/dalle/checkpoints/step-000200" in judged


def test_a_part_of_the_loss_that_got_worse_is_named(workspace: Workspace) -> None:
    records = [
        *losses(3.0, 2.0),
        {"step": 100, "val_loss_text": 4.0, "val_loss_image": 2.0},
        {"step": 200, "val_loss_text": 6.0, "val_loss_image": 1.0},
    ]
    write_log(workspace.run("dalle"), records)
    declare(workspace.run("dalle"), "run")
    found = read_run(find_run(find_folders(workspace.root), workspace.root, "dalle"), "dalle")
    judged = list(judge(found))
    assert (
        judged[-1] == "The loss of text tokens on validation rose from 4.000 (step 100) to 6.000."
    )
    assert "image codes" not in " ".join(judged)


def page_of(workspace: Workspace, **options: Any) -> BeautifulSoup:
    run(ReportConfig(workspace=workspace.root, **options))
    return BeautifulSoup((workspace.root / "report.html").read_text(), "lxml")


def test_a_run_that_is_training_is_shown_and_a_longer_log_makes_the_page_anew(
    workspace: Workspace,
) -> None:
    folder = workspace.run("dalle")
    write_log(folder, losses(3.0), end='\n{"step": 150, "lo')
    (folder / "plan.json").write_text(json.dumps({"config": {"steps": 1000}}))
    config = ReportConfig(workspace=workspace.root, run="dalle")
    words = page_of(workspace, run="dalle").select("#training")[0].text
    assert "Not finished: at step 100 of at most 1,000" in words
    assert why_run(config, None) is None
    write_log(folder, losses(3.0, 2.0))
    assert why_run(config, None) == "report.html is outdated"
    assert "at step 200" in page_of(workspace, run="dalle").select("#training")[0].text


def test_the_psnr_of_a_codec_is_drawn_over_its_training(workspace: Workspace) -> None:
    folder = workspace.codec("small")
    measured = [{"step": n, "loss": 1.0, "val_psnr_db": 20 + n / 8} for n in range(8, 41, 8)]
    write_log(folder, [{"step": 0, "loss": 2.0}, *measured])
    declare(folder, "codec")
    plots = page_of(workspace).select("#codec figure.curves")
    (plot,) = (plot for plot in plots if plot.h4 is not None and plot.h4.text == "PSNR, dB")
    assert [line.text for line in plot.select(".legend li")] == ["validation"]
    numbers = json.loads(plot.select("script")[0].text)
    assert numbers["series"][0]["points"] == [[n, 20 + n / 8] for n in range(8, 41, 8)]
    assert numbers["y"][0] > 20  # its axis doesn't begin at 0


def test_only_the_run_asked_for_is_shown(workspace: Workspace) -> None:
    for name in ("one", "taming/two"):
        write_log(workspace.run(name), losses(3.0))
        (workspace.run(name) / "plan.json").write_text("{}")
        declare(workspace.run(name), "run")
    both = [h.text for h in page_of(workspace).select("#training h3")]
    assert sorted(both) == ["Run one", "Run taming/two"]
    alone = [h.text for h in page_of(workspace, run="taming/two").select("#training h3")]
    assert alone == ["Run taming/two"]


@pytest.mark.parametrize("options", [{"run": "dale"}, {"compare": ("dale",)}])
def test_a_run_that_does_not_exist_is_an_error_with_the_choices(
    options: dict[str, Any], workspace: Workspace
) -> None:
    declare(workspace.run("dalle"), "run")
    with pytest.raises(ConfigError, match=r"has no run 'dale'. Did you mean 'dalle'\?"):
        run(ReportConfig(workspace=workspace.root, **options))


def test_runs_are_compared_in_a_table_and_on_the_same_axes(workspace: Workspace) -> None:
    for name, validation in (("one", (3.0, 2.0)), ("two", (3.0, 2.5, 2.25))):
        write_log(workspace.run(name), losses(*validation))
        declare(workspace.run(name), "run", counts={"parameters": 1000})
    soup = page_of(workspace, run="one", compare=("two",))
    rows = {r[0].text: [c.text for c in r[1:]] for r in map(cells, soup.select("#training tr"))}
    assert rows["measure"] == ["one", "two"]
    assert rows["best validation loss"] == ["2.0000", "2.2500"]
    assert rows["at step"] == ["200", "300"]
    assert rows["parameters"] == ["1,000", "1,000"]
    legend = [item.text for item in soup.select("#training .legend")[0].select("li")]
    assert legend == ["one, validation", "one, training", "two, validation", "two, training"]


def cells(row: Any) -> list[Any]:
    return list(row.find_all(["th", "td"]))


def test_workspaces_are_compared_and_a_change_of_the_other_makes_the_page_anew(
    workspace: Workspace, tmp_path: Path
) -> None:
    other = Workspace(tmp_path / "other").open(source="folder")
    for each, kept in ((workspace, 1200), (other, 34)):
        declare(each.dedupe, "dedupe", counts={"kept": kept})
        write_log(each.run("dalle"), losses(3.0))
        declare(each.run("dalle"), "run")
    soup = page_of(workspace, compare=(str(other.root),))
    rows = {r[0].text: [c.text for c in r[1:]] for r in map(cells, soup.select("#training tr"))}
    assert rows["measure"] == ["dalle", "other"]
    assert rows["images kept"] == ["1,200", "34"]
    config = ReportConfig(workspace=workspace.root, compare=(str(other.root),))
    assert why_run(config, None) is None
    declare(other.dedupe, "dedupe", counts={"kept": 35})
    assert why_run(config, None) == "report.html is outdated"


def test_more_comparisons_than_lines_can_be_told_apart_are_refused(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="at most 6"):
        ReportConfig(workspace=workspace.root, compare=("a",) * 7)
