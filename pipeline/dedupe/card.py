"""The dataset card `dedupe/README.md`, which tells `datasets` where the tables are. Pure.

The front matter is what the Hugging Face hub and library read:
https://huggingface.co/docs/hub/datasets-manual-configuration
"""

from __future__ import annotations

from collections.abc import Mapping

CARD = "README.md"

_TEMPLATE = """\
---
configs:
- config_name: kept
  default: true
  data_files:
  - split: rows
    path: kept/*.parquet
- config_name: rejected
  data_files:
  - split: rows
    path: rejected/*.parquet
- config_name: captions
  data_files:
  - split: rows
    path: captions.parquet
- config_name: inspections
  data_files:
  - split: rows
    path: inspections.parquet
---

# Images and captions, deduplicated

| table | a row is | rows |
|---|---|---:|
| `kept` | an image that is used: caption, hashes, size, where its bytes are | {kept} |
| `rejected` | an image that is not used, and why | {rejected} |
| `captions` | a caption, with its sections and how many images it has | |
| `inspections` | a file of the raw store, and what was found in it | |

The column `split` of `kept` and `captions` says what an image is for: {train} images train, {val} validate.
`segment`, `offset` and `bytes` say where its bytes are: in a tar of `raw/segments`, or in the file at
that path.

```python
from datasets import load_dataset

kept = load_dataset("dedupe", "kept", split="rows")  # the path of this folder
train = kept.filter(lambda row: row["split"] == "train")
rejected = load_dataset("dedupe", "rejected", split="rows")
```
"""


def write_card(counts: Mapping[str, int], splits: Mapping[str, int]) -> str:
    """The dataset card for these counts; `splits` maps each split to its kept images."""
    return _TEMPLATE.format(
        kept=counts["kept"],
        rejected=counts["rejected"],
        train=splits.get("train", 0),
        val=splits.get("val", 0),
    )
