"""Codes are counted, checked against their codebook, and decoded and compared with their images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.core.inventory import Folder, find_folders
from pipeline.core.storage import file_entry, make_manifest, read_manifest, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.encode.config import EncodeConfig
from pipeline.encode.run import run
from pipeline.models.codecs.load import save_codec
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.train_codec.config import TrainCodecConfig
from pipeline.train_codec.run import run as train_codec
from pipeline.verify.check import check_contents
from pipeline.verify.usage import CodebookUse
from tests.helpers.cli import run_command

MakeWorkspace = Callable[..., Workspace]


@pytest.fixture
def workspace(make_workspace: MakeWorkspace) -> Workspace:
    """20 images, a codec with random weights, and their codes."""
    workspace = make_workspace(20)
    folder = workspace.codec("small")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = VQCodec(VQConfig(image_size=32, num_tokens=16, code_dim=4, channels=4))
    save_codec(codec, folder)
    files = tuple(file_entry(path, folder) for path in sorted(folder.iterdir()))
    write_manifest(folder, make_manifest("codec", config={}, inputs={}, counts={}, files=files))
    run(EncodeConfig(workspace=workspace.root, codec="small", workers=1))
    return workspace


def codes_folder(workspace: Workspace) -> Folder:
    (folder,) = (f for f in find_folders(workspace.root) if f.contract == "codes")
    return folder


def rewrite(workspace: Workspace, change: Callable[[list[list[int]]], list[list[int]]]) -> None:
    """Change the table of codes and its hash in the manifest."""
    folder = codes_folder(workspace)
    path = folder.path / "00000.parquet"
    table = pq.read_table(path)
    codes = pa.array(change(table["codes"].to_pylist()), pa.list_(pa.uint16()))
    pq.write_table(table.set_column(2, table.schema.field("codes"), codes), path)
    manifest = json.loads((folder.path / "manifest.json").read_text())
    entry = file_entry(path, folder.path, rows=20)
    manifest["files"] = [vars(entry)]
    (folder.path / "manifest.json").write_text(json.dumps(manifest))


def test_intact_codes_are_measured_and_decoded(workspace: Workspace) -> None:
    faults, (facts,) = check_contents(codes_folder(workspace), workspace, 5)
    assert faults == []
    assert facts["rows"] == 20
    assert str(facts["codebook used"]).endswith("of 16")
    assert 1 <= float(str(facts["perplexity"])) <= 16
    assert "dB (5 images" in str(facts["PSNR"])


def test_the_command_prints_its_measurements(workspace: Workspace) -> None:
    result = run_command(["verify", "--workspace", str(workspace.root)])
    assert "Measured in codes" in result.output
    assert "16 images" in result.output


def test_a_code_beyond_the_codebook_is_found_though_the_hash_is_right(workspace: Workspace) -> None:
    def change(codes: list[list[int]]) -> list[list[int]]:
        codes[7][3] = 16
        return codes

    rewrite(workspace, change)
    folder = codes_folder(workspace)
    faults, _ = check_contents(folder, workspace, 5)
    assert list(map(str, faults)) == [
        f"{folder.name}/00000.parquet has the code 16; its codebook ends at 15"
    ]


def test_a_row_of_another_length_is_found(workspace: Workspace) -> None:
    rewrite(workspace, lambda codes: [codes[0][:-1], *codes[1:]])
    faults, _ = check_contents(codes_folder(workspace), workspace, 5)
    assert ["has a row of 3 codes, expected 4" in problem for problem in map(str, faults)] == [True]


def test_codes_of_other_images_show_in_the_psnr(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(20)
    root = workspace.root
    options = {"image_size": 32, "num_tokens": 32, "code_dim": 8, "channels": 8, "batch_size": 8}
    train_codec(TrainCodecConfig(workspace=root, steps=60, encoder="patches", **options))  # type: ignore[arg-type]
    run(EncodeConfig(workspace=root, codec="small", workers=1))

    def psnr() -> tuple[float, float]:
        _, (facts,) = check_contents(codes_folder(workspace), workspace, 20)
        right, wrong = (str(facts[name]).split()[0] for name in ("PSNR", "PSNR to other images"))
        return float(right), float(wrong)

    right, wrong = psnr()
    assert right > wrong + 1
    rewrite(workspace, lambda codes: [*codes[1:], codes[0]])
    assert psnr()[0] < right - 1


def test_a_duplicate_view_is_found(workspace: Workspace) -> None:
    folder = codes_folder(workspace)
    path = folder.path / "00000.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(3, 1)]), path)
    manifest = json.loads((folder.path / "manifest.json").read_text())
    manifest["files"] = [vars(file_entry(path, folder.path, rows=21))]
    (folder.path / "manifest.json").write_text(json.dumps(manifest))
    faults, _ = check_contents(codes_folder(workspace), workspace, 0)
    assert [fault.found for fault in faults] == ["has the same view of the same pixels twice"]


def test_a_view_that_two_tables_hold_is_found(workspace: Workspace) -> None:
    folder = codes_folder(workspace)
    whole = pq.read_table(folder.path / "00000.parquet")
    for name, rows in (("00000", whole[:12]), ("00001", whole[11:])):
        pq.write_table(rows, folder.path / f"{name}.parquet")
    manifest = json.loads((folder.path / "manifest.json").read_text())
    tables = sorted(folder.path.glob("*.parquet"))
    manifest["files"] = [vars(file_entry(path, folder.path)) for path in tables]
    (folder.path / "manifest.json").write_text(json.dumps(manifest))
    faults, _ = check_contents(codes_folder(workspace), workspace, 0)
    assert list(map(str, faults)) == [
        f"{folder.name}/00001.parquet has the same view of the same pixels twice"
    ]


def test_a_missing_codec_is_reported_and_is_no_fault(workspace: Workspace) -> None:
    (workspace.codec("small") / "codec.json").unlink()
    faults, (facts,) = check_contents(codes_folder(workspace), workspace, 5)
    assert faults == []
    assert facts["PSNR"] == "codec not in codecs/, or damaged"


def test_torch_is_imported_only_to_decode(workspace: Workspace) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from pipeline.core.workspace import Workspace\n"
        "from pipeline.core.inventory import find_folders; from pipeline.verify.check import check_contents\n"
        "w = Workspace(Path(sys.argv[1]))\n"
        "print([check_contents(f, w, 0)[0] for f in find_folders(w.root)], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(workspace.root)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[[], [], [], []] False"


def test_perplexity_is_the_size_of_a_codebook_used_evenly() -> None:
    use = CodebookUse(8)
    assert use.add(np.array([[0, 1], [2, 3]], dtype=np.uint16)) == 3
    assert (use.used, round(use.perplexity, 6), str(use)) == (4, 4.0, "4 of 8")
    use.add(np.zeros(10_000, dtype=np.uint16))
    assert use.perplexity < 1.02
    assert use.add(np.array([300], dtype=np.uint16)) == 300
    assert use.used == 4


def test_an_empty_codebook_use_has_no_highest_code() -> None:
    assert CodebookUse(8).add(np.zeros(0, np.uint16)) == -1


def test_the_manifest_must_describe_the_codec(workspace: Workspace) -> None:
    path: Path = codes_folder(workspace).path
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["details"]["codec"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    faults, _ = check_contents(codes_folder(workspace), workspace, 5)
    expected = "manifest.json: details.codec is null, expected an object"
    assert [expected in problem for problem in map(str, faults)] == [True]
    assert read_manifest(path, "codes").files
