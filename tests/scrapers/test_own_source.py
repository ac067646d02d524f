"""A source in a few lines: a file of `url<TAB>caption` lines, scraped and deduplicated."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.config import option
from pipeline.core.workspace import Workspace
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.run import run as dedupe
from scrapers.config import ScrapeConfig
from scrapers.crawl.export import export_ledger
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_schema import items_view
from scrapers.scrape import scrape
from scrapers.source import Discovery, Item, StartPage
from tests.helpers.crawls import Ask, Server, answer


@dataclass(frozen=True, kw_only=True)
class LinksConfig(ScrapeConfig):
    """The options of the source."""

    links: Path = option(Path("links.txt"), "A file with lines url<TAB>caption.", runtime=True)


class Links:
    """The source: about as many lines as one needs."""

    name = "links"
    start_url: str | None = None

    def __init__(self, config: LinksConfig) -> None:
        self.config = config

    def discover(self, _page: StartPage | None) -> Discovery:
        return Discovery.of(self.items, limit=self.config.limit)

    def items(self) -> Iterator[Item]:
        for number, line in enumerate(self.config.links.read_text().splitlines()):
            url, *captions = line.split("\t")
            yield Item(url=url, captions=tuple(captions), extra={"line": number})


def rows(root: Path) -> dict[str, tuple[object, ...]]:
    """Caption, all captions, rank and extra of each URL's path."""
    ledger = Ledger(root / "raw" / "ledger.sqlite")
    found: dict[str, tuple[object, ...]] = {
        str(url).rpartition("/")[2]: (caption, json.loads(str(captions or "null")), rank, extra)
        for url, caption, captions, rank, extra in ledger.query(
            "SELECT url, caption, captions, rank, extra FROM items"
        )
    }
    ledger.close()
    return found


