"""img2dataset itself, in its environment, downloads a list from a server on this machine."""

from __future__ import annotations

import http.server
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.errors import ConfigError, DependencyError, SourceError
from scrapers.bulk.download import (
    IMAGES,
    LIST,
    OPTIONS,
    BulkOptions,
    Distributor,
    download,
    rows_done,
    write_list,
)
from scrapers.resizing.rule import EncodeFormat, ResizeRule

SCHEMA = pa.schema([("url", pa.string()), ("caption", pa.string()), ("row", pa.int64())])
needs_img2dataset = pytest.mark.skipif(
    "DALLE_IMG2DATASET_PYTHON" not in os.environ,
    reason="DALLE_IMG2DATASET_PYTHON names no interpreter with img2dataset (`make test-engines`)",
)


def options(**changed: Any) -> BulkOptions:
    python = os.environ.get("DALLE_IMG2DATASET_PYTHON", sys.executable)
    settings = {"python": Path(python), "processes": 2, "threads": 8, "shard_rows": 20}
    return BulkOptions(**{**settings, "attempts": 2, "timeout_s": 10, **changed})


def png(number: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), (number % 256, number * 7 % 256, 90)).save(data, "PNG")
    return data.getvalue()


class Site(http.server.ThreadingHTTPServer):
    """/N.png is an image, /noai-N.png one that is not for training, /late-N.png fails until `is_late`
    is unset, all else is missing."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.delay_s = 0.0
        self.is_late = True
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        self.server.agents.add(self.headers["User-Agent"])
        time.sleep(self.server.delay_s)
        if self.path.startswith("/late-") and self.server.is_late:
            self.send_error(500)
            return
        name = self.path.strip("/").removesuffix(".png").rpartition("-")[2]
        if not name.isdigit():
            self.send_error(404)
            return
        body = png(int(name))
        self.send_response(200)
        if "noai" in self.path:
            self.send_header("X-Robots-Tag", "noai")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def begin(folder: Path, site: Site, count: int = 50) -> None:
    names = [*(f"{n}.png" for n in range(count)), "noai-1.png", "gone.png"]
    rows = [
        {"url": f"{site.url}/{name}", "caption": f"caption, {name}", "row": n}
        for n, name in enumerate(names)
    ]
    assert write_list(rows, SCHEMA, folder) == (folder / LIST, count + 2)


def found(folder: Path) -> dict[int, tuple[str, str | None]]:
    """Status and message of each row of the list."""
    tables = [pq.read_table(path) for path in sorted((folder / IMAGES).glob("*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len({row["row"] for row in rows}) == len(rows)
    return {row["row"]: (row["status"], row["error_message"]) for row in rows}


def bodies(folder: Path) -> set[bytes]:
    """The files in the tars."""
    read = set()
    for path in sorted((folder / IMAGES).glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.name.endswith(".jpg")]
            read |= {tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    return read


@needs_img2dataset
@pytest.mark.slow
@pytest.mark.parametrize("distributor", ["multiprocessing", "ray", "pyspark"])
def test_every_row_comes_back_with_its_bytes_or_its_reason(
    site: Site, tmp_path: Path, distributor: Distributor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if distributor == "pyspark" and shutil.which("java") is None:
        pytest.skip("no Java runtime")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    begin(tmp_path / "round", site)
    download(tmp_path / "round", options(distributor=distributor, agent="dalle-pipeline me@x.test"))
    rows = found(tmp_path / "round")
    assert [rows[n] for n in range(50)] == [("success", None)] * 50
    assert rows[50] == ("failed_to_download", "Use of image disallowed by X-Robots-Tag directive")
    assert rows[51] == ("failed_to_download", "HTTP Error 404: Not Found")
    assert bodies(tmp_path / "round") == {png(n) for n in range(50)}
    assert all("dalle-pipeline me@x.test" in agent for agent in site.agents)
    asked = dict(site.requests)
    download(tmp_path / "round", options(distributor=distributor))
    assert dict(site.requests) == asked


@needs_img2dataset
@pytest.mark.slow
def test_a_killed_worker_costs_its_shard_a_second_try(site: Site, tmp_path: Path) -> None:
    site.delay_s = 0.05
    begin(tmp_path / "round", site, 200)
    killer = threading.Thread(target=_kill_a_worker, args=(site,))
    killer.start()
    download(tmp_path / "round", options(threads=2))
    killer.join()
    rows = found(tmp_path / "round")
    assert len(rows) == 202
    assert Counter(status for status, _ in rows.values())["success"] == 200
    assert sum(site.requests.values()) > 203


def _kill_a_worker(site: Site) -> None:
    """Kill a process that downloads, once it has begun."""
    while sum(site.requests.values()) < 5:
        time.sleep(0.01)
    (parent,) = (
        p for p in psutil.Process().children() if "run_img2dataset" in " ".join(p.cmdline())
    )
    workers = [p for p in parent.children() if "spawn_main" in " ".join(p.cmdline())]
    os.kill(workers[-1].pid, signal.SIGKILL)


@needs_img2dataset
@pytest.mark.slow
def test_the_size_of_shards_stays_that_of_the_first_start(site: Site, tmp_path: Path) -> None:
    begin(tmp_path / "round", site, 50)
    download(tmp_path / "round", options(shard_rows=20))
    shutil.rmtree(tmp_path / "round" / IMAGES / "_tmp", ignore_errors=True)
    for path in (tmp_path / "round" / IMAGES).glob("00001*"):
        path.unlink()
    download(tmp_path / "round", options(shard_rows=7))
    assert len(found(tmp_path / "round")) == 52


def test_an_empty_list_leaves_no_round(tmp_path: Path) -> None:
    assert write_list([], SCHEMA, tmp_path / "round")[1] == 0
    assert not (tmp_path / "round").exists()


def test_an_interpreter_without_img2dataset_is_named(site: Site, tmp_path: Path) -> None:
    begin(tmp_path / "round", site, 3)
    with pytest.raises(DependencyError, match="has no package img2dataset"):
        download(tmp_path / "round", options(python=Path(sys.executable)))


def test_an_interpreter_that_is_not_there_is_named(site: Site, tmp_path: Path) -> None:
    begin(tmp_path / "round", site, 3)
    with pytest.raises(ConfigError, match="--img2dataset-python /nowhere/python can't be run"):
        download(tmp_path / "round", options(python=Path("/nowhere/python")))


def fake(folder: Path, body: str) -> Path:
    """An interpreter that runs `body` as a shell script with the options' file as $2."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_what_fails_three_times_without_a_new_shard_ends_with_its_output(
    site: Site, tmp_path: Path
) -> None:
    begin(tmp_path / "round", site, 3)
    python = fake(tmp_path, f"echo start >> {tmp_path}/starts; echo the cause >&2; exit 7")
    with pytest.raises(SourceError, match=r"0 of 5 rows(.|\n)*exit code 7(.|\n)*the cause"):
        download(tmp_path / "round", options(python=python))
    assert (tmp_path / "starts").read_text().count("start") == 3


