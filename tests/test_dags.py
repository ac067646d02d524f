"""The DAGs without Airflow: read from the source, and what of them needs no Airflow.

`tests/dags` loads and runs them in Airflow's own environment (`make test-airflow`); where that environment
is there already, their integrity is tested here, too.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DAGS = ROOT / "dags"
AIRFLOW_PYTHON = ROOT / ".venv-airflow" / "bin" / "python"
SIBLINGS = {path.stem for path in DAGS.glob("*.py")}


def load_parts() -> Any:
    spec = importlib.util.spec_from_file_location("pipeline_parts", DAGS / "pipeline_parts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
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


@pytest.mark.parametrize("path", sorted(DAGS.glob("*.py")), ids=lambda path: path.name)
def test_a_dag_file_needs_airflow_and_python_alone(path: Path) -> None:
    tops = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add(str(node.module).split(".")[0])
    assert tops <= set(sys.stdlib_module_names) | SIBLINGS | {"airflow"}


def test_ids_and_schedules() -> None:
    refresh, train = dag_settings("dalleblog_refresh"), dag_settings("dalleblog_train")
    assert (refresh["dag_id"], refresh["schedule"]) == ("dalleblog_refresh", "@weekly")
    assert (train["dag_id"], train["schedule"]) == ("dalleblog_train", "[SHARDS]")
    for settings in (refresh, train):
        assert (settings["catchup"], settings["max_active_runs"]) == (False, 1)


@pytest.mark.skipif(not AIRFLOW_PYTHON.exists(), reason="no .venv-airflow: see make test-airflow")
def test_airflow_finds_both_dags_whole() -> None:
    command = [str(AIRFLOW_PYTHON), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k"]
    command += ["read_fast or no_cycles", "tests/dags/test_refresh.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_parts_are_of_about_the_same_size_and_leave_nothing_out() -> None:
    group = load_parts().group_sections
    sections = {f"s{n}": {"captions": n} for n in range(12)}
    groups = group(sections, 3)
    assert sorted(name for part in groups for name in part) == sorted(set(sections) - {"s0"})
    sizes = [sum(sections[name]["captions"] for name in part) for part in groups]
    assert max(sizes) - min(sizes) <= 2
    assert group({"a": {"captions": 5}}, 4) == [["a"]]


def test_fetches_are_measured_over_all_parts() -> None:
    measure = load_parts().measure_fetches

    def part(done: int, **details: Any) -> dict[str, Any]:
        return {"counts": {"done": done}, "details": details}

    first = [part(50, stored=50), part(100, stored=50, failures={"http_404": 30})]
    assert measure(first) == {"good_share": 1.0, "different_share": 0.0}
    week = [
        part(104, unchanged=90, stored=6, changed=2, absent=2),
        part(104, failures={"http_500": 5, "http_404": 9, "x_robots_noai": 4}),
    ]
    found = measure(week)
    assert found["good_share"] == pytest.approx(96 / 103)
    assert found["different_share"] == pytest.approx(8 / 100)
    assert measure([part(0)]) == {"good_share": 1.0, "different_share": 0.0}


def test_training_goes_on_at_the_last_checkpoint_of_the_run_before(tmp_path: Path) -> None:
    arguments = load_parts().train_arguments
    assert arguments(str(tmp_path), "dalle", "2") == ["--name", "dalle-2"]
    for name in ("dalle-0", "dalle-1", "dalle-2", "other-1"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
    last = str(tmp_path / "runs" / "dalle-1")
    for _ in range(2):  # The second time its own run has finished.
        assert arguments(str(tmp_path), "dalle", "2") == [
            "--name",
            "dalle-2",
            "--resume-from",
            last,
        ]
