"""The hash of a segment: the same however it is made, another after any change; and that of version 1."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.storage import MANIFEST_NAME, manifest_seal, read_manifest
from pipeline.verify.check import check_workspace
from scrapers.rawstore.segment_hash import SCHEME, hash_segment
from scrapers.rawstore.segments import SegmentState, SegmentWriter
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import Ask, PlainSource, Server, answer, png


def place(writer: SegmentWriter, number: int, size: int) -> None:
    body = random.Random(number).randbytes(size)
    digest = hashlib.sha256(body).digest()
    writer.place(f"key-{number}", "png", body, f'{{"n": {number}}}', sha256=digest)


def by_tarfile(path: Path) -> str:
    """The same by the definition: the file's bytes, with the SHA-256 of each image in its place."""
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        members = [m for m in tar if not m.name.endswith(".json")]
    for member in reversed(members):
        start, end = member.offset_data, member.offset_data + member.size
        data[start:end] = hashlib.sha256(bytes(data[start:end])).digest()
    return SCHEME + hashlib.sha256(bytes(data)).hexdigest()


SIZES = [0, 1, 511, 512, 513, 70_000, 3_000_000, 2]


def test_a_closed_segment_has_the_hash_of_its_file(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, None, max_bytes=100_000)
    states: dict[int, SegmentState] = {}
    for number, size in enumerate(SIZES * 3):
        place(writer, number, size)
        if number % 4 == 3:
            states |= {state.number: state for state in writer.write(writer.take())}
    sealed = writer.seal()
    assert sealed is not None
    hashes = {f"{n:05d}.tar": s.sha256 for n, s in states.items() if s.sha256 is not None}
    hashes[sealed[0]] = sealed[2]
    paths = sorted(tmp_path.glob("*.tar"))
    assert len(paths) > 3
    assert {path.name: hash_segment(path) for path in paths} == hashes
    assert {path.name: by_tarfile(path) for path in paths} == hashes


def test_a_segment_that_goes_on_after_a_kill_has_the_same_hash(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, None, max_bytes=10**9)
    for number, size in enumerate(SIZES):
        place(writer, number, size)
        (state,) = writer.write(writer.take())
        # Torn bytes behind what was committed.
        with (tmp_path / "00000.tar").open("ab") as file:
            file.write(b"torn")
        writer.release()
        writer = SegmentWriter(tmp_path, state, max_bytes=10**9)
    sealed = writer.seal()
    assert sealed is not None
    assert sealed[2] == by_tarfile(tmp_path / "00000.tar")
    again = SegmentWriter(tmp_path, state, max_bytes=10**9)
    assert again.seal() == sealed


def test_any_changed_byte_changes_the_hash(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, None, max_bytes=10**9)
    for number, size in enumerate((3, 600, 40)):
        place(writer, number, size)
    writer.write(writer.take())
    writer.seal()
    path = tmp_path / "00000.tar"
    whole = path.read_bytes()
    before = hash_segment(path)
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert hash_segment(path) != before, at
    for changed in (whole[:-1], whole[:700], whole + b"\0", b""):
        path.write_bytes(changed)
        assert hash_segment(path) != before


# --- Workspaces of version 1 ---------------------------------------------------------------------


def make_old(root: Path) -> None:
    """A raw store as version 1 wrote it: plain hashes in the manifest and in the ledger."""
    raw = root / "raw"
    plain = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (raw / "segments").glob("*.tar")
    }
    manifest = json.loads((raw / MANIFEST_NAME).read_bytes())
    manifest["version"] = 1
    for entry in manifest["files"]:
        entry["sha256"] = plain[Path(entry["path"]).name]
    sealed = manifest.pop("sha256", None)
    if sealed is not None:
        manifest["sha256"] = manifest_seal(manifest)
    (raw / MANIFEST_NAME).write_text(json.dumps(manifest))
    ledger = sqlite3.connect(raw / "ledger.sqlite")
    for name, sha256 in plain.items():
        ledger.execute(
            "UPDATE segments SET sha256 = ? WHERE number = ? AND sha256 IS NOT NULL",
            (sha256, int(name[:5])),
        )
    ledger.commit()
    ledger.close()


def faults(root: Path) -> list[str]:
    return [fault.found for checked in check_workspace(root) for fault in checked.faults]


@pytest.fixture
def crawled(server: Server, quick: DalleBlogConfig) -> DalleBlogConfig:
    """A crawl of several segments."""
    config = replace(quick, segment_mb=1)

    async def large(ask: Ask) -> bytes:
        return answer(png(ask.path, 200_000))

    server.behaviour = large
    assert scrape(config, source=PlainSource(server.url, captions=4)).counts["done"] == 16
    assert len(list((quick.workspace / "raw" / "segments").glob("*.tar"))) > 2
    return config


def test_a_raw_store_says_of_which_version_its_hashes_are(crawled: DalleBlogConfig) -> None:
    manifest = read_manifest(crawled.workspace / "raw", "raw")
    assert manifest.version == 3
    assert {entry.sha256[: len(SCHEME)] for entry in manifest.files} == {SCHEME}
    assert faults(crawled.workspace) == []


def test_an_old_raw_store_is_read_and_goes_on(server: Server, crawled: DalleBlogConfig) -> None:
    make_old(crawled.workspace)
    assert read_manifest(crawled.workspace / "raw", "raw").version == 1
    assert faults(crawled.workspace) == []
    assert scrape(crawled, source=PlainSource(server.url, captions=4)).outcome == "unchanged"
    more = replace(crawled, limit=6)
    report = scrape(more, source=PlainSource(server.url, captions=6))
    assert report.counts["done"] == 24
    manifest = read_manifest(crawled.workspace / "raw", "raw")
    assert manifest.version == 3
    # Closed segments keep the hash that they have.
    assert {entry.sha256.startswith(SCHEME) for entry in manifest.files} == {True, False}
    assert faults(crawled.workspace) == []


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("at", [600, 5000, -10])
def test_damage_is_found_in_both_versions(at: int, old: bool, crawled: DalleBlogConfig) -> None:
    if old:
        make_old(crawled.workspace)
    path = crawled.workspace / "raw" / "segments" / "00000.tar"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert len(faults(crawled.workspace)) == 1
