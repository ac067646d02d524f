"""Captions to token ids and back, through Hugging Face `tokenizers`. Knows no torch.

Id 0 is padding: ids are padded with it on the right, and decoding leaves it out. A tokenizer that
`train-tokenizer` made keeps id 0 free for it; a foreign file (`hf:FILE`) may have a word there, as
CLIP's has, and then padding can't be told from that word, which is what DALLE-pytorch does too.

Legend: N captions, T text_seq_len.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.contracts import PADDING_ID
from pipeline.errors import ModelError

TOKENIZER_FILE = "tokenizer.json"
_HF = "hf:"


class TextTokenizer:
    """A tokenizers JSON: `json_bytes` is the file as it was read, `fingerprint` its sha256.

    Raises ModelError for bytes that are not a tokenizers JSON.
    """

    json_bytes: bytes
    fingerprint: str
    vocab_size: int

    def __init__(self, json_bytes: bytes, name: str = TOKENIZER_FILE) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json_bytes.decode())
        except Exception as error:  # the Rust side raises bare Exception
            raise ModelError(
                f"{name} is not a tokenizer of the `tokenizers` library ({error}). "
                "Expected the JSON that its `Tokenizer.save` writes."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.json_bytes = json_bytes
        self.fingerprint = hashlib.sha256(json_bytes).hexdigest()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The ids of each caption, whole and unpadded, without begin and end marks."""
        encodings = self._tokenizer.encode_batch_fast(list(captions), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode(self, caption: str, text_seq_len: int) -> npt.NDArray[np.int32]:
        """Ids int32 [T]: cut off after `text_seq_len`, padded with 0."""
        return self.encode_batch([caption], text_seq_len)[0]

    def encode_batch(self, captions: Sequence[str], text_seq_len: int) -> npt.NDArray[np.int32]:
        """Ids int32 [N, T]: cut off after `text_seq_len`, padded with 0."""
        return pad_ids(self.ids(captions), text_seq_len)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; padding is left out.

        Raises ModelError for an id beyond the vocabulary.
        """
        words = [int(i) for i in ids if int(i) != PADDING_ID]
        beyond = [i for i in words if not 0 <= i < self.vocab_size]
        if beyond:
            raise ModelError(
                f"Token id {beyond[0]}: this tokenizer has ids 0..{self.vocab_size - 1}."
            )
        return str(self._tokenizer.decode(words, skip_special_tokens=False)).strip()


def pad_ids(ids: Sequence[Sequence[int]], text_seq_len: int) -> npt.NDArray[np.int32]:
    """Ids of captions as int32 [N, T]: cut off after `text_seq_len`, padded with 0."""
    padded = np.full((len(ids), text_seq_len), PADDING_ID, dtype=np.int32)
    for row, words in zip(padded, ids, strict=True):
        words = words[:text_seq_len]
        row[: len(words)] = words
    return padded


def load_tokenizer(spec: str | Path) -> TextTokenizer:
    """Load `hf:FILE`, a tokenizers JSON, or a folder that holds `tokenizer.json`.

    Raises ModelError where nothing is, or something else.
    """
    path = Path(str(spec).removeprefix(_HF))
    if path.is_dir():
        path = path / TOKENIZER_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"The tokenizer {path} can't be read: {error.strerror}. "
            "Give a tokenizers JSON as hf:FILE, or make one with `pipeline train-tokenizer`."
        ) from error
    return TextTokenizer(data, str(path))


def train_bpe(captions: Iterable[str], vocab_size: int) -> TextTokenizer:
    """Learn a byte-level BPE of at most `vocab_size` ids (257 at least: padding and 256 bytes).

    Text is folded as captions are: NFC, lower case, ASCII quotes, one space between words; any text
    encodes, and decodes to its folded form. The same captions give the same bytes.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[\u2018\u2019]"), "'"),
            normalizers.Replace(Regex("[\u201c\u201d]"), '"'),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return TextTokenizer((tokenizer.to_str(pretty=True) + "\n").encode())
