"""Lists through `scrape`: asked once, resumed, changed between runs, and on to dedupe."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.storage import read_manifest, sha256_file
from pipeline.core.workspace import Workspace
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.run import run as dedupe
from pipeline.verify.check import check_workspace
from scrapers.config import ScrapeConfig
from scrapers.fetch.client import Client
from scrapers.rawstore.ledger import Ledger
from scrapers.scrape import find_finished, scrape
from scrapers.sources.urls.config import UrlsConfig
from tests.helpers.cli import run_command
from tests.helpers.crawls import Ask, Server, answer, states, stored
from tests.scrapers.sources.urls.lists import compress, write, write_parquet
from tests.scrapers.test_scrape_manners import Names

ROOT = Path(__file__).parents[4]


def png_of(path: str) -> bytes:
    data = io.BytesIO()
    colour = tuple(hashlib.sha256(path.encode()).digest()[:3])
    Image.new("RGB", (16, 16), colour).save(data, "PNG")
    return data.getvalue()


async def image(ask: Ask) -> bytes:
    """A PNG of one colour, another for each path; 404 for paths with `missing` in them."""
    if "missing" in ask.path:
        return answer(b"", 404)
    return answer(png_of(ask.path))


@pytest.fixture
def config(server: Server, tmp_path: Path) -> UrlsConfig:
    server.behaviour = image
    workspace = Workspace(tmp_path / "data").open(source="urls").root
    return UrlsConfig(source="urls", workspace=workspace, backoff_s=0.01, max_backoff_s=0.05)


def run(config: UrlsConfig, *lists: Path | str, **options: Any) -> StageReport:
    return scrape(replace(config, inputs=tuple(map(str, lists)), **options))


def items(root: Path) -> dict[str, tuple[str, list[str], Any, str]]:
    """Section, captions, extra and state of each URL's path."""
    ledger = Ledger(root / "raw" / "ledger.sqlite")
    found = {}
    sql = "SELECT url, section, caption, captions, extra, state FROM items"
    for url, section, caption, captions, extra, state in ledger.query(sql):
        every: list[str] = json.loads(str(captions)) if captions else [str(caption)]
        path = "/" + str(url).split("/", 3)[3]
        found[path] = (str(section), every, json.loads(str(extra or "null")), str(state))
    ledger.close()
    return found


def assert_whole(root: Path) -> None:
    assert [checked.state for checked in check_workspace(root)] == ["ok"]


def kept_rows(root: Path) -> list[dict[str, Any]]:
    manifest = read_manifest(root / "dedupe", "dedupe")
    return [
        row
        for entry in manifest.files
        if entry.path.startswith("kept/")
        for row in pq.read_table(root / "dedupe" / entry.path).to_pylist()
    ]


