"""CLIP's tokenizer, the default of DALLE-pytorch (`SimpleTokenizer`): lower-cased BPE of 49,408 ids.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"
(arXiv:2103.00020); github.com/openai/CLIP, clip/simple_tokenizer.py. Text is repaired by ftfy, HTML entities
are unescaped, white space is collapsed and text is lower-cased; words end in `</w>`.

Ids: 256 bytes, the same bytes at the end of a word, one for each merge, the begin and end tokens. The latter
are never produced from a caption's text.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence

import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from pipeline.core.errors import ModelError
from pipeline.core.extras import missing_package
from pipeline.core.text_files import split_lines
from pipeline.models.tokenizers.base import TextTokenizer

KIND = "clip"
MERGES = 49_152 - 256 - 2
# sha256 of the published merges, one per line, the same in all known copies of the file.
MERGES_SHA256 = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"
_WORD_END = "</w>"
_MARKS = ("<|startoftext|>", "<|endoftext|>")
_WORDS = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer(TextTokenizer):
    """The tokenizer with these merges (`"t h"`, `"th e</w>"`), stored as JSON.

    Raises ModelError for malformed merges, or ones that join unknown pieces.
    """

    def __init__(self, merges: Sequence[str], name: str) -> None:
        super().__init__((json.dumps({"kind": KIND, "merges": list(merges)}) + "\n").encode())
        pairs = [_pair(merge, name) for merge in merges]
        alphabet = _alphabet()
        ends = [char + _WORD_END for char in alphabet.values()]
        made = [left + right for left, right in pairs]
        self._pieces = [*alphabet.values(), *ends, *made, *_MARKS]
        self._byte_of = {char: byte for byte, char in alphabet.items()}
        self.vocab_size = len(self._pieces)
        vocabulary = {piece: i for i, piece in enumerate(self._pieces)}
        try:
            model = models.BPE(vocabulary, pairs, end_of_word_suffix=_WORD_END)
        except Exception as error:  # the Rust side raises bare Exception
            raise ModelError(
                f"{name} has invalid merges ({error}). Give CLIP's bpe_simple_vocab_16e6.txt."
            ) from error
        self._tokenizer = tokenizers.Tokenizer(model)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The ids of each caption, neither truncated nor padded, without begin and end tokens."""
        cleaned = [clean(caption) for caption in captions]
        encodings = self._tokenizer.encode_batch_fast(cleaned, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids without begin and end tokens; incomplete characters become U+FFFD."""
        spoken = "".join(self._pieces[i] for i in ids if self._pieces[i] not in _MARKS)
        data = bytes(self._byte_of[char] for char in spoken)
        return data.decode("utf-8", errors="replace").replace(_WORD_END, " ").strip()


def clean(caption: str) -> str:
    """Normalise a caption as CLIP does.

    Raises DependencyError if ftfy, which only this tokenizer needs, is not installed.
    """
    try:
        import ftfy
    except ModuleNotFoundError:
        raise missing_package("CLIP's tokenizer", "ftfy") from None
    mended = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return " ".join(mended.split()).lower()


def read_merges(text: str) -> list[str]:
    """The merges of a vocabulary file (`bpe_simple_vocab_16e6.txt`, `merges.txt`).

    The first line is a header; of the published file only the first 48,894 merges are used.
    """
    return [line for line in split_lines(text)[1 : MERGES + 1] if line]


def is_published(merges: Sequence[str]) -> bool:
    """Whether these are the merges that CLIP was published with."""
    return hashlib.sha256("\n".join(merges).encode()).hexdigest() == MERGES_SHA256


def _pair(merge: str, name: str) -> tuple[str, str]:
    parts = merge.split()
    if len(parts) != 2:
        raise ModelError(
            f"{name} has the line {merge[:40]!r}, expected two pieces separated by a space. Give "
            "CLIP's bpe_simple_vocab_16e6.txt."
        )
    return parts[0], parts[1]


def _alphabet() -> dict[int, str]:
    """The character that represents each byte, in id order; visible characters represent themselves."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    hidden = {byte: chr(256 + number) for number, byte in enumerate(others)}
    return {byte: chr(byte) for byte in visible} | hidden
