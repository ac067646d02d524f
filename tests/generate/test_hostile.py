"""Invalid options: each fails with one sentence and exit code 1 or 2, and nothing is written."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.workspace import Workspace
from tests.helpers.cli import run_command

TEXTS = ["", "..", "/", "a\x1bb", "é\u2028", "x" * 5000, "\udce9", "file://x", "~root", "%s{}"]
NUMBERS = ["", "x", "-1", "0", "1e400", "nan", "inf", "-inf", "99999999999999999999", "0x10", "1_0"]
TEXT_OPTIONS = ["--name", "--run", "--checkpoint", "--codec", "--tokenizer", "--clip", "--prime"]
TEXT_OPTIONS += ["--prompts-file", "--vqgan-config", "--vqgan-checkpoint", "--out"]
CHOICES = ["--on-change", "--precision", "--device"]
# What may be done with these numbers: nothing is wrong with them.
SOUND = {
    ("--seed", "0"), ("--threads", "0"), ("--top-k", "0"), ("--cond-scale", "0"),
    ("--seed", "1_0"), ("--num-images", "1_0"), ("--batch-size", "1_0"), ("--threads", "1_0"),
    ("--cond-scale", "1_0"), ("--temperature", "1_0"), ("--batch-size", "99999999999999999999"),
    ("--cond-scale", "99999999999999999999"), ("--temperature", "99999999999999999999"),
}  # fmt: skip
NUMERIC = ["--num-images", "--top-k", "--temperature", "--cond-scale", "--seed", "--prime-rows"]
NUMERIC += ["--best", "--of", "--batch-size", "--threads"]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No requests to the Hugging Face Hub; the user's folders are empty."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def generate(workspace: Workspace, *options: str) -> Any:
    base = ["generate", "--workspace", str(workspace.root), "--device", "cpu", "--threads", "1"]
    return run_command([*base, *options])


def refused(workspace: Workspace, *options: str) -> str:
    """The error message of a command that fails as it should."""
    before = sorted(workspace.root.rglob("*"))
    done = generate(workspace, *options)
    assert done.exit_code in (1, 2), (options, done.output)
    assert "unexpected error" not in done.output, options
    assert "Traceback" not in done.output
    left = {p.name for p in set(workspace.root.rglob("*")) - set(before)}
    assert not {name for name in left if name.endswith((".png", ".json")) and name != "generated"}
    return str(done.output)


@pytest.mark.parametrize("value", TEXTS)
@pytest.mark.parametrize("option", [o for o in TEXT_OPTIONS if o != "--out"])
def test_a_text_that_names_nothing_is_refused(
    workspace: Workspace, option: str, value: str
) -> None:
    refused(workspace, option, value, "a red cube")


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("option", NUMERIC)
def test_a_number_that_can_not_be_meant_is_refused(
    workspace: Workspace, option: str, value: str
) -> None:
    if (option, value) not in SOUND:
        refused(workspace, option, value, "a red cube")


@pytest.mark.parametrize("value", ["", "x", "NEW", "\udce9"])
@pytest.mark.parametrize("option", CHOICES)
def test_a_choice_that_does_not_exist_is_refused(
    workspace: Workspace, option: str, value: str
) -> None:
    refused(workspace, option, value, "a red cube")


@pytest.mark.parametrize("option", [o for o in TEXT_OPTIONS if o not in ("--run", "--name")])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "missing", "noise"])
def test_what_is_no_file_of_its_kind_is_refused(
    workspace: Workspace, tmp_path: Path, option: str, kind: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "dear.txt").write_text("to someone")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(999) + b"\xff")
    paths = {name: tmp_path / name for name in ("folder", "pipe", "missing", "noise")}
    path = str({**paths, "device": Path("/dev/zero")}[kind])
    if option == "--out" and kind == "missing":
        return
    for value in (path, f"hf:{path}") if option == "--tokenizer" else (path,):
        more = ["--checkpoint", "none.pt"] if option in ("--tokenizer", "--codec") else []
        refused(workspace, option, value, *more, "a red cube")
    assert (folder / "dear.txt").read_text() == "to someone"


@pytest.mark.parametrize("option", ["--top-k", "--temperature", "--cond-scale"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_an_invalid_number_is_named(workspace: Workspace, option: str, value: str) -> None:
    assert option in refused(workspace, option, value, "a red cube")


def test_too_many_images_are_refused_before_any_is_listed(workspace: Workspace) -> None:
    prompts = "|".join(f"a cube {number}" for number in range(20))
    assert "20 prompts with 100,000 images each" in refused(
        workspace, "--num-images", "100000", prompts
    )


def test_an_image_that_fills_the_memory_is_not_decoded(
    workspace: Workspace, tmp_path: Path
) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    (tmp_path / "bomb.png").write_bytes(image + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    said = refused(workspace, "--prime", str(tmp_path / "bomb.png"), "a red cube")
    assert "60000×60000 is more than" in said


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"a cat\na caf\xe9\n", "line 2 holds the byte 0xe9"), (b"a\0b\n", "line 1 holds a NUL")],
)
def test_a_file_of_prompts_that_is_no_text_is_refused(
    workspace: Workspace, tmp_path: Path, data: bytes, said: str
) -> None:
    (tmp_path / "prompts.txt").write_bytes(data)
    assert said in refused(workspace, "--prompts-file", str(tmp_path / "prompts.txt"))


def test_a_prompt_in_latin_1_is_refused_with_its_bytes(workspace: Workspace) -> None:
    command = [sys.executable, "-m", "pipeline", "generate", "--workspace", str(workspace.root)]
    done = subprocess.run(
        [*command, b"a caf\xe9 in Paris"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert done.returncode == 2
    assert b"Prompt 1 of 1 is not UTF-8 text" in done.stderr
    assert b"unexpected error" not in done.stderr


# --- Quotes --------------------------------------------------------------------------------------


def test_a_prompt_without_its_quotes_is_refused_with_the_command_that_was_meant(
    workspace: Workspace,
) -> None:
    said = refused(workspace, "a", "cat", "on", "a", "mat").replace("\n", " ")
    assert "pipeline generate 'a cat on a mat'" in said
    assert "'a|cat|on|a|mat'" in said
    assert "--prompts-file" in said


@pytest.mark.parametrize(
    "prompts", [("cat",), ("cat|dog",), ("a cat", "dog"), ("cat|dog", "mouse")]
)
def test_prompts_that_can_only_be_meant_are_drawn(
    workspace: Workspace, prompts: tuple[str, ...]
) -> None:
    done = generate(workspace, *prompts)
    assert done.exit_code == 0, done.output


def test_single_words_of_a_file_or_the_environment_are_prompts(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("cat\ndog\n")
    assert generate(workspace, "--prompts-file", str(tmp_path / "prompts.txt")).exit_code == 0
    monkeypatch.setenv("PIPELINE_GENERATE_PROMPTS", "cat|dog|mouse")
    assert generate(workspace, "--name", "env").exit_code == 0
    assert len(list(workspace.generated("env").glob("*-00.png"))) == 3
    assert len(Image.open(workspace.generated("env") / "contact.png").size) == 2
