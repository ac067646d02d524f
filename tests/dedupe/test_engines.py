"""Dedupe on Ray writes the same bytes as on this machine, also where a file kills the decoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.core.workspace import Workspace
from pipeline.dedupe import inspecting
from tests.dedupe.fragile import KILLER, inspect_fragile
from tests.helpers.dedupe import RawStore, dedupe, photo_png, rejected

pytestmark = pytest.mark.slow


def tables(workspace: Workspace) -> dict[str, bytes]:
    """The files that dedupe wrote, by name."""
    files = sorted(p for p in workspace.dedupe.rglob("*") if p.is_file())
    return {str(p.relative_to(workspace.dedupe)): p.read_bytes() for p in files}


def test_the_same_bytes_on_ray(
    raw: RawStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(inspecting, "inspect_part", inspect_fragile)
    for number in range(150):
        raw.add(f"k{number:03d}", photo_png(number % 140), f"caption {number}")
    raw.add("deadly", KILLER)
    raw.add("broken", b"\x89PNG\r\n\x1a\n" + bytes(40))
    local = raw.write()
    shutil.copytree(local.root, tmp_path / "ray")
    on_ray = Workspace(tmp_path / "ray")
    report = dedupe(local, workers=2)
    assert dedupe(on_ray, workers=2, engine="ray").counts == report.counts
    assert tables(on_ray) == tables(local)
    assert rejected(on_ray)["deadly"]["reason"] == "decoder_crashed"
    assert report.counts["rows"] == 152
