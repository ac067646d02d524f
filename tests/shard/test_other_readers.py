"""Readers that are not ours take finished shards, pictures and all, as they are."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import webdataset as wds
import wids
from PIL import Image
from torch import Tensor

from pipeline.models.text import load_tokenizer
from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run

BATCH_SIZE = 4
SIDE = 8


@pytest.fixture(params=["original", "jpg:90"])
def shards(request: pytest.FixtureRequest, make_world: Callable[..., Any]) -> Path:
    """60 images of 16 × 16, 52 of them for training, in shards of 20 with their pictures."""
    world = make_world()
    run(
        ShardConfig(
            workspace=world.root, text_seq_len=24, max_samples=20, images=str(request.param)
        )
    )
    return Path(world.workspace.shards("default"))


def extension(shards: Path) -> str:
    return "png" if b".png\0" in (shards / "val/000000.tar").read_bytes() else "jpg"


def dalle_pytorch_batches(folder: Path, columns: str) -> list[tuple[Tensor, Tensor]]:
    """What `train_dalle.py --wds COLUMNS --image_text_folder FOLDER` (1.6.6) asks of `webdataset`.

    The same calls in the same order; its tokenizer and torchvision's crop are stood in for.
    """
    my_image, my_caption = columns.split(",")
    tokenizer = load_tokenizer(folder)

    def tokenize(text: bytes) -> Tensor:
        return torch.from_numpy(tokenizer.encode(text.decode("utf-8"), 24))

    def to_tensor(image: Image.Image) -> Tensor:
        pixels_HWC = np.array(image.convert("RGB").resize((SIDE, SIDE)))
        return torch.from_numpy(pixels_HWC).permute(2, 0, 1) / 255

    found = [str(path) for path in folder.glob("**/*") if ".tar" in str(path).lower()]
    dataset = wds.WebDataset(found, handler=wds.warn_and_continue)
    chosen = dataset.select(lambda item: my_caption in item and my_image in item)
    pipeline = (
        chosen.map_dict(**{my_image: lambda b: Image.open(io.BytesIO(b)), my_caption: tokenize})
        .map_dict(**{my_image: to_tensor})
        .to_tuple(my_caption, my_image)
        .batched(BATCH_SIZE, partial=True)
    )
    loader = wds.WebLoader(pipeline, batch_size=None, shuffle=False)
    return list(loader.repeat(2).slice(30))


def test_dalle_pytorch_trains_on_them(shards: Path) -> None:
    batches = dalle_pytorch_batches(shards, f"{extension(shards)},txt")
    assert sum(len(text) for text, _ in batches) == 2 * 60
    text, images = batches[0]
    assert (text.shape, images.shape) == ((BATCH_SIZE, 24), (BATCH_SIZE, 3, SIDE, SIDE))
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


def test_dalle_pytorch_finds_nothing_where_there_are_no_such_pictures(shards: Path) -> None:
    assert dalle_pytorch_batches(shards, "webp,txt") == []


def test_webdataset_decodes_the_pictures(shards: Path) -> None:
    urls = sorted(str(path) for path in (shards / "train").glob("*.tar"))
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len({sample["__key__"] for sample in samples}) == 52
    assert {sample[extension(shards)].shape for sample in samples} == {(16, 16, 3)}


def test_datasets_of_hugging_face_loads_them(shards: Path, tmp_path: Path) -> None:
    files = {
        "train": sorted(str(path) for path in (shards / "train").glob("*.tar")),
        "validation": [str(shards / "val/000000.tar")],
    }
    loaded = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "hf"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 52, "validation": 8}
    row = loaded["train"][0]
    assert isinstance(row[extension(shards)], Image.Image)
    assert row["txt"].startswith("a ")
    assert row["json"]["section"] == "solid_colors"
    assert len(row["codes.npy"]) == 16
    assert len(row["tokens.npy"]) == 24


def test_the_card_tells_hugging_face_the_splits(shards: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(shards), cache_dir=str(tmp_path / "hf"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 52, "validation": 8}


def test_wids_reads_pictures_by_the_index(shards: Path, tmp_path: Path) -> None:
    dataset = wids.ShardListDataset(
        str(shards / "index.json"), base=str(shards), cache_dir=str(tmp_path), keep=True
    )
    assert len(dataset) == 52
    assert dataset[51][f".{extension(shards)}"].size == (16, 16)


def test_tar_unpacks_pictures_that_can_be_looked_at(shards: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", shards / "val/000000.tar", "-C", tmp_path], check=True)
    pictures = sorted(tmp_path.glob(f"*.{extension(shards)}"))
    assert len(pictures) == 8
    with Image.open(pictures[0]) as picture:
        assert picture.size == (16, 16)
    assert json.loads(pictures[0].with_suffix(".json").read_text())["width"] == 16
