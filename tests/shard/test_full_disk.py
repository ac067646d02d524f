"""A full disk and a killed process, for real, in the middle of a shard."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import StorageError
from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run
from tests.helpers.small_disk import small_disk

__all__ = ["small_disk"]

pytestmark = pytest.mark.slow

IMAGES = 600  # their shards need 3 MB
OPTIONS: dict[str, Any] = {"text_seq_len": 24, "max_samples": 100, "images": "original"}


def test_a_full_disk_in_the_middle_of_a_shard_is_survived(
    make_world: Callable[..., Any], small_disk: Path
) -> None:
    whole, world = make_world("whole", images=IMAGES), make_world("small", images=IMAGES)
    run(ShardConfig(workspace=whole.root, **OPTIONS))
    shards = world.root / "shards"
    shards.symlink_to(small_disk)
    with pytest.raises(StorageError, match="The disk is full"):
        run(ShardConfig(workspace=world.root, **OPTIONS))
    finished = sorted(path.name for path in (shards / "default" / "train").glob("*.tar"))
    assert 0 < len(finished) < 6
    assert not list(shards.rglob("*.partial"))
    assert not (shards / "default" / "manifest.json").exists()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    report = run(ShardConfig(workspace=world.root, **OPTIONS))
    assert report.details["shards_reused"] == len(finished)
    assert world.shard_bytes() == whole.shard_bytes()


def test_killed_for_real_at_any_moment_it_ends_in_the_same_bytes(
    make_world: Callable[..., Any],
) -> None:
    whole, world = make_world("whole", images=IMAGES), make_world("killed", images=IMAGES)
    run(ShardConfig(workspace=whole.root, **OPTIONS))
    code = (
        "import sys; from pathlib import Path; from pipeline.shard.config import ShardConfig\n"
        "from pipeline.shard.run import run; print('ready', flush=True)\n"
        f"run(ShardConfig(workspace=Path(sys.argv[1]), **{OPTIONS!r}))"
    )
    generator, killed = random.Random(0), 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(world.root)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(generator.uniform(0.0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    run(ShardConfig(workspace=world.root, **OPTIONS))
    assert killed
    assert world.shard_bytes() == whole.shard_bytes()
