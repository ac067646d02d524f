from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.ownership import reopen
from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run


class KilledError(BaseException):
    """Simulates a kill: no code of ours catches it."""


def configure(world: Any) -> ShardConfig:
    return ShardConfig(workspace=world.root, text_seq_len=24, max_samples=15)


def kill_at_rename(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Kill the process instead of its `number`-th rename."""
    rename = Path.replace
    left = [number]

    def replace(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
            raise KilledError  # the dead don't clean up: the temporary file stays
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def run_killed_everywhere(make: Callable[[str], Any], expected: dict[str, bytes]) -> int:
    """Kill a run at each of its renames in turn; each time the next run yields `expected`."""
    for number in range(1, 1000):
        world = make(f"killed-{number}")
        with pytest.MonkeyPatch.context() as patch:
            kill_at_rename(patch, number)
            try:
                run(configure(world))
                return number - 1
            except KilledError:
                pass
        run(configure(world))
        assert world.shard_bytes() == expected, f"killed at rename {number}"
    raise AssertionError("a run of a thousand renames")


def test_killed_at_any_rename_the_same_command_ends_in_the_same_bytes(
    make_world: Callable[..., Any],
) -> None:
    whole = make_world("whole", images=40)
    run(configure(whole))
    renames = run_killed_everywhere(lambda name: make_world(name, images=40), whole.shard_bytes())
    assert renames >= 3 * 4 + 5


def test_killed_while_adding_and_removing_it_ends_in_the_same_bytes(
    make_world: Callable[..., Any], tmp_path: Path
) -> None:
    world = make_world(images=40)
    run(configure(world))
    world.rows = [r for r in world.rows if r["key"] not in ("key_00003", "key_00008")]
    world.rows[10]["caption"] += " again"
    world.add(range(50, 70))
    world.save()
    whole = world.copy(tmp_path / "whole")
    run(configure(whole))
    run_killed_everywhere(lambda name: world.copy(tmp_path / name), whole.shard_bytes())


def test_a_killed_run_keeps_the_shards_that_it_finished(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world("data", images=60)
    with pytest.MonkeyPatch.context() as patch:
        kill_at_rename(patch, 9)  # the base, then table, tar and note of two shards, …
        with pytest.raises(KilledError):
            run(configure(world))
    assert run(configure(world)).details["shards_reused"] == 2


def test_a_finished_shard_that_was_damaged_since_is_written_again(
    make_world: Callable[..., Any],
) -> None:
    whole, world = make_world("whole"), make_world("data")
    for one in (whole, world):
        run(configure(one))
        one.add(range(80, 90))
        one.save()
    tar = world.workspace.shards("default") / "train/000001.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    run(configure(whole))
    run(configure(world))
    assert world.shard_bytes() == whole.shard_bytes()


def grow(world: Any) -> Path:
    """Two generations of shards, unfinished as a repair leaves them; the folder."""
    run(configure(world))
    world.add(range(80, 100))
    world.save()
    run(configure(world))
    folder: Path = world.workspace.shards("default")
    return folder


@pytest.mark.parametrize("name", ["train/000000.tar", "train/000001.idx.npy"])
def test_a_set_that_grew_keeps_its_layout_when_a_shard_is_damaged(
    make_world: Callable[..., Any], name: str
) -> None:
    world = make_world("data")
    folder = grow(world)
    before = world.shard_bytes()
    data = bytearray((folder / name).read_bytes())
    for place in range(0, len(data), 97 * 8):
        data[place] ^= 64
    (folder / name).write_bytes(data)
    reopen(folder, "shards")
    report = run(configure(world))
    assert report.counts["shards"] - report.details["shards_reused"] == 1
    assert world.shard_bytes() == before


def test_a_set_that_grew_is_assigned_again_when_a_tar_is_missing(
    make_world: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    world, at_once = make_world("data"), make_world("at-once")
    (grow(world) / "train/000000.tar").unlink()
    reopen(world.workspace.shards("default"), "shards")
    run(configure(world))
    assert "the keys of train/000000.tar are lost" in caplog.text
    at_once.add(range(80, 100))
    at_once.save()
    run(configure(at_once))
    assert world.shard_bytes() == at_once.shard_bytes()


def test_returning_inputs_find_correct_shards(make_world: Callable[..., Any]) -> None:
    """A run with other inputs that is killed must not leave their bytes under the old index."""
    whole, world = make_world("whole"), make_world("data")
    run(configure(whole))
    run(configure(world))
    row = next(r for r in world.rows if r["split"] == "train")
    caption = row["caption"]
    row["caption"] = caption[:-1] + "x"
    world.save()
    with pytest.MonkeyPatch.context() as patch:
        kill_at_rename(patch, 5)
        with pytest.raises(KilledError):
            run(configure(world))
    row["caption"] = caption
    world.save()
    run(configure(world))
    assert world.shard_bytes() == whole.shard_bytes()
