"""A workspace with a tiny finished run and a tiny codec, both untrained, for testing generation."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.storage import make_manifest, write_bytes, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.models.checkpoints.native import MODEL_FILE, CheckpointInfo, write_checkpoint
from pipeline.models.codecs.load import save_codec
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.models.tokenizers.load import TOKENIZER_FILE, train_bpe


def write_codec(workspace: Workspace, name: str, seed: int) -> str:
    torch.manual_seed(seed)
    codec = VQCodec(VQConfig(image_size=64, num_tokens=16, code_dim=4, channels=4))
    codec.codebook_KD.normal_()
    folder = workspace.codec(name)
    save_codec(codec, folder)
    finish(folder, "codec")
    return codec.fingerprint


def write_run(workspace: Workspace, *, codec: str) -> Path:
    folder = workspace.run("dalle")
    write_step(folder, 3, codec=codec)
    finish(folder, "run", checkpoint="checkpoints/step-000003")
    return folder


def write_step(folder: Path, step: int, *, codec: str, **training: Any) -> Path:
    """A checkpoint of a run; each step has weights of its own. `training` is what it says of training."""
    tokenizer = train_bpe(["a red cube", "a blue cube"] * 4, 300)
    write_bytes(folder / TOKENIZER_FILE, tokenizer.json_bytes)
    config = DalleConfig(
        dim=16,
        depth=2,
        heads=2,
        dim_head=8,
        text_seq_len=6,
        num_text_tokens=tokenizer.vocab_size,
        num_image_tokens=16,
        image_fmap_size=4,
    )
    torch.manual_seed(step - 3)
    info = CheckpointInfo(
        step=step,
        epoch=0,
        consumed=24,
        model=config,
        codec=codec,
        tokenizer=tokenizer.fingerprint,
        shards="5" * 64,
        training=training,
    )
    weights = {name: 2 * value for name, value in Dalle(config).state_dict().items()}
    path = folder / f"checkpoints/step-{step:06d}"
    write_checkpoint(path, info, {MODEL_FILE: weights})
    return path


def finish(folder: Path, contract: str, **details: Any) -> None:
    manifest = make_manifest(contract, config={}, inputs={}, counts={}, files=(), details=details)
    write_manifest(folder, manifest)


def write_models(root: Path) -> Workspace:
    """A workspace with runs/dalle and, among others, the codec that it was trained with."""
    workspace = Workspace(root).open("a source")
    write_codec(workspace, "another", seed=1)
    write_run(workspace, codec=write_codec(workspace, "mine", seed=2))
    write_codec(workspace, "third", seed=3)
    return workspace


@functools.cache
def _written(folder: Path) -> Path:
    """The files of the fixture `workspace`, which take longer to make than to copy."""
    return write_models(folder).root


@pytest.fixture
def workspace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A new workspace with models."""
    written = _written(tmp_path_factory.getbasetemp() / "workspace-for-generate")
    torch.manual_seed(0)  # Some tests make models of their own.
    return Workspace(shutil.copytree(written, tmp_path / "workspace"))


@pytest.fixture
def make_config(workspace: Workspace) -> Callable[..., GenerateConfig]:
    """A config for two prompts, three images each; keyword arguments replace its options."""

    def make(**options: Any) -> GenerateConfig:
        few: dict[str, Any] = {
            "workspace": workspace.root,
            "prompts": ("a red cube", "a blue cube"),
            "num_images": 3,
            "device": "cpu",
            "threads": 1,
        }
        return GenerateConfig(**{**few, **options})

    return make
