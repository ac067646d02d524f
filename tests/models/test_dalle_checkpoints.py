"""Checkpoints on disk: whole or not there, and refused when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models.checkpoints.ours import (
    MODEL_FILE,
    CheckpointInfo,
    list_checkpoints,
    load_dalle,
    read_info,
    read_tensors,
    write_checkpoint,
)
from pipeline.models.dalle import Dalle
from pipeline.models.dalle_config import DalleConfig

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
    folder = tmp_path / "step-000001"
    weights = {k: v for k, v in model.state_dict().items() if k != "to_logits.bias"}
    write_checkpoint(folder, INFO, {MODEL_FILE: weights})
    with pytest.raises(ModelError, match=r"to_logits\.bias"):
        load_dalle(folder, device=CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 99}, "version 99"), ({"model": {}}, r"model\.dim is missing")],
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
