"""The source `tars`: webdataset's samples, indexed where they are."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import fsspec
import pytest
import webdataset

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.kept_images import StoredImage, read_image
from scrapers.local import looking
from tests.helpers.kept_workspace import make_png
from tests.scrapers.local.folders import Row, differences, rows, scrape_source
from tests.scrapers.local.stages import Stages

Members = Sequence[tuple[str, bytes | str]]


def tar_of(members: Members) -> bytes:
    """A tar with these members, in this order."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            body = content.encode() if isinstance(content, str) else content
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return data.getvalue()


def pairs(*numbers: int) -> Members:
    return [
        member
        for n in numbers
        for member in ((f"{n:03d}.png", make_png(n)), (f"{n:03d}.txt", f"caption {n}"))
    ]


def scraped(tmp_path: Path, members: Members, **options: object) -> tuple[dict[str, Row], str]:
    """The rows of one tar, and what was left out."""
    (tmp_path / "set").mkdir(exist_ok=True)
    (tmp_path / "set" / "0.tar").write_bytes(tar_of(members))
    report = scrape_source("tars", tmp_path / "set" / "0.tar", workspace=tmp_path / "w", **options)
    return rows(tmp_path / "w"), differences(report)


def bytes_of(row: Row) -> bytes:
    assert row.segment is not None
    assert row.offset is not None
    assert row.bytes is not None
    place = StoredImage(row.segment, row.offset, row.bytes, str(row.sha256))
    return read_image(Path("raw/segments"), place)


# --- Samples --------------------------------------------------------------------------------------


def test_real_webdataset_tars_are_indexed_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "cc").mkdir()
    with webdataset.ShardWriter(f"{tmp_path}/cc/%05d.tar", maxcount=3, verbose=0) as writer:
        for n in range(7):
            writer.write(
                {"__key__": f"k{n}", "png": make_png(n), "txt": f"caption {n}", "json": {"n": n}}
            )
    report = scrape_source("tars", f"{tmp_path}/cc/{{00000..00002}}.tar", workspace=tmp_path / "w")
    found = rows(tmp_path / "w")
    assert report.counts["done"] == 7
    row = found["00001.tar#k4.png"]
    assert (row.caption, row.section, row.extra) == ("caption 4", "cc", {"n": 4})
    assert row.segment == str(tmp_path / "cc" / "00001.tar")
    assert row.url == (tmp_path / "cc" / "00001.tar").as_uri() + "#k4.png"
    assert bytes_of(row) == make_png(4)


@pytest.mark.parametrize(
    ("members", "captions"),
    [
        # The key ends at the first dot of the base name; folders belong to it.
        ([("a.b.txt", "other"), ("a.png", b"1"), ("a.txt", "a")], ["a"]),
        ([("dir.x/a.png", b"1"), ("dir.x/a.txt", "a")], ["a"]),
        ([("x/a.png", b"1"), ("y/a.txt", "a"), ("z.png", b"2"), ("z.txt", "z")], ["z"]),
        # Only neighbours belong together.
        ([("a.png", b"1"), ("b.png", b"2"), ("b.txt", "b"), ("a.txt", "a")], ["b"]),
        # Suffixes are read in lower case; metadata and names without a dot are no samples.
        ([("__meta__.txt", "x"), ("a.PNG", b"1"), ("a.TXT", "a"), ("README", "x")], ["a"]),
        ([(".hidden.png", b"1"), ("./a.png", b"2"), ("./a.txt", "a")], ["a"]),
        # DALLE-datasets' columns.
        ([("000000001.cap", "a"), ("000000001.img", b"1")], ["a"]),
        ([("a.rgb.png", b"1"), ("a.txt", "a")], ["a"]),
    ],
)
def test_members_are_grouped_as_webdataset_does(
    tmp_path: Path, members: Members, captions: list[str]
) -> None:
    made = [
        (name, make_png(content[0]) if isinstance(content, bytes) else content)
        for name, content in members
    ]
    found, _ = scraped(tmp_path, made)
    assert [row.caption for row in found.values()] == captions


def test_what_is_no_pair_is_counted(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | str]] = [
        *pairs(1),
        ("b.png", make_png(2)),
        ("c.txt", "c"),
        ("d.png", make_png(3)),
        ("d.jpg", make_png(4)),
    ]
    members += [
        ("d.txt", "d"),
        ("e.png", make_png(5)),
        ("e.PNG", make_png(6)),
        ("e.txt", b"caf\xe9"),
    ]
    found, left_out = scraped(tmp_path, members)
    assert sorted(found) == ["0.tar#001.png", "0.tar#d.jpg"]
    assert "Samples without an image (1): 0.tar/c." in left_out
    assert "0.tar/b (it has no txt or caption or text or cap)" in left_out
    assert "Samples with several images, of which the first one counts (1): 0.tar/d." in left_out
    assert "e.PNG: duplicate file name in tar file" in left_out
    assert "0.tar/e (e.txt can't be read: line 1 holds the byte 0xe9" in left_out


