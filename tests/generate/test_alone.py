"""Generating from a third-party checkpoint without a workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.storage import sha256_file
from pipeline.core.workspace import Workspace
from pipeline.generate.run import run
from pipeline.models.codecs.load import save_codec
from pipeline.models.codecs.vqgan_files import load_vqgan
from tests.generate.images import hashes_by_prompt
from tests.generate.test_foreign import MakeConfig, write_stock
from tests.helpers.cli import run_command
from tests.helpers.codecs import vqgan_settings
from tests.helpers.generate import finish, write_run
from tests.models.codecs.test_vqgan import write_pair


@pytest.fixture
def command(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options to draw an image in a folder that is not a workspace."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    checkpoint = write_stock(workspace, tmp_path / "dalle.pt")
    options = ["generate", "--checkpoint", str(checkpoint), "--device", "cpu", "--threads", "1"]
    options += ["--tokenizer", f"hf:{workspace.run('dalle') / 'tokenizer.json'}"]
    return [*options, "--codec", str(workspace.codec("mine")), "--json", "a red cube"]


def draw(command: list[str]) -> Any:
    done = run_command(command)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def test_images_are_drawn_without_a_workspace(command: list[str]) -> None:
    report = draw(command)
    assert report["outputs"] == ["generated/default"]
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["generated"]
    assert (Path("generated/default") / "0000-00.png").exists()
    assert draw(command)["outcome"] == "unchanged"


def test_images_are_written_where_asked(command: list[str], tmp_path: Path) -> None:
    report = draw([*command, "--out", str(tmp_path / "images")])
    assert report["outputs"] == [str(tmp_path / "images")]
    draw([*command, "--name", "same"])
    one, other = tmp_path / "images/0000-00.png", Path("generated/same/0000-00.png")
    assert one.exists()
    assert sha256_file(one) == sha256_file(other)
    assert list(Path.cwd().iterdir()) == [Path.cwd() / "generated"]


def test_a_workspace_that_is_given_and_does_not_exist_is_refused(command: list[str]) -> None:
    done = run_command([*command, "--workspace", "nowhere"])
    assert done.exit_code == 1
    assert "nowhere is not a workspace" in done.output


def test_the_workspace_that_is_there_is_drawn_into(
    command: list[str], workspace: Workspace
) -> None:
    workspace.root.rename(Path.cwd() / "ours")
    codec = command.index("--codec")
    tokenizer = command.index("--tokenizer")
    del command[codec : codec + 2]
    command[tokenizer + 1] = "hf:ours/runs/dalle/tokenizer.json"
    report = draw([*command, "--codec", "mine", "--workspace", "ours"])
    assert report["outputs"] == ["ours/generated/default"]


def test_a_run_needs_its_workspace(command: list[str]) -> None:
    done = run_command(["generate", "a red cube"])
    assert "is not a workspace" in done.output


def test_a_vqgan_of_other_files_than_the_published_decodes(
    workspace: Workspace, make_config: MakeConfig, tmp_path: Path
) -> None:
    settings = vqgan_settings(resolution=16)
    settings["model"]["params"]["n_embed"] = 16
    config_path, checkpoint_path = write_pair(tmp_path, settings)
    codec = load_vqgan(config_path, checkpoint_path)
    save_codec(codec, workspace.codec("vqgan"))
    finish(workspace.codec("vqgan"), "codec")
    write_run(workspace, codec=codec.fingerprint)
    run(make_config())
    stock = {
        "checkpoint": write_stock(workspace, tmp_path / "dalle.pt"),
        "tokenizer": f"hf:{workspace.run('dalle') / 'tokenizer.json'}",
        "vqgan_config": config_path,
        "vqgan_checkpoint": checkpoint_path,
    }
    run(make_config(**stock, name="stock"))
    assert hashes_by_prompt(workspace, "stock") == hashes_by_prompt(workspace)
    for wrong, message in (
        ({"vqgan_checkpoint": None}, "--vqgan-config and --vqgan-checkpoint belong together"),
        ({"codec": "mine"}, "both name a codec"),
        ({"checkpoint": None, "tokenizer": None}, "records its codec"),
        ({"vqgan_config": tmp_path / "none.yaml"}, "none.yaml can't be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(make_config(**{**stock, **wrong}))


def test_a_folder_of_other_things_is_left_alone(command: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "beach.png").write_bytes(b"dear to someone")
    done = run_command([*command, "--out", str(folder)])
    assert done.exit_code == 1
    assert "holiday holds beach.png" in done.output.replace("\n", "")
    assert "Nothing was touched" in done.output
    assert [path.name for path in folder.iterdir()] == ["beach.png"]
