"""`pipeline shard --encode-vqgan`: one command encodes and shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.contracts import WORKSPACE_VERSION
from pipeline.core.storage import input_digest, read_manifest, write_json
from pipeline.webdata.index import read_index
from tests.encode.test_sources import write_pair
from tests.helpers.cli import run_command

pytest.importorskip("torch")


def shard(world: Any, *options: str) -> dict[str, Any]:
    """The report of the command, which must succeed."""
    where = ["shard", "--workspace", str(world.root), "--text-seq-len", "24", "--json", "--quiet"]
    done = run_command([*where, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.fixture(autouse=True)
def marked(world: Any) -> None:
    """The marker of a workspace, as `pipeline scrape` leaves it."""
    mark = {"format": "dalle-pipeline/workspace", "version": WORKSPACE_VERSION}
    write_json(world.workspace.marker, {**mark, "source": "dalleblog"})


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    settings, checkpoint = write_pair(tmp_path / "files")
    return ["--vqgan-config", str(settings), "--vqgan-checkpoint", str(checkpoint)]


def test_one_command_encodes_and_shards(world: Any, pair: list[str]) -> None:
    report = shard(world, "--encode-vqgan", *pair)
    assert (report["outcome"], report["counts"]["written"]) == ("done", 60)
    (codes,) = (world.root / "codes").glob("vqgan-*")
    index = read_index(world.workspace.shards("default"))
    facts = read_manifest(codes, "codes").details["codec"]
    assert index.codec.fingerprint == facts["fingerprint"]
    assert index.grid == tuple(facts["grid"]) == (8, 8)


def test_other_codes_are_not_used(world: Any, pair: list[str]) -> None:
    assert (world.root / "codes").is_dir()  # those that the fixture left
    report = shard(world, "--encode-vqgan", "--codec", "mine", *pair)
    manifest = read_manifest(world.workspace.shards("default"), "shards")
    assert manifest.config["codec"].startswith("mine-")
    assert report["details"]["codec"]["name"] == "mine"


def test_the_same_command_again_has_nothing_to_do(world: Any, pair: list[str]) -> None:
    first = shard(world, "--encode-vqgan", *pair)
    again = shard(world, "--encode-vqgan", *pair)
    assert again["outcome"] == "unchanged"
    digest = input_digest(world.workspace.shards("default"))
    assert [r["details"]["fingerprint"] for r in (first, again)] == [digest, digest]


def test_without_it_nothing_is_encoded(world: Any) -> None:
    shutil.rmtree(world.workspace.segments)
    assert shard(world)["outcome"] == "done"
