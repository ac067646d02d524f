"""Nothing of the user's is ever lost: whatever a command is given, it deletes only what is its own.

One small workspace goes through all stages; every test works on a copy of it and compares bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.workspace import Workspace
from pipeline.demo.replica.config import ReplicaConfig
from pipeline.demo.replica.server import Replica
from tests.helpers.cli import run_command

MODEL = "--dim 16 --depth 1 --heads 1 --dim-head 16 --threads 1 --device cpu --batch-size 8"
CODEC = "--image-size 32 --channels 8 --code-dim 8 --num-tokens 32 --steps 8 --device cpu"
PROMPT = "a small red block sitting on a large green block"


def call(root: Path, command: str, *args: str, code: int = 0) -> str:
    result = run_command([command, *args, "--workspace", str(root)])
    assert result.exit_code == code, result.output
    assert "unexpected error" not in result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with Replica(ReplicaConfig(port=0)) as replica:
        yield replica.url.removeprefix("http://")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, address: str) -> Path:
    """The workspace, made step by step as the README shows."""
    root = tmp_path_factory.mktemp("made") / "data"
    page = ("--page-url", "http://dalleblog.localhost/blog/dall-e/", "--connect-to", address)
    asked = ("--sections", "relative_positions", "--limit", "4")
    call(root, "scrape", "dalleblog", *page, *asked)
    call(root, "dedupe", "--val-fraction", "0.3", "--workers", "0")
    call(root, "train-tokenizer", "--vocab-size", "300")
    call(root, "train-codec", *CODEC.split())
    call(root, "encode", "--device", "cpu")
    call(root, "shard", "--text-seq-len", "24")
    call(root, "train", *MODEL.split(), "--steps", "6", "--save-every", "3", "--warmup-steps", "1")
    call(root, "generate", "--device", "cpu", PROMPT)
    call(root, "report")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def files(root: Path) -> dict[str, bytes]:
    """Every file of the workspace but what is about commands."""
    about = (".locks", ".active", "runs.jsonl", "workspace.json", "tensorboard")
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not set(path.relative_to(root).parts) & set(about)
    }


def lost(
    before: dict[str, bytes], after: dict[str, bytes], *, but: tuple[str, ...] = ()
) -> list[str]:
    """What is gone or has other bytes, but what begins like one of `but`."""
    return [
        name
        for name, data in before.items()
        if after.get(name) != data and not name.startswith(but)
    ]


NAMES = [
    "",
    ".",
    "..",
    "../raw",
    "../../elsewhere",
    "/etc",
    "a/b/c",
    ".hidden",
    "~",
    "a\nb",
    "\udce9",
    "x" * 300,
]
NAMED = {
    "train": MODEL.split(),
    "generate": [PROMPT],
    "train-tokenizer": [],
    "train-codec": CODEC.split(),
    "shard": [],
}


@pytest.mark.parametrize("command", sorted(NAMED))
def test_a_name_that_is_no_slug_is_wrong_usage(root: Path, command: str) -> None:
    before, locks = files(root.parent), sorted((root / ".locks").iterdir())
    for name in NAMES:
        output = call(root, command, *NAMED[command], "--name", name, code=2)
        assert "use letters, digits" in output or "--name is empty" in output, name
    assert files(root.parent) == before
    assert sorted((root / ".locks").iterdir()) == locks


@pytest.mark.parametrize(
    ("command", "option"),
    [("train", "--shards"), ("generate", "--run"), ("export", "--run")],
)
def test_a_wrong_name_is_said_of_the_option_that_gave_it(
    root: Path, command: str, option: str
) -> None:
    arguments = ["--out", "x.pt"] if command == "export" else NAMED[command]
    output = call(root, command, *arguments, option, "../raw", code=2)
    assert f"{option} '../raw' can't name a folder" in output


def test_run_refuses_a_wrong_name_before_anything_is_done(root: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('[train]\nname = "../raw"\n')
    before = (root / "runs.jsonl").read_bytes()
    assert "can't name a folder" in call(root, "run", "--config", str(wrong), code=2)
    assert (root / "runs.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("command", "option"),
    [("generate", "--out"), ("shard", "--out"), ("export", "--out"), ("clean", "--workspace")],
)
def test_an_empty_place_is_not_the_present_folder(
    root: Path, command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = NAMED.get(command, [])
    result = run_command([command, *arguments, "--workspace", str(root), f"{option}="])
    assert (result.exit_code, f"{option} is empty" in result.output) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_notes_beside_our_files_stay_whatever_is_made_anew(root: Path) -> None:
    folders = [path.parent for path in root.rglob("manifest.json")]
    assert len(folders) == 8
    notes = [folder / "note.txt" for folder in folders]
    for note in notes:
        note.write_text("mine")
    (root / "runs/dalle/checkpoints/step-000006-best").mkdir()
    notes.append(root / "runs/dalle/checkpoints/step-000006-best/model.safetensors")
    notes.append(root / "runs/dalle/checkpoints/step-notes.txt")
    notes.append(root / "dedupe/kept/note.txt")
    notes.append(root / "shards/default/train/note.txt")
    for note in notes[-4:]:
        note.write_text("mine")
    call(root, "dedupe", "--val-fraction", "0.5", "--workers", "0")
    call(root, "train-tokenizer", "--vocab-size", "280")
    call(root, "train-codec", "--seed", "1")
    call(root, "encode", "--device", "cpu")
    call(root, "shard", "--text-seq-len", "20")
    call(
        root, "train", "--on-change", "restart", "--seed", "1", "--threads", "1", "--device", "cpu"
    )
    call(root, "generate", "--device", "cpu", "--seed", "1", PROMPT)
    assert [note for note in notes if note.read_text() != "mine"] == []


def test_training_a_codec_or_tokenizer_anew_replaces_nothing(root: Path) -> None:
    before = files(root)
    output = call(root, "train-codec", "--steps", "5", "--device", "cpu")
    assert "codecs/small-2" in output
    assert "tokenizers/bpe-2" in call(root, "train-tokenizer", "--vocab-size", "290")
    assert lost(before, files(root)) == []
    call(root, "generate", "--device", "cpu", "--name", "again", PROMPT)
    drawn = files(root)
    assert drawn["generated/again/0000-00.png"] == before["generated/default/0000-00.png"]


def test_an_older_model_that_draws_does_not_make_its_codec_the_latest(root: Path) -> None:
    call(root, "train-codec", "--steps", "5", "--device", "cpu")
    call(root, "generate", "--device", "cpu", "a large blue block on a table")
    assert Workspace(root).latest("codec") == "small-2"
    assert "codecs/small-2" not in call(root, "clean")


def test_run_trains_nothing_anew_whose_options_it_does_not_give(root: Path, address: str) -> None:
    before = files(root)
    output = call(root, "run", "--refresh")
    assert lost(before, files(root), but=("report.html", "raw/")) == []
    assert "train-codec: trained already" in output
    assert "train-tokenizer: trained already" in output


def test_run_with_other_options_does_not_train_anew_without_being_told(
    root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[train-codec]\nsteps = 5\n[train-tokenizer]\nvocab_size = 280\n")
    before = files(root)
    output = call(root, "run", "--until", "shard", "--config", str(other))
    assert lost(before, files(root)) == []
    assert "trained already with other options (steps 8 → 5); --retrain trains it again" in output
    call(root, "run", "--until", "shard", "--config", str(other), "--retrain")
    assert lost(before, files(root), but=("shards/",)) == []
    assert json.loads(files(root)["shards/default/manifest.json"])["config"]["tokenizer"] == "bpe-2"


def test_other_prompts_make_other_folders(root: Path) -> None:
    before = files(root)
    output = call(root, "generate", "--device", "cpu", "a large blue block on a table")
    assert "generated/default-2" in output
    call(root, "generate", "--device", "cpu", "--num-images", "2", PROMPT)
    assert lost(before, files(root)) == []
    assert (root / "generated/default-3/0000-01.png").exists()
    again = files(root)
    call(root, "generate", "--device", "cpu", "a large blue block on a table")
    assert files(root) == again


def test_run_draws_the_prompts_of_before_with_a_new_model_beside_the_images_of_the_old_one(
    root: Path, tmp_path: Path
) -> None:
    before = files(root)
    call(root, "train", "--seed", "1", "--on-change", "restart")
    call(root, "run", "--from", "generate")
    assert lost(before, files(root), but=("runs/", "report.html")) == []
    assert "generated/default-2/0000-00.png" in files(root)
    call(root, "run", "--from", "generate")  # the same model: its images are found
    assert not (root / "generated/default-3").exists()
    one_folder = tmp_path / "one.toml"
    one_folder.write_text('[generate]\non_change = "restart"\n')
    call(root, "train", "--seed", "2", "--on-change", "restart")
    call(root, "run", "--from", "generate", "--config", str(one_folder))
    assert not (root / "generated/default-3").exists()
    assert files(root)["generated/default/0000-00.png"] != before["generated/default/0000-00.png"]


def test_what_differs_is_said_only_where_other_images_are_there(root: Path) -> None:
    other = "a large blue block on a table"
    output = call(root, "generate", "--device", "cpu", other)
    assert "default holds images of other prompts or options (prompts" in output
    assert "Writing to" in output
    for prompt in (PROMPT, other):
        output = call(root, "generate", "--device", "cpu", prompt)
        assert "nothing to do" in output
        assert "options differ" not in output
        assert "other prompts" not in output


def test_a_dry_run_finds_unchanged_what_a_run_finds_unchanged(root: Path) -> None:
    call(root, "run")
    result = run_command(["run", "--dry-run", "--json", "--workspace", str(root)])
    stages = json.loads(result.stdout.splitlines()[-1])["details"]
    assert {name: stage["action"] for name, stage in stages.items()} == dict.fromkeys(
        stages, "skip"
    )


def test_a_codec_that_no_codes_are_of_is_met_with_what_was_meant(root: Path) -> None:
    assert "Did you mean 'small'?" in call(root, "shard", "--codec", "smal", code=2)


def test_a_folder_of_the_users_is_refused_as_a_place_for_images(root: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "records.jsonl").write_text("{}\n")
    (mine / "thesis.txt").write_text("mine")
    call(root, "generate", "--device", "cpu", "--out", str(mine), PROMPT, code=1)
    assert files(mine) == {"records.jsonl": b"{}\n", "thesis.txt": b"mine"}


def test_published_shards_leave_what_lies_at_the_address(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "photos").mkdir(parents=True)
    (home / "photos/a.jpg").write_text("mine")
    call(root, "shard", "--out", f"file://{home}", code=1)
    assert files(home) == {"photos/a.jpg": b"mine"}
    call(root, "shard", "--out", f"file://{home}/shards")
    (home / "shards/note.txt").write_text("mine")
    call(root, "shard", "--text-seq-len", "20", "--out", f"file://{home}/shards")
    assert (home / "shards/note.txt").read_text() == "mine"


@pytest.mark.parametrize("path", ["/tmp/escaped", "../../../escaped", "train/../../escaped"])
def test_shards_from_an_address_write_only_into_their_own_folder(
    root: Path, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = tmp_path / "there"
    call(root, "shard", "--out", f"file://{address}")
    manifest: dict[str, Any] = json.loads((address / "manifest.json").read_text())
    (tmp_path / "escaped").unlink(missing_ok=True)
    manifest["files"][0]["path"] = path
    (address / "manifest.json").write_text(json.dumps(manifest))
    call(root, "train", "--name", "x", "--shards", f"file://{address}", *MODEL.split(), code=1)
    assert not list(tmp_path.rglob("escaped*"))
    assert not Path("/tmp/escaped").exists()


def test_a_run_named_like_the_family_of_another_takes_nothing_from_it(root: Path) -> None:
    call(root, "train", "--name", "auto", *MODEL.split(), "--steps", "2")
    before = files(root)
    families = [path.parent.parent.name for path in root.glob("runs/*/*/plan.json")]
    assert len(families) == 1
    for name in (families[0], "dalle/inside"):
        call(root, "train", "--name", name, *MODEL.split(), "--steps", "2", code=1)
    assert files(root) == before


def test_clean_removes_nothing_that_others_were_made_with(root: Path) -> None:
    call(root, "train-codec", "--steps", "5", "--device", "cpu")
    call(root, "train-codec", "--steps", "4", "--device", "cpu")
    before = files(root)
    assert "codecs/small-2" in call(root, "clean", "--yes")
    assert lost(before, files(root), but=("codecs/small-2/",)) == []
    assert not (root / "codecs/small-2").exists()
    call(root, "generate", "--device", "cpu", "--name", "again", PROMPT)
