"""Find CLIP's vocabulary: in an installed package, in a cache, or at its publisher."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.regular_files import read_regular
from pipeline.core.text_files import decode_text
from pipeline.models.published import PublishedFile, fetch_published
from pipeline.models.tokenizers.clip import ClipTokenizer, is_published, read_merges

# The hash of the file in github.com/openai/CLIP at d05afc4; other libraries verify the same one.
CLIP_VOCABULARY = PublishedFile(
    name="bpe_simple_vocab_16e6.txt.gz",
    url="https://github.com/openai/CLIP/raw/main/clip/bpe_simple_vocab_16e6.txt.gz",
    sha256="924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
)
# Packages that include it.
PACKAGES = {
    "dalle_pytorch": "data/bpe_simple_vocab_16e6.txt",
    "clip": "bpe_simple_vocab_16e6.txt.gz",
    "open_clip": "bpe_simple_vocab_16e6.txt.gz",
}
_MAX_BYTES = 64 << 20
_HUB_FILES = "models--openai--clip-vit-*/snapshots/*/merges.txt"


def load_clip(cache: Path | None = None) -> ClipTokenizer:
    """CLIP's tokenizer, from a local copy of its vocabulary or downloaded once.

    Raises ModelError if there is no local copy and the download fails.
    """
    for path in _places():
        merges = _read(path)
        if is_published(merges):
            return ClipTokenizer(merges, str(path))
    path = fetch_published(CLIP_VOCABULARY, cache)
    return ClipTokenizer(_read(path), str(path))


def load_clip_file(path: Path) -> ClipTokenizer:
    """The tokenizer of a vocabulary file in CLIP's format.

    Raises ModelError for a file that can't be read or is invalid.
    """
    return ClipTokenizer(_read(path), str(path))


def _places() -> Iterator[Path]:
    """Local files that may be CLIP's vocabulary."""
    for package, name in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            yield from Path(folder).glob(name)
    yield from sorted(_hub_cache().glob(_HUB_FILES))


def _hub_cache() -> Path:
    """The cache of the Hugging Face Hub, which transformers downloads to."""
    home = os.environ.get("HF_HOME")
    base = Path(home) if home else Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE", base / "hub"))


def _read(path: Path) -> list[str]:
    try:
        data = read_regular(path, max_bytes=_MAX_BYTES)
        return read_merges(decode_text(_unpack(data) if path.suffix == ".gz" else data, path))
    except (ConfigError, OSError, EOFError, zlib.error) as error:
        reason = (
            str(error) if isinstance(error, ConfigError) else f"{path} can't be read ({error})."
        )
        raise ModelError(
            f"The vocabulary {reason} Give CLIP's bpe_simple_vocab_16e6.txt as clip:FILE."
        ) from error


def _unpack(data: bytes) -> bytes:
    with gzip.open(io.BytesIO(data)) as file:
        plain = file.read(_MAX_BYTES + 1)
    if len(plain) > _MAX_BYTES:
        raise OSError(f"it unpacks to more than {_MAX_BYTES:,} bytes")
    return plain
