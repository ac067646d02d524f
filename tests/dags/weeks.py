"""Weeks of an Airflow's life: a workspace, a source, faults on demand, both DAGs run by `dag.test()`."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.dags import PIPELINE, ROOT, SECTION, Source

OPTIONS = """
[scrape]
page_url = "http://dalleblog.localhost/blog/dall-e/"
connect_to = "{address}"
attempts = 2
backoff_s = 0.01

[dedupe]
val_fraction = 0.3
workers = 0

[train-tokenizer]
vocab_size = 300

[train-codec]
image_size = 32
channels = 8
code_dim = 8
num_tokens = 32
steps = 6

[shard]
text_seq_len = 24

[train]
dim = 16
depth = 1
heads = 2
dim_head = 8
steps = 4
batch_size = 4
tensorboard = false
"""
# Says which stage it was called for; `kill-STAGE` with a number in it has that many calls die of SIGKILL,
# `fill-STAGE` leaves no room on the workspace's disk before it.
COMMAND = """\
#!/bin/sh
stage=$1; for word in "$@"; do [ "$word" = --plan ] && stage=page; done
echo "$stage" >> {faults}/calls
left=$(cat {faults}/kill-$stage 2>/dev/null || echo 0)
if [ "$left" -gt 0 ]; then echo $((left - 1)) > {faults}/kill-$stage; kill -KILL $$; fi
if [ -e {faults}/fill-$stage ]; then
    rm {faults}/fill-$stage
    dd if=/dev/zero of={workspace}/filling bs=64k 2>/dev/null
    dd if=/dev/zero bs=1 >> {workspace}/filling 2>/dev/null
fi
exec {pipeline} "$@"
"""
Found = dict[str, list[str]]


class Weeks:
    """The workers' settings are in the environment; `alerts` is what `alert_command` was handed."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        monkeypatch: Any,
        workspace: Path,
        *,
        sections: tuple[str, ...] = (SECTION,),
    ) -> None:
        self._sections = sections
        self.workspace, self.source, self.faults = workspace, source, folder / "faults"
        self.config, self._sent = folder / "options.toml", folder / "sent"
        self.faults.mkdir()
        (self.faults / "calls").touch()
        command = folder / "pipeline"
        facts = {"faults": self.faults, "pipeline": PIPELINE, "workspace": workspace}
        command.write_text(COMMAND.format(**facts))
        command.chmod(0o755)
        settings = {
            "COMMAND": command,
            "WORKSPACE": workspace,
            "CONFIG": self.config,
            "ALERT_COMMAND": f"tee -a {self._sent}",
            "RETRY_HOURS": 1e-9,
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"DALLE_PIPELINE_{name}", str(value))
        self._last_event = max(events_after(0), default=0)  # of tests before this one
        self.open_source()

    # --- The world -------------------------------------------------------------------------------

    def open_source(self, *changed: str) -> None:
        """The source answers, with other images at the paths `changed`."""
        self.config.write_text(OPTIONS.format(address=self.source.start(self._sections, changed)))

    def kill(self, stage: str, times: int) -> None:
        """Let so many calls of a command die of SIGKILL; what was left over from before is gone."""
        (self.faults / f"kill-{stage}").write_text(str(times))

    def calls(self) -> list[str]:
        """The commands that were called, by stage."""
        return (self.faults / "calls").read_text().split()

    def image_paths(self) -> list[str]:
        """The paths of the images in the raw store."""
        with sqlite3.connect(self.workspace / "raw" / "ledger.sqlite") as ledger:
            rows = ledger.execute(
                "SELECT prefix, urls.rank, suffix FROM forms JOIN urls ON urls.form = forms.id ORDER BY 1, 2"
            ).fetchall()
        urls = [f"{prefix}{rank}{suffix}" for prefix, rank, suffix in rows]
        return ["/" + url.split("/", 3)[3] for url in urls]

    @contextmanager
    def held(self, folder: str, stage: str, calls: int) -> Iterator[None]:
        """Hold a folder's lock until a stage has been called so often since."""
        import fcntl

        before = self.calls().count(stage)
        file = (self.workspace / ".locks" / f"{folder}.lock").open("w")
        fcntl.flock(file, fcntl.LOCK_EX)

        def release() -> None:
            # The next call begins only after the one before has ended: it found the lock.
            while self.calls().count(stage) < before + calls:
                time.sleep(0.05)
            file.close()

        thread = threading.Thread(target=release)
        thread.start()
        yield
        thread.join()

    # --- What Airflow does -----------------------------------------------------------------------

    def refresh(self, **conf: Any) -> tuple[str, Found]:
        """A run of `dalleblog_refresh`: its state, and those of its tasks."""
        return run_dag("dalleblog_refresh", {"sections": [SECTION], "parts": 1, **conf}, [])

    def train(self, **conf: Any) -> tuple[str, Found] | None:
        """What the scheduler does with the news: a run of `dalleblog_train` with the new events, if any."""
        numbers = events_after(self._last_event)
        if not numbers:
            return None
        self._last_event = max(numbers)
        return run_dag("dalleblog_train", conf, numbers)

    def forget_metadata(self) -> None:
        """An Airflow that is new: no runs, no events."""
        from airflow.utils import db

        db.resetdb()
        self._last_event = 0

    # --- What is there then ----------------------------------------------------------------------

    def runs(self) -> list[str]:
        """Finished trainings, the oldest first."""
        found = (self.workspace / "runs").glob("dalle-*/manifest.json")
        return sorted(path.parent.name for path in found)

    def shards_of(self, run: str) -> str:
        """The fingerprint of the shards that a run was trained on."""
        manifest = json.loads((self.workspace / "runs" / run / "manifest.json").read_bytes())
        return str(manifest["inputs"]["shards/default"])

    def new_alerts(self) -> list[str]:
        """The sentences that `alert_command` was handed since the last look."""
        lines = self._sent.read_text().splitlines() if self._sent.exists() else []
        if self._sent.exists():
            self._sent.unlink()
        return [line.split(": ", 1)[1] for line in lines]


