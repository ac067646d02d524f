"""Indexing images where they are: skipped if unchanged, read again if not, and nothing lost by a kill."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.original_files import read_whole
from pipeline.core.storage import sha256_bytes
from pipeline.core.workspace import Workspace
from scrapers.local import looking
from scrapers.options import build_config
from scrapers.rawstore.ledger import Ledger
from scrapers.scrape import scrape
from scrapers.source import Discovery, FilePlace, Item, StartPage
from scrapers.sources.remarks import Remarks
from tests.helpers.kept_workspace import make_png
from tests.scrapers.local.folders import rows, scrape_source, write_files

ROOT = Path(__file__).parents[3]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of six pairs."""
    files: dict[str, bytes | str | int] = {f"{n}.png": n for n in range(6)}
    return write_files(tmp_path / "photos", files | {f"{n}.txt": f"caption {n}" for n in range(6)})


@pytest.fixture
def read_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []

    def watch(path: str, *, max_bytes: int) -> Any:
        names.append(Path(path).name)
        return read_whole(path, max_bytes=max_bytes)

    monkeypatch.setattr(looking, "read_whole", watch)
    return names


def change(path: Path, number: int) -> None:
    path.write_bytes(make_png(number))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def states(workspace: Path) -> dict[str, tuple[str, str | None]]:
    return {name: (row.state, row.reason) for name, row in rows(workspace).items()}


# --- Again ----------------------------------------------------------------------------------------


def test_unchanged_files_are_not_read_again(
    photos: Path, tmp_path: Path, read_again: list[str]
) -> None:
    first = scrape_source("folder", photos, workspace=tmp_path / "w")
    before = rows(tmp_path / "w")
    assert (first.outcome, len(read_again)) == ("done", 6)
    read_again.clear()
    second = scrape_source("folder", photos, workspace=tmp_path / "w")
    assert (second.outcome, read_again) == ("unchanged", [])
    assert rows(tmp_path / "w") == before


def test_changed_and_new_files_are_read_and_counted(
    photos: Path, tmp_path: Path, read_again: list[str]
) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w")
    read_again.clear()
    change(photos / "2.png", 20)
    write_files(photos, {"9.png": 9, "9.txt": "new"})
    report = scrape_source("folder", photos, workspace=tmp_path / "w")
    assert sorted(read_again) == ["2.png", "9.png"]
    assert rows(tmp_path / "w")["2.png"].sha256 == sha256_bytes(make_png(20))
    assert (report.details["stored"], report.counts["done"]) == (2, 7)


def test_a_file_of_the_same_length_with_another_time_is_read(
    photos: Path, tmp_path: Path, read_again: list[str]
) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w")
    read_again.clear()
    data = (photos / "2.png").read_bytes()
    changed = data[:60] + b"~" + data[61:]
    (photos / "2.png").write_bytes(changed)
    os.utime(photos / "2.png", ns=(1, 1_000_000_000))
    scrape_source("folder", photos, workspace=tmp_path / "w")
    assert read_again == ["2.png"]
    assert rows(tmp_path / "w")["2.png"].sha256 == sha256_bytes(changed)


def test_a_changed_caption_replaces_the_earlier_ones_without_reading_the_image(
    photos: Path, tmp_path: Path, read_again: list[str]
) -> None:
    (photos / "1.txt").write_text("one\ntwo\nthree")
    scrape_source("folder", photos, workspace=tmp_path / "w")
    read_again.clear()
    (photos / "1.txt").write_text("two\nfour")
    report = scrape_source("folder", photos, workspace=tmp_path / "w")
    assert rows(tmp_path / "w")["1.png"].captions == ("two", "four")
    assert (read_again, report.outcome) == ([], "done")


