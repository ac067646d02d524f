"""A week of scheduled reruns with a moved clock: every day ends in what a full rebuild would give.

Day 1 all is fetched; day 2 nothing is new; day 3 brings new, changed and gone images; day 4
the server is down; day 5 it is back, and the clock was set back to day 2.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.run_log import read_records
from pipeline.core.inventory import find_folders
from pipeline.core.workspace import Workspace
from pipeline.demo.replica.config import ReplicaConfig
from pipeline.demo.replica.server import Replica
from scrapers.rawstore.ledger import Ledger
from tests.helpers.cli import run_command
from tests.helpers.small_options import scrape_options, small_options

# The keys of its captions can't be computed: what the page shows is what there is.
SECTION = "text_rendering"
DAY_S = 86_400
DAYS = ("--refresh", "--until", "shard")


class Week:
    """A workspace, the clock that it is run by, and a replica that comes and goes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.workspace = folder / "data"
        self.options = folder / "options.toml"
        self.day = 1.0
        begun, real = time.time(), time.time
        monkeypatch.setattr(time, "time", lambda: real() - begun + 1.8e9 + self.day * DAY_S)

    def run(self, replica: Replica | None, *, code: int = 0) -> dict[str, Any]:
        """`pipeline run --refresh`, then the report, as of this day."""
        url = replica.url if replica else "http://127.0.0.1:9"
        tables = {
            "scrape": scrape_options(url, SECTION, attempts=2, gone_after=2),
            "dedupe": {"val_fraction": 0.2},
            "shard": {"text_seq_len": 24, "max_samples": 16},
        }
        self.options.write_text(small_options(tables))
        report = self.call("run", *DAYS, code=code)
        if code != 1:
            self.call("report")
        return report

    def call(self, *command: str, workspace: Path | None = None, code: int = 0) -> dict[str, Any]:
        place = ("--workspace", str(workspace or self.workspace), "--config", str(self.options))
        result = run_command([*command, *place, "--json"])
        assert result.exit_code == code, result.output
        report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return report

    def rebuild(self) -> Path:
        """Everything made again from the raw store and the models, in a folder of its own."""
        other = self.folder / f"rebuilt-{self.day}"
        Workspace(other).open(source="dalleblog")
        for name in ("raw", "tokenizers", "codecs"):
            shutil.copytree(self.workspace / name, other / name)
        self.call("run", "--from", "dedupe", "--until", "shard", workspace=other)
        self.call("report", workspace=other)
        return other


@pytest.fixture
def week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Week:
    return Week(tmp_path, monkeypatch)


@pytest.fixture
def serve() -> Iterator[Any]:
    started: list[Replica] = []

    def start(shown: int, *, changed: tuple[str, ...] = (), gone: tuple[str, ...] = ()) -> Replica:
        config = ReplicaConfig(sections=(SECTION,), shown_captions=shown, size=32)
        replica = Replica(config).__enter__()
        started.append(replica)
        for path in changed:
            replica.change(replica.url + path)
        for path in gone:
            replica.remove(replica.url + path)
        return replica

    yield start
    for replica in started:
        replica.__exit__(None, None, None)


def test_a_week_ends_every_day_as_a_full_rebuild_would(week: Week, serve: Any) -> None:
    first = serve(8)
    week.run(first)
    assert_as_rebuilt(week, holds=256)
    monday = shards(week.workspace)
    assert len(monday) > 10

    week.day = 2
    assert outcomes(week.run(first)) == {"unchanged"}
    assert_as_rebuilt(week, holds=256)
    assert shards(week.workspace) == monday

    # Those of one shard change, so that all others can be seen to stay.
    week.day = 3
    changed, gone = choose_images(week.workspace, monday)
    third = serve(9, changed=changed, gone=gone)
    report = week.run(third)
    scraped = report["details"]["scrape"]["details"]
    assert (scraped["stored"], scraped["changed"]) == (32 + 6, 6)
    assert (scraped["absent"], scraped["gone"]) == (6, 0)
    assert scraped["page"]["captions"] == {SECTION: [8, 9]}
    assert_as_rebuilt(week, holds=256 + 32)
    wednesday = shards(week.workspace)
    assert monday.keys() < wednesday.keys()
    assert [name for name in monday if wednesday[name] != monday[name]] == [touched(monday)]

    week.day = 4
    before = everything(week.workspace)
    failed = week.run(None, code=1)
    assert failed["error"]["type"] == "SourceError"
    assert everything(week.workspace) == before

    # One refresh more has missed the six: now they are gone. Nothing else has happened since.
    week.day = 1.5
    report = week.run(third)
    assert report["details"]["scrape"]["details"]["gone"] == 6
    assert_as_rebuilt(week, holds=256 + 32 - 6)
    friday = shards(week.workspace)
    assert friday.keys() == wednesday.keys()
    assert [name for name in friday if friday[name] != wednesday[name]] == [touched(monday)]
    assert outcomes(week.run(third)) == {"unchanged"}
    assert run_command(["verify", "--workspace", str(week.workspace)]).exit_code == 0
    starts = [record["started"][:10] for record in read_records(week.workspace)]
    assert sorted(starts) != starts  # The clock went back, and nobody minded.


