"""What is written is on the disk before it has its name, and the name before anything counts on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.outputs import write_output
from pipeline.core.ownership import reopen, start_over
from pipeline.core.storage import make_manifest, write_bytes, write_manifest
from tests.helpers.disk_order import DiskOrder


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> DiskOrder:
    return DiskOrder(monkeypatch)


def test_a_file_is_synced_then_named_then_its_folder_is_synced(
    tmp_path: Path, order: DiskOrder
) -> None:
    folder = tmp_path / "folder"
    write_bytes(folder / "a.json", b"{}")
    assert order.events == ["sync a.json", "rename a.json", "sync folder"]


def test_all_bytes_are_handed_over_before_the_file_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    order = DiskOrder(monkeypatch)
    mark = order.mark

    def look(event: str) -> None:
        mark(event)
        if event == "sync a.bin":
            seen.append((tmp_path / "a.bin.partial").stat().st_size)

    monkeypatch.setattr(order, "mark", look)
    write_bytes(tmp_path / "a.bin", b"x" * 100)
    assert seen == [100]


def test_a_file_that_the_user_named_is_synced_then_named_then_its_folder_is_synced(
    tmp_path: Path, order: DiskOrder
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with write_output(folder / "a.html", kind="HTML page", magic=b"") as output:
        output.file.write(b"x")
    file, temporary = "rename a.html", order.events[0]
    assert temporary.startswith("sync .a.html.")
    assert order.events[:3] == [temporary, file, "sync folder"]


def test_the_mark_of_an_unfinished_folder_goes_after_the_manifest_is_there(
    tmp_path: Path, order: DiskOrder
) -> None:
    folder = tmp_path / "dedupe"
    folder.mkdir()
    start_over(folder, "dedupe")
    order.events.clear()
    write_manifest(folder, make_manifest("dedupe", config={}, inputs={}, counts={}, files=()))
    assert order.events == [
        "sync manifest.json",
        "rename manifest.json",
        "sync dedupe",
        "delete unfinished.json",
    ]


@pytest.mark.parametrize("begin", [start_over, reopen])
def test_a_folder_is_marked_as_unfinished_before_its_manifest_goes(
    begin: Callable[[Path, str], None], tmp_path: Path, order: DiskOrder
) -> None:
    folder = tmp_path / "dedupe"
    folder.mkdir()
    write_manifest(folder, make_manifest("dedupe", config={}, inputs={}, counts={}, files=()))
    order.events.clear()
    begin(folder, "dedupe")
    assert order.events == [
        "sync unfinished.json",
        "rename unfinished.json",
        "sync dedupe",
        "delete manifest.json",
    ]
