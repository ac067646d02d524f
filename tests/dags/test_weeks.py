"""Twelve weeks of reruns: a training each time that there is news, and only then."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow")

from tests.dags.weeks import Weeks, by_hand
from tests.helpers.dags import SECTION, Source

SECTIONS = (SECTION, "stacking_snap")


@pytest.fixture
def weeks(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch, metadata: None) -> Weeks:
    return Weeks(tmp_path, source, monkeypatch, tmp_path / "place" / "data")


@pytest.mark.timeout(900)
def test_twelve_weeks(weeks: Weeks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalle_pipeline_airflow.operator.LOCK_POLL", timedelta(0))

    def week(*, trains: bool, state: str = "success", **conf: Any) -> dict[str, list[str]]:
        """A refresh, and a training if there is news."""
        before = weeks.runs()
        found, states = weeks.refresh(**conf)
        assert found == state, states
        trained = weeks.train()
        assert (trained is not None) == trains, (states, trained)
        if trained is not None:
            assert trained[0] == "success", trained
        assert len(set(weeks.runs()) - set(before)) == trains
        return states

    # 1. The first one has a limit, to try it out.
    states = week(trains=True, limit=2)
    assert states["publish"] == ["success"]
    assert (weeks.workspace / "report.html").exists()
    # 2. Nothing is new: no event is made, nothing is trained.
    assert week(trains=False, limit=2)["publish"] == ["skipped"]
    # 3. The data grows, and `verify` is killed once: it is tried again.
    weeks.kill("verify", 1)
    week(trains=True, limit=3)
    assert weeks.new_alerts() == []
    # 4. The source is dead: one word at the first retry, one at the end, and no hours of silence.
    weeks.source.stop()
    #    And one of the age of the data, since for too long nothing came.
    states = week(trains=False, state="failed", limit=3, max_age_days=1e-9)
    assert (states["page"], states["report"]) == (["failed"], ["upstream_failed"])
    assert states["age"] == ["success"]
    first, last, age = weeks.new_alerts()
    assert first.startswith("page failed and will be retried: ")
    assert last.startswith("page failed: ")
    assert age.startswith("No image was fetched or confirmed for ")
    # 5. It is back and has grown, but `verify` dies at each try: the shards are there, the news is not.
    weeks.open_source()
    weeks.kill("verify", 99)
    states = week(trains=False, state="failed", limit=4)
    assert (states["shard"], states["publish"]) == (["success"], ["upstream_failed"])
    assert states["report"] == ["success"]
    assert len(weeks.new_alerts()) == 1
    # 6. Nothing is new on the page, and the news of last week comes.
    weeks.kill("verify", 0)
    week(trains=True, limit=4)
    assert len({weeks.shards_of(run) for run in weeks.runs()}) == 3
    # 7. Images have changed at the source.
    weeks.open_source(*weeks.image_paths()[:3])
    week(trains=True, limit=4)
    # 8. A conf that was made by hand is refused before anything is asked.
    calls = weeks.calls()
    states = week(trains=False, state="failed", command="/bin/false", alert_command="touch /tmp/x")
    assert states["check"] == ["failed"]
    assert weeks.calls() == calls
    (alert,) = weeks.new_alerts()
    assert "alert_command, command, which dalleblog_refresh has no param for" in alert
    # 9. Another command holds what `dedupe` needs: the task comes back until it may.
    with weeks.held("dedupe", "dedupe", calls=3):
        week(trains=False, limit=4)
    assert weeks.calls().count("dedupe") >= 3
    assert weeks.new_alerts() == []
    # 10. Airflow forgot everything: the event comes again, and the shards are not trained on twice.
    weeks.forget_metadata()
    state, states = weeks.refresh(limit=4)
    assert (state, states["publish"]) == ("success", ["success"])
    trained = weeks.train()
    assert trained is not None
    assert (trained[0], trained[1]["train"]) == ("success", ["skipped"])
    # 11. Somebody worked in the workspace by hand: what is news is decided by the shards alone.
    by_hand(weeks, "scrape", "dalleblog", f"--sections={SECTION}", "--limit=5", "--no-remember")
    by_hand(weeks, "dedupe")
    by_hand(weeks, "encode")
    by_hand(weeks, "shard")
    states = week(trains=True, limit=5)
    assert weeks.new_alerts() == []
    runs = weeks.runs()
    assert len(runs) == 5
    # 12. It grows once more; the newest trainings stay, the others go.
    monkeypatch.setenv("DALLE_PIPELINE_KEEP_RUNS", "2")
    week(trains=True, limit=6)
    assert [run in runs for run in weeks.runs()] == [True, False]
    assert weeks.runs()[0] == runs[-1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    line = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = subprocess.run(line, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.timeout(600)
def test_a_full_disk_ends_the_week_with_one_word_and_the_next_parts_do_not_begin(
    tmp_path: Path,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    metadata: None,
    small_disk: Path,
) -> None:
    weeks = Weeks(tmp_path, source, monkeypatch, small_disk / "data", sections=SECTIONS)
    (weeks.faults / "fill-scrape").touch()
    state, states = weeks.refresh(sections=list(SECTIONS), parts=2, limit=1)
    assert (state, sorted(states["scrape"])) == ("failed", ["failed", "skipped"])
    assert states["judge"] == ["upstream_failed"]
    assert weeks.calls() == ["--version", "page", "scrape"]
    (alert,) = weeks.new_alerts()
    assert "scrape failed: The disk is full" in alert
    # Somebody made room.
    (weeks.workspace / "filling").unlink()
    assert weeks.refresh(sections=list(SECTIONS), parts=2, limit=1)[0] == "success"


@pytest.mark.timeout(600)
def test_what_is_alerted_of_is_counted_by_the_workspace_itself(weeks: Weeks) -> None:
    """A first run, a killed part, a week without a change, one in which most of it has changed."""
    # Everything is new, and nothing to compare it with; the part dies after it was begun.
    weeks.kill("scrape", 1)
    assert weeks.refresh(min_good_share=1.0)[0] == "success"
    (alert,) = weeks.new_alerts()
    assert "scrape failed and will be retried" in alert
    # A limit leaves nothing to judge but the fetches, and is no measure for the week after it.
    for conf in ({"limit": 1}, {}):
        assert weeks.refresh(**conf)[0] == "success"
        assert weeks.new_alerts() == []
    paths = weeks.image_paths()
    weeks.open_source(*paths[: len(paths) // 2])
    assert weeks.refresh()[0] == "success"
    (alert,) = weeks.new_alerts()
    assert alert.startswith("50.0% of the data is new, changed or gone")
