"""The DAGs as Airflow sees them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow")

from tests.helpers.dags import ROOT


def test_the_dags_can_be_read_fast_and_without_our_code(bag: Any) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == {"dalleblog_refresh", "dalleblog_train"}
    assert not {"torch", "pandas", "pipeline", "scrapers", "standalone"} & set(sys.modules)


def test_they_run_one_at_a_time_and_never_as_a_backfill(bag: Any) -> None:
    for dag in bag.dags.values():
        dag.check_cycle()
        assert (dag.catchup, dag.max_active_runs) == (False, 1)
        assert "backfill" not in {run_type.value for run_type in dag.allowed_run_types}
        assert {task.owner for task in dag.tasks} == {"dalle-pipeline"}
        assert "| symptom |" in dag.doc_md
    refresh, train = bag.dags["dalleblog_refresh"], bag.dags["dalleblog_train"]
    assert str(refresh.schedule) == "@weekly"
    assert [asset.name for asset in train.schedule] == ["dalleblog_shards"]
    assert refresh.get_task("scrape").max_active_tis_per_dagrun == 1


def test_no_param_names_a_program_and_none_is_taken_from_the_scheduler(bag: Any) -> None:
    for dag in bag.dags.values():
        assert not {"command", "alert_command", "engine"} & set(dag.params)
        chosen = {"source", "sections"}
        assert {dag.params[name] for name in dag.params if name not in chosen} == {None}
    sections = bag.dags["dalleblog_refresh"].params.get_param("sections").schema
    assert "emojis" in sections["examples"]


@pytest.mark.parametrize(
    "conf",
    [
        {"source": "--out=/etc/passwd"},
        {"sections": ["--workspace=/etc"]},
        {"sections": "emojis"},
        {"limit": 0},
        {"parts": 10**9},
        {"mode": "delete"},
    ],
)
def test_a_conf_with_other_values_is_refused(bag: Any, conf: dict[str, Any]) -> None:
    from airflow.sdk.definitions.param import process_params
    from airflow.sdk.exceptions import ParamValidationError

    dag = bag.dags["dalleblog_refresh"]
    with pytest.raises(ParamValidationError):
        process_params(dag, dag.get_task("check"), conf, suppress_exception=False)


def test_lineage_goes_from_the_raw_store_to_the_run(bag: Any) -> None:
    refresh, train = bag.dags["dalleblog_refresh"], bag.dags["dalleblog_train"]

    def flow(task: Any) -> tuple[list[str], list[str]]:
        return [a.name for a in task.inlets], [a.name for a in task.outlets]

    name = "dalleblog_{}".format
    assert flow(refresh.get_task("judge")) == ([], [name("raw")])
    assert flow(refresh.get_task("dedupe")) == ([name("raw")], [name("tables")])
    assert flow(refresh.get_task("encode")) == ([name("tables")], [name("codes")])
    assert flow(refresh.get_task("shard")) == ([name("tables"), name("codes")], [])
    assert flow(refresh.get_task("publish")) == ([name("shards")], [name("shards")])
    assert flow(train.get_task("train")) == ([name("shards")], [name("run")])


SETTINGS = {
    "CRAWL_POOL": "one_crawl",
    "GPU_QUEUE": "gpu",
    "GPU_POOL": "one_gpu",
    "GPU_EXECUTOR_CONFIG": '{"pod_template_file": "/gpu.yaml"}',
    "CPU_TASK_HOURS": "12",
    "RUN_HOURS": "144",
    "OWNER": "data",
    "SCHEDULE": "@daily",
}
SHOW = """
import sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
for dag in bag.dags.values():
    print(dag.dag_id, dag.schedule, dag.dagrun_timeout)
    for task in dag.tasks:
        print(task.task_id, task.owner, task.pool, task.queue, task.executor_config, task.execution_timeout)
"""


def show(folder: Path, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """How another process, started in another place, reads the DAGs of a folder."""
    import os

    given = {f"DALLE_PIPELINE_{name}": value for name, value in variables.items()}
    return subprocess.run(
        [sys.executable, "-c", SHOW, str(folder)],
        env={**os.environ, **given, "AIRFLOW__CORE__DAGS_FOLDER": str(folder)},
        cwd=home,
        text=True,
        capture_output=True,
    )


def test_they_work_from_a_subfolder_and_are_placed_by_the_environment(
    metadata: None, tmp_path: Path
) -> None:
    folder = tmp_path / "dags" / "somebody" / "blog"
    shutil.copytree(ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    # Others have modules with names that a folder of theirs puts before ours.
    (tmp_path / "dags" / "settings.py").write_text("raise RuntimeError('not yours')")
    done = show(tmp_path / "dags", tmp_path, **SETTINGS)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["dalleblog_refresh"].endswith("@daily 6 days, 0:00:00")
    assert lines["scrape"].startswith("scrape data one_crawl ")
    assert lines["encode"].startswith("encode data one_gpu gpu {'pod_template_file': '/gpu.yaml'}")
    assert lines["train"].startswith("train data one_gpu gpu {'pod_template_file': '/gpu.yaml'}")
    assert lines["dedupe"] == "dedupe data default_pool default {} 12:00:00"


@pytest.mark.parametrize("bad", [{"RUN_HOURS": "soon"}, {"GPU_EXECUTOR_CONFIG": "[]"}])
def test_a_setting_that_is_none_says_so_where_dags_are_read(
    metadata: None, tmp_path: Path, bad: dict[str, str]
) -> None:
    (name,) = bad
    done = show(ROOT / "dags", tmp_path, **bad)
    assert done.returncode != 0
    assert f"DALLE_PIPELINE_{name}" in done.stderr
