"""Third-party readers read finished shards with images unchanged."""

from __future__ import annotations

import io
import json
import re
import shlex
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

from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run
from tests.oracles.text import dalle_pytorch_tokenizers

BATCH_SIZE = 4
SIDE = 8


@pytest.fixture(params=["original", "jpg:90"])
def shards(request: pytest.FixtureRequest, make_world: Callable[..., Any]) -> Path:
    """60 images of 16 × 16, 52 of them for training, in shards of 20 that contain the images."""
    world = make_world()
    run(
        ShardConfig(
            workspace=world.root, text_seq_len=24, max_samples=20, images=str(request.param)
        )
    )
    return Path(world.workspace.shards("default"))


def extension(shards: Path) -> str:
    return "png" if b".png\0" in (shards / "val/000000.tar").read_bytes() else "jpg"


def dalle_pytorch_batches(options: dict[str, str], batches: int) -> list[tuple[Tensor, Tensor]]:
    """What `train_dalle.py` (1.6.6) asks of `webdataset` with these options, in the folder of the shards.

    The same calls in the same order, with its four workers; torchvision's random crop is stood in for.
    """
    my_image, my_caption = options["wds"].split(",")
    tokenizer = dalle_pytorch_tokenizers().HugTokenizer(options["bpe_path"])

    def tokenize(text: bytes) -> Tensor:
        tokens: Tensor = tokenizer.tokenize(
            text.decode("utf-8"), int(options["text_seq_len"]), truncate_text=True
        )
        return tokens.squeeze(0)

    def to_tensor(image: Image.Image) -> Tensor:
        pixels_HWC = np.array(image.convert("RGB").resize((SIDE, SIDE)))
        return torch.from_numpy(pixels_HWC).permute(2, 0, 1) / 255

    folder = Path(options["image_text_folder"])
    found = [str(path) for path in folder.glob("**/*") if ".tar" in str(path).lower()]
    dataset = wds.WebDataset(found, handler=wds.warn_and_continue)
    chosen = dataset.select(lambda item: my_caption in item and my_image in item)
    pipeline = (
        chosen.map_dict(**{my_image: lambda b: Image.open(io.BytesIO(b)), my_caption: tokenize})
        .map_dict(**{my_image: to_tensor})
        .to_tuple(my_caption, my_image)
        .batched(BATCH_SIZE / 1, partial=True)
    )
    loader = wds.WebLoader(pipeline, batch_size=None, shuffle=False, num_workers=4)
    return list(loader.slice(batches))


def card_command(shards: Path) -> dict[str, str]:
    """The options of the command for `train_dalle.py` on the card."""
    (block,) = re.findall(r"```sh\n(.*?)```", (shards / "README.md").read_text(), re.DOTALL)
    words = shlex.split(block.replace("\\\n", " "))
    assert words[:2] == ["python", "train_dalle.py"]
    options, name = {}, ""
    for word in words[2:]:
        if word.startswith("--"):
            name = word[2:]
            options[name] = ""
        else:
            options[name] = word
    return options


def make_shards(make_world: Callable[..., Any], images: str, max_samples: int = 20) -> Path:
    world = make_world()
    run(ShardConfig(workspace=world.root, text_seq_len=24, max_samples=max_samples, images=images))
    return Path(world.workspace.shards("default"))


@pytest.mark.parametrize("images", ["original", "png", "jpg:90"])
def test_dalle_pytorch_trains_on_them_with_the_cards_command(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, images: str
) -> None:
    shards = make_shards(make_world, images, max_samples=13)
    assert "it can't" not in (shards / "README.md").read_text()
    monkeypatch.chdir(shards)
    options = card_command(shards)
    assert {"hug", "truncate_captions"} <= options.keys()
    batches = dalle_pytorch_batches(options, batches=100)
    assert sum(len(text) for text, _ in batches) == 52  # those of train, once, and none of val
    text, shown = batches[0]
    assert (text.shape, shown.shape) == ((BATCH_SIZE, 24), (BATCH_SIZE, 3, SIDE, SIDE))
    assert text.dtype == torch.int64
    assert 0 <= float(shown.min()) <= float(shown.max()) <= 1


def test_the_card_says_if_there_are_too_few_shards_for_that(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = make_shards(make_world, "jpg:90")
    assert "make more with `pipeline shard --max-samples 13`" in (shards / "README.md").read_text()
    monkeypatch.chdir(shards)
    with pytest.raises(ValueError, match="fewer shards than workers"):
        dalle_pytorch_batches(card_command(shards), batches=100)


def test_the_card_of_shards_without_images_says_how_to_add_them(
    make_world: Callable[..., Any],
) -> None:
    card = (make_shards(make_world, "none") / "README.md").read_text()
    assert "train_dalle.py" in card
    assert "--images jpg:90" in card
    assert "```sh" not in card


def test_the_cards_code_yields_tensors_that_torch_can_embed(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = make_shards(make_world, "none")
    (code,) = re.findall(r"```python\n(.*?)```", (shards / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(shards)
    names: dict[str, Any] = {}
    exec(code, names)
    samples = list(names["samples"])
    assert len(samples) == 52
    tokens, codes = torch.utils.data.default_collate(samples)
    assert (tokens.shape, codes.shape) == ((52, 24), (52, 16))
    assert torch.nn.Embedding(512, 4)(codes).shape == (52, 16, 4)
    assert bool((codes < 512).all())


def test_webdataset_decodes_the_images(shards: Path) -> None:
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


def test_the_card_declares_the_splits_for_hugging_face(shards: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(shards), cache_dir=str(tmp_path / "hf"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 52, "validation": 8}


def test_wids_reads_images_by_the_index(shards: Path, tmp_path: Path) -> None:
    dataset = wids.ShardListDataset(
        str(shards / "index.json"), base=str(shards), cache_dir=str(tmp_path), keep=True
    )
    assert len(dataset) == 52
    assert dataset[51][f".{extension(shards)}"].size == (16, 16)


def test_tar_unpacks_images_that_can_be_opened(shards: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", shards / "val/000000.tar", "-C", tmp_path], check=True)
    images = sorted(tmp_path.glob(f"*.{extension(shards)}"))
    assert len(images) == 8
    with Image.open(images[0]) as image:
        assert image.size == (16, 16)
    assert json.loads(images[0].with_suffix(".json").read_text())["width"] == 16
