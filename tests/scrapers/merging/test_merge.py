"""Several workspaces merged into one: every URL once, by rules; segments linked; killed and resumed."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError, ContractError, PipelineError, WorkspaceError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace, read_marker
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.run import run as dedupe
from pipeline.verify.check import check_workspace
from scrapers.merging import run as merging
from scrapers.merging.config import MergeConfig
from scrapers.merging.run import merge
from scrapers.rawstore.ledger import Ledger
from scrapers.scrape import scrape
from scrapers.sources.urls.config import UrlsConfig
from tests.helpers.cli import run_command
from tests.helpers.crawls import Ask, Server, answer, png, states, stored
from tests.scrapers.sources.urls.lists import write


def scrape_into(root: Path, path: Path, clock: float = 1000.0, **options: Any) -> Path:
    Workspace(root).open(source="urls")
    config = UrlsConfig(source="urls", workspace=root, inputs=(str(path),), backoff_s=0.01)
    scrape(replace(config, **options), clock=lambda: clock)
    return root


def merged(tmp_path: Path, *roots: Path, name: str = "all") -> Path:
    inputs = tuple(map(str, roots))
    merge(MergeConfig(workspace=tmp_path / name, inputs=inputs))
    assert [checked.state for checked in check_workspace(tmp_path / name)] == ["ok"]
    return tmp_path / name


def query(root: Path, sql: str) -> list[tuple[Any, ...]]:
    ledger = Ledger(root / "raw" / "ledger.sqlite")
    try:
        return [tuple(row) for row in ledger.query(sql)]
    finally:
        ledger.close()


@pytest.fixture
def shards(server: Server, tmp_path: Path) -> list[Path]:
    """A list of 60 URLs in three workspaces, each with several segments."""

    async def large(ask: Ask) -> bytes:
        return answer(b"", 404) if "gone" in ask.path else answer(png(ask.path, 100_000))

    server.behaviour = large
    rows = [f"{server.url}/{n}.png\tcaption {n}\n" for n in range(60)]
    rows += [f"{server.url}/gone.png\tx\n", f"{server.url}/7.png\tanother\n"]
    path = write(tmp_path / "l.tsv", "".join(rows))
    return [scrape_into(tmp_path / f"w{n}", path, shard=f"{n}/3", segment_mb=1) for n in range(3)]


def test_shards_merge_into_what_one_machine_would_have(
    server: Server, shards: list[Path], tmp_path: Path
) -> None:
    root = merged(tmp_path, *shards)
    whole = scrape_into(tmp_path / "whole", tmp_path / "l.tsv")
    assert stored(root) == stored(whole)
    assert states(root) == states(whole)
    one, other = (read_manifest(place / "raw", "raw") for place in (root, whole))
    assert one.counts == other.counts
    assert one.details["content"] == other.details["content"]
    assert server.image_hits["/7.png"] == 2  # once by its shard, once by the whole


def test_latencies_are_added_up_also_beside_a_ledger_without_any(
    server: Server, shards: list[Path], tmp_path: Path
) -> None:
    with closing(sqlite3.connect(shards[2] / "raw" / "ledger.sqlite")) as db, db:
        db.execute("DROP TABLE latencies")
        db.execute("DROP TABLE host_latencies")
    requests = sum(query(root, "SELECT sum(attempts) FROM urls")[0][0] for root in shards[:2])
    root = merged(tmp_path, *shards)
    assert query(root, "SELECT minute, sum(requests) FROM latencies") == [(1000 // 60, requests)]
    (hosts,) = query(root, "SELECT host, sum(requests) FROM host_latencies")
    assert hosts == (server.url.removeprefix("http://"), requests)


def test_closed_segments_are_linked_and_the_open_one_is_copied(
    shards: list[Path], tmp_path: Path
) -> None:
    root = merged(tmp_path, *shards)
    links = [path.stat().st_nlink for path in sorted((root / "raw/segments").glob("*.tar"))]
    assert sorted(links)[:3] == [1, 1, 1]
    assert links.count(2) == len(links) - 3 > 3


def test_a_shard_that_goes_on_leaves_the_merged_workspace_whole(
    server: Server, shards: list[Path], tmp_path: Path
) -> None:
    root = merged(tmp_path, *shards)
    more = "".join(f"{server.url}/more{n}.png\tx\n" for n in range(30))
    path = tmp_path / "l.tsv"
    write(path, path.read_text() + more)
    scrape_into(shards[0], path, shard="0/3", segment_mb=1)
    assert [checked.state for checked in check_workspace(root)] == ["ok"]


def test_a_merged_workspace_is_scraped_on_and_deduped(
    server: Server, shards: list[Path], tmp_path: Path
) -> None:
    root = merged(tmp_path, *shards)
    asked = server.hits.copy()
    path = tmp_path / "l.tsv"
    scrape_into(root, path)
    assert server.image_hits == {k: n for k, n in asked.items() if k in server.image_hits}
    write(path, path.read_text() + f"{server.url}/new.png\tnew\n")
    scrape_into(root, path)
    assert len(stored(root)) == 61
    assert [checked.state for checked in check_workspace(root)] == ["ok"]
    assert dedupe(DedupeConfig(workspace=root)).counts["rows"] == 62


def test_the_same_merge_again_does_nothing_and_another_is_refused(
    shards: list[Path], tmp_path: Path
) -> None:
    root = merged(tmp_path, *shards)
    inputs = tuple(map(str, shards))
    assert merge(MergeConfig(workspace=root, inputs=inputs)).outcome == "unchanged"
    with pytest.raises(WorkspaceError, match=r"has a raw store of its own\. Nothing was touched"):
        merge(MergeConfig(workspace=root, inputs=inputs[:2]))


@pytest.mark.parametrize("step", ["_take_segment", "_merge_ledgers", "_finish", "write_manifest"])
def test_killed_at_any_step_the_same_command_goes_on(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    root = tmp_path / "killed"
    config = MergeConfig(workspace=root, inputs=tuple(map(str, shards)))
    calls = 0
    real = getattr(merging, step)

    def stop(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (4 if step == "_take_segment" else 1):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(merging, step, stop)
    with pytest.raises(KeyboardInterrupt):
        merge(config)
    kept = {p: p.stat().st_ino for p in (root / "raw/segments").glob("*.tar")}
    assert kept
    monkeypatch.setattr(merging, step, real)
    merge(config)
    assert all(path.stat().st_ino == inode for path, inode in kept.items())
    whole = merged(tmp_path, *shards)
    assert stored(root) == stored(whole)
    assert [checked.state for checked in check_workspace(root)] == ["ok"]
    assert not list((root / "raw").glob("merge*"))


# --- Conflicts ------------------------------------------------------------------------------------


def two(
    server: Server, tmp_path: Path, times: tuple[float, float], answers: list[bytes]
) -> list[Path]:
    """Two workspaces that asked the same URL at these times and got these answers."""

    async def by_turn(ask: Ask) -> bytes:
        return answers[ask.turn - 1]

    server.behaviour = by_turn
    made = []
    for number, when in enumerate(times):
        path = write(tmp_path / f"list{number}.tsv", f"{server.url}/a.png\tcaption {number}\n")
        made.append(scrape_into(tmp_path / f"w{number}", path, when, attempts=1))
    return made


IMAGE, OTHER = answer(png("a")), answer(png("b"))
OPTED_OUT = answer(png("a"), X_Robots_Tag="noai")
GONE, FORBIDDEN = answer(b"", 404), answer(b"", 403)


@pytest.mark.parametrize(
    ("answers", "times", "state", "kept"),
    [
        ([IMAGE, GONE], (1000, 2000), "done", "a"),
        ([GONE, IMAGE], (2000, 1000), "done", "a"),
        ([FORBIDDEN, GONE], (2000, 1000), "missing", None),
        ([IMAGE, OTHER], (1000, 2000), "done", "b"),
        ([IMAGE, OTHER], (2000, 1000), "done", "a"),
        ([IMAGE, OTHER], (1000, 1000), "done", "a"),
        ([IMAGE, OPTED_OUT], (1000, 2000), "opted_out", None),
        ([IMAGE, OPTED_OUT], (1000, 1000), "opted_out", None),
        ([IMAGE, OPTED_OUT], (2000, 1000), "done", "a"),
        ([OPTED_OUT, IMAGE], (1000, 1000), "opted_out", None),
        ([OPTED_OUT, IMAGE], (1000, 2000), "done", "a"),
        ([OPTED_OUT, GONE], (1000, 2000), "opted_out", None),
    ],
)
def test_of_two_rows_of_a_url_one_is_kept_by_the_rules(
    server: Server,
    tmp_path: Path,
    answers: list[bytes],
    times: tuple[float, float],
    state: str,
    kept: str | None,
) -> None:
    root = merged(tmp_path, *two(server, tmp_path, times, answers))
    assert [found for found, _ in states(root).values()] == [state]
    assert list(stored(root).values()) == ([png(kept)] if kept else [])
    ((attempts, first),) = query(root, "SELECT attempts, first_time FROM urls")
    assert (attempts, first) == (2, 1000)


def test_all_captions_are_kept_and_the_rest_is_that_of_the_first(
    server: Server, tmp_path: Path
) -> None:
    root = merged(tmp_path, *two(server, tmp_path, (2000, 1000), [IMAGE, IMAGE]))
    sql = "SELECT section, caption, captions FROM items"
    assert query(root, sql) == [("list0", "caption 0", '["caption 0","caption 1"]')]


def test_earlier_versions_follow_the_row_that_is_kept(server: Server, tmp_path: Path) -> None:
    roots = two(server, tmp_path, (1000, 2000), [IMAGE, IMAGE, OTHER])
    scrape_into(roots[0], tmp_path / "list0.tsv", 3000, refresh=True)
    root = merged(tmp_path, *reversed(roots))
    assert list(stored(root).values()) == [png("b")]
    ((version, digest),) = query(root, "SELECT version, sha256 FROM versions")
    assert (version, digest) == (1, hashlib.sha256(png("a")).digest())


# --- Bad input ------------------------------------------------------------------------------------


def test_what_cant_be_merged_is_refused_before_anything_is_written(
    server: Server, shards: list[Path], tmp_path: Path
) -> None:
    def refused(*roots: Path, error: type[PipelineError], match: str) -> None:
        with pytest.raises(error, match=match):
            merge(MergeConfig(workspace=tmp_path / "new", inputs=tuple(map(str, roots))))
        assert not (tmp_path / "new").exists()

    refused(shards[0], error=ConfigError, match="two or more different workspaces")
    refused(shards[0], shards[0], error=ConfigError, match="two or more different workspaces")
    refused(shards[0], tmp_path / "none", error=WorkspaceError, match="not a workspace")
    blog = Workspace(tmp_path / "blog").open(source="dalleblog").root
    refused(shards[0], blog, error=ContractError, match="pipeline scrape")
    with sqlite3.connect(shards[1] / "raw/ledger.sqlite") as ledger:
        ledger.execute("UPDATE meta SET value = '2' WHERE name = 'version'")
    refused(*shards, error=ContractError, match="of an earlier version. Run `pipeline scrape`")
    (shards[2] / "raw/manifest.json").unlink()
    refused(shards[0], shards[2], error=ContractError, match="pipeline scrape")
    with pytest.raises(ConfigError, match="can't be merged into itself"):
        merge(MergeConfig(workspace=shards[0], inputs=tuple(map(str, shards))))


def test_a_shortened_segment_is_named(shards: list[Path], tmp_path: Path) -> None:
    path = next((shards[1] / "raw/segments").glob("*.tar"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ContractError, match="has 1,000 bytes, expected"):
        merge(MergeConfig(workspace=tmp_path / "new", inputs=tuple(map(str, shards))))


def test_the_command_prints_the_counts(shards: list[Path], tmp_path: Path) -> None:
    line = ["merge", *map(str, shards), "--workspace", str(tmp_path / "all")]
    done = run_command(line)
    assert done.exit_code == 0, done.output
    assert "merge: done" in done.output
    assert "urls 61" in done.output


def test_the_new_workspace_must_be_named(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_command(["merge", *map(str, shards)])
    assert done.exit_code == 2
    assert "give its folder, --workspace NEW" in done.output
    assert not (tmp_path / "data").exists()


def test_the_options_of_the_first_are_taken_over_without_its_shard(
    server: Server, tmp_path: Path
) -> None:
    path = write(tmp_path / "l.tsv", "".join(f"{server.url}/{n}.png\tx\n" for n in range(20)))
    roots = [str(tmp_path / f"w{n}") for n in range(2)]
    for number, root in enumerate(roots):
        call = ["scrape", "urls", str(path), "--workspace", root, "--shard", f"{number}/2"]
        assert run_command([*call, "--contact", "me@x.test"]).exit_code == 0
    there = tmp_path / "all"
    assert run_command(["merge", *roots, "--workspace", str(there)]).exit_code == 0
    (kept,) = read_marker(there)["options"]["scrape"].values()
    assert kept["contact"] == "me@x.test"
    assert "shard" not in kept
    write(path, path.read_text() + "".join(f"{server.url}/new{n}.png\tx\n" for n in range(20)))
    again = run_command(["scrape", "urls", "--workspace", str(there)])
    assert again.exit_code == 0, again.output
    assert len(stored(there)) == 40
