"""A tiny CLIP with random weights, in a folder as `transformers` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_clip(folder: Path, *, side: int = 16, resize: int = 20, seed: int = 0) -> Path:
    """A CLIP for pictures of `side` pixels whose words are letters; skips where transformers is missing."""
    transformers = pytest.importorskip("transformers")
    tokenizer = _tokenizer(transformers)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text = {
        **shape,
        "num_attention_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 12,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    vision = {**shape, "num_attention_heads": 2, "image_size": side, "patch_size": 8}
    torch.manual_seed(seed)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    model = transformers.CLIPModel(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    preparation = {
        "crop_size": {"height": side, "width": side},
        "size": {"shortest_edge": resize},
        "resample": 3,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
        "image_processor_type": "CLIPImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return folder


def _tokenizer(transformers: Any) -> Any:
    letters = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    names = [*letters, "<|startoftext|>", "<|endoftext|>"]
    vocab = {name: number for number, name in enumerate(names)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[])
