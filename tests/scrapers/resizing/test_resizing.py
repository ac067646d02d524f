"""`scrape urls --max-side`: what is stored, both hashes, and what later commands make of them."""

from __future__ import annotations

import hashlib
import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError
from pipeline.core.image_decode import decode_image
from pipeline.core.ownership import reopen
from pipeline.core.workspace import Workspace
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.run import run as dedupe
from pipeline.verify.check import check_workspace
from scrapers.merging.config import MergeConfig
from scrapers.merging.run import merge
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.mending import mend_segments
from scrapers.rawstore.raw_check import Segment
from scrapers.resizing import image as resizing_image
from scrapers.scrape import scrape
from scrapers.sources.urls.config import UrlsConfig
from tests.helpers.crawls import Ask, Server, answer, members, states, stored
from tests.scrapers.resizing.test_image import encode, noise, photo

BIG, SMALL, BROKEN = "/big.png", "/small.png", "/broken.jpg"


def body_of(path: str) -> bytes:
    if "small" in path:
        return encode(photo(20, 10), "PNG")
    if "broken" in path:  # a JPEG by its structure
        whole = encode(noise(), "JPEG")
        return whole[: len(whole) // 2] + b"\xff\xd9"
    number = sum(path.encode())
    return encode(photo(100 + number % 50, 80), "PNG")


async def images(ask: Ask) -> bytes:
    return answer(body_of(ask.path), ETag='"1"')


@pytest.fixture
def config(server: Server, tmp_path: Path) -> UrlsConfig:
    server.behaviour = images
    workspace = Workspace(tmp_path / "data").open(source="urls").root
    return UrlsConfig(
        source="urls", workspace=workspace, backoff_s=0.01, max_backoff_s=0.05, max_side=32
    )


def run(config: UrlsConfig, server: Server, *paths: str, **options: Any) -> StageReport:
    listed = config.workspace.parent / "list.tsv"
    lines = ["url\tcaption", *(f"{server.url}{path}\ta picture of {path}" for path in paths)]
    listed.write_text("\n".join(lines) + "\n")
    return scrape(replace(config, inputs=(str(listed),), **options))


def rows(root: Path) -> dict[str, tuple[Any, ...]]:
    """State, reason and both hashes by the path of the URL."""
    ledger = Ledger(root / "raw" / "ledger.sqlite")
    sql = "SELECT url, state, reason, sha256, original_sha256 FROM items"
    found = {"/" + str(url).split("/", 3)[3]: tuple(more) for url, *more in ledger.query(sql)}
    ledger.close()
    return found


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def assert_whole(root: Path) -> None:
    assert {checked.state for checked in check_workspace(root)} == {"ok"}


def test_images_are_resized_when_they_arrive_and_both_hashes_are_kept(
    server: Server, config: UrlsConfig
) -> None:
    report = run(config, server, BIG, SMALL, BROKEN)
    assert report.counts["done"] == 3
    assert report.details["resized"] == 1
    kept = {"/" + url.split("/", 3)[3]: body for url, body in stored(config.workspace).items()}
    image = Image.open(io.BytesIO(kept[BIG]))
    came = decode_image(body_of(BIG)).pixels_HWC.shape
    assert (image.format, image.width) == ("JPEG", 32)
    assert image.height == round(came[0] * 32 / came[1])
    assert kept[SMALL] == body_of(SMALL)
    assert kept[BROKEN] == body_of(BROKEN)
    assert rows(config.workspace) == {
        BIG: ("done", None, sha256(kept[BIG]), sha256(body_of(BIG))),
        SMALL: ("done", None, sha256(kept[SMALL]), None),
        BROKEN: ("done", "not_resized", sha256(kept[BROKEN]), None),
    }
    (record,) = [
        data.decode()
        for name, data in members(config.workspace).items()
        if name.endswith(".json") and BIG.encode() in data
    ]
    assert f'"original_sha256": "{sha256(body_of(BIG))}"' in record
    assert f'"sha256": "{sha256(kept[BIG])}"' in record
    assert_whole(config.workspace)
    again = run(config, server, BIG, SMALL, BROKEN)
    assert again.outcome == "unchanged"
    assert again.counts == report.counts


def test_dedupe_takes_what_is_stored(server: Server, config: UrlsConfig) -> None:
    run(config, server, *(f"/{n}.png" for n in range(8)))
    report = dedupe(
        DedupeConfig(workspace=config.workspace, val_fraction=0.3, near_duplicates="off")
    )
    assert report.counts["rows"] == report.counts["kept"] + report.counts["rejected"] == 8
    assert_whole(config.workspace)


def test_a_refresh_compares_what_comes_with_what_came(server: Server, config: UrlsConfig) -> None:
    run(config, server, BIG, SMALL)
    before = rows(config.workspace)

    async def other_tag(ask: Ask) -> bytes:
        return answer(body_of(ask.path), ETag='"2"')

    server.behaviour = other_tag
    report = run(config, server, BIG, SMALL, refresh=True)
    assert report.details["unchanged"] == 2
    assert rows(config.workspace) == before

    async def others(ask: Ask) -> bytes:
        return answer(encode(photo(90, 90), "PNG"), ETag='"3"')

    server.behaviour = others
    report = run(config, server, BIG, SMALL, refresh=True)
    assert report.details["changed"] == 2
    after = rows(config.workspace)
    assert {row[3] for row in after.values()} == {sha256(encode(photo(90, 90), "PNG"))}
    ledger = Ledger(config.workspace / "raw" / "ledger.sqlite")
    found = ledger.query("SELECT lower(hex(sha256)), lower(hex(original_sha256)) FROM versions")
    versions = {str(row[0]): row[1] for row in found}
    ledger.close()
    assert versions == {row[2]: row[3] or "" for row in before.values()}
    assert_whole(config.workspace)


def test_expected_hashes_are_those_of_what_comes(server: Server, config: UrlsConfig) -> None:
    listed = config.workspace.parent / "list.tsv"
    lines = ["url\tcaption\thash"]
    lines += [
        f"{server.url}{BIG}\tone\t{sha256(body_of(BIG))}",
        f"{server.url}/x.png\ttwo\t{'0' * 64}",
    ]
    listed.write_text("\n".join(lines) + "\n")
    config = replace(config, inputs=(str(listed),), verify_hash="sha256=hash")
    for _ in range(2):
        report = scrape(config)
        assert (report.counts["done"], report.counts["hash_mismatch"]) == (1, 1)
    assert server.image_hits[BIG] == 1
    report = scrape(replace(config, refresh=True))
    assert report.counts["done"] == 1


def test_an_image_on_the_list_of_opt_outs_is_found_by_either_hash(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    paths = ("/1.png", "/2.png", "/3.png")
    run(config, server, *paths)
    found = rows(config.workspace)
    opted = tmp_path / "opt_outs.txt"
    opted.write_text(f"{found['/1.png'][2]}\n{found['/2.png'][3]}\n")
    run(config, server, *paths, opt_outs=opted)
    assert [rows(config.workspace)[path][0] for path in paths] == ["opted_out", "opted_out", "done"]
    fresh = replace(config, workspace=Workspace(tmp_path / "fresh").open(source="urls").root)
    run(fresh, server, *paths, opt_outs=opted)
    # Before they are resized only the hash of what came is known.
    assert [rows(fresh.workspace)[path][0] for path in paths] == ["done", "opted_out", "done"]


def test_merged_and_repaired_workspaces_keep_both_hashes(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    other = replace(config, workspace=Workspace(tmp_path / "other").open(source="urls").root)
    run(config, server, "/1.png", "/2.png")
    run(other, server, "/3.png", SMALL)
    merged = tmp_path / "merged"
    merge(MergeConfig(inputs=(str(config.workspace), str(other.workspace)), workspace=merged))
    wanted = rows(config.workspace) | rows(other.workspace)
    assert rows(merged) == wanted
    assert_whole(merged)
    (segment, *_) = sorted((merged / "raw" / "segments").glob("*.tar"))
    data = bytearray(segment.read_bytes())
    at = data.index(stored(merged)[f"{server.url}/1.png"])
    data[at + 100] ^= 0xFF
    segment.write_bytes(data)
    (checked,) = check_workspace(merged)
    reopen(merged / "raw", "raw")
    assert mend_segments(merged / "raw", checked.lost(Segment)).lost == 1
    assert states(merged)[f"{server.url}/1.png"] == ("pending", "lost_bytes")
    assert rows(merged)["/1.png"][2:] == (None, None)
    assert rows(merged)["/2.png"] == wanted["/2.png"]
    run(replace(config, workspace=merged), server, "/1.png", "/2.png", "/3.png", SMALL)
    assert rows(merged) == wanted
    assert_whole(merged)


def test_a_decoder_that_crashes_leaves_the_image_as_it_came(
    server: Server, config: UrlsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scrapers.resizing.workers.resize_image", crash_on_broken)
    assert run(config, server, BIG, BROKEN, "/2.png").counts["done"] == 3
    found = rows(config.workspace)
    assert found[BROKEN][:2] == ("done", "not_resized")
    assert found[BIG][3]
    assert found["/2.png"][3]


def crash_on_broken(part: Any) -> Any:
    if part[1] == body_of(BROKEN):
        import os

        os._exit(11)
    return resizing_image.resize_image(part)


def test_another_size_than_before_is_said(
    server: Server, config: UrlsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run(config, server, BIG)
    with caplog.at_level(logging.WARNING):
        run(config, server, BIG, "/2.png", max_side=16)
    assert "keep_ratio_largest 32, as jpg" in caplog.text
    assert max(Image.open(io.BytesIO(b)).width for b in stored(config.workspace).values()) == 32


@pytest.mark.parametrize("options", [{"resize_mode": "border"}, {"enlarge": True}])
def test_how_to_resize_needs_a_size(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="need --max-side"):
        UrlsConfig(source="urls", workspace=tmp_path, **options)