def outcomes(report: dict[str, Any]) -> set[str]:
    return {stage["outcome"] for stage in report["details"].values()}


def assert_as_rebuilt(week: Week, *, holds: int) -> None:
    """Tables and report are the same bytes as of a rebuild, the shards hold the same samples."""
    other = week.rebuild()
    mine, theirs = manifests(week.workspace), manifests(other)
    assert mine["raw"].counts["done"] == holds
    assert mine["dedupe"].files == theirs["dedupe"].files
    assert mine["dedupe"].counts == theirs["dedupe"].counts
    assert samples(week.workspace) == samples(other)
    assert len(samples(other)) == mine["dedupe"].counts["kept"]
    assert facts(week.workspace) == facts(other)
    shutil.rmtree(other)


def manifests(workspace: Path) -> dict[str, Any]:
    return {folder.name: folder.manifest for folder in find_folders(workspace)}


def facts(workspace: Path) -> str:
    """The report's body, without the workspace's name, the time taken and what depends on how it grew.

    Shards that grew step by step are divided differently from shards that were written at once. Their codes
    are in other files, which still hold those of images that have gone.
    """
    text = (workspace / "report.html").read_text()
    body = text[text.index("<body") :].replace(f"--workspace {workspace.name}<", "<")
    body, number = re.subn(r"<b>[^<]*</b><span>work in all stages", "", body)
    assert number == 1
    body, number = re.subn(
        r"<h3>Use of the codebook</h3>.*?(?=<h3>|</section>)", "", body, flags=re.S
    )
    assert number == 1
    rows = body.split("<tr>")
    return "<tr>".join(row for row in rows if "<td>shards/" not in row and "<td>codes/" not in row)


def shards(workspace: Path) -> dict[str, str]:
    """Hash by name of every tar."""
    folder = workspace / "shards" / "default"
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/*.tar"))
    }


def samples(workspace: Path) -> dict[str, bytes]:
    """Every member of every shard; a name twice would be an error."""
    found: dict[str, bytes] = {}
    for path in sorted((workspace / "shards" / "default").glob("*/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                assert member.name not in found
                found[member.name] = file.read()
    joined: dict[str, bytes] = {}
    for name in sorted(found):
        key = name.partition(".")[0]
        joined[key] = joined.get(key, b"") + name.encode() + found[name]
    return joined


def touched(monday: dict[str, str]) -> str:
    """The shard whose images change and go."""
    return min(name for name in monday if name.startswith("train/"))


def choose_images(workspace: Path, monday: dict[str, str]) -> tuple[tuple[str, ...], ...]:
    """Paths of six images that will change and of six that will go, of one shard."""
    with tarfile.open(workspace / "shards" / "default" / touched(monday)) as tar:
        keys = sorted({member.name.partition(".")[0] for member in tar})[:12]
    ledger = Ledger(Workspace(workspace).ledger)
    urls = {str(key): str(url) for key, url in ledger.query("SELECT key, url FROM items")}
    ledger.close()
    paths = [urls[key].split("dalleblog.localhost", 1)[1] for key in keys]
    return tuple(paths[:6]), tuple(paths[6:])


def everything(workspace: Path) -> dict[str, bytes]:
    """Every file but what tells of runs."""
    return {
        str(path.relative_to(workspace)): path.read_bytes()
        for path in sorted(workspace.rglob("*"))
        if path.is_file() and "sqlite-" not in path.name and not about_runs(path)
    }


def about_runs(path: Path) -> bool:
    return path.name == "runs.jsonl" or path.parent.name in (".locks", ".active")
