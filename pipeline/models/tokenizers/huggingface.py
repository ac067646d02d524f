"""Tokenizers of the Hugging Face library `tokenizers`: loaded from JSON, or trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.core.errors import ModelError
from pipeline.models.tokenizers.base import TextTokenizer

MOST = 1 << 24  # vocabulary size
_LONGEST = 1 << 16  # ids per caption


class HuggingFaceTokenizer(TextTokenizer):
    """A tokenizer from a `tokenizers` JSON, stored as the same bytes.

    Truncation and padding set in the JSON are applied as by DALLE-pytorch's `HugTokenizer`: to each caption
    alone, so that ids don't depend on the batch. Raises ModelError for bytes that are not a tokenizers
    JSON, or for unsupported truncation and padding.
    """

    def __init__(self, json_bytes: bytes, name: str) -> None:
        super().__init__(json_bytes)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json_bytes.decode("utf-8-sig"))
        except Exception as error:  # the Rust side raises bare Exception
            raise ModelError(
                f"{name} is not a tokenizer of the `tokenizers` library ({error}). "
                "Expected the JSON that its `Tokenizer.save` writes."
            ) from error
        self._one_by_one = _configure_padding(self._tokenizer, name)
        _check_truncation(self._tokenizer, name)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max([*vocabulary.values(), _pad_id(self._tokenizer)])

    def ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The ids of each caption, without begin and end tokens; padded and truncated as the JSON says."""
        if self._one_by_one:
            single = (self._tokenizer.encode(text, add_special_tokens=False) for text in captions)
            return [encoding.ids for encoding in single]
        encodings = self._tokenizer.encode_batch_fast(list(captions), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, including special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False)).strip()


def _configure_padding(tokenizer: tokenizers.Tokenizer, name: str) -> bool:
    """Whether captions must be encoded one by one, because padding depends on the batch's longest one."""
    padding = tokenizer.padding or {}
    for key in ("length", "pad_to_multiple_of", "pad_id"):
        if not 0 <= (padding.get(key) or 0) <= (MOST if key == "pad_id" else _LONGEST):
            raise _cannot(name, f"padding.{key}", padding[key], f"at most {_LONGEST:,}")
    if padding and not padding["length"] and not padding["pad_to_multiple_of"]:
        tokenizer.no_padding()  # a single caption is its batch's longest
        return False
    return bool(padding) and not padding["length"]


def _check_truncation(tokenizer: tokenizers.Tokenizer, name: str) -> None:
    """Raise ModelError for truncation that would make the library panic at the first caption."""
    truncation = tokenizer.truncation
    if truncation is None:
        return
    longest, stride = truncation["max_length"], truncation["stride"]
    if longest and stride >= longest:
        raise _cannot(name, "truncation.stride", stride, f"less than its max_length, {longest}")
    if truncation["strategy"] == "only_second":
        raise _cannot(name, "truncation.strategy", "only_second", "a strategy for single texts")


def _pad_id(tokenizer: tokenizers.Tokenizer) -> int:
    return int(tokenizer.padding["pad_id"]) if tokenizer.padding else 0


def _cannot(name: str, field: str, found: object, expected: str) -> ModelError:
    return ModelError(
        f"{name} has {field} {found!r}, expected {expected}. Give the tokenizer that the model was trained "
        "with, or correct the file."
    )


def train_bpe(captions: Iterable[str], vocab_size: int) -> HuggingFaceTokenizer:
    """Train a byte-level BPE with at most `vocab_size` ids (at least 257: padding and 256 bytes).

    Text is normalised to NFC, lower case, ASCII quotes and single spaces. Any text can be encoded, and
    decodes to its normalised form. The same captions produce the same bytes.
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
