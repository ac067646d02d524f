"""`pipeline.open`: a workspace from Python."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import pipeline
from pipeline.core.errors import ConfigError, ContractError, WorkspaceError
from pipeline.core.storage import read_manifest
from pipeline.demo.demo import replica_server
from tests.helpers.dedupe import RawStore
from tests.helpers.whole_workspace import Whole, whole

__all__ = ["whole"]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, pipeline\n"
        "heavy = {'torch', 'pandas', 'aiohttp', 'pyarrow', 'numpy', 'PIL', 'typer', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)), pipeline.open.__name__, pipeline.data.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] open pipeline.data"


def test_tables_come_as_frames(whole: Whole) -> None:
    dataset = pipeline.open(whole.root)
    ledger = dataset.ledger()
    done = dataset.ledger(where="state = ?", parameters=["done"])
    kept, rejected, captions = dataset.kept(), dataset.rejected(), dataset.captions()
    assert len(ledger) == 64
    assert set(ledger.state) == {"done"}
    assert len(done) == len(ledger)
    assert len(kept) + len(rejected) == len(done)
    assert list(captions.columns[:2]) == ["caption_id", "caption"]
    assert len(captions) == 2
    assert list(dataset.kept(columns=["key", "width"]).columns) == ["key", "width"]


def test_an_image_is_what_was_fetched_and_what_was_hashed(whole: Whole) -> None:
    dataset = pipeline.open(whole.root)
    row = dataset.kept().iloc[0]
    data = dataset.image_bytes(row.key)
    assert len(data) == row.bytes
    with PIL.Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), dataset.pixels(row.key))
    assert dataset.image(row.key).size == (row.width, row.height)
    with pytest.raises(KeyError):
        dataset.image_bytes("no-such-key")


def test_codes_decode_to_images(whole: Whole) -> None:
    dataset = pipeline.open(whole.root)
    codes = dataset.codes()
    images = dataset.decode(list(codes.codes[:2]))
    assert images.shape == (2, 32, 32, 3)
    assert images.dtype == np.uint8
    with pytest.raises(ContractError, match=r"Did you mean|Choices: small-"):
        dataset.codes("smal")


def test_a_stage_runs_with_the_names_of_its_config(whole: Whole, tmp_path: Path) -> None:
    dataset = pipeline.open(whole.copy(tmp_path / "data").root)
    report = dataset.generate(prompts=["a small red block"], name="again", num_images=1, seed=3)
    assert report.outcome == "done"
    assert (dataset.root / "generated" / "again" / "manifest.json").exists()
    assert dataset.dedupe().outcome == "unchanged"  # with what the workspace remembers
    line = json.loads((dataset.root / "runs.jsonl").read_text().splitlines()[-1])
    assert line["stages"][0]["stage"] == "dedupe"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fractoin": 0.1}, "dedupe has no option 'val_fractoin'. Did you mean 'val_fraction'"),
        ({"val_fraction": "much"}, "val_fraction"),
        ({"val_fraction": 2.0}, "val_fraction"),
        ({"workspace": "elsewhere"}, "dedupe has no option 'workspace'"),
    ],
)
def test_a_wrong_option_is_named(whole: Whole, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline.open(whole.root).dedupe(**options)


def test_options_are_those_given_else_those_remembered(tmp_path: Path) -> None:
    root = RawStore(tmp_path / "data").write().root

    def radius(**options: object) -> object:
        pipeline.open(root).dedupe(workers=0, **options)
        return read_manifest(root / "dedupe", "dedupe").config["radius"]

    assert radius() == 4
    assert radius(radius=3) == 3
    assert radius() == 3
    assert radius(radius=5) == 5
    assert radius(val_fraction=0.5) == 5


def test_what_is_no_workspace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="is not a workspace"):
        pipeline.open(tmp_path)
    assert pipeline.open(tmp_path / "new", source="dalleblog").root.is_dir()


def test_a_file_of_the_users_named_pipeline_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("raise SystemExit('the wrong file')\n")
    for command in ([sys.executable, "-P", "-m", "pipeline"], [_console_script()]):
        done = subprocess.run(
            [*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert said.startswith("dalle-pipeline ")


def test_the_demo_starts_its_own_mock_server_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipeline.py").write_text("raise SystemExit('the wrong file')\n")
    monkeypatch.chdir(tmp_path)
    with replica_server(tmp_path) as address:
        assert address.startswith("127.0.0.1:")


def _console_script() -> str:
    return str(Path(sys.executable).with_name("pipeline"))