def test_refresh_reads_everything_again(
    photos: Path, tmp_path: Path, read_again: list[str]
) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w")
    before = rows(tmp_path / "w")
    stat = (photos / "3.png").stat()
    (photos / "3.png").write_bytes(make_png(3)[:20].ljust(stat.st_size))  # same length, same time
    os.utime(photos / "3.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    scrape_source("folder", photos, workspace=tmp_path / "w")
    assert rows(tmp_path / "w") == before
    read_again.clear()
    report = scrape_source("folder", photos, workspace=tmp_path / "w", refresh=True)
    assert len(read_again) == 6
    assert report.details["unchanged"] == 5
    assert states(tmp_path / "w")["3.png"] == ("truncated", "ends_early")


def test_retry_failed_reads_only_what_failed(
    photos: Path, tmp_path: Path, read_again: list[str]
) -> None:
    (photos / "4.png").write_bytes(b"no image")
    scrape_source("folder", photos, workspace=tmp_path / "w")
    read_again.clear()
    scrape_source("folder", photos, workspace=tmp_path / "w")
    assert read_again == []
    scrape_source("folder", photos, workspace=tmp_path / "w", retry_failed=True)
    assert read_again == ["4.png"]


# --- Moved and gone -------------------------------------------------------------------------------


def test_a_renamed_root_changes_only_paths_and_urls(
    photos: Path, tmp_path: Path, read_again: list[str]
) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w")
    before = rows(tmp_path / "w")
    read_again.clear()
    moved = photos.rename(tmp_path / "pictures")
    report = scrape_source("folder", moved, workspace=tmp_path / "w")
    after = rows(tmp_path / "w")
    assert (read_again, report.outcome) == ([], "done")
    assert {row.key for row in after.values()} == {row.key for row in before.values()}
    assert after["1.png"].segment == str(moved / "1.png")
    assert after["1.png"].url == (moved / "1.png").as_uri()


def test_a_file_that_is_gone_is_missing_and_comes_back(photos: Path, tmp_path: Path) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w")
    before = rows(tmp_path / "w")
    (photos / "5.png").rename(tmp_path / "5.png")
    report = scrape_source("folder", photos, workspace=tmp_path / "w")
    assert states(tmp_path / "w")["5.png"] == ("missing", "gone")
    assert (report.details["gone"], report.outcome) == (1, "done")
    assert scrape_source("folder", photos, workspace=tmp_path / "w").outcome == "unchanged"
    (tmp_path / "5.png").rename(photos / "5.png")
    scrape_source("folder", photos, workspace=tmp_path / "w")
    assert rows(tmp_path / "w") == before


def test_an_image_that_changed_and_lost_its_caption_is_missing(
    photos: Path, tmp_path: Path
) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w")
    change(photos / "5.png", 50)
    (photos / "5.txt").unlink()
    scrape_source("folder", photos, workspace=tmp_path / "w")
    assert states(tmp_path / "w")["5.png"] == ("missing", "gone")


def test_another_folder_leaves_the_first_one_alone(photos: Path, tmp_path: Path) -> None:
    other = write_files(tmp_path / "other", {"a.png": 30, "a.txt": "a"})
    scrape_source("folder", photos, workspace=tmp_path / "w")
    scrape_source("folder", other, workspace=tmp_path / "w")
    assert len(rows(tmp_path / "w")) == 7
    assert {state for state, _ in states(tmp_path / "w").values()} == {"done"}


def test_files_that_no_image_is_in_any_more_are_forgotten(photos: Path, tmp_path: Path) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w")
    write_files(photos, {"1.jpg": 11})  # wins over 1.png
    scrape_source("folder", photos, workspace=tmp_path / "w")
    ledger = Ledger(tmp_path / "w" / "raw" / "ledger.sqlite")
    names = sorted(Path(str(path)).name for (path,) in ledger.query("SELECT path FROM files"))
    ledger.close()
    assert names == ["0.png", "1.jpg", "2.png", "3.png", "4.png", "5.png"]


def test_two_files_may_exchange_their_names(photos: Path, tmp_path: Path) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w")
    change(photos / "1.png", 21)
    (photos / "0.png").rename(photos / "x")
    (photos / "1.png").rename(photos / "0.png")
    (photos / "x").rename(photos / "1.png")
    scrape_source("folder", photos, workspace=tmp_path / "w")
    found = rows(tmp_path / "w")
    assert found["0.png"].sha256 == sha256_bytes(make_png(21))
    assert found["1.png"].sha256 == sha256_bytes(make_png(0))


def test_a_file_that_vanishes_after_it_was_listed_is_missing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete_first(path: str, *, max_bytes: int) -> Any:
        if path.endswith("2.png"):
            Path(path).unlink()
        return read_whole(path, max_bytes=max_bytes)

    monkeypatch.setattr(looking, "read_whole", delete_first)
    scrape_source("folder", photos, workspace=tmp_path / "w")
    assert states(tmp_path / "w")["2.png"] == ("missing", "gone")
    assert states(tmp_path / "w")["3.png"] == ("done", None)


def test_a_file_that_is_too_large_fails(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "MAX_IMAGE_BYTES", 1000)
    (photos / "2.png").write_bytes(make_png(2) + bytes(1000))
    scrape_source("folder", photos, workspace=tmp_path / "w")
    assert states(tmp_path / "w")["2.png"] == ("failed", "too_large")


def test_listed_hashes_are_opted_out(photos: Path, tmp_path: Path) -> None:
    listed = tmp_path / "opt-outs.txt"
    listed.write_text(sha256_bytes(make_png(2)) + "\n")
    scrape_source("folder", photos, workspace=tmp_path / "w", opt_outs=listed)
    assert states(tmp_path / "w")["2.png"][0] == "opted_out"
    listed.write_text("\n".join(sha256_bytes(make_png(n)) for n in (2, 3)))
    report = scrape_source("folder", photos, workspace=tmp_path / "w", opt_outs=listed)
    assert states(tmp_path / "w")["3.png"][0] == "opted_out"
    assert report.details["withdrawn"] == 1


# --- Copies ---------------------------------------------------------------------------------------


def test_copied_bytes_do_not_need_their_originals(photos: Path, tmp_path: Path) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w", copy=True)
    row = rows(tmp_path / "w")["3.png"]
    assert row.segment == "00000.tar"
    tar = (Workspace(tmp_path / "w").segments / "00000.tar").read_bytes()
    assert tar[row.offset or 0 :][: row.bytes] == make_png(3)


def test_copies_are_not_read_again(photos: Path, tmp_path: Path, read_again: list[str]) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w", copy=True)
    before = rows(tmp_path / "w")
    read_again.clear()
    report = scrape_source("folder", photos, workspace=tmp_path / "w", copy=True)
    assert (read_again, report.outcome) == ([], "unchanged")
    assert rows(tmp_path / "w") == before


def test_images_that_were_only_indexed_can_be_copied_later(photos: Path, tmp_path: Path) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w")
    scrape_source("folder", photos, workspace=tmp_path / "w", copy=True)
    assert {row.segment for row in rows(tmp_path / "w").values()} == {"00000.tar"}


def test_a_changed_original_of_a_copy_becomes_its_next_version(
    photos: Path, tmp_path: Path
) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w", copy=True)
    change(photos / "3.png", 33)
    report = scrape_source("folder", photos, workspace=tmp_path / "w", copy=True)
    row = rows(tmp_path / "w")["3.png"]
    assert row.sha256 == sha256_bytes(make_png(33))
    assert row.key.endswith("-00-v2")
    assert report.details["changed"] == 1


def test_a_copy_outlives_an_original_that_breaks(photos: Path, tmp_path: Path) -> None:
    scrape_source("folder", photos, workspace=tmp_path / "w", copy=True)
    before = rows(tmp_path / "w")
    (photos / "3.png").write_bytes(b"broken")
    report = scrape_source("folder", photos, workspace=tmp_path / "w", copy=True)
    assert rows(tmp_path / "w") == before
    assert (report.details["kept"], report.outcome) == (1, "incomplete")


# --- Resized by another tool ----------------------------------------------------------------------


class Fetched:
    """What another tool has fetched and, all but the last, resized; it knows the hashes of all originals."""

    name = "folder"
    start_url: str | None = None

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.png"))

    def discover(self, page: StartPage | None) -> Discovery:
        raise NotImplementedError

    def items_on_disk(self, remarks: Remarks) -> Iterator[Item]:
        del remarks
        for number, path in enumerate(self.paths):
            size, mtime = path.stat().st_size, path.stat().st_mtime_ns
            place = FilePlace(str(path), 0, size, size, mtime)
            body = path.read_bytes() if number == len(self.paths) - 1 else b"as served"
            yield Item(
                url=f"http://a.example/{path.name}",
                captions=("a caption",),
                place=place,
                original_sha256=hashlib.sha256(body).digest(),
            )


def test_an_image_that_another_tool_has_resized_has_both_hashes(
    photos: Path, tmp_path: Path
) -> None:
    values = {"source": "folder", "inputs": (str(photos),), "workspace": tmp_path / "w"}
    report = scrape(build_config(values), source=Fetched(photos))
    assert report.details["resized"] == 5
    ledger = Ledger(Workspace(tmp_path / "w").ledger)
    found = sorted(ledger.query("SELECT url, original_sha256 FROM items"))
    ledger.close()
    original = hashlib.sha256(b"as served").hexdigest()
    urls = [f"http://a.example/{number}.png" for number in range(6)]
    assert found == [*((url, original) for url in urls[:5]), (urls[5], None)]
    assert {name: row.sha256 for name, row in rows(tmp_path / "w").items()} == {
        f"{n}.png": sha256_bytes((photos / f"{n}.png").read_bytes()) for n in range(6)
    }


# --- Kills ----------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from scrapers.local import indexing
from scrapers.rawstore import batch_writer
from scrapers.sources.folder.source import FolderSource
from tests.scrapers.local.folders import scrape_source

indexing.CHUNK_ITEMS, batch_writer.BATCH_ROWS, batch_writer.BATCH_SECONDS = 3, 4, 0.0
listed = FolderSource.items_on_disk

def items(self, remarks):
    for number, item in enumerate(listed(self, remarks)):
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

FolderSource.items_on_disk = items
folder, root, options = Path(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3])
for at in map(int, sys.argv[4:]):
    if not (pid := os.fork()):
        scrape_source("folder", folder, workspace=root / str(at), **options)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
"""


@pytest.mark.parametrize("options", [{}, {"copy": True}], ids=["indexed", "copied"])
def test_a_killed_run_continues_and_ends_with_the_same_rows(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    files: dict[str, bytes | str | int] = {f"{n:02d}.png": n for n in range(30)}
    files |= {f"{n:02d}.txt": f"caption {n}\nagain {n}" for n in range(30)}
    photos = write_files(tmp_path / "photos", files | {"07.png": "broken"})
    whole = tmp_path / "whole"
    scrape_source("folder", photos, workspace=whole, **options)
    moments = ["0", "4", "10", "17", "29"]
    folders = [str(photos), str(tmp_path)]
    command = [sys.executable, "-c", _KILLED, *folders, repr(options), *moments]
    subprocess.run(command, cwd=ROOT, check=True)
    for at in moments:
        killed = tmp_path / at
        report = scrape_source("folder", photos, workspace=killed, **options)
        assert rows(killed) == rows(whole), at
        contents = [
            json.loads((root / "raw" / "manifest.json").read_text())["details"]["content"]
            for root in (killed, whole)
        ]
        assert contents[0] == contents[1], at
        assert report.counts == {**report.counts, "urls": 30, "done": 29, "not_an_image": 1}, at
