"""The folder for the images: existing images are kept, and other files are never changed."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.errors import ConfigError, LockedError, PipelineError, WorkspaceError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.prompts import Order
from pipeline.generate.run import run
from pipeline.generate.sampler import ImageSampler
from tests.generate.images import records_of

MakeConfig = Callable[..., GenerateConfig]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def prompts_in(workspace: Workspace, name: str) -> list[str]:
    return list(dict.fromkeys(record["prompt"] for record in records_of(workspace, name)))


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[int]]:
    """Interrupts drawing after so many batches; the list has the images of each batch."""
    draw = ImageSampler.draw
    drawn: list[int] = []
    limit: list[int | None] = [None]

    def interrupted(sampler: ImageSampler, orders: Sequence[Order], watch: object = None) -> object:
        if limit[0] is not None and len(drawn) >= limit[0]:
            raise KeyboardInterrupt
        drawn.append(len(orders))
        return draw(sampler, orders)

    monkeypatch.setattr(ImageSampler, "draw", interrupted)

    def stop(batches: int | None) -> list[int]:
        drawn.clear()
        limit[0] = batches
        return drawn

    return stop


# --- Other prompts under the same name -----------------------------------------------------------


def test_other_prompts_go_to_the_next_free_name_with_a_warning(
    workspace: Workspace, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run(make_config())
    before = contents(workspace.generated("default"))
    with caplog.at_level(logging.WARNING):
        report = run(make_config(prompts=("a white cube",)))
    assert report.outputs == (str(workspace.generated("default-2")),)
    assert "default-2" in caplog.text
    assert run(make_config(seed=7)).outputs == (str(workspace.generated("default-3")),)
    assert contents(workspace.generated("default")) == before
    assert prompts_in(workspace, "default-2") == ["a white cube"]


def test_the_same_prompts_are_found_wherever_in_the_family_they_lie(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config())
    run(make_config(seed=1))
    run(make_config(seed=2))
    for seed, name in ((0, "default"), (1, "default-2"), (2, "default-3")):
        report = run(make_config(seed=seed))
        assert report.outcome == "unchanged"
        assert report.outputs == (str(workspace.generated(name)),)
    assert run(make_config(name="default-2", seed=1)).outcome == "unchanged"


def test_the_same_prompts_are_found_however_they_are_given(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run(make_config(prompts=("cat", "dog")))
    (tmp_path / "prompts.txt").write_text("cat\ndog\n")
    assert run(make_config(prompts=("cat | dog",))).outcome == "unchanged"
    file = tmp_path / "prompts.txt"
    assert run(make_config(prompts=(), prompts_file=file)).outcome == "unchanged"
    assert run(make_config(prompts=("cat",), prompts_file=file)).outcome == "done"


def test_a_prompt_of_two_lines_is_not_two_prompts(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(prompts=("cat", "dog")))
    assert run(make_config(prompts=("cat\ndog",))).outcome == "done"
    assert prompts_in(workspace, "default-2") == ["cat\ndog"]


def test_refuse_says_what_differs_and_changes_nothing(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config())
    before = contents(workspace.root)
    with pytest.raises(ConfigError, match=r"other prompts or options \(seed 0 → 1\)"):
        run(make_config(seed=1, on_change="refuse"))
    assert contents(workspace.root) == before
    with pytest.raises(
        ConfigError, match=r"prompts \['a red cube', 'a blue cube'\] → \['a dog'\]\)"
    ):
        run(make_config(prompts=("a dog",), on_change="refuse"))
    prime = workspace.root / "prime.png"
    Image.new("RGB", (64, 64)).save(prime)
    with pytest.raises(ConfigError, match=r"options \(prime changed\)"):
        run(make_config(prime=prime, on_change="refuse"))
    assert run(make_config(on_change="refuse")).outcome == "unchanged"


def test_restart_replaces_the_images_and_leaves_all_else(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config())
    folder = workspace.generated("default")
    (folder / "note.txt").write_text("mine")
    (folder / "0009-00.png").write_text("my own image")
    run(make_config(prompts=("a white cube",), num_images=1, on_change="restart"))
    assert sorted(contents(folder)) == [
        "0000-00.png",
        "0009-00.png",
        "contact.png",
        "manifest.json",
        "note.txt",
        "records.jsonl",
    ]
    assert (folder / "note.txt").read_text() == "mine"
    assert (folder / "0009-00.png").read_text() == "my own image"
    assert not workspace.generated("default-2").exists()


def test_restart_refuses_where_a_file_of_the_user_would_be_overwritten(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(num_images=1))
    folder = workspace.generated("default")
    (folder / "0001-02.png").write_text("my own image")
    before = contents(folder)
    with pytest.raises(ConfigError, match=r"0001-02\.png was not written by this command"):
        run(make_config(num_images=3, on_change="restart"))
    assert contents(folder) == before


def test_a_folder_of_the_family_that_is_not_ours_is_skipped(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config())
    holiday = workspace.generated("default-2")
    holiday.mkdir()
    (holiday / "beach.png").write_text("dear to someone")
    report = run(make_config(seed=1))
    assert report.outputs == (str(workspace.generated("default-3")),)
    assert contents(holiday) == {"beach.png": b"dear to someone"}


# --- Folders of other things ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("thesis.txt", "records.jsonl"),
        ("records.jsonl",),
        ("0000-00.png", "contact.png"),
        ("unfinished.json",),
        ("manifest.json",),
        ("deep/er/thesis.txt",),
    ],
)
@pytest.mark.parametrize("on_change", ["new", "refuse", "restart"])
def test_a_folder_without_our_mark_is_refused_and_left_as_it_is(
    make_config: MakeConfig, tmp_path: Path, names: tuple[str, ...], on_change: str
) -> None:
    folder = tmp_path / "mine"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"a": "line"}\n')
    before = contents(folder)
    with pytest.raises(WorkspaceError, match=r"mine.* Nothing was touched"):
        run(make_config(out=folder, on_change=on_change))
    assert contents(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "workspace"]


def test_a_file_is_no_folder_to_draw_into(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(WorkspaceError, match=r"thesis\.txt is not a folder"):
        run(make_config(out=tmp_path / "thesis.txt"))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_empty_folder_is_drawn_into(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run(make_config(out=tmp_path / "empty")).outputs == (str(tmp_path / "empty"),)


@pytest.mark.parametrize("place", [".", "..", "a/..", "my [1] *"])
def test_a_folder_may_have_any_path(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "out/a/a").mkdir(parents=True)
    here = tmp_path / ("out/a" if place == ".." else "out")
    monkeypatch.chdir(here)
    for seed, outcome in ((0, "done"), (1, "done"), (0, "unchanged"), (1, "unchanged")):
        assert run(make_config(out=Path(place), seed=seed)).outcome == outcome
    folder = Path(os.path.normpath(here / place))
    assert (folder / "manifest.json").exists()
    assert (folder.with_name(f"{folder.name}-2") / "manifest.json").exists()


@pytest.mark.timeout(20)
def test_the_whole_disk_is_refused_at_once(make_config: MakeConfig) -> None:
    with pytest.raises(WorkspaceError, match="Nothing was touched"):
        run(make_config(out=Path("/")))
    with pytest.raises(ConfigError):
        run(make_config(checkpoint=Path("/")))


def test_a_file_of_the_user_stays_in_a_folder_of_ours(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    run(make_config(out=folder))
    (folder / "thesis.txt").write_text("mine")
    assert run(make_config(out=folder)).outcome == "unchanged"
    report = run(make_config(out=folder, seed=1))
    assert report.outputs == (str(tmp_path / "out-2"),)
    assert (folder / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "..", ".", "set/a", "/etc/x", ".hidden", "~", "a b", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(
    workspace: Workspace, make_config: MakeConfig, name: str
) -> None:
    run(make_config())
    before = contents(workspace.root)
    with pytest.raises(ConfigError, match="use letters, digits"):
        run(make_config(name=name))
    assert contents(workspace.root) == before


def test_a_folder_that_is_drawn_into_is_not_drawn_into_by_another_process(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(LockedError, match=r"Another process is writing to .*out"):
        run(make_config(out=tmp_path / "out"))
    os.close(descriptor)
    assert run(make_config(out=tmp_path / "out")).outcome == "done"


# --- Killed and damaged --------------------------------------------------------------------------


def test_an_interrupted_run_resumes_where_it_was(
    workspace: Workspace, make_config: MakeConfig, stop_after: Callable[[int | None], list[int]]
) -> None:
    run(make_config(name="whole"))
    stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        run(make_config(batch_size=3))
    drawn = stop_after(None)
    assert run(make_config(batch_size=3)).outputs == (str(workspace.generated("default")),)
    assert drawn == [3]
    assert _files(workspace, "default") == _files(workspace, "whole")


def test_an_interrupted_run_of_other_prompts_is_kept(
    workspace: Workspace, make_config: MakeConfig, stop_after: Callable[[int | None], list[int]]
) -> None:
    stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        run(make_config(batch_size=3))
    stop_after(None)
    begun = contents(workspace.generated("default"))
    assert run(make_config(seed=1)).outputs == (str(workspace.generated("default-2")),)
    assert contents(workspace.generated("default")) == begun
    drawn = stop_after(None)
    assert run(make_config(batch_size=3)).outputs == (str(workspace.generated("default")),)
    assert drawn == [3]


def test_a_run_that_was_killed_before_its_first_image_leaves_its_name_free(
    workspace: Workspace, make_config: MakeConfig, stop_after: Callable[[int | None], list[int]]
) -> None:
    folder = workspace.generated("default")
    stop_after(0)
    with pytest.raises(KeyboardInterrupt):
        run(make_config())
    (folder / "unfinished.jsonl").unlink()  # killed just before it was written
    stop_after(None)
    assert run(make_config(seed=1)).outputs == (str(folder),)


@pytest.mark.parametrize("name", ["0000-01.png", "0001-00.png"])
def test_a_noted_image_that_is_gone_is_drawn_again(
    workspace: Workspace,
    make_config: MakeConfig,
    stop_after: Callable[[int | None], list[int]],
    name: str,
) -> None:
    prompts = ("a red cube", "a blue cube", "a white cube")
    run(make_config(name="whole", prompts=prompts))
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        run(make_config(prompts=prompts, batch_size=3))
    (workspace.generated("default") / name).unlink()
    drawn = stop_after(None)
    run(make_config(prompts=prompts, batch_size=3))
    assert drawn == [3, 3]
    assert _files(workspace, "default") == _files(workspace, "whole")


@pytest.mark.parametrize(
    ("name", "batches"),
    [("0001-02.png", [3]), ("contact.png", []), ("records.jsonl", [3, 3])],
)
def test_files_missing_from_a_finished_folder_are_made_again(
    workspace: Workspace,
    make_config: MakeConfig,
    stop_after: Callable[[int | None], list[int]],
    name: str,
    batches: list[int],
) -> None:
    run(make_config())
    folder = workspace.generated("default")
    before = contents(folder)
    (folder / name).unlink()
    drawn = stop_after(None)
    report = run(make_config(batch_size=3))
    assert (report.outcome, drawn) == ("done", batches)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "damage",
    [b"", b"\0\0\0\0", b"[]\n", b"{}\n[[]]\n", b'{"identity": 3}\n', b"\xff\xfe", b"[" * 100_000],
)
def test_notes_that_are_damaged_are_not_resumed(
    workspace: Workspace,
    make_config: MakeConfig,
    stop_after: Callable[[int | None], list[int]],
    damage: bytes,
) -> None:
    stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        run(make_config(batch_size=3))
    folder = workspace.generated("default")
    (folder / "unfinished.jsonl").write_bytes(damage)
    begun = contents(folder)
    stop_after(None)
    assert run(make_config()).outputs == (str(workspace.generated("default-2")),)
    assert contents(folder) == begun


@pytest.mark.parametrize(
    "line",
    [
        b'[{"file": "../../../thesis.txt", "number": 0}]\n',
        b'[{"file": "/etc/passwd", "number": 0}]\n',
        b'[{"file": 3, "number": 0}]\n',
        b'[{"number": 0}]\n',
        b'[{"file": "0000-00.png"}]\n',
        b"[[]]\n",
        b"[]\n",
        b"\0\0\0\n",
    ],
)
def test_a_note_that_names_no_image_of_the_folder_counts_for_nothing(
    workspace: Workspace,
    make_config: MakeConfig,
    stop_after: Callable[[int | None], list[int]],
    line: bytes,
) -> None:
    run(make_config(name="whole"))
    (workspace.root / "thesis.txt").write_text("mine")
    stop_after(0)
    with pytest.raises(KeyboardInterrupt):
        run(make_config())
    folder = workspace.generated("default")
    with (folder / "unfinished.jsonl").open("ab") as file:
        file.write(line)
    drawn = stop_after(None)
    run(make_config(batch_size=3))
    assert drawn == [3, 3]
    assert _files(workspace, "default") == _files(workspace, "whole")


def test_a_manifest_that_is_damaged_is_no_reason_to_delete(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config())
    folder = workspace.generated("default")
    for damage in (b"", b"{}", b"[]", b"\0" * 40, json.dumps({"contract": "run"}).encode()):
        (folder / "manifest.json").write_bytes(damage)
        before = contents(folder)
        with pytest.raises(PipelineError, match="Nothing was touched"):
            run(make_config(on_change="restart"))
        assert contents(folder) == before


def test_a_link_under_the_name_of_an_image_is_replaced_and_not_written_through(
    workspace: Workspace, make_config: MakeConfig, tmp_path: Path
) -> None:
    run(make_config())
    (tmp_path / "thesis.txt").write_text("mine")
    image = workspace.generated("default") / "0000-00.png"
    image.unlink()
    image.symlink_to(tmp_path / "thesis.txt")
    run(make_config(seed=1, on_change="restart"))
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert not image.is_symlink()


def _files(workspace: Workspace, name: str) -> object:
    return read_manifest(workspace.generated(name), "generated").files
