"""Choose the captions of an image that become samples: `--caption-choice`. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.core.captions import caption_of
from pipeline.shard.config import ShardConfig
from pipeline.webdata.keys import caption_key


class ChosenCaption(NamedTuple):
    """A caption that becomes a sample.

    `row` is its image's index in the batch, `key` that of the sample. `caption_index` is its place among the
    captions of its image.
    """

    row: int
    key: str
    caption: str
    caption_id: str
    caption_index: int = 0


def choose_captions(
    config: ShardConfig, batch: Mapping[str, Sequence[Any]]
) -> Iterator[ChosenCaption]:
    """The captions of a batch of `kept`, image by image.

    The batch holds the column `captions` unless the choice is `first`. With `all`, the first caption has the
    key of its image, the others that key with a suffix.
    """
    rows = zip(batch["key"], batch["caption"], batch["caption_id"], strict=True)
    for row, (key, caption, caption_id) in enumerate(rows):
        captions = [caption] if config.caption_choice == "first" else batch["captions"][row]
        if captions is None or len(captions) < 2:
            yield ChosenCaption(row, key, caption, caption_id)
        elif config.caption_choice == "random":
            index = draw_caption(key, captions, config.caption_seed)
            yield _chosen(row, key, captions, index)
        else:
            for index in range(len(captions)):
                yield _chosen(row, caption_key(key, index), captions, index)


def _chosen(row: int, key: str, captions: Sequence[str], index: int) -> ChosenCaption:
    caption = captions[index]
    return ChosenCaption(row, key, caption, caption_of(caption).caption_id, index)


def draw_caption(key: str, captions: Sequence[str], seed: int) -> int:
    """The index of a caption, drawn by `seed` and the image's key.

    Each caption draws a number, and the smallest wins (rendezvous hashing). So the choice doesn't depend on
    the order of the captions, and one more caption changes it only if that caption is chosen.
    """
    salt = seed.to_bytes(16, "little", signed=True)

    def number(index: int) -> bytes:
        drawn = f"{key}\0{captions[index]}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(drawn, digest_size=16, key=salt).digest()

    return min(range(len(captions)), key=number)
