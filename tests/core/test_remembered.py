"""The options of stages that a workspace remembers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.core.config import StageConfig, option
from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError, ContractError, StorageError, WorkspaceError
from pipeline.core.progress import Progress
from pipeline.core.remembered import (
    changes_output,
    describe_changes,
    kept_options,
    note_latest,
    recall,
    remembering,
)
from pipeline.core.storage import make_manifest, write_manifest
from pipeline.core.workspace import Workspace
from tests.helpers.cli import run_command


@dataclass(frozen=True, kw_only=True)
class Options(StageConfig):
    name: str = option("default", "")
    words: tuple[str, ...] = option((), "")
    limit: int | None = option(None, "", instead_of=("share",))
    share: float = option(0.5, "")
    kind: Literal["a", "b"] = option("a", "")
    file: Path | None = option(None, "", runtime=True, remember=True)
    pace: float = option(0.5, "", runtime=True, remember=True)
    workers: int = option(1, "", runtime=True)
    secret: bool = option(False, "", remember=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Workspace(tmp_path / "data").open(source="dalleblog").root


def keep(root: Path, config: StageConfig, stage: str = "stage") -> None:
    with remembering(root, stage, config):
        pass


def test_options_are_recalled_with_their_types(root: Path) -> None:
    given: dict[str, Any] = {
        "words": ("a", "b"),
        "limit": 3,
        "share": 1.0,
        "kind": "b",
        "file": Path("/x"),
    }
    keep(root, Options(**given))
    assert recall(root, "stage", Options, {}) == given


def test_neither_defaults_nor_worker_counts_nor_secrets_are_kept() -> None:
    assert kept_options(Options(workers=7, secret=True, share=0.5)) == {}


def test_given_options_and_those_they_replace_are_not_recalled(root: Path) -> None:
    keep(root, Options(share=0.1, kind="b"))
    assert recall(root, "stage", Options, {"kind": "a"}) == {"share": 0.1}
    assert recall(root, "stage", Options, {"limit": 5}) == {"kind": "b"}


def test_each_name_has_its_own_options(root: Path) -> None:
    keep(root, Options(name="big", limit=9))
    assert recall(root, "stage", Options, {"name": "small"}) == {}
    assert recall(root, "stage", Options, {}) == {"name": "big", "limit": 9}  # no other is there
    keep(root, Options(limit=1))
    keep(root, Options(name="other", limit=2))
    assert recall(root, "stage", Options, {}) == {"limit": 1}  # the default name comes first
    assert recall(root, "stage", Options, {"name": "other"}) == {"limit": 2}


def test_changes_are_described_by_flag(root: Path) -> None:
    keep(root, Options(limit=3, words=("a", "b")))
    assert describe_changes(root, "stage", Options(limit=3, words=("a", "b"))) == []
    changes = describe_changes(root, "stage", Options(words=("a",), share=0.7, workers=3))
    assert changes == ["--limit 3 → (none)", "--share 0.5 → 0.7", "--words a, b → a"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(limit=3, pace=1.0), False),
        (Options(limit=3, pace=2.0), False),
        (Options(limit=4, pace=1.0), True),
        (Options(limit=3, pace=1.0, file=Path("list.txt")), True),
    ],
)
def test_an_option_that_leaves_the_output_alone_changes_nothing_there(
    root: Path, options: Options, expected: bool
) -> None:
    keep(root, Options(limit=3, pace=1.0))
    assert changes_output(root, "stage", options) is expected


def test_a_failed_stage_restores_the_previous_options(root: Path) -> None:
    keep(root, Options(limit=3))
    with pytest.raises(StorageError), remembering(root, "stage", Options(limit=4)):
        raise StorageError("full")
    assert recall(root, "stage", Options, {}) == {"limit": 3}


def test_a_failed_first_run_keeps_its_options_unless_they_were_invalid(root: Path) -> None:
    with pytest.raises(ConfigError), remembering(root, "stage", Options(limit=4)):
        raise ConfigError("no")
    assert recall(root, "stage", Options, {}) == {}
    with pytest.raises(StorageError), remembering(root, "stage", Options(limit=4)):
        raise StorageError("full")
    assert recall(root, "stage", Options, {}) == {"limit": 4}


def test_an_interrupted_run_keeps_its_options(root: Path) -> None:
    keep(root, Options(limit=3))
    with pytest.raises(KeyboardInterrupt), remembering(root, "stage", Options(limit=4)):
        raise KeyboardInterrupt
    assert recall(root, "stage", Options, {}) == {"limit": 4}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "3"),
        ("limit", True),
        ("share", None),
        ("kind", "c"),
        ("words", "a"),
        ("words", [1]),
    ],
)
def test_an_option_of_another_type_names_file_and_option(root: Path, name: str, value: Any) -> None:
    keep(root, Options(limit=3))
    marker = json.loads((root / "workspace.json").read_text())
    marker["options"]["stage"]["default"] = {name: value}
    (root / "workspace.json").write_text(json.dumps(marker))
    with pytest.raises(
        ContractError, match=rf"workspace\.json: options of stage: {name}(\[0\])? is"
    ):
        recall(root, "stage", Options, {})


@pytest.mark.parametrize("value", [3, "x", [], {"stage": 3}])
def test_a_damaged_memory_is_refused_with_an_explanation(root: Path, value: Any) -> None:
    marker = json.loads((root / "workspace.json").read_text())
    (root / "workspace.json").write_text(json.dumps(marker | {"options": value}))
    with pytest.raises(WorkspaceError, match=r"workspace\.json: options"):
        recall(root, "stage", Options, {})


def test_an_unknown_option_of_a_later_version_is_left_out(root: Path) -> None:
    marker = json.loads((root / "workspace.json").read_text())
    marker["options"] = {"stage": {"default": {"future": 1, "limit": 2}}}
    (root / "workspace.json").write_text(json.dumps(marker))
    assert recall(root, "stage", Options, {}) == {"limit": 2}


def test_two_processes_that_remember_lose_nothing(root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.core.remembered import note_latest\n"
        "root = Path(sys.argv[1])\n"
        "for n in range(40): note_latest(root, f'{sys.argv[2]}{n}', root / 'codecs' / 'small')"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(root), name]) for name in "ab"]
    assert [job.wait() for job in jobs] == [0, 0]
    assert len(json.loads((root / "workspace.json").read_text())["latest"]) == 80


def test_the_latest_codec_is_recorded_by_its_folder(root: Path) -> None:
    note_latest(root, "codec", root / "codecs" / "small-2")
    note_latest(root, "run", root / "elsewhere")
    assert Workspace(root).latest("codec") == "small-2"
    assert Workspace(root).latest("run") is None


# --- Through the command line --------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Configs that reached a stage, which is replaced by a stub."""
    configs: list[Any] = []

    def entry(config: StageConfig, progress: Progress) -> StageReport:
        configs.append(config)
        return StageReport(stage="stage", outcome="done")

    monkeypatch.setattr("pipeline.core.stage.load_entry_point", lambda _: entry)
    return configs