def test_a_cc12m_list_goes_through_scrape_and_dedupe(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    lines = [f"{server.url}/{n}.png\tA <PERSON> and number {n}" for n in range(40)]
    lines += [
        f"{server.url}/missing.png\tgone",
        "broken row",
        f"{server.url}/3.png\tanother caption",
    ]
    path = write(tmp_path / "cc12m.tsv", "\n".join(lines))
    report = run(config, path, preset="cc12m")
    assert report.outcome == "done"
    assert report.counts["done"] == 40
    assert report.counts["missing"] == 1
    assert report.details["differences"] == ["1 row is broken (expected 2 columns, found 1: 1)."]
    assert set(server.image_hits.values()) == {1}
    found = items(config.workspace)
    assert found["/3.png"] == (
        "cc12m",
        ["A <PERSON> and number 3", "another caption"],
        None,
        "done",
    )
    assert found["/missing.png"][3] == "missing"
    assert_whole(config.workspace)
    dedupe(DedupeConfig(workspace=config.workspace))
    rows = kept_rows(config.workspace)
    assert len(rows) == 40
    assert {row["section"] for row in rows} == {"cc12m"}
    assert {row["rank"] for row in rows} == {None}


def test_a_wit_list_goes_through_scrape_and_dedupe(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    head = (
        "language\tpage_url\timage_url\tcaption_reference_description\tcaption_attribution_description\t"
        "caption_alt_text_description\tmime_type\toriginal_width\n"
    )
    rows = [
        f'en\thttp://w/{n}\t{server.url}/w{n}.png\t"first\nsecond {n}"\tEnglish: {n}\t\timage/png\t{n}\n'
        for n in range(20)
    ]
    rows.append(f"de\thttp://w/x\t{server.url}/drawing.svg\t\tx\t\timage/svg+xml\t9\n")
    rows.append(f"de\thttp://w/y\t{server.url}/none.png\t\t\t\timage/png\t9\n")
    path = write(tmp_path / "wit_v1.train.tsv.gz", compress((head + "".join(rows)).encode(), ".gz"))
    report = run(config, path, preset="wit", where="original_width < 15")
    assert report.counts["done"] == report.counts["urls"] == 15
    assert "/drawing.svg" not in server.image_hits
    found = items(config.workspace)["/w7.png"]
    assert found[:2] == ("wit_v1.train", ["first\nsecond 7", "English: 7"])
    assert found[2]["language"] == "en"
    dedupe(DedupeConfig(workspace=config.workspace))
    assert {row["caption"] for row in kept_rows(config.workspace)} == {
        f"first second {n}" for n in range(15)
    }


def test_a_coyo_folder_goes_through_scrape_and_dedupe(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    for part in range(3):
        numbers = range(part * 10, part * 10 + 10)
        write_parquet(
            tmp_path / f"coyo-700m/part-{part:05}.parquet",
            {
                "id": list(numbers),
                "url": [f"{server.url}/c{n % 25}.png" for n in numbers],
                "text": [f"caption {n}" for n in numbers],
                "width": [100 * n for n in numbers],
                "watermark_score": [0.1 * (n % 10) for n in numbers],
            },
        )
    folder = tmp_path / "coyo-700m"
    report = run(config, folder, preset="coyo", where="width >= 200 and watermark_score < 0.55")
    assert report.outcome == "done"
    found = items(config.workspace)
    assert found["/c2.png"] == (
        "coyo-700m", ["caption 2"], {"id": 2, "width": 200, "watermark_score": 0.2}, "done"
    )  # fmt: skip
    assert len(found) == 16
    dedupe(DedupeConfig(workspace=config.workspace))
    assert len(kept_rows(config.workspace)) == 16


def test_a_url_in_two_lists_is_asked_once_with_all_its_captions(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    one = write(tmp_path / "one.tsv", f"{server.url}/a.png\tx\n{server.url}/b.png\ty\n")
    other = write(tmp_path / "other.tsv", f"{server.url}/b.png\tz\n{server.url}/c.png\tx\n")
    assert run(config, one, other).counts["done"] == 3
    assert server.image_hits == {"/a.png": 1, "/b.png": 1, "/c.png": 1}
    assert items(config.workspace)["/b.png"][:2] == ("one", ["y", "z"])


def test_a_finished_list_is_neither_asked_nor_written_again(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    path = write(tmp_path / "l.tsv", f"{server.url}/a.png\tx\n{server.url}/b.png\ty\n")
    run(config, path)
    manifest = read_manifest(config.workspace / "raw", "raw")
    assert manifest.inputs == {"lists/l/l.tsv": sha256_file(path)}
    before, asked = sha256_file(config.workspace / "raw/ledger.sqlite"), server.hits.copy()
    assert run(config, path).outcome == "unchanged"
    assert find_finished(replace(config, inputs=(str(path),))) is not None
    assert sha256_file(config.workspace / "raw/ledger.sqlite") == before
    assert server.hits == asked


def test_a_list_that_changes_is_read_again_and_rows_that_left_it_are_reported(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    path = tmp_path / "l.tsv"
    rows = [f"{server.url}/{n}.png\tcaption {n}\n" for n in range(6)]
    write(path, "".join(rows[:4]))
    run(config, path)
    write(path, "".join(rows[2:]))
    report = run(config, path)
    assert report.outcome == "done"
    assert report.details["differences"] == [
        "2 URLs of earlier runs are no longer named; what was fetched is kept."
    ]
    assert server.image_hits == {f"/{n}.png": 1 for n in range(6)}
    assert len(stored(config.workspace)) == 6
    assert read_manifest(config.workspace / "raw", "raw").inputs == {
        "lists/l/l.tsv": sha256_file(path)
    }
    assert run(config, path).outcome == "unchanged"
    assert_whole(config.workspace)


def test_a_list_that_is_written_to_while_it_is_read_is_read_again(
    server: Server, config: UrlsConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "l.tsv", f"{server.url}/a.png\tx\n")

    async def appending(ask: Ask) -> bytes:
        if "a.png" in ask.path:
            write(path, f"{server.url}/a.png\tx\n{server.url}/b.png\ty\n")
        return await image(ask)

    server.behaviour = appending
    run(config, path)
    assert "The list l.tsv was changed while it was read" in caplog.text
    assert run(config, path).counts["done"] == 2
    assert run(config, path).outcome == "unchanged"


def test_failed_rows_are_asked_again_on_request(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    healed = False

    async def flaky(ask: Ask) -> bytes:
        return await image(ask) if healed or "bad" not in ask.path else answer(b"", 403)

    server.behaviour = flaky
    path = write(tmp_path / "l.tsv", f"{server.url}/a.png\tx\n{server.url}/bad.png\ty\n")
    assert run(config, path).outcome == "incomplete"
    healed = True
    assert run(config, path, retry_failed=True).outcome == "done"
    assert server.image_hits == {"/a.png": 1, "/bad.png": 2}


def test_a_private_host_in_a_list_of_public_ones_is_refused_unless_named(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    """The public host's name leads nowhere; no request leaves this machine."""
    rows = f"{server.url}/a.png\tx\nhttp://192.0.2.1.nip.invalid.com:9/b.png\ty\n"
    path = write(tmp_path / "l.tsv", rows)
    quick = replace(config, attempts=1, timeout_s=1.0, max_outage_s=0.1)
    run(quick, path, connect_to=None, limit=None)
    assert server.hits == {}
    assert states(config.workspace)[f"{server.url}/a.png"][0] in ("failed", "pending")
    run(quick, path, allow_host=("127.0.0.1",), retry_failed=True)
    assert server.image_hits == {"/a.png": 1}


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_an_image_with_another_hash_is_a_state_of_its_own_and_not_stored(
    server: Server, config: UrlsConfig, tmp_path: Path, algorithm: str
) -> None:
    def digest(path: str) -> str:
        return hashlib.new(algorithm, png_of(path)).hexdigest()

    rows = [("/a.png", digest("/a.png").upper()), ("/b.png", digest("/other.png"))]
    lines = "".join(f"{server.url}{path}\tx\t{hash_}\n" for path, hash_ in rows)
    path = write(tmp_path / "l.tsv", f"url\tcaption\thash\n{lines}")
    report = run(config, path, verify_hash=f"{algorithm}=hash")
    assert report.outcome == "done"
    assert report.counts == {
        "urls": 2, "done": 1, "hash_mismatch": 1, "pending": 0, "missing": 0, "failed": 0,
        "opted_out": 0, "not_an_image": 0, "truncated": 0,
    }  # fmt: skip
    assert report.details["failures"] == {f"{algorithm}_differs": 1}
    assert states(config.workspace)[f"{server.url}/b.png"] == (
        "hash_mismatch",
        f"{algorithm}_differs",
    )
    assert list(stored(config.workspace)) == [f"{server.url}/a.png"]
    assert_whole(config.workspace)
    # It is decided: neither the same command nor --retry-failed asks again.
    run(config, path, verify_hash=f"{algorithm}=hash", limit=9)
    run(config, path, verify_hash=f"{algorithm}=hash", retry_failed=True)
    assert server.image_hits == {"/a.png": 1, "/b.png": 1}
    dedupe(DedupeConfig(workspace=config.workspace))
    assert [row["url"] for row in kept_rows(config.workspace)] == [f"{server.url}/a.png"]


def test_an_image_stored_before_its_hash_was_known_is_compared_with_it(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    good, other = (hashlib.sha256(png_of(name)).hexdigest() for name in ("/a.png", "/x.png"))
    rows = f"{server.url}/a.png\tx\t{good}\n{server.url}/b.png\ty\t{other}\n"
    path = write(tmp_path / "l.tsv", f"url\tcaption\tsha256\n{rows}")
    assert run(config, path).counts["done"] == 2
    report = run(config, path, verify_hash="sha256=sha256")
    assert (report.counts["done"], report.counts["hash_mismatch"]) == (1, 1)
    assert list(stored(config.workspace)) == [f"{server.url}/a.png"]
    assert server.image_hits == {"/a.png": 1, "/b.png": 2}
    assert_whole(config.workspace)


def test_a_refresh_keeps_an_image_whose_hash_is_right_when_the_site_has_another(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    right = hashlib.sha256(png_of("/a.png")).hexdigest()
    path = write(tmp_path / "l.tsv", f"url\tcaption\tsha256\n{server.url}/a.png\tx\t{right}\n")
    run(config, path, verify_hash="sha256=sha256")

    async def changed(ask: Ask) -> bytes:
        return answer(png_of("/changed.png"))

    server.behaviour = changed
    report = run(config, path, verify_hash="sha256=sha256", refresh=True)
    assert (report.outcome, report.counts["done"]) == ("incomplete", 1)
    assert stored(config.workspace) == {f"{server.url}/a.png": png_of("/a.png")}


def test_connect_to_sends_the_requests_of_public_hosts_to_a_server_that_is_named(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    rows = "".join(f"http://h{n % 5}.example.org/{n}.png\tcaption {n}\n" for n in range(20))
    path = write(tmp_path / "l.tsv", rows)
    assert run(config, path, connect_to=f"127.0.0.1:{server.port}").counts["done"] == 20


def test_the_hosts_of_a_list_and_the_busiest_are_announced(
    server: Server, config: UrlsConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def client(_config: ScrapeConfig) -> Client:
        names = {f"h{n}.example.org": "127.0.0.1" for n in range(3)}
        return Client(user_agent="test", resolver=Names(names))

    hosts = [f"http://h{number}.example.org:{server.port}" for number in (0, 1, 1, 1, 2)]
    lines = "".join(f"{host}/{n}.png\tx\n" for n, host in enumerate(hosts))
    path = write(tmp_path / "l.tsv", lines)
    allowed = tuple(f"h{n}.example.org" for n in range(3))
    asks = replace(config, inputs=(str(path),), allow_host=allowed)
    with caplog.at_level(logging.INFO, "scrapers.crawl.announcing"):
        scrape(asks, make_client=client)
    assert "5 URLs on 3 hosts are named; most of them are on h1.example.org." in caplog.text
    assert "About to request up to 3 URLs from h1.example.org: about 300 kB" in caplog.text
    assert len(stored(config.workspace)) == 5


def test_plan_counts_without_asking_any_host(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    path = write(tmp_path / "l.tsv", f"{server.url}/a.png\tx\nbroken\n")
    report = run(config, path, plan=True)
    assert report.counts == {"sections": 1, "captions": 1, "urls": 1}
    assert report.details["num_differences"] == 1
    assert not server.hits


# --- The command line -----------------------------------------------------------------------------


def command(*arguments: Path | str, code: int | None = 0) -> str:
    done = run_command(["scrape", "urls", *map(str, arguments)])
    assert done.exit_code in ((1, 2) if code is None else (code,)), done.output
    return done.output


def test_a_dry_run_prints_columns_and_rows_and_writes_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "l.tsv", f"url\ttext\n{server.url}/a.png\tx\n")
    output = command(path, "--dry-run")
    assert "l.tsv: URL from url; caption from text. Its first rows:" in output
    assert f"{server.url}/a.png  x" in output
    assert [p.name for p in tmp_path.iterdir()] == ["l.tsv"]
    assert not server.hits


def test_a_workspace_remembers_its_lists(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.behaviour = image
    path = write(tmp_path / "l.csv", f"id,link,text\n1,{server.url}/a.png,x\n")
    command(path, "--url-column", "link", "--workspace", "w")
    write(path, f"id,link,text\n1,{server.url}/a.png,x\n2,{server.url}/b.png,y\n")
    command("--workspace", "w")
    assert set(items(tmp_path / "w")) == {"/a.png", "/b.png"}
    listed = run_command(["scrape", "urls", "--workspace", "w", "--list-urls"])
    assert listed.stdout == f"l\tx\t\t{server.url}/a.png\nl\ty\t\t{server.url}/b.png\n"


@pytest.mark.parametrize(
    "value",
    ["", " ", ".", "..", "0", "x" * 5000, "x/" * 2000, "a\nb", "\x1b[31m", "\udcff", "~nobody-here/x",
     "hf:", "s3:", "://", "file://", "http://[", "http://127.0.0.1:1/l", "{}", "*", "[", "**/**", "/dev/zero",
     "/dev/null", "pipe", "memory://none.tsv", "nosuchscheme://x/y", "zip://x::no.zip"],
)  # fmt: skip
def test_a_hostile_list_is_a_sentence(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    os.mkfifo(tmp_path / "pipe")
    output = command(value, "--workspace", "w", code=None)
    assert output.startswith("Error: "), output
    assert "unexpected error" not in output
    assert not (tmp_path / "w").exists()


def test_run_passes_lists_to_scrape(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.behaviour = image
    rows = "".join(f"{server.url}/{n}.png\tcaption {n}\n" for n in range(5))
    write(tmp_path / "l.tsv", rows)
    line = ["run", "urls", "l.tsv", "--until", "dedupe", "--workspace", "w"]
    done = run_command(line)
    assert done.exit_code == 0, done.output
    assert len(kept_rows(tmp_path / "w")) == 5


def test_wrong_options_make_no_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "needs lists" in command("--workspace", "w", code=2)
    assert "There is no list at" in command("no.tsv", "--workspace", "w", code=2)
    assert list(tmp_path.iterdir()) == []


# --- Killed ---------------------------------------------------------------------------------------


# Twice for each folder: forks the command, and kills it some time after its ledger exists.
_KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import scrapers.scrape, scrapers.sources.urls.source
from pipeline.app.cli import app

listed, *folders = sys.argv[1:]
for number, folder in enumerate(folders):
    pause = random.Random(number)
    for _ in range(2):
        if not (pid := os.fork()):
            app(["scrape", "urls", listed, "--workspace", folder, "--quiet"])
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while not Path(folder, "raw/ledger.sqlite").exists() and not os.waitid(os.P_PID, pid, ended):
            time.sleep(0.01)
        time.sleep(pause.random() * 0.3)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
"""


def test_killed_anywhere_it_ends_with_the_same_rows(server: Server, tmp_path: Path) -> None:
    async def slow(ask: Ask) -> bytes:
        time.sleep(0.002)
        return await image(ask)

    server.behaviour = slow
    rows = [f"{server.url}/{n % 280}.png\tcaption {n}\n" for n in range(300)]
    path = write(tmp_path / "l.tsv.zst", compress("".join(rows).encode(), ".zst"))
    wanted = tmp_path / "whole"
    Workspace(wanted).open(source="urls")
    config = UrlsConfig(source="urls", workspace=wanted, backoff_s=0.01)
    run(config, path)
    roots = [tmp_path / f"killed{number}" for number in range(3)]
    subprocess.run([sys.executable, "-c", _KILLS, path, *roots], cwd=ROOT, check=True)
    for root in roots:
        report = scrape(replace(config, workspace=root, inputs=(str(path),)))
        assert report.counts["done"] == 280
        assert items(root) == items(wanted)
        assert stored(root) == stored(wanted)
        assert_whole(root)
        whole, killed = (read_manifest(place / "raw", "raw").details for place in (wanted, root))
        assert killed["content"] == whole["content"]


@pytest.mark.parametrize("text", ["", "url\tcaption\n"])
def test_a_list_that_became_empty_leaves_the_workspace_as_it_is(
    server: Server, config: UrlsConfig, tmp_path: Path, text: str
) -> None:
    path = write(tmp_path / "l.tsv", f"{server.url}/a.png\tx\n")
    run(config, path)
    write(path, text)
    with pytest.raises(SourceError, match="nothing to fetch"):
        run(config, path)
    assert_whole(config.workspace)


def test_a_missing_list_is_named(config: UrlsConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no list at .*gone\.tsv"):
        run(config, tmp_path / "gone.tsv")


def test_nothing_secret_of_a_url_is_printed_or_kept(
    server: Server, config: UrlsConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = server.url.replace("://", "://user:secret@")
    path = write(tmp_path / "l.tsv", f"{base}/a.png\tx\n{base}:x/b.png\ty\n")
    with caplog.at_level(logging.INFO):
        run(config, path)
    assert "secret" not in caplog.text
    assert b"secret" not in (config.workspace / "raw/ledger.sqlite").read_bytes()
    assert server.image_hits == {"/a.png": 1}


def test_the_first_pass_reports_the_rows_that_it_has_read(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    lines = [f"{server.url}/{n}.png\t{n}" for n in range(30)] + ["broken row"]
    path = write(tmp_path / "list.tsv", "\n".join(["url\tcaption", *lines]))
    heard: list[tuple[int, int | None, dict[str, Any]]] = []

    def progress(done: int, total: int | None, notes: Mapping[str, Any] | None = None) -> None:
        heard.append((done, total, dict(notes or {})))

    scrape(replace(config, inputs=(str(path),), where="caption != '3'"), progress)
    assert heard[0] == (0, None, {"rows read": "31", "planned": "29", "list": "list.tsv"})
    assert heard[-1][:2] == (29, 29)