def events_after(number: int) -> list[int]:
    """The numbers of the events of the shards that came after this one."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        events = session.scalars(
            select(AssetEvent)
            .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
            .where(AssetModel.name == "dalleblog_shards", AssetEvent.id > number)
            .order_by(AssetEvent.id)
        ).all()
        return [event.id for event in events]


def run_dag(name: str, conf: Mapping[str, Any], events: Sequence[int]) -> tuple[str, Found]:
    """A run of a DAG that these events triggered: its state, and those of its tasks."""
    from unittest.mock import patch

    import airflow.models.dagrun as dagrun
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.asset import AssetEvent
    from sqlalchemy import select

    create = dagrun.get_or_create_dagrun

    def create_with_events(**settings: Any) -> Any:
        run, session = create(**settings), settings["session"]
        found = session.scalars(select(AssetEvent).where(AssetEvent.id.in_(events))).all()
        run.consumed_asset_events.extend(found)
        session.commit()
        return run

    dag = DagBag(str(ROOT / "dags")).dags[name]
    with patch.object(dagrun, "get_or_create_dagrun", create_with_events):
        run = dag.test(run_conf=dict(conf))
    states: Found = {}
    for ti in run.get_task_instances():
        states.setdefault(ti.task_id, []).append(str(getattr(ti.state, "value", ti.state)))
    return str(getattr(run.state, "value", run.state)), states


def by_hand(weeks: Weeks, *command: str) -> None:
    """A command that somebody gives in the workspace, beside Airflow."""
    import subprocess

    line = [str(PIPELINE), *command, "--workspace", str(weeks.workspace)]
    subprocess.run([*line, "--config", str(weeks.config)], check=True, env=os.environ)