def invoke(root: Path, *args: str) -> str:
    result = run_command([*args, "--workspace", str(root)])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_a_later_command_uses_the_remembered_options_and_prints_them(
    root: Path, seen: list[Any]
) -> None:
    invoke(root, "scrape", "dalleblog", "--sections", "emojis", "--limit", "3", "--rate", "0.5")
    output = invoke(root, "scrape", "dalleblog", "--update")
    assert (seen[-1].sections, seen[-1].limit, seen[-1].rate) == (("emojis",), 3, 0.5)
    assert "scrape: using --limit 3 --rate 0.5 --sections emojis (as before;" in output
    assert not seen[0].update
    invoke(root, "scrape", "dalleblog")
    assert not seen[-1].update


def test_changed_options_are_printed_with_the_consequence(root: Path, seen: list[Any]) -> None:
    invoke(root, "shard", "--text-seq-len", "48")
    output = invoke(root, "shard", "--text-seq-len", "64")
    assert "shard: options differ from before: --text-seq-len 48 → 64. The shards of this" in output


def test_a_copy_of_the_shards_is_not_announced_as_writing_them_again(
    root: Path, seen: list[Any], tmp_path: Path
) -> None:
    invoke(root, "shard", "--text-seq-len", "48")
    output = invoke(root, "shard", "--text-seq-len", "48", "--out", str(tmp_path / "copy"))
    assert "shard: options differ from before: --out (none) → " in output
    assert "written again" not in output


