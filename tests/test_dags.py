"""The DAGs without Airflow: read from the source, and what of them needs no Airflow.

`tests/dags` loads and runs them in Airflow's own environment (`make test-airflow`).
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DAGS = ROOT / "dags"
PACKAGE = DAGS / "dalle_pipeline_airflow"
FILES = sorted(DAGS.rglob("*.py"))
NAME = "dalle_pipeline_airflow"


def load(name: str) -> Any:
    """A module of the package that needs no Airflow."""
    spec = importlib.util.spec_from_file_location(f"dags_{name}", PACKAGE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def dag_settings(name: str) -> dict[str, Any]:
    """The arguments of the file's `DAG(…)` that are constants, and the source of the others."""
    tree = ast.parse((DAGS / f"{name}.py").read_text())
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "DAG"
    )
    return {
        str(keyword.arg): keyword.value.value
        if isinstance(keyword.value, ast.Constant)
        else ast.unparse(keyword.value)
        for keyword in call.keywords
    }


def constant(name: str, path: Path) -> Any:
    """The value of a constant in a file."""
    for node in ast.parse(path.read_text()).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == name:
            return ast.literal_eval(node.value)  # type: ignore[attr-defined]
    raise AssertionError(f"{path} has no {name}")


# --- The files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_dag_file_needs_airflow_and_python_alone(path: Path) -> None:
    tops = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add(str(node.module).split(".")[0])
    assert tops <= set(sys.stdlib_module_names) | {NAME, "airflow"}


def test_no_file_in_the_folder_can_hide_a_module_of_others() -> None:
    assert {path.name for path in DAGS.iterdir() if path.name != "__pycache__"} == {
        ".airflowignore", "README.md", NAME, "dalleblog_refresh.py", "dalleblog_train.py", "standalone.py"
    }  # fmt: skip
    assert {"standalone.py", NAME} <= set((DAGS / ".airflowignore").read_text().split("\n"))


def test_ids_and_schedules() -> None:
    refresh, train = dag_settings("dalleblog_refresh"), dag_settings("dalleblog_train")
    assert (refresh["dag_id"], train["dag_id"]) == ("dalleblog_refresh", "dalleblog_train")
    assert refresh["schedule"].endswith("or '@weekly'")
    assert train["schedule"] == "[SHARDS]"
    for settings in (refresh, train):
        assert (settings["catchup"], settings["max_active_runs"]) == (False, 1)


def test_the_dags_belong_to_this_version_of_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert constant("PIPELINE_VERSION", PACKAGE / "__init__.py") == project["version"]


def test_the_form_offers_the_sections_of_the_catalogue() -> None:
    catalogue = json.loads(
        (ROOT / "scrapers" / "sources" / "dalleblog" / "catalogue.json").read_text()
    )
    names = dict.fromkeys(section["section"] for section in catalogue["sections"])
    assert constant("SECTIONS", PACKAGE / "params.py") == tuple(names)


def test_every_error_that_the_command_can_report_has_a_verdict() -> None:
    from pipeline.core import errors

    outcomes = load("outcomes")
    names = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.PipelineError)
    }
    verdicts = {
        name: outcomes.Outcome(code=1, report={"error": {"type": name, "message": ""}}).verdict
        for name in names
    }
    assert {name for name, verdict in verdicts.items() if verdict == "retry"} == {
        "PipelineError", "SourceError", "StorageError", "ModelError"
    }  # fmt: skip
    assert {name for name, verdict in verdicts.items() if verdict == "locked"} == {"LockedError"}
    from pipeline.core.storage import storage_error

    full = str(storage_error(OSError(28, "No space left on device"), "x"))
    report = {"error": {"type": "StorageError", "message": full}}
    assert outcomes.Outcome(code=1, report=report).verdict == "final"


# --- Parts ---------------------------------------------------------------------------------------


def test_parts_are_of_about_the_same_size_and_leave_nothing_out() -> None:
    group = load("parts").group_sections
    sections = {f"s{n}": {"captions": n} for n in range(12)}
    groups = group(sections, 3)
    assert sorted(name for part in groups for name in part) == sorted(set(sections) - {"s0"})
    sizes = [sum(sections[name]["captions"] for name in part) for part in groups]
    assert max(sizes) - min(sizes) <= 2
    assert group({"a": {"captions": 5}}, 4) == [["a"]]


def test_params_become_arguments() -> None:
    parts = load("parts")
    params = {"source": "dalleblog", "sections": ["a"], "mode": "update", "limit": 3, "rate": 0.5}
    assert parts.page_arguments(params) == [
        "scrape", "dalleblog", "--plan", "--no-remember", "--sections=a"
    ]  # fmt: skip
    assert parts.scrape_arguments(params, ["a", "b"]) == [
        "scrape", "dalleblog", "--no-remember", "--update", "--limit=3", "--rate=0.5",
        "--sections=a", "--sections=b",
    ]  # fmt: skip
    plain = {**params, "mode": "continue", "limit": None, "rate": None}
    assert parts.scrape_arguments(plain, ["a"]) == [
        "scrape", "dalleblog", "--no-remember", "--sections=a"
    ]  # fmt: skip


def finish_run(workspace: Path, name: str, **inputs: str) -> Path:
    folder = workspace / "runs" / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"inputs": inputs}))
    return folder


def test_training_goes_on_at_the_last_checkpoint_of_the_run_before(tmp_path: Path) -> None:
    parts = load("parts")
    assert parts.train_arguments(tmp_path, "dalle", "dalle-2") == ["train", "--name", "dalle-2"]
    for name in ("dalle-0", "dalle-1", "dalle-2", "other-1"):
        finish_run(tmp_path, name)
    (tmp_path / "runs" / "dalle-11").mkdir()  # not finished
    for _ in range(2):  # The second time its own run has finished.
        assert parts.train_arguments(tmp_path, "dalle", "dalle-2") == [
            "train", "--name", "dalle-2", "--resume-from", str(tmp_path / "runs" / "dalle-1")
        ]  # fmt: skip


