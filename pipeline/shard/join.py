"""Join kept images, codes and token ids row by row: the content of each sample, or why it is left out.

Streams `dedupe/kept/*.parquet`. Captions, records and token ids go to a scratch file; memory holds about 130
bytes a row: its key, its caption's number, its position in the scratch files and its split.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.core.contracts import SPLITS, ShardReason, Split
from pipeline.core.errors import ConfigError, damaged
from pipeline.core.kept_images import STORED_IMAGE_COLUMNS, read_tables
from pipeline.core.progress import Progress
from pipeline.models.tokenizers.load import pad_ids
from pipeline.shard.codes import CodesFile
from pipeline.shard.config import ShardConfig
from pipeline.shard.inputs import Inputs
from pipeline.shard.layout import Captions, Keys, Rows
from pipeline.webdata.tar import is_key

_BATCH_ROWS = 4096
# The fields of a sample's json, in this order; with the blog's URLs it stays under 512 bytes.
RECORD = (
    *("caption_id", "section", "rank", "url", "bytes_sha256", "pixel_sha256"),
    *("width", "height", "masked_rows"),
)
_IMAGE = (*STORED_IMAGE_COLUMNS, "format")
_COLUMNS = tuple(dict.fromkeys(("key", "caption", "split", *RECORD, *_IMAGE)))
_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class LeftOut(NamedTuple):
    """A kept image that is in no shard: a row of `contracts.LEFT_OUT`."""

    key: str
    status: str
    reason: ShardReason
    detail: str


class SampleText(NamedTuple):
    """The parts of a sample in the scratch file; `image` is the location of its bytes in the raw store."""

    caption: bytes
    record: bytes
    tokens: bytes
    image: bytes


class EncodedCaption(NamedTuple):
    """The number of token ids of a caption, and the ids that are kept, padded, as bytes."""

    length: int
    tokens: bytes


class TextFile:
    """Texts appended to a scratch file and read back by number."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._lengths: list[npt.NDArray[np.int32]] = []
        self._starts: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._parts = np.zeros((0, len(SampleText._fields)), dtype=np.int32)

    def append(self, texts: list[SampleText]) -> None:
        """Append texts."""
        self._file.write(b"".join(part for text in texts for part in text))
        lengths = [[len(part) for part in text] for text in texts]
        self._lengths.append(np.array(lengths, dtype=np.int32).reshape(-1, len(SampleText._fields)))

    def finish(self) -> None:
        """Flush and index the file; nothing may be appended afterwards."""
        self._file.flush()
        self._parts = np.concatenate([self._parts, *self._lengths])
        self._starts = np.cumsum(self._parts.sum(axis=1, dtype=np.int64)) - self._parts.sum(axis=1)
        self._lengths.clear()

    def read(self, row: int) -> SampleText:
        """The text of a row."""
        start, (caption, record, tokens, image) = int(self._starts[row]), self._parts[row].tolist()
        data = os.pread(self._file.fileno(), caption + record + tokens + image, start)
        text_end = caption + record
        tokens_end = text_end + tokens
        return SampleText(
            data[:caption], data[caption:text_end], data[text_end:tokens_end], data[tokens_end:]
        )

    def close(self) -> None:
        """Close the scratch file."""
        self._file.close()


@dataclass
class Joined:
    """Every sample that can be written, by row, and every image that can't."""

    texts: TextFile
    keys: Keys
    captions: Captions
    codes_row: Rows
    split_rows: dict[Split, Rows]
    left_out: list[LeftOut] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def join(
    config: ShardConfig, inputs: Inputs, codes: CodesFile, texts: TextFile, progress: Progress
) -> Joined:
    """Read every kept image once and decide whether it becomes a sample; texts go to `texts`.

    Raises DamageError for a duplicate key, and ConfigError for captions that are too long if the config
    forbids them.
    """
    joined = Joined(texts, np.zeros(0, "S1"), np.zeros(0, np.uint64), np.zeros(0, np.int64), {})
    keys, codes_rows, splits = [joined.keys], [joined.codes_row], [np.zeros(0, "S5")]
    caption_numbers = [joined.captions]
    for rows in read_tables(inputs.kept.paths, _COLUMNS, _BATCH_ROWS):
        batch = rows.to_pydict()
        captions = _encode_captions(config, inputs, batch["caption"])
        found = codes.find(batch["pixel_sha256"])
        good = _choose(config, inputs, joined, batch, captions, found)
        texts.append([_text(config, batch, i, captions[batch["caption"][i]]) for i in good])
        keys.append(np.array([batch["key"][i] for i in good], dtype=np.bytes_))
        splits.append(np.array([batch["split"][i] for i in good], dtype=np.bytes_))
        caption_numbers.append(_number_captions([batch["caption_id"][i] for i in good]))
        codes_rows.append(found[good])
        progress(joined.counts["images"], None, _notes(joined))
    texts.finish()
    joined.keys, joined.codes_row = np.concatenate(keys), np.concatenate(codes_rows)
    joined.captions = np.concatenate(caption_numbers)
    split_of = np.concatenate(splits)
    joined.split_rows = {s: np.flatnonzero(split_of == s.encode()) for s in SPLITS}
    _check(config, joined)
    return joined