def test_a_key_that_comes_again_is_another_sample(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | str]] = [
        ("a.png", make_png(1)),
        ("a.txt", "one"),
        *pairs(5),
        ("a.png", make_png(2)),
        ("a.txt", "two"),
    ]
    found, _ = scraped(tmp_path, members)
    assert len({row.key for row in found.values()}) == 2  # both URLs are equal, the keys aren't
    report = scrape_source("tars", tmp_path / "set" / "0.tar", workspace=tmp_path / "w")
    assert (report.counts["done"], report.outcome) == (3, "unchanged")


@pytest.mark.parametrize(
    ("captions_from", "expected"),
    [
        (None, ("from txt",)),
        ("txt", ("from txt",)),
        ("caption", ("from caption",)),
        ("long.txt", ("from long",)),
        ("json:alt", ("one", "two")),
    ],
)
def test_captions_come_from_where_the_option_says(
    tmp_path: Path, captions_from: str | None, expected: tuple[str, ...]
) -> None:
    members: list[tuple[str, bytes | str]] = [
        ("a.png", make_png(1)),
        ("a.txt", "from txt\n"),
        ("a.caption", "from caption"),
    ]
    members += [("a.json", '{"alt": ["one", "two"], "id": 3}'), ("a.long.txt", "from long")]
    found, _ = scraped(tmp_path, members, captions_from=captions_from)
    (row,) = found.values()
    assert row.captions == expected
    assert (row.extra or {})["id"] == 3


def test_a_caption_in_json_is_found_by_itself(tmp_path: Path) -> None:
    found, _ = scraped(tmp_path, [("a.png", make_png(1)), ("a.json", '{"caption": "a", "id": 3}')])
    assert [(row.caption, row.extra) for row in found.values()] == [("a", {"id": 3})]


@pytest.mark.parametrize("value", ["json", "json:", ":x", "txt:x"])
def test_places_of_captions_that_make_no_sense_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"--captions-from .* is not known"):
        scraped(tmp_path, pairs(1), captions_from=value)


# --- Tars that end early ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", [1536 * 3 + 100, 1536 * 3 + 700, 1536 * 3])
def test_a_tar_that_ends_early_is_named_and_what_is_before_is_kept(
    tmp_path: Path, end: int
) -> None:
    whole = tar_of([(f"{n}.{kind}", "x" * 900) for n in range(4) for kind in ("png", "txt")])
    assert whole[1536 : 1536 + 5] == b"0.txt"
    (tmp_path / "0.tar").write_bytes(whole[:end])
    (tmp_path / "1.tar").write_bytes(tar_of(pairs(9)))
    report = scrape_source("tars", tmp_path / "0.tar", tmp_path / "1.tar", workspace=tmp_path / "w")
    assert f"Tars that end early (1): {tmp_path / '0.tar'} (" in differences(report)
    assert sorted(rows(tmp_path / "w")) == ["0.tar#0.png", "1.tar#009.png"]


def test_garbage_within_a_tar_is_its_early_end(tmp_path: Path) -> None:
    whole = bytearray(tar_of(pairs(1, 2)))
    second = whole.index(b"002.png")
    whole[second : second + 512] = b"\xff" * 512
    (tmp_path / "0.tar").write_bytes(whole)
    report = scrape_source("tars", tmp_path / "0.tar", workspace=tmp_path / "w")
    assert f"0.tar (at byte {second})" in differences(report)
    assert list(rows(tmp_path / "w")) == ["0.tar#001.png"]


def test_a_tar_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar_of(pairs(1)))
    report = scrape_source("tars", f"{tmp_path}/{{0..1}}.tar", workspace=tmp_path / "w")
    assert (
        f"Tars that can't be read (1): {tmp_path / '1.tar'} (No such file or directory)."
        in differences(report)
    )


def test_tars_without_a_pair_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"have no image with a caption\. Samples without an image \(1\)"
    ):
        scraped(tmp_path, [("a.txt", "a")])


# --- Inputs ---------------------------------------------------------------------------------------


