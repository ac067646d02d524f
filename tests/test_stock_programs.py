"""A workspace with `train-codec --kind discrete-vae`, through all stages, into dalle-pytorch's programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.storage import read_manifest
from pipeline.models.codecs.load import load_codec
from tests.oracles.programs import draw_greedily, load_as_generate_py
from tests.oracles.text import dalle_pytorch_tokenizers
from tests.verify.small_pipeline import Small, serve_blog, whole

__all__ = ["serve_blog", "whole"]

PROMPTS = ("a small red block", "a large blue block")


@pytest.fixture(scope="module")
def stock(whole: Small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A workspace whose codec, codes, shards, run and images called `stock` are made with that kind."""
    small = whole.copy(tmp_path_factory.mktemp("stock") / "data")
    options = ("--kind", "discrete-vae", "--channels", "8", "--steps", "12", "--batch-size", "4")
    small.call("train-codec", "--name", "stock", *options)
    small.call("encode", "--codec", "stock")
    small.call("shard", "--name", "stock", "--codec", "stock")
    drawn = ("--sample-every", "2", "--steps", "4", "--learning-rate", "0.01")
    small.call("train", "--name", "stock", "--shards", "stock", *drawn)
    small.call("generate", "--run", "stock", "--name", "stock", "--top-k", "1", "--seed", "3")
    return small


def test_every_stage_works_with_it(stock: Small) -> None:
    workspace = stock.workspace
    assert load_codec(workspace.codec("stock")).kind == "discrete-vae"
    assert sorted(path.name for path in (workspace.run("stock") / "samples").iterdir()) == [
        "step-000002.png",
        "step-000004.png",
    ]
    assert read_manifest(workspace.generated("stock"), "generated").counts["images"] == 2
    stock.call("verify")


def test_the_exported_file_draws_the_same_images_in_generate_py(stock: Small) -> None:
    workspace, path = stock.workspace, stock.root / "dalle.pt"
    stock.call("export", "--run", "stock", "--out", str(path))
    dalle = load_as_generate_py(path)
    tokenizer = dalle_pytorch_tokenizers().HugTokenizer(workspace.run("stock") / "tokenizer.json")
    tokens_BT = tokenizer.tokenize(list(PROMPTS), dalle.text_seq_len)
    with torch.no_grad():
        normal_BCHW = draw_greedily(dalle, tokens_BT)
    images_BCHW = (normal_BCHW * 0.5 + 0.5).clamp(0, 1) * 255
    theirs_BHWC = images_BCHW.round().permute(0, 2, 3, 1).numpy()
    for pixels_HWC, prompt in zip(theirs_BHWC, PROMPTS, strict=True):
        ours_HWC = np.asarray(Image.open(image_of(stock, prompt))).astype(np.float32)
        assert np.abs(ours_HWC - pixels_HWC).max() <= 1
        assert ours_HWC.std() > 1


def image_of(stock: Small, prompt: str) -> Path:
    folder = stock.workspace.generated("stock")
    lines = (folder / "records.jsonl").read_text().splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    (file,) = (str(record["file"]) for record in records if record["prompt"] == prompt)
    return folder / file


def test_the_file_draws_here_without_a_codec_or_a_workspace(stock: Small, tmp_path: Path) -> None:
    """It carries its codec, as stock ones with a DiscreteVAE do."""
    path = stock.root / "dalle.pt"
    stock.call("export", "--run", "stock", "--out", str(path))
    tokenizer = stock.workspace.run("stock") / "tokenizer.json"
    given = ("--checkpoint", str(path), "--tokenizer", f"hf:{tokenizer}", "--out", str(tmp_path))
    stock.call("generate", *given, "--top-k", "1", "--seed", "3")
    for number in range(2):
        name = f"{number:04d}-00.png"
        here, before = (
            np.asarray(Image.open(folder / name))
            for folder in (tmp_path, stock.workspace.generated("stock"))
        )
        assert (here == before).all()
