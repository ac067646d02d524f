"""Small real shards where the caption's colour determines every code, so that a tiny model can learn them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.config import build_config, option_values
from pipeline.core.contracts import SHARD_MEMBERS, Split
from pipeline.core.storage import (
    file_entry,
    make_manifest,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_manifest,
)
from pipeline.core.workspace import Workspace
from pipeline.models.tokenizers.load import TOKENIZER_FILE, TextTokenizer, train_bpe
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
from pipeline.webdata.index import CodecRef, ShardEntry, ShardIndex, TokenizerRef, write_index
from pipeline.webdata.tar import open_shard, table_path
from tests.helpers.webdata import encode_npy

COLOURS = ("red", "green", "blue", "white")
TEXT_SEQ_LEN = 6
GRID = (3, 3)
CODEBOOK = 16


def write_split(
    folder: Path,
    split: Split,
    samples: int,
    tokenizer: TextTokenizer,
    text_seq_len: int = TEXT_SEQ_LEN,
    num_codes: int = GRID[0] * GRID[1],
) -> tuple[ShardEntry, ...]:
    if not samples:
        return ()
    random = np.random.default_rng(samples)
    path = folder / split / "000000.tar"
    with open_shard(path, len(SHARD_MEMBERS)) as writer:
        for number in range(samples):
            colour = number % len(COLOURS)
            caption = f"a {COLOURS[colour]} cube"
            codes = colour * 4 + random.integers(0, 2, num_codes)
            data = (
                caption.encode(),
                b"{}",
                encode_npy(tokenizer.encode(caption, text_seq_len).astype("<u2")),
                encode_npy(codes.astype("<u2")),
            )
            writer.add(f"{split}_{number:04d}", list(zip(SHARD_MEMBERS, data, strict=True)))
    table = table_path(path)
    return (
        ShardEntry(
            url=path.relative_to(folder).as_posix(),
            nsamples=samples,
            filesize=path.stat().st_size,
            sha256=writer.sha256,
            table=table.relative_to(folder).as_posix(),
            table_bytes=table.stat().st_size,
            table_sha256=sha256_file(table),
            recipe="",
        ),
    )


def write_shards(
    workspace: Workspace,
    *,
    train: int = 40,
    val: int = 8,
    grid: tuple[int, int] = GRID,
    text_seq_len: int = TEXT_SEQ_LEN,
    codec: str = "c" * 64,
) -> Path:
    folder = workspace.shards("default")
    tokenizer = train_bpe([f"a {colour} cube" for colour in COLOURS] * 4, 300)
    write_bytes(folder / TOKENIZER_FILE, tokenizer.json_bytes)
    index = ShardIndex(
        name="default",
        text_seq_len=text_seq_len,
        num_codes=grid[0] * grid[1],
        codebook_size=CODEBOOK,
        vocab_size=tokenizer.vocab_size,
        grid=grid,
        codec=CodecRef(name="tiny", fingerprint=codec, image_size=24),
        tokenizer=TokenizerRef(fingerprint=tokenizer.fingerprint, file=TOKENIZER_FILE),
        members=SHARD_MEMBERS,
        tokens_dtype="<u2",
        codes_dtype="<u2",
        lineage="",
        shards={
            "train": write_split(
                folder, "train", train, tokenizer, text_seq_len, grid[0] * grid[1]
            ),
            "val": write_split(folder, "val", val, tokenizer, text_seq_len, grid[0] * grid[1]),
        },
    )
    write_index(folder, index)
    files = (file_entry(folder / "index.json", folder),)
    write_manifest(
        folder,
        make_manifest(
            "shards", config={}, inputs={}, counts={"train": train, "val": val}, files=files
        ),
    )
    return folder


def open_workspace(workspace: Workspace) -> None:
    """Make of a folder of shards a workspace that commands take, of the source `colours`."""
    begun = Workspace(workspace.root.parent / "begun").open(source="colours")
    begun.marker.rename(workspace.marker)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace with 40 training and 8 validation samples in shards/default."""
    workspace = Workspace(tmp_path / "workspace")
    write_shards(workspace)
    return workspace


MakeConfig = Callable[..., TrainConfig]


def train_config(**options: Any) -> TrainConfig:
    """A config of `pipeline train` with these options."""
    return build_config(TrainConfig, options)


def changed(config: TrainConfig, **options: Any) -> TrainConfig:
    """The config with these options changed."""
    return train_config(**{**option_values(config), **options})


@pytest.fixture
def make_config(workspace: Workspace) -> MakeConfig:
    """A config of a run of a second; keyword arguments replace its options."""

    def make(**options: Any) -> TrainConfig:
        small: dict[str, Any] = {
            "workspace": workspace.root,
            "name": "tiny",
            "dim": 16,
            "depth": 2,
            "heads": 2,
            "dim_head": 8,
            "ff_dropout": 0.1,
            "attn_dropout": 0.1,
            "steps": 12,
            "batch_size": 8,
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "log_every": 1,
            "val_every": 4,
            "save_every": 5,
            "threads": 1,
            "device": "cpu",
            "tensorboard": False,
        }
        return train_config(**{**small, **options})

    return make


def tree(folder: Path) -> dict[str, str]:
    """Every file of a folder with its hash."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class StoppedError(Exception):
    pass


def stop_at(step: int) -> Callable[..., None]:
    def progress(done: int, total: int | None, notes: object = None) -> None:
        if done == step:
            raise StoppedError

    return progress


class TrainedRuns:
    """Runs on the shards of the fixture `workspace`, each trained once, which tests go on from or end as.

    `kept` has them as they were finished, and as a kill after each of their steps would have left them.
    """

    def __init__(self, kept: Path) -> None:
        self._kept, self._workspace = kept, Workspace(kept / "workspace")
        write_shards(self._workspace)

    def whole(self, config: TrainConfig) -> dict[str, str]:
        """The files of the finished run, with their hashes."""
        return tree(self._train(config) / "whole")

    def put(self, config: TrainConfig, *, killed_after: int | None = None) -> Path:
        """Copy a run to its workspace: the finished one, or as a kill after that step left it."""
        kept = self._train(config) / ("whole" if killed_after is None else str(killed_after))
        return shutil.copytree(kept, Workspace(config.workspace).run(config.name))

    def _train(self, config: TrainConfig) -> Path:
        options = {n: str(v) for n, v in option_values(config).items() if n != "workspace"}
        kept = self._kept / sha256_bytes(json.dumps(options, sort_keys=True).encode())
        if (kept / "whole").exists():
            return kept
        folder = self._workspace.run(config.name)

        def keep(done: int, total: int | None, notes: object = None) -> None:
            if done and not (kept / str(done)).exists():
                shutil.copytree(folder, kept / str(done), copy_function=_link)

        run(changed(config, workspace=self._workspace.root), keep)
        folder.rename(kept / "whole")
        return kept


def _link(path: str, copy: str) -> None:
    """The log is written to; other files are replaced."""
    (shutil.copyfile if path.endswith("/log.jsonl") else os.link)(path, copy)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRuns:
    """Runs that several tests need, trained once."""
    return TrainedRuns(tmp_path_factory.mktemp("trained"))