def test_forgetting_starts_from_the_defaults(root: Path, seen: list[Any]) -> None:
    invoke(root, "scrape", "dalleblog", "--limit", "3")
    invoke(root, "scrape", "dalleblog", "--forget")
    assert seen[-1].limit is None
    invoke(root, "scrape", "dalleblog")
    assert seen[-1].limit is None


def test_a_partial_run_is_not_remembered(root: Path, seen: list[Any]) -> None:
    invoke(root, "scrape", "dalleblog", "--rate", "2", "--sections", "emojis", "--sections", "rpm")
    invoke(root, "scrape", "dalleblog", "--sections", "rpm", "--no-remember")
    assert (seen[-1].sections, seen[-1].rate) == (("rpm",), 2)
    invoke(root, "scrape", "dalleblog", "--plan", "--sections", "clip")
    invoke(root, "scrape", "dalleblog")
    assert seen[-1].sections == ("emojis", "rpm")


def test_failed_urls_are_only_retried_at_the_same_source(root: Path, seen: list[Any]) -> None:
    invoke(root, "scrape", "dalleblog", "--page-url", "http://127.0.0.1:1/a")
    invoke(root, "scrape", "dalleblog", "--retry-failed")
    assert seen[-1].page_url == "http://127.0.0.1:1/a"
    asked = ["scrape", "dalleblog", "--retry-failed", "--page-url", "http://127.0.0.1:2/b"]
    result = run_command([*asked, "--workspace", str(root)])
    assert result.exit_code == 2
    assert "was made from another source" in " ".join(result.output.split())
    assert len(seen) == 2


def test_a_workspace_of_an_earlier_version_is_recalled_from_its_manifest(
    root: Path, seen: list[Any]
) -> None:
    config = {"page_url": "http://127.0.0.1:1/a", "limit": 4, "sections": ["emojis"]}
    marker = json.loads((root / "workspace.json").read_text())
    del marker["options"]
    (root / "workspace.json").write_text(json.dumps(marker))
    write_manifest(
        root / "raw", make_manifest("raw", config=config, inputs={}, counts={}, files=())
    )
    invoke(root, "scrape", "dalleblog", "--retry-failed")
    assert (seen[-1].page_url, seen[-1].limit) == ("http://127.0.0.1:1/a", 4)


def test_the_manifest_of_a_partial_run_is_not_recalled(root: Path, seen: list[Any]) -> None:
    write_manifest(
        root / "raw", make_manifest("raw", config={"limit": 4}, inputs={}, counts={}, files=())
    )
    invoke(root, "scrape", "dalleblog", "--plan")
    assert seen[-1].limit is None


def test_run_uses_what_the_stages_were_given(root: Path, seen: list[Any]) -> None:
    invoke(root, "scrape", "dalleblog", "--limit", "2")
    invoke(root, "shard", "--name", "clip", "--tokenizer", "clip")
    invoke(root, "train", "--dim", "16", "--steps", "4")
    invoke(root, "generate", "a red cube", "--num-images", "3")
    seen.clear()
    invoke(root, "run", "dalleblog")
    by_type = {type(config).__name__: config for config in seen}
    assert by_type["DalleBlogConfig"].limit == 2
    assert (by_type["ShardConfig"].name, by_type["ShardConfig"].tokenizer) == ("clip", "clip")
    train = by_type["TrainConfig"]
    assert (train.model.dim, train.schedule.steps) == (16, 4)
    assert by_type["GenerateConfig"].prompts == ("a red cube",)
    assert by_type["GenerateConfig"].num_images == 3


def test_generate_alone_uses_only_given_prompts(root: Path, seen: list[Any]) -> None:
    invoke(root, "generate", "a red cube", "--num-images", "3")
    invoke(root, "generate", "a blue cube on a table")
    assert (seen[-1].prompts, seen[-1].num_images) == (("a blue cube on a table",), 1)


def test_epochs_replace_the_steps_of_before(root: Path, seen: list[Any]) -> None:
    invoke(root, "train", "--steps", "100")
    invoke(root, "train", "--epochs", "3")
    schedule = seen[-1].schedule
    assert (schedule.steps, schedule.epochs) == (None, 3)
