"""Load a tokenizer by name or file. Does not import torch.

    clip        CLIP's, DALLE-pytorch's default; its vocabulary is searched for, or downloaded
    clip:FILE   CLIP's with this vocabulary
    hf:FILE     a JSON of the library `tokenizers`, such as from `pipeline train-tokenizer`
    yttm:FILE   a youtokentome model (`vocab.bpe`)

Whatever it was loaded from, a tokenizer is stored with the data as `tokenizer.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.text_files import read_text
from pipeline.models.tokenizers import clip as text_clip
from pipeline.models.tokenizers import yttm as text_yttm
from pipeline.models.tokenizers.base import TextTokenizer, pad_ids
from pipeline.models.tokenizers.clip import ClipTokenizer
from pipeline.models.tokenizers.clip_files import load_clip, load_clip_file
from pipeline.models.tokenizers.huggingface import HuggingFaceTokenizer, train_bpe
from pipeline.models.tokenizers.yttm import YttmTokenizer

__all__ = [
    "TOKENIZER_FILE",
    "TextTokenizer",
    "is_tokenizer_spec",
    "load_tokenizer",
    "pad_ids",
    "parse_tokenizer",
    "train_bpe",
]

TOKENIZER_FILE = "tokenizer.json"
_KINDS = ("clip", "hf", "yttm")


def is_tokenizer_spec(spec: str) -> bool:
    """Whether `spec` names the kind of tokenizer."""
    kind, colon, _ = spec.partition(":")
    return kind in _KINDS and (bool(colon) or kind == "clip")


def load_tokenizer(spec: str | Path, *, cache: Path | None = None) -> TextTokenizer:
    """Load `clip`, `clip:FILE`, `hf:FILE`, `yttm:FILE`, a `tokenizer.json` or a folder with one.

    `cache`: the folder for a downloaded vocabulary. Raises ModelError if the file is missing or not a
    tokenizer, or if a vocabulary can't be downloaded.
    """
    kind, colon, file = str(spec).partition(":")
    if spec == "clip":
        return load_clip(cache)
    if colon and kind == "clip":
        return load_clip_file(Path(file))
    if colon and kind == "yttm":
        return YttmTokenizer(_read_text(Path(file)), file)
    path = Path(file) if colon and kind == "hf" else Path(spec)
    if path.is_dir():
        path = path / TOKENIZER_FILE
    return parse_tokenizer(_read_text(path).encode(), str(path))


def _read_text(path: Path) -> str:
    try:
        return read_text(path)
    except ConfigError as error:
        raise ModelError(
            f"The tokenizer {error} Give clip, clip:FILE, hf:FILE or yttm:FILE, or make one with "
            "`pipeline train-tokenizer`."
        ) from error


def parse_tokenizer(data: bytes, name: str) -> TextTokenizer:
    """Parse the bytes of the file `name`: ours start with their kind, any other is Hugging Face's.

    Raises ModelError for bytes that are not a tokenizer.
    """
    if not data.startswith(b'{"kind": '):
        return HuggingFaceTokenizer(data, name)
    try:
        saved = json.loads(data)
        if saved["kind"] == text_clip.KIND:
            return ClipTokenizer(list(map(str, saved["merges"])), name)
        if saved["kind"] == text_yttm.KIND:
            return YttmTokenizer(str(saved["model"]), name)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{name} is not a tokenizer ({error!r}). Create it again.") from error
    raise ModelError(
        f"{name} is a tokenizer of the unknown kind {saved['kind']!r}. Use the version that wrote it."
    )
