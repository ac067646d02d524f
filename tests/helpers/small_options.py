"""Options with which all stages run within seconds: the smallest models, one thread, the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PAGE_URL = "http://dalleblog.localhost/blog/dall-e/"
_SMALL: Mapping[str, Mapping[str, Any]] = {
    "dedupe": {"val_fraction": 0.3, "workers": 0},
    "train-tokenizer": {"vocab_size": 300},
    "train-codec": {
        "image_size": 32,
        "channels": 4,
        "code_dim": 4,
        "num_tokens": 32,
        "steps": 2,
        "workers": 1,
        "device": "cpu",
    },
    "encode": {"workers": 1, "device": "cpu"},
    "shard": {"text_seq_len": 16},
    "train": {
        "dim": 16,
        "depth": 1,
        "heads": 1,
        "dim_head": 16,
        "steps": 2,
        "batch_size": 4,
        "warmup_steps": 1,
        "threads": 1,
        "device": "cpu",
    },
}


def small_options(tables: Mapping[str, Any]) -> str:
    """A TOML file with these options, and small ones for what they leave open."""
    merged = {
        name: {**_SMALL.get(name, {}), **tables.get(name, {})} for name in {**_SMALL, **tables}
    }
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in merged.items()
    )


def scrape_options(url: str, *sections: str, **more: object) -> dict[str, object]:
    """The options of `scrape` for some sections of the blog that a mock server at `url` shows."""
    address = url.removeprefix("http://").strip("/")
    return {
        "page_url": PAGE_URL,
        "connect_to": address,
        "sections": sections,
        "backoff_s": 0.01,
        **more,
    }
