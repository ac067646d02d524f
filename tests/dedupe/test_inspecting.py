"""Images are inspected in processes, and one that kills its process is identified."""

from __future__ import annotations

import pytest

from pipeline.dedupe import inspecting
from tests.dedupe.fragile import HANGER, KILLER, inspect_fragile
from tests.helpers.dedupe import RawStore, dedupe, kept, photo_png, rejected


def test_a_file_that_kills_its_process_is_rejected_and_the_others_are_not(
    raw: RawStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspecting, "inspect_part", inspect_fragile)
    for number in range(10):
        raw.add(f"k{number}", photo_png(number), rank=number)
    raw.add("killer", KILLER)
    workspace = raw.write()
    report = dedupe(workspace, workers=2)
    assert len(kept(workspace)) == 10
    row = rejected(workspace)["killer"]
    assert (row["reason"], row["detail"]) == ("decoder_crashed", "its process died of SIGSEGV")
    assert report.counts["decoder_crashed"] == 1


def test_a_file_that_hangs_its_process_is_rejected(
    raw: RawStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspecting, "inspect_part", inspect_fragile)
    monkeypatch.setattr(inspecting, "PART_TIMEOUT_S", 2.0)
    monkeypatch.setattr(inspecting, "IMAGE_TIMEOUT_S", 2.0)
    raw.add("good", photo_png(1))
    raw.add("hanger", HANGER)
    workspace = raw.write()
    dedupe(workspace, workers=2)
    assert set(kept(workspace)) == {"good"}
    assert rejected(workspace)["hanger"]["reason"] == "decoder_crashed"


def test_a_crash_is_tried_again_by_the_next_run(
    raw: RawStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(inspecting, "inspect_part", inspect_fragile)
        raw.add("killer", KILLER)
        dedupe(raw.write(), workers=1)
    raw.add("new", photo_png(1))
    workspace = raw.write()
    dedupe(workspace)
    assert rejected(workspace)["killer"]["reason"] == "not_decodable"
