"""Tokenizers of the Hugging Face library `tokenizers`: read from a JSON, or learnt. Floor 3."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.errors import ModelError
from pipeline.models.text_base import TextTokenizer


class HuggingFaceTokenizer(TextTokenizer):
    """A tokenizers JSON; it travels as the file that was read.

    Raises ModelError for bytes that are not a tokenizers JSON.
    """

    def __init__(self, json_bytes: bytes, name: str) -> None:
        super().__init__(json_bytes)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json_bytes.decode())
        except Exception as error:  # the Rust side raises bare Exception
            raise ModelError(
                f"{name} is not a tokenizer of the `tokenizers` library ({error}). "
                "Expected the JSON that its `Tokenizer.save` writes."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The ids of each caption, whole and unpadded, without begin and end marks."""
        encodings = self._tokenizer.encode_batch_fast(list(captions), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, special ones among them."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False)).strip()


def train_bpe(captions: Iterable[str], vocab_size: int) -> HuggingFaceTokenizer:
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
    json_bytes = (tokenizer.to_str(pretty=True) + "\n").encode()
    return HuggingFaceTokenizer(json_bytes, "the tokenizer just trained")
