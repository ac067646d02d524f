"""The interface of all text tokenizers: captions → ids → captions. Does not import torch.

Id 0 is padding: ids are padded with it on the right, and decoding skips it. Tokenizers from
`train-tokenizer` reserve id 0 for it. A third-party one may use it for a token, as CLIP's does; then padding
can't be told from that token, as in DALLE-pytorch.

Legend: N captions, T text_seq_len.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.core.contracts import PADDING_ID
from pipeline.core.errors import ModelError


class TextTokenizer(abc.ABC):
    """A tokenizer; `json_bytes` is the file that is stored with the data.

    `vocab_size`: ids are in [0, vocab_size).
    """

    vocab_size: int

    def __init__(self, json_bytes: bytes) -> None:
        self.json_bytes = json_bytes

    @property
    def fingerprint(self) -> str:
        """sha256 of `json_bytes`, 64 hex digits."""
        return hashlib.sha256(self.json_bytes).hexdigest()

    @abc.abstractmethod
    def ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The ids of each caption, neither truncated nor padded, without begin and end tokens."""

    @abc.abstractmethod
    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, which must be in the vocabulary and not padding."""

    def encode(self, caption: str, text_seq_len: int) -> npt.NDArray[np.int32]:
        """Ids int32 [T]: truncated to `text_seq_len`, padded with 0."""
        return self.encode_batch([caption], text_seq_len)[0]

    def encode_batch(self, captions: Sequence[str], text_seq_len: int) -> npt.NDArray[np.int32]:
        """Ids int32 [N, T]: truncated to `text_seq_len`, padded with 0."""
        return pad_ids(self.ids(captions), text_seq_len)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without padding.

        Raises ModelError for an id outside the vocabulary.
        """
        words = [int(i) for i in ids if int(i) != PADDING_ID]
        beyond = [i for i in words if not 0 <= i < self.vocab_size]
        if beyond:
            raise ModelError(
                f"Token id {beyond[0]}: this tokenizer has ids 0..{self.vocab_size - 1}."
            )
        return self.text(words)


def pad_ids(ids: Sequence[Sequence[int]], text_seq_len: int) -> npt.NDArray[np.int32]:
    """Ids of captions as int32 [N, T]: truncated to `text_seq_len`, padded with 0."""
    padded = np.full((len(ids), text_seq_len), PADDING_ID, dtype=np.int32)
    for row, words in zip(padded, ids, strict=True):
        words = words[:text_seq_len]
        row[: len(words)] = words
    return padded
