"""What a stage will take is said before it begins, and a disk that is too small ends it there."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from pipeline.core import estimate as module
from pipeline.core.errors import StorageError
from pipeline.core.estimate import Announced, Estimate, announce, check_room, free_bytes
from pipeline.core.progress import no_progress
from pipeline.core.quantities import duration, rough_duration, size

LOGGER = "pipeline.core.estimate"


def make_estimate(folder: Path, *, disk_bytes: float = 2_500_000) -> Estimate:
    return Estimate(
        stage="encode",
        work="encode 3 images",
        folder=folder,
        disk_bytes=disk_bytes,
        memory_bytes=410_000_000,
        times="5 min",
    )


def test_one_line_names_the_work_its_time_its_disk_and_its_memory(tmp_path: Path) -> None:
    assert make_estimate(tmp_path).line(12_000_000_000) == (
        "encode: encode 3 images. Estimate: 5 min; 2 MB of disk (12 GB free), 410 MB of memory."
    )


def test_the_line_is_logged_before_the_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    announce(make_estimate(tmp_path / "not" / "there"), no_progress, force=False)
    assert [record.message[:23] for record in caplog.records] == ["encode: encode 3 images"]


def test_a_disk_that_is_too_small_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda _: 1000)
    check_room("encode", tmp_path, 1000, force=False)
    with pytest.raises(StorageError) as caught:
        check_room("encode", tmp_path, 1001, force=False)
    assert "about 1 kB into" in str(caught.value)
    assert "only 1 kB are free" in str(caught.value)
    assert "--force" in str(caught.value)
    check_room("encode", tmp_path, 1e12, force=True)
    with pytest.raises(StorageError):
        announce(make_estimate(tmp_path), no_progress, force=False)


def test_the_room_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(
        found.f_bavail * found.f_frsize, rel=0.5
    )


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def said_after(
    caplog: pytest.LogCaptureFixture, *steps: tuple[float, int], total: int | None = 100
) -> list[str]:
    """What is logged when so many items are done at these times."""
    caplog.clear()
    caplog.set_level(logging.INFO, LOGGER)
    clock = Clock()
    announced = Announced(stage="encode", progress=no_progress, clock=clock)
    for now, done in steps:
        clock.now = now
        announced(done, total, None)
    return [record.message for record in caplog.records]


def test_the_rest_is_judged_by_the_first_items_once(caplog: pytest.LogCaptureFixture) -> None:
    # The first item took 9 s, and does not count.
    steps = [(0.0, 20), (8.9, 20), (9.0, 21), (9.5, 22), (11.0, 23), (12.0, 24), (13.0, 90)]
    assert said_after(caplog, *steps) == ["encode: about 77 s for the rest, judged by 2 s of work."]


@pytest.mark.parametrize(
    ("steps", "total"),
    [
        ([(0.0, 0), (1.0, 10), (3.0, 90), (4.0, 100)], 100),  # the rest is over at once
        ([(0.0, 0), (9.0, 1), (9.9, 2)], 100),  # too early
        ([(0.0, 0), (9.0, 1)], 100),  # only the first item is done
        ([(0.0, 7), (60.0, 7)], 100),  # nothing is done yet
        ([(0.0, 0), (60.0, 7)], None),  # of how many is not known
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_judge_by(
    caplog: pytest.LogCaptureFixture, steps: list[tuple[float, int]], total: int | None
) -> None:
    assert said_after(caplog, *steps, total=total) == []


def test_progress_is_passed_on(tmp_path: Path) -> None:
    seen: list[object] = []
    announced = announce(
        make_estimate(tmp_path, disk_bytes=0), lambda *args: seen.append(args), force=False
    )
    announced(1, 2, {"failed": 1})
    assert seen == [(1, 2, {"failed": 1})]


@pytest.mark.parametrize(
    ("seconds", "rough"),
    [
        (0.2, "less than 1 s"),
        (8.4, "8 s"),
        (89.9, "90 s"),
        (185, "3 min"),
        (9_000, "2.5 hours"),
        (100_000, "28 hours"),
        (1_000_000, "12 days"),
    ],
)
def test_a_guess_has_no_more_digits_than_it_knows(seconds: float, rough: str) -> None:
    assert rough_duration(seconds) == rough


def test_times_and_sizes_are_read_at_a_glance() -> None:
    assert [duration(s) for s in (12.9, 185, 111_600)] == ["12 s", "3 min 05 s", "31 h 00 min"]
    assert [size(n) for n in (512, 2_500, 3e6, 1.44e9, 4e10, 1.2e12)] == [
        "512 bytes",
        "2 kB",
        "3 MB",
        "1.4 GB",
        "40 GB",
        "1.2 TB",
    ]