def test_a_folder_and_a_pattern_stand_for_their_tars(tmp_path: Path) -> None:
    for place, number in (("set/train/0.tar", 1), ("set/val/0.tar", 2), ("more/x.tar", 3)):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(tar_of(pairs(number)))
    report = scrape_source(
        "tars", tmp_path / "set", f"{tmp_path}/more/*.tar", workspace=tmp_path / "w"
    )
    assert report.counts["done"] == 3
    assert {row.section for row in rows(tmp_path / "w").values()} == {"train", "val", "more"}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "needs at least one"),
        (("nothing/*.tar",), "matches no tar"),
        (("pipe:cat x.tar",), "would run a command: give --allow-pipe"),
    ],
)
def test_inputs_that_cannot_be_read_are_refused(
    tmp_path: Path, inputs: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        scrape_source("tars", *inputs, workspace=tmp_path / "w")


def test_tars_at_an_address_are_read_there(tmp_path: Path) -> None:
    with fsspec.open("memory://bucket/set/0.tar", "wb") as file:
        file.write(tar_of(pairs(1, 2)))
    scrape_source("tars", "memory://bucket/set/{0..0}.tar", workspace=tmp_path / "w")
    row = rows(tmp_path / "w")["0.tar#002.png"]
    assert (row.segment, row.section) == ("memory://bucket/set/0.tar", "set")
    assert bytes_of(row) == make_png(2)
    again = scrape_source("tars", "memory://bucket/set/*.tar", workspace=tmp_path / "w")
    assert again.outcome == "unchanged"


@pytest.mark.parametrize("way", ["gzip", "pipe"])
def test_bytes_that_lie_in_no_file_are_copied(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(gzip.compress(tar_of(pairs(1, 2))) if way == "gzip" else tar_of(pairs(1, 2)))
    given = f"pipe:cat {path}" if way == "pipe" else str(path)
    scrape_source("tars", given, workspace=tmp_path / "w", allow_pipe=True)
    found = rows(tmp_path / "w")
    assert {(row.state, row.segment) for row in found.values()} == {("done", "00000.tar")}
    again = scrape_source("tars", given, workspace=tmp_path / "w", allow_pipe=True)
    assert (again.outcome, rows(tmp_path / "w")) == ("unchanged", found)


def test_a_pipe_whose_command_fails_is_named(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(tar_of(pairs(1)))
    given = f"pipe:cat {path}; exit 3"
    report = scrape_source("tars", given, workspace=tmp_path / "w", allow_pipe=True)
    assert "the command ended with status 3" in differences(report)


# --- Again ----------------------------------------------------------------------------------------


def test_moved_tars_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.tar").write_bytes(tar_of(pairs(1, 2)))
    scrape_source("tars", tmp_path / "a" / "0.tar", workspace=tmp_path / "w")
    keys = {row.key for row in rows(tmp_path / "w").values()}
    shutil.move(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(looking, "read_range", None)  # whatever is read fails
    scrape_source("tars", tmp_path / "b", workspace=tmp_path / "w")
    found = rows(tmp_path / "w")
    assert {row.key for row in found.values()} == keys
    assert {row.segment for row in found.values()} == {str(tmp_path / "b" / "0.tar")}
    assert {row.state for row in found.values()} == {"done"}


def test_a_tar_that_is_written_again_is_indexed_again(tmp_path: Path) -> None:
    scraped(tmp_path, pairs(1, 2, 3))
    found, _ = scraped(
        tmp_path, [*pairs(7), *pairs(3), ("001.png", make_png(11)), ("001.txt", "new")]
    )
    assert found["0.tar#002.png"].state == "missing"
    assert found["0.tar#001.png"].caption == "new"
    for name, number in (("001", 11), ("003", 3), ("007", 7)):
        assert bytes_of(found[f"0.tar#{name}.png"]) == make_png(number)


def test_webdataset_tars_go_through_all_stages(tmp_path: Path) -> None:
    with webdataset.ShardWriter(f"{tmp_path}/%05d.tar", maxcount=10, verbose=0) as writer:
        for n in range(24):
            writer.write({"__key__": f"k{n}", "png": make_png(n), "txt": f"a disc of kind {n}"})
    stages = Stages(tmp_path / "w")
    members = stages.make_shards("tars", f"{tmp_path}/{{00000..00002}}.tar")
    assert {data for name, data in members.items() if name.endswith(".png")} == {
        make_png(n) for n in range(24)
    }
    assert stages.call("verify").exit_code == 0
    data = bytearray((tmp_path / "00001.tar").read_bytes())
    data[data.index(b"IHDR")] ^= 1
    (tmp_path / "00001.tar").write_bytes(data)
    assert f"{tmp_path}/00001.tar has changed" in stages.call("verify").output.replace("\n", "")