async def image(ask: Ask) -> bytes:
    """A PNG of one colour, another for each path."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), tuple(hashlib.sha256(ask.path.encode()).digest()[:3])).save(
        data, "PNG"
    )
    return answer(data.getvalue())


@pytest.fixture
def links(server: Server, tmp_path: Path) -> LinksConfig:
    server.behaviour = image
    Workspace(tmp_path / "data").open(source="links")
    config = LinksConfig(workspace=tmp_path / "data", source="links", links=tmp_path / "links.txt")
    write(config, server, "1.png\ta cat", "2.png\ta dog\tein Hund", "1.png\teine Katze")
    return config


def write(config: LinksConfig, server: Server, *lines: str) -> None:
    config.links.write_text("".join(f"{server.url}/{line}\n" for line in lines))


def run(config: LinksConfig) -> str:
    return scrape(config, source=Links(config)).outcome


def test_every_caption_of_a_url_is_kept_and_a_missing_rank_is_null(
    server: Server, links: LinksConfig
) -> None:
    assert run(links) == "done"
    assert rows(links.workspace) == {
        "1.png": ("a cat", ["a cat", "eine Katze"], None, '{"line": 0}'),
        "2.png": ("a dog", ["a dog", "ein Hund"], None, '{"line": 1}'),
    }
    assert server.image_hits == {"/1.png": 1, "/2.png": 1}


def test_a_caption_that_comes_later_is_added_without_a_request(
    server: Server, links: LinksConfig
) -> None:
    run(links)
    asked = dict(server.image_hits)
    write(links, server, "1.png\tun chat", "2.png\ta dog", "2.png\tun chien\ta dog")
    assert run(links) == "done"
    assert rows(links.workspace)["1.png"][1] == ["a cat", "eine Katze", "un chat"]
    assert rows(links.workspace)["2.png"][1] == ["a dog", "ein Hund", "un chien"]
    assert dict(server.image_hits) == asked
    assert run(links) == "unchanged"


def test_the_export_has_all_captions(links: LinksConfig, tmp_path: Path) -> None:
    run(links)
    export_ledger(Workspace(links.workspace), tmp_path / "ledger.parquet")
    table = pq.read_table(tmp_path / "ledger.parquet").sort_by("url").to_pylist()
    assert [json.loads(row["captions"]) for row in table] == [
        ["a cat", "eine Katze"],
        ["a dog", "ein Hund"],
    ]
    assert [row["rank"] for row in table] == [None, None]


def test_dedupe_lists_all_captions_in_one_split_with_their_images(links: LinksConfig) -> None:
    run(links)
    config = DedupeConfig(workspace=links.workspace, near_duplicates="off", workers=1)
    assert dedupe(config).counts["kept"] == 2
    table = pq.read_table(links.workspace / "dedupe" / "captions.parquet").to_pylist()
    found = {row["caption"]: row for row in table}
    assert {caption: row["images"] for caption, row in found.items()} == {
        "a cat": 1, "eine Katze": 1, "a dog": 1, "ein Hund": 1,
    }  # fmt: skip
    for one, other in (("a cat", "eine Katze"), ("a dog", "ein Hund")):
        assert found[one]["split"] == found[other]["split"]
    rows_kept = pq.read_table(links.workspace / "dedupe" / "kept").to_pylist()
    assert {row["url"].rpartition("/")[2]: (row["captions"], row["rank"]) for row in rows_kept} == {
        "1.png": (["a cat", "eine Katze"], None),
        "2.png": (["a dog", "ein Hund"], None),
    }
    in_ledger = {name: row[3] for name, row in rows(links.workspace).items()}
    assert {row["url"].rpartition("/")[2]: row["extra"] for row in rows_kept} == in_ledger


def test_captions_of_one_image_never_go_to_two_splits(server: Server, links: LinksConfig) -> None:
    write(links, server, *(f"{n}.png\tfirst {n}\tsecond {n}" for n in range(20)))
    run(links)
    config = DedupeConfig(
        workspace=links.workspace, near_duplicates="off", workers=1, val_fraction=0.5
    )
    dedupe(config)
    table = pq.read_table(links.workspace / "dedupe" / "captions.parquet").to_pylist()
    split = {row["caption"]: row["split"] for row in table}
    assert {split[f"first {n}"] for n in range(20)} == {"train", "val"}
    assert all(split[f"first {n}"] == split[f"second {n}"] for n in range(20))


def test_dedupe_sees_a_caption_that_was_added(server: Server, links: LinksConfig) -> None:
    run(links)
    config = DedupeConfig(workspace=links.workspace, near_duplicates="off", workers=1)
    dedupe(config)
    assert dedupe(config).outcome == "unchanged"
    write(links, server, "1.png\tun chat", "2.png\ta dog")
    run(links)
    assert dedupe(config).outcome == "done"


def test_a_ledger_of_version_1_is_read_and_then_extended(
    server: Server, links: LinksConfig
) -> None:
    write(links, server, "1.png\ta cat", "2.png\ta dog")
    run(links)
    make_version_1(links.workspace / "raw" / "ledger.sqlite")
    config = DedupeConfig(workspace=links.workspace, near_duplicates="off", workers=1)
    assert dedupe(config).counts["kept"] == 2
    export_ledger(Workspace(links.workspace), links.workspace / "ledger.parquet")
    assert pq.read_table(links.workspace / "ledger.parquet")["captions"].to_pylist() == [None] * 2
    write(links, server, "1.png\ta cat", "1.png\teine Katze", "3.png\ta cow")
    assert run(replace(links, refresh=True)) == "done"
    found = rows(links.workspace)
    assert found["1.png"][:2] == ("a cat", ["a cat", "eine Katze"])
    assert found["3.png"] == ("a cow", None, None, '{"line": 2}')
    assert dedupe(config).counts["kept"] == 3


def make_version_1(path: Path) -> None:
    """Take away what version 2 added to a ledger."""
    old = items_view().replace("f.rank ELSE", "u.rank ELSE")
    old = old[: old.index(",\n  CASE WHEN EXISTS")] + old[old.rindex("\nFROM urls") :]
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP VIEW items; DROP TABLE captions; ALTER TABLE forms DROP COLUMN rank;"
        f"ALTER TABLE forms DROP COLUMN extra; {old};"
        "UPDATE meta SET value = '1' WHERE name = 'version'"
    )
    connection.close()
