"""Checkpoints on disk: complete or absent, and refused when damaged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.native import (
    MODEL_FILE,
    CheckpointInfo,
    check_checkpoint,
    last_checkpoint,
    list_checkpoints,
    load_dalle,
    read_info,
    read_tensors,
    write_checkpoint,
)
from pipeline.models.checkpoints.series import checkpoint_path, remove_checkpoint, sweep_partial
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle

CPU = torch.device("cpu")
CONFIG = DalleConfig(
    dim=8,
    depth=1,
    heads=1,
    dim_head=8,
    text_seq_len=2,
    num_text_tokens=5,
    num_image_tokens=6,
    image_fmap_size=2,
)
INFO = CheckpointInfo(
    step=20, epoch=1, consumed=3, model=CONFIG, codec="c", tokenizer="t", shards="s"
)


@pytest.fixture
def model() -> Dalle:
    torch.manual_seed(0)
    return Dalle(CONFIG)


@pytest.fixture
def folder(tmp_path: Path, model: Dalle) -> Path:
    folder = tmp_path / "checkpoints" / "step-000020"
    write_checkpoint(folder, INFO, {MODEL_FILE: model.state_dict()})
    return folder


def test_what_was_written_comes_back(folder: Path, model: Dalle) -> None:
    assert read_info(folder) == INFO
    loaded = load_dalle(folder, device=CPU)
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_the_same_state_gives_the_same_bytes(folder: Path, model: Dalle, tmp_path: Path) -> None:
    other = tmp_path / "other" / "step-000020"
    write_checkpoint(other, INFO, {MODEL_FILE: model.state_dict()})
    for path in folder.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_a_half_written_checkpoint_does_not_count(folder: Path) -> None:
    (folder.parent / "step-000030.partial").mkdir()
    assert list_checkpoints(folder.parent) == [folder]


def test_a_changed_weight_is_noticed(folder: Path) -> None:
    data = bytearray((folder / MODEL_FILE).read_bytes())
    data[-1] ^= 1
    (folder / MODEL_FILE).write_bytes(bytes(data))
    with pytest.raises(ModelError, match="sha256 differs"):
        load_dalle(folder, device=CPU)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / MODEL_FILE).unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors can't be read"):
        read_tensors(folder, MODEL_FILE)


def test_weights_of_other_hyper_parameters_are_refused(tmp_path: Path, model: Dalle) -> None:
    folder = tmp_path / "step-000020"
    weights = {k: v for k, v in model.state_dict().items() if k != "to_logits.bias"}
    write_checkpoint(folder, INFO, {MODEL_FILE: weights})
    with pytest.raises(ModelError, match=r"to_logits\.bias"):
        load_dalle(folder, device=CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 99}, "version 99"), ({"model": {}}, r"model\.num_text_tokens is missing")],
)
def test_another_description_is_refused(
    folder: Path, change: dict[str, object], message: str
) -> None:
    path = folder / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=message):
        read_info(folder)


def test_a_description_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "checkpoint.json").write_text("[1")
    with pytest.raises(ModelError, match="is not a checkpoint"):
        read_info(folder)


def write_step(folder: Path, step: int, model: Dalle) -> Path:
    info = dataclasses.replace(INFO, step=step)
    path = checkpoint_path(folder / "checkpoints", step)
    write_checkpoint(path, info, {MODEL_FILE: model.state_dict()})
    return path


def test_checkpoints_are_in_the_order_of_their_numbers(tmp_path: Path, model: Dalle) -> None:
    steps = (5, 999_000, 1_000_000)
    written = [write_step(tmp_path, step, model) for step in reversed(steps)][::-1]
    assert list_checkpoints(tmp_path / "checkpoints") == written
    assert last_checkpoint(tmp_path / "checkpoints") == written[-1]


OTHERS = (
    "step-000020-best",
    "step-000045-old",
    "step-000020.bak",
    "step-0000045",
    "step-45",
    "step-000020.partial",
    "best",
)


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_any_other_name_is_not_ours(folder: Path, name: str) -> None:
    shutil.copytree(folder, folder.with_name(name))
    (folder.parent / "step-notes.txt").write_text("mine")
    (folder.parent / "step-000077").write_text("a file")
    (folder.parent / "step-000078").symlink_to(folder)
    assert list_checkpoints(folder.parent) == [folder]


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["cut", "zeros", "gone"])
def test_the_last_intact_checkpoint_is_that_before_a_damaged_one(
    tmp_path: Path, model: Dalle, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, last = (write_step(tmp_path, step, model) for step in (5, 10))
    data = (last / name).read_bytes()
    (last / name).write_bytes(data[: len(data) // 2] if damage == "cut" else bytes(len(data)))
    if damage == "gone":
        (last / name).unlink()
    assert last_checkpoint(tmp_path / "checkpoints") == before
    assert str(last) in caplog.text
    assert str(before) not in caplog.text


def test_a_copy_under_another_steps_name_is_skipped_and_never_deleted(
    folder: Path, model: Dalle, caplog: pytest.LogCaptureFixture
) -> None:
    copy = folder.with_name("step-000045")
    shutil.copytree(folder, copy)
    before = files_of(copy)
    assert last_checkpoint(folder.parent) == folder
    assert "holds the checkpoint of step 20" in caplog.text
    remove_checkpoint(copy)
    assert files_of(copy) == before
    written = write_step(folder.parent.parent, 45, model)
    assert files_of(folder.parent / "step-000045-moved") == before
    assert read_info(written).step == 45


def test_only_what_a_checkpoint_has_is_deleted(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    remove_checkpoint(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    remove_checkpoint(folder)
    assert not folder.exists()


def test_what_a_killed_run_was_writing_is_swept_up(folder: Path) -> None:
    partial = folder.with_name("step-000030.partial")
    shutil.copytree(folder, partial)
    other = folder.with_name("step-best.partial")
    shutil.copytree(folder, other)
    sweep_partial(folder.parent)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, other.name]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


HOSTILE: tuple[object, ...] = (
    *(None, True, -1, 0, 1.5, 10**30, "", "3", [], {}, [1], {"a": 1}, "\ud800", float("nan")),
    [[[]]],
)
FIELDS = ("format", "version", "step", "epoch", "consumed", "codec", "model", "training", "files")
SIZES = ("dim", "depth", "heads", "dim_head", "text_seq_len", "num_text_tokens", "image_fmap_size")
NOTES = ("passes", "dataset", "samples", "step_samples", "ranks", "scaler", "plateau")
EDITED = [
    *((name,) for name in FIELDS),
    *(
        ("model", name)
        for name in (*SIZES, "attn_types", "shared_attn_ids", "sparse_layout", "new")
    ),
    *(("training", name) for name in NOTES),
    ("files", "model.safetensors"),
    ("files", "../../../etc/passwd"),
]


@pytest.mark.parametrize("place", EDITED, ids=".".join)
def test_a_description_edited_by_hand_is_read_or_refused_in_a_sentence(
    folder: Path, place: tuple[str, ...]
) -> None:
    path = folder / "checkpoint.json"
    whole = path.read_text()
    sentences = []
    for value in HOSTILE:
        edited = json.loads(whole)
        inner = edited
        for name in place[:-1]:
            inner = inner.setdefault(name, {})
        inner[place[-1]] = value
        path.write_text(json.dumps(edited))
        try:
            load_dalle(folder, device=CPU)
            check_checkpoint(folder)
        except ModelError as error:
            sentences.append(str(error))
    assert len(sentences) >= 5
    for sentence in sentences:
        assert str(folder) in sentence
        assert sentence.endswith(".")
