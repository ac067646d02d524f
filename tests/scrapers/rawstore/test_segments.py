"""Segments: what tar and webdataset read of them, and odd names and sizes."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset as wds

from scrapers.rawstore.keys import address_of, image_key, section_slug
from scrapers.rawstore.segments import SegmentState, SegmentWriter
from scrapers.source import CaptionForm
from tests.helpers.crawls import png


def fill(folder: Path, sizes: list[int], max_bytes: int = 10**9) -> list[SegmentState]:
    writer = SegmentWriter(folder, None, max_bytes=max_bytes)
    for number, size in enumerate(sizes):
        body, sidecar = png(f"{number}", size), f'{{"rank": {number}}}'
        key = f"things-{number:016x}-00"
        writer.place(key, "png", body, sidecar, sha256=hashlib.sha256(body).digest())
    states = writer.write(writer.take())
    writer.seal()
    return states


def test_tar_and_webdataset_read_a_segment(tmp_path: Path) -> None:
    sizes = [0, 1, 411, 455, 456, 5000]
    fill(tmp_path, sizes)
    segment = tmp_path / "00000.tar"
    listed = subprocess.run(["tar", "-tvf", segment], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    assert len(listed.stdout.splitlines()) == 12
    samples = list(wds.WebDataset(str(segment), shardshuffle=False))
    assert [sample["png"] for sample in samples] == [
        png(f"{number}", size) for number, size in enumerate(sizes)
    ]
    assert samples[3]["json"] == b'{"rank": 3}'


def test_headers_are_read_by_the_standard_library(tmp_path: Path) -> None:
    fill(tmp_path, [123_456])
    with tarfile.open(tmp_path / "00000.tar") as tar:
        sidecar, info = tar.getmembers()
    assert sidecar.name.removesuffix(".json") == info.name.removesuffix(".png")
    assert (info.size, info.mode) == (len(png("0", 123_456)), 0o644)
    assert (info.isreg(), info.uid, info.gid, info.mtime) == (True, 0, 0, 1609804800)


def test_a_full_segment_is_closed_and_the_next_begun(tmp_path: Path) -> None:
    states = fill(tmp_path, [3000] * 20, max_bytes=20_000)
    assert len(states) > 3
    assert all((state.sha256 is None) == (state is states[-1]) for state in states)
    names = [path.name for path in sorted(tmp_path.glob("*.tar"))]
    assert names == [f"{state.number:05d}.tar" for state in states]
    assert all(path.stat().st_size <= 20_000 for path in tmp_path.glob("*.tar"))


def test_an_image_larger_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    states = fill(tmp_path, [100, 50_000, 100], max_bytes=10_000)
    assert len(states) == 3


@pytest.mark.parametrize(
    "section",
    ["emojis", "../../etc", "a/b", "nul\x00", "x" * 10_000, "ü ñ", "", "A.B", "\ud800"],
)
def test_keys_are_safe_names_for_any_section(section: str, tmp_path: Path) -> None:
    form = CaptionForm(caption="c", url_template=f"http://h/{section}/x_{{rank}}.png")
    key = image_key(address_of(form, section).key, 31, 12)
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert len(key) < 80
    writer = SegmentWriter(tmp_path, None, max_bytes=10**6)
    writer.place(key, "png", png("x"), "{}", sha256=bytes(32))
    writer.write(writer.take())
    writer.seal()
    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert tar.getnames() == [f"{key}.json", f"{key}.png"]


def test_a_key_never_changes() -> None:
    form = CaptionForm(caption="c", url_template="https://cdn/samples/emojis/abc_{rank}.png")
    key = address_of(form, "emojis").key
    assert image_key(key, 3, 1) == "emojis-905a69acedd240eb-03"
    assert image_key(key, 3, 2) == "emojis-905a69acedd240eb-03-v2"
    assert section_slug("Animal Concepts!") == "animal_concepts"


@pytest.mark.parametrize(("more", "segments"), [(-1, 2), (0, 1), (1, 1)])
def test_a_segment_holds_images_up_to_its_very_limit_with_its_end(
    more: int, segments: int, tmp_path: Path
) -> None:
    fill(tmp_path / "one", [3000, 2000])
    whole = (tmp_path / "one" / "00000.tar").stat().st_size
    states = fill(tmp_path / "cut", [3000, 2000], max_bytes=whole + more)
    assert len(states) == segments
    assert len(list((tmp_path / "cut").glob("*.tar"))) == segments