def _encode_captions(
    config: ShardConfig, inputs: Inputs, captions: list[str]
) -> dict[str, EncodedCaption]:
    """Token ids of the distinct captions of a batch; a caption has up to 32 images."""
    different = list(dict.fromkeys(captions))
    ids = inputs.tokenizer.ids(different)
    padded = pad_ids(ids, config.text_seq_len).astype(inputs.tokens_dtype)
    return {
        caption: EncodedCaption(len(words), row.tobytes())
        for caption, words, row in zip(different, ids, padded, strict=True)
    }


def _choose(
    config: ShardConfig,
    inputs: Inputs,
    joined: Joined,
    batch: dict[str, list[Any]],
    captions: Mapping[str, EncodedCaption],
    codes_rows: Rows,
) -> list[int]:
    """The indices in `batch` of the images that can be written; counts these and all others."""
    good = []
    views = "views " + ", ".join(inputs.views)
    rows = zip(
        batch["key"], batch["pixel_sha256"], batch["caption"], codes_rows.tolist(), strict=True
    )
    for i, (key, pixels, caption, codes_row) in enumerate(rows):
        length = captions[caption].length
        joined.counts["images"] += 1
        joined.counts["long_captions"] += length > config.text_seq_len
        if not is_key(key):
            _leave_out(joined, LeftOut(key, "failed", "bad_key", "expected A-Z a-z 0-9 _ -"))
        elif codes_row < 0:
            _leave_out(joined, LeftOut(key, "failed", "no_codes", f"pixels {pixels}, {views}"))
        elif length > config.text_seq_len and config.long_captions == "reject":
            _leave_out(joined, LeftOut(key, "rejected", "long_caption", f"{length} token ids"))
        else:
            good.append(i)
    return good


def _number_captions(caption_ids: list[str]) -> Captions:
    """A number for each caption id, the same on every machine."""
    numbers = {
        name: hashlib.blake2b(name.encode(), digest_size=8).digest() for name in set(caption_ids)
    }
    return np.frombuffer(b"".join(numbers[name] for name in caption_ids), dtype="<u8")


def _leave_out(joined: Joined, image: LeftOut) -> None:
    joined.left_out.append(image)
    joined.counts[image.status] += 1


def _text(
    config: ShardConfig, batch: dict[str, list[Any]], i: int, caption: EncodedCaption
) -> SampleText:
    record = _encode_json({name: batch[name][i] for name in RECORD})
    image = b""
    if config.images != "none":
        image = _encode_json([batch[name][i] for name in _IMAGE]).encode()
    return SampleText(batch["caption"][i].encode(), record.encode(), caption.tokens, image)


def _notes(joined: Joined) -> dict[str, int | float | str]:
    return dict(Counter(left.reason for left in joined.left_out))


def _check(config: ShardConfig, joined: Joined) -> None:
    order = np.sort(joined.keys)
    twice = order[1:][order[1:] == order[:-1]]
    if len(twice):
        raise damaged(
            f"Two images of dedupe/kept have the key {twice[0].decode()!r}: keys must be unique."
        )
    long = joined.counts["long_captions"]
    if long and config.long_captions == "fail":
        raise ConfigError(
            f"{long} images have captions of more than {config.text_seq_len} token ids. "
            "Raise --text-seq-len, or give --long-captions truncate or reject."
        )
