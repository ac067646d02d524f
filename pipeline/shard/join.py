"""Join kept images, captions, codes and token ids: the content of each sample, or why it is left out.

Streams `dedupe/kept/*.parquet`. Captions, records and token ids go to a scratch file; memory holds about 130
bytes a sample: its key, its caption's number, its position in the scratch files and its split.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.core.contracts import SPLITS, ShardReason, Split
from pipeline.core.errors import ConfigError, damaged
from pipeline.core.kept_images import STORED_IMAGE_COLUMNS, read_image_tables
from pipeline.core.progress import Progress
from pipeline.models.tokenizers.load import pad_ids
from pipeline.shard.captions import ChosenCaption, choose_captions
from pipeline.shard.codes import CodesFile
from pipeline.shard.config import ShardConfig
from pipeline.shard.inputs import Inputs
from pipeline.shard.layout import Captions, Keys, Rows
from pipeline.webdata.tar import is_key

_BATCH_ROWS = 4096
# The fields of a sample's json, in this order; with the blog's URLs it stays under 512 bytes. Then come
# `caption_index` unless it is 0, so that a first caption gives the same bytes with every choice, and `extra`.
RECORD = (
    *("caption_id", "section", "rank", "url", "bytes_sha256", "pixel_sha256"),
    *("width", "height", "masked_rows"),
)
_IMAGE = (*STORED_IMAGE_COLUMNS, "format")
_COLUMNS = tuple(dict.fromkeys(("key", "caption", "split", "extra", *RECORD, *_IMAGE)))
_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class LeftOut(NamedTuple):
    """A sample that is in no shard: a row of `contracts.LEFT_OUT`."""

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
    """Every sample that can be written, by row, and every one that can't.

    `fields` are those of the samples' json beside `RECORD`.
    """

    texts: TextFile
    keys: Keys
    captions: Captions
    codes_row: Rows
    split_rows: dict[Split, Rows]
    left_out: list[LeftOut] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    fields: set[str] = field(default_factory=set)


def join(
    config: ShardConfig, inputs: Inputs, codes: CodesFile, texts: TextFile, progress: Progress
) -> Joined:
    """Read every kept image once and decide which samples it becomes; texts go to `texts`.

    Raises DamageError for a duplicate key, and ConfigError for captions that are too long if the config
    forbids them.
    """
    joined = Joined(texts, np.zeros(0, "S1"), np.zeros(0, np.uint64), np.zeros(0, np.int64), {})
    keys, codes_rows, splits = [joined.keys], [joined.codes_row], [np.zeros(0, "S5")]
    caption_numbers = [joined.captions]
    for batch, chosen in _read_batches(config, inputs, joined):
        captions = _encode_captions(config, inputs, [sample.caption for sample in chosen])
        images = [sample.row for sample in chosen]
        found = codes.find([batch["pixel_sha256"][i] for i in images])
        places = _choose(config, inputs, joined, batch, chosen, captions, found)
        good = [chosen[place] for place in places]
        texts.append([_text(config, joined, batch, s, captions[s.caption]) for s in good])
        keys.append(np.array([s.key for s in good], dtype=np.bytes_))
        splits.append(np.array([batch["split"][s.row] for s in good], dtype=np.bytes_))
        caption_numbers.append(_number_captions([s.caption_id for s in good]))
        codes_rows.append(found[places])
        progress(joined.counts["images"], None, _notes(joined))
    texts.finish()
    joined.keys, joined.codes_row = np.concatenate(keys), np.concatenate(codes_rows)
    joined.captions = np.concatenate(caption_numbers)
    split_of = np.concatenate(splits)
    joined.split_rows = {s: np.flatnonzero(split_of == s.encode()) for s in SPLITS}
    _check(config, joined)
    return joined


def _read_batches(
    config: ShardConfig, inputs: Inputs, joined: Joined
) -> Iterator[tuple[dict[str, list[Any]], list[ChosenCaption]]]:
    """Rows of `kept` in columns, each time with some of the captions that are chosen from them."""
    columns = _COLUMNS if config.caption_choice == "first" else (*_COLUMNS, "captions")
    for rows in read_image_tables(inputs.kept.paths, columns, _BATCH_ROWS):
        batch = rows.to_pydict()
        joined.counts["images"] += len(rows)
        samples = choose_captions(config, batch)
        while chosen := list(islice(samples, _BATCH_ROWS)):
            yield batch, chosen


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
    chosen: Sequence[ChosenCaption],
    captions: Mapping[str, EncodedCaption],
    codes_rows: Rows,
) -> list[int]:
    """The indices in `chosen` of the samples that can be written; counts these and all others."""
    good = []
    views = "views " + ", ".join(inputs.views)
    for i, (sample, codes_row) in enumerate(zip(chosen, codes_rows.tolist(), strict=True)):
        key, length = sample.key, captions[sample.caption].length
        joined.counts["samples"] += 1
        joined.counts["long_captions"] += length > config.text_seq_len
        if not is_key(key):
            _leave_out(joined, LeftOut(key, "failed", "bad_key", "expected A-Z a-z 0-9 _ -"))
        elif codes_row < 0:
            pixels = batch["pixel_sha256"][sample.row]
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


def _leave_out(joined: Joined, sample: LeftOut) -> None:
    joined.left_out.append(sample)
    joined.counts[sample.status] += 1


def _text(
    config: ShardConfig,
    joined: Joined,
    batch: dict[str, list[Any]],
    sample: ChosenCaption,
    caption: EncodedCaption,
) -> SampleText:
    i, image = sample.row, b""
    further = _further_fields(sample, batch["extra"][i])
    joined.fields.update(further)
    record = {name: batch[name][i] for name in RECORD} | {"caption_id": sample.caption_id}
    if config.images != "none":
        image = _encode_json([batch[name][i] for name in _IMAGE]).encode()
    # For a lone surrogate this is JSON's own escape.
    encoded = _encode_json(record | further).encode(errors="backslashreplace")
    return SampleText(sample.caption.encode(), encoded, caption.tokens, image)


def _further_fields(sample: ChosenCaption, extra: str | None) -> dict[str, Any]:
    """The fields of a sample's json that not every sample has."""
    fields: dict[str, Any] = {}
    if sample.caption_index:
        fields["caption_index"] = sample.caption_index
    return fields if extra is None else {**fields, "extra": _parse_extra(sample.key, extra)}


def _parse_extra(key: str, extra: str) -> Any:
    """The value of `extra`. JSON has no NaN and no infinity, so they become null."""
    try:
        return json.loads(extra, parse_float=_finite, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        found = f"dedupe/kept has for {key!r} an `extra` that is not JSON"
        raise damaged(f"{found}: {error}.") from error


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _notes(joined: Joined) -> dict[str, int | float | str]:
    return dict(Counter(left.reason for left in joined.left_out))


def _check(config: ShardConfig, joined: Joined) -> None:
    order = np.sort(joined.keys)
    twice = order[1:][order[1:] == order[:-1]]
    if len(twice):
        raise damaged(
            f"Two samples have the key {twice[0].decode()!r}: the keys in dedupe/kept must be unique."
        )
    long = joined.counts["long_captions"]
    if long and config.long_captions == "fail":
        raise ConfigError(
            f"{long} samples have captions of more than {config.text_seq_len} token ids. "
            "Raise --text-seq-len, or give --long-captions truncate or reject."
        )
