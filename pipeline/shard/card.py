"""The dataset card: `README.md` beside the shards, written from their index and counts. Pure.

The front matter is what the Hugging Face hub reads:
https://huggingface.co/docs/hub/datasets-cards
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from pipeline.core.contracts import SPLITS
from pipeline.webdata.index import ShardIndex

_HUB_SPLITS = {"train": "train", "val": "validation"}
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)

_BODY = """
# {name}

{pairs} image-caption pairs as WebDataset shards: captions, token ids and image codes, ready to
train a text-to-image transformer on.

| split | samples | shards | bytes |
|---|---:|---:|---:|
{splits}

Each sample has the members {members}:

| member | what |
|---|---|
| `txt` | the caption, UTF-8 |
| `json` | caption id, section, rank, URL, hashes, size, rows of pixels that were given{fields} |
| `tokens.npy` | {text_seq_len} token ids, {tokens_dtype}, padded with 0; below {vocab_size} |
| `codes.npy` | {views}{num_codes} codes ({rows} × {columns}, by rows), {codes_dtype}; below {codebook_size} |
{image_row}
- Tokenizer: `{tokenizer_file}`, sha256 `{tokenizer}`.
- Codec: {codec} at {image_size} × {image_size} pixels, fingerprint `{fingerprint}`.
- Of {source} {written} are here; {rejected} were rejected and {failed} failed
  (`left_out.parquet` says why); {long_captions} had captions of more than {text_seq_len} ids.

## Reading

```python
import torch, webdataset

def to_tensors(sample):
    # As {codes_name} they could be neither embedded nor compared: torch wants int64.
    tokens, codes = (sample[name].astype("int64") for name in ("tokens.npy", "codes.npy"))
    return torch.from_numpy(tokens), torch.from_numpy(codes)

shards = "train/{{000000..{last:06d}}}.tar"  # in the folder of this card
samples = webdataset.WebDataset(shards, shardshuffle=False).decode().map(to_tensors)
```

{dalle_pytorch}
`index.json` lists every shard with samples, bytes and sha256, and reads as an index of `wids` (the
training split). Beside each tar, `NNNNNN.idx.npy` is an int64 array [samples, members, 2] of the
offset and the length of each member's data in the tar.
"""


_DALLE_PYTORCH = """
`train_dalle.py` of DALLE-pytorch reads the images and the captions, and encodes them itself. Its four workers
need a shard each at least, and must not see `val/`:

```sh
python train_dalle.py --wds {extension},txt --image_text_folder train{tokenizer} \
    --text_seq_len {text_seq_len} --truncate_captions
```
"""
_MIN_TRAIN_SHARDS = 4  # its `num_workers`; each worker needs a shard

_NO_IMAGES = """
`train_dalle.py` of DALLE-pytorch wants images: `pipeline shard --images jpg:90` puts them into the shards.
"""


def write_card(
    index: ShardIndex,
    counts: Mapping[str, int],
    *,
    images: str,
    tokenizer_options: str,
    fields: Collection[str] = (),
) -> str:
    """The dataset card of the shards in `index`; `counts` as in their manifest.

    `images` is the value of `--images`; `tokenizer_options` are the options with which `train_dalle.py` uses
    the same tokenizer; `fields` those of the samples' json that not all shards have.
    """
    present = [split for split in SPLITS if index.shards[split]]
    files = [f"  - split: {_HUB_SPLITS[s]}\n    path: {s}/*.tar" for s in present]
    head = [
        "---",
        f"pretty_name: {json.dumps(index.name)}",
        "task_categories:",
        "- text-to-image",
        "size_categories:",
        f"- {_size_category(sum(index.samples.values()))}",
        "tags:",
        "- webdataset",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *files,
        "---",
    ]
    return "\n".join(head) + "\n" + _body(index, counts, images, tokenizer_options, fields)


def _body(
    index: ShardIndex,
    counts: Mapping[str, int],
    images: str,
    tokenizer_options: str,
    fields: Collection[str],
) -> str:
    pairs = counts["images"] + counts.get("further_captions", 0)
    kept = f"{counts['images']} kept images"
    return _BODY.format(
        dalle_pytorch=_dalle_pytorch(index, images, tokenizer_options).strip() + "\n",
        name=index.name,
        pairs=pairs,
        source=f"{pairs} captions of {kept}" if "further_captions" in counts else kept,
        fields="".join(text for name, text in _FIELDS.items() if name in fields),
        splits="\n".join(_split_row(index, split) for split in SPLITS),
        members=", ".join(f"`{member}`" for member in index.members),
        text_seq_len=index.text_seq_len,
        tokens_dtype=index.tokens_dtype,
        vocab_size=index.vocab_size,
        views=_name_views(index.views),
        num_codes=index.num_codes,
        rows=index.grid[0],
        columns=index.grid[1],
        codes_dtype=index.codes_dtype,
        codes_name=np.dtype(index.codes_dtype).name,
        codebook_size=index.codebook_size,
        image_row=_IMAGE_ROWS[images.partition(":")[0]],
        tokenizer_file=index.tokenizer.file,
        tokenizer=index.tokenizer.fingerprint,
        codec=index.codec.name,
        image_size=index.codec.image_size,
        fingerprint=index.codec.fingerprint,
        written=counts["written"],
        rejected=counts["rejected"],
        failed=counts["failed"],
        long_captions=counts["long_captions"],
        last=max(len(index.shards["train"]) - 1, 0),
    )


_FIELDS = {
    "caption_index": ", the caption's place among those of its image (`caption_index`)",
    "extra": ", what else the source says of the image (`extra`)",
}
_IMAGE_ROWS = {
    "none": "",
    "original": "| `png`, `jpg`… | the image as it was fetched: it may be transparent, or turned by EXIF |\n",
    "png": "| `png` | the image, without loss: the pixels that were encoded |\n",
    "jpg": "| `jpg` | the image: the pixels that were encoded, as JPEG |\n",
}


def _dalle_pytorch(index: ShardIndex, images: str, tokenizer_options: str) -> str:
    """How to give these shards to DALLE-pytorch's own script, or why that is not possible."""
    if images == "none":
        return _NO_IMAGES
    text = _DALLE_PYTORCH.format(
        extension="jpg" if images.startswith("jpg") else "png",
        tokenizer=f" {tokenizer_options}" if tokenizer_options else "",
        text_seq_len=index.text_seq_len,
    )
    shards, samples = len(index.shards["train"]), index.samples["train"]
    if shards < _MIN_TRAIN_SHARDS:
        most = max(1, samples // _MIN_TRAIN_SHARDS)
        text += (
            f"\nOf these {shards} it can't: make more with `pipeline shard --max-samples {most}`.\n"
        )
    if images == "original":
        text += "\nImages that are no PNGs are left out by it: `--images png` makes PNGs of all.\n"
    return text


def _name_views(views: Sequence[str]) -> str:
    return "" if len(views) == 1 else f"{len(views)} views ({', '.join(views)}) of "


def _split_row(index: ShardIndex, split: str) -> str:
    entries = [entry for s in SPLITS if s == split for entry in index.shards[s]]
    size = sum(entry.filesize for entry in entries)
    return f"| {split} | {sum(e.nsamples for e in entries)} | {len(entries)} | {size} |"


def _size_category(samples: int) -> str:
    return next((name for limit, name in _SIZES if samples < limit), "n>10M")
