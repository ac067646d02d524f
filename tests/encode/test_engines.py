"""Several processes, here or on Ray, write the codes that one process writes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.workspace import Workspace
from pipeline.encode.config import EncodeConfig
from pipeline.encode.encoding import threads_per_process
from pipeline.encode.run import run
from tests.encode.test_run import KilledError, codes_folder, kill_at, make_codec
from tests.helpers.progress import items_only

MakeWorkspace = Callable[..., Workspace]


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    return make_codec(tmp_path / "random")


def config(workspace: Workspace, codec: Path, **options: Any) -> EncodeConfig:
    settings = {"part_rows": 70, "batch_size": "4", **options}
    return EncodeConfig(workspace=workspace.root, codec=str(codec), **settings)


def files(workspace: Workspace) -> dict[str, bytes]:
    """The codes and the manifest."""
    return {path.name: path.read_bytes() for path in sorted(codes_folder(workspace).iterdir())}


def test_two_processes_write_the_same_bytes(make_workspace: MakeWorkspace, codec: Path) -> None:
    one = make_workspace(150, name="one", broken=(3, 100))
    two = make_workspace(150, name="two", broken=(3, 100))
    report = run(config(one, codec))
    assert run(config(two, codec, devices=2)).counts == report.counts
    assert report.counts["failed"] == 2
    assert files(two) == files(one)


def test_what_two_processes_had_done_is_resumed_by_one(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    one, two = make_workspace(150, name="one"), make_workspace(150, name="two")
    run(config(one, codec))
    with pytest.raises(KilledError):
        run(config(two, codec, devices=2), kill_at(70))
    assert len(list(codes_folder(two).glob("*.parquet"))) <= 1
    run(config(two, codec))
    assert files(two) == files(one)


def test_an_interrupt_keeps_the_pieces_that_were_done(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    def interrupt(
        done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        if done:
            raise KeyboardInterrupt

    one, two = make_workspace(150, name="one"), make_workspace(150, name="two")
    run(config(one, codec, part_rows=1000))
    with pytest.raises(KeyboardInterrupt):
        run(config(two, codec, part_rows=1000, devices=2), interrupt)
    assert (codes_folder(two) / "draft.npz").exists()
    seen: list[int] = []
    run(
        config(two, codec, part_rows=1000, devices=2),
        items_only(lambda done, *_: seen.append(done)),
    )
    assert seen[0] == 64
    assert files(two) == files(one)


def test_a_process_that_dies_stops_the_stage_with_a_sentence_and_nothing_is_lost(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    workspace = make_workspace(150)
    over = threading.Event()
    killing = threading.Thread(target=_kill_workers, args=(over,))
    killing.start()
    try:
        with pytest.raises(PipelineError, match=r"SIGKILL.*The same command resumes"):
            run(config(workspace, codec, devices=2))
    finally:
        over.set()
        killing.join()
    assert run(config(workspace, codec, devices=2)).counts["encoded"] == 150


def _kill_workers(over: threading.Event) -> None:
    """Kill a worker of this process now and then. One that has not begun its part is started again."""
    while not over.wait(0.1):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "forkserver" in " ".join(child.cmdline()) and child.children():
                    child.children()[0].kill()
                    break


def test_the_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.encode.encoding.count_cores", lambda: 16)
    assert threads_per_process("local", "cpu", 1) == 16
    assert threads_per_process("local", "cuda", 8) == 2
    assert threads_per_process("local", "cpu", 32) == 1
    assert threads_per_process("ray", "cpu", None) == 1
    assert threads_per_process("ray", "cuda", None) == 4


@pytest.mark.slow
def test_ray_writes_the_same_bytes(
    make_workspace: MakeWorkspace, codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    one = make_workspace(150, name="one", broken=(3,))
    two = make_workspace(150, name="two", broken=(3,))
    run(config(one, codec))
    run(config(two, codec, engine="ray", devices=2))
    assert files(two) == files(one)