def test_a_manifest_says_which_shards_a_run_was_trained_on(tmp_path: Path) -> None:
    was_trained_on = load("parts").was_trained_on
    run = finish_run(tmp_path, "dalle-1", **{"shards/default": "abc"})
    assert was_trained_on(run, "abc")
    assert not was_trained_on(run, "abd")
    for damage in ("{", "[]", '{"inputs": 3}', "{}"):
        (run / "manifest.json").write_text(damage)
        assert not was_trained_on(run, "abc")


# --- Records -------------------------------------------------------------------------------------


def scraped(done: int, **did: Any) -> dict[str, Any]:
    numbers = {"stored": 0, "unchanged": 0, "changed": 0, "absent": 0, "gone": 0, "failures": {}}
    return {"started": "2026-01-04T00:00:00Z", "counts": {"done": done}, "limit": None} | {
        "sections": ["a"], **numbers, **did
    }  # fmt: skip


def test_fetches_are_measured_over_all_parts_and_tries() -> None:
    measure = load("records").measure
    other = {"sections": ["b"]}
    first = [scraped(50, stored=50), scraped(100, stored=50, failures={"http_404": 30}, **other)]
    assert measure(first, []) == {"good_share": 1.0}
    week = [
        scraped(102, unchanged=40, stored=6, changed=2, absent=2),
        scraped(
            102, unchanged=50, failures={"http_500": 5, "http_404": 9, "x_robots_noai": 4}, **other
        ),
    ]
    found = measure(week, first)
    assert found["good_share"] == pytest.approx(96 / 103)
    assert found["different_share"] == pytest.approx(8 / 98)
    # All came in the first try, and the second one found it there: a retry makes nothing different.
    again = [scraped(100, stored=10), scraped(100, unchanged=100)]
    assert measure(again, first)["different_share"] == pytest.approx(10 / 90)
    # What failed at first and came in the next try is good.
    mended = [scraped(90, unchanged=80, failures={"http_500": 20}), scraped(100, unchanged=100)]
    assert measure(mended, first)["good_share"] == 1.0
    # The plan of a changed page fetched nothing, and is in nobody's way.
    plan = {"started": "2026-01-04T00:00:00Z", "counts": {"urls": 9}, "page": {"changed": True}}
    assert measure([plan, *again], first) == measure(again, first)
    assert measure([], []) == {"good_share": 1.0}


@pytest.mark.parametrize(
    ("own", "earlier"),
    [
        ({"limit": 2}, {}),
        ({}, {"limit": 2}),
        ({"sections": ["a", "b"]}, {}),
        ({"sections": []}, {}),
    ],
    ids=["its own limit", "an earlier limit", "a new section", "all sections"],
)
def test_what_has_another_extent_is_not_compared(
    own: dict[str, Any], earlier: dict[str, Any]
) -> None:
    measure = load("records").measure
    before = [scraped(8, stored=8, **earlier)]
    assert measure([scraped(100, stored=92, **own)], before) == {"good_share": 1.0}


def days(entries: list[dict[str, Any]]) -> list[str]:
    return [str(entry["started"])[8:10] for entry in entries]


def test_records_of_a_workspace_are_read_whatever_else_is_there(tmp_path: Path) -> None:
    records = load("records")
    entry = {"stage": "scrape", "counts": {"done": 3}, "did": {"stored": 3}}
    lines: list[dict[str, Any]] = [
        {"started": "2026-01-04T00:00:00Z", "stages": [entry, {"stage": "dedupe"}]},
        {"started": "2026-01-05T00:00:00Z", "stages": [{"stage": "scrape", "outcome": "killed"}]},
        {"started": "2026-01-11T00:00:00Z", "by": "dag a", "stages": [entry]},
        {"started": "2026-01-12T00:00:00Z", "stages": [entry]},
        {"started": "2026-01-13T00:00:00Z", "by": "dag a", "stages": [entry]},
    ]
    text = "\n".join(["{", "[1]", *map(json.dumps, lines), '{"started": "2026'])
    (tmp_path / "runs.jsonl").write_text(text)
    found = records.scrapes(tmp_path)
    assert days(found) == ["04", "11", "12", "13"]
    # By what a DAG run started, not by the time: others work in the workspace, and a run may be cleared.
    own, earlier = records.of_run(found, records.run_label("dag", "a"))
    assert (days(own), days(earlier)) == (["11", "13"], ["04"])
    assert records.of_run(found, "dag b") == ([], found)
    assert records.scrapes(tmp_path / "nowhere") == []


def test_days_count_from_the_last_image_that_came_or_was_confirmed() -> None:
    count = load("records").days_since_fresh
    now = datetime(2026, 2, 1, tzinfo=UTC)
    assert count([], now) is None
    nothing = scraped(0, failures={"timeout": 9})
    assert count([nothing], now) == 28
    confirmed = scraped(3, unchanged=3) | {"started": "2026-01-11T00:00:00Z"}
    assert count([nothing, confirmed, nothing | {"started": "2026-01-25T00:00:00Z"}], now) == 21


def test_changes_of_the_page_become_sentences() -> None:
    page = {"sections_added": ["new"], "sections_removed": ["old"], "captions": {"emojis": [3, 4]}}
    assert load("records").page_changes([scraped(1), scraped(1, page=page)]) == [
        "The page has new sections: new",
        "The page lost sections: old",
        "The page's section emojis has 4 captions, had 3",
    ]
