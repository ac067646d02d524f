"""Third-party readers read the shards unchanged."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import webdataset
import wids

Expected = Callable[[int], tuple[Any, Any]]


def test_webdataset_reads_every_member(shards: Path, expected: Expected) -> None:
    urls = sorted(str(path) for path in (shards / "train").glob("*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [s["__key__"] for s in samples] == [f"key_{n:04d}" for n in range(27)]
    for number, sample in enumerate(samples):
        tokens, codes = expected(number)
        assert sample["txt"] == f"caption é {number}"
        assert sample["json"] == {"number": number}
        assert sample["tokens.npy"].tolist() == tokens.tolist()
        assert sample["codes.npy"].tolist() == codes.tolist()


def test_webdataset_reads_them_by_brace_expansion(shards: Path) -> None:
    dataset = webdataset.WebDataset(f"{shards}/train/{{000000..000002}}.tar", shardshuffle=False)
    assert sum(1 for _ in dataset) == 27


def test_tar_unpacks_them(shards: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", shards / "val/000000.tar", "-C", tmp_path], check=True)
    assert json.loads((tmp_path / "key_1001.json").read_text()) == {"number": 1001}


def test_wids_reads_the_index(shards: Path, tmp_path: Path) -> None:
    dataset = wids.ShardListDataset(
        str(shards / "index.json"), base=str(shards), cache_dir=str(tmp_path), keep=True
    )
    assert len(dataset) == 27
    assert dataset[20][".txt"] == "caption é 20"