def test_a_start_that_finishes_a_shard_does_not_count_as_a_failure(
    site: Site, tmp_path: Path
) -> None:
    begin(tmp_path / "round", site, 3)
    images = tmp_path / "round" / IMAGES
    count = 'n=$(ls "$d" | grep -c stats)'
    python = fake(
        tmp_path,
        f'd={images}; mkdir -p "$d"; {count}; echo \'{{"count": 1}}\' > "$d/0000${{n}}_stats.json"; exit 1',
    )
    download(tmp_path / "round", options(python=python))
    assert rows_done(tmp_path / "round") == 5


def test_an_interrupt_ends_the_downloader(site: Site, tmp_path: Path) -> None:
    begin(tmp_path / "round", site, 3)
    python = fake(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 600")

    def interrupt(done: int, total: int | None, notes: object = None) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(tmp_path / "round", options(python=python), interrupt)
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_opt_outs_are_asked_for_unless_they_are_ignored(tmp_path: Path) -> None:
    kept = options().for_img2dataset(tmp_path, ["row"])
    assert kept["disallowed_header_directives"] == ["noai", "noimageai", "noindex", "noimageindex"]
    assert (
        options(ignore_opt_out=True).for_img2dataset(tmp_path, [])["disallowed_header_directives"]
        == []
    )
    assert (kept["retries"], kept["resize_mode"], kept["disable_all_reencoding"]) == (1, "no", True)


@pytest.mark.parametrize(("kind", "quality"), [("jpg", 90), ("webp", 90), ("png", 6)])
def test_images_are_resized_by_our_rule(tmp_path: Path, kind: EncodeFormat, quality: int) -> None:
    rule = ResizeRule(size=512, mode="center_crop", enlarge=True, format=kind, quality=90)
    resized = options(resize=rule).for_img2dataset(tmp_path, [])
    assert (resized["resize_mode"], resized["image_size"]) == ("center_crop", 512)
    assert (resized["encode_format"], resized["encode_quality"]) == (kind, quality)
    assert (resized["resize_only_if_bigger"], resized["skip_reencode"]) == (False, True)
    assert "disable_all_reencoding" not in resized


def test_nothing_of_ours_lies_among_its_shards(site: Site, tmp_path: Path) -> None:
    begin(tmp_path / "round", site, 3)
    with pytest.raises(SourceError):
        download(tmp_path / "round", options(python=fake(tmp_path, "exit 3")))
    assert sorted(p.name for p in (tmp_path / "round").iterdir()) == [LIST, OPTIONS]
    assert json.loads((tmp_path / "round" / OPTIONS).read_text())["number_sample_per_shard"] == 20
