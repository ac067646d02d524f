"""Published third-party codecs by name, and the URLs of their files.

The URLs are from README.md of github.com/CompVis/taming-transformers and dalle_pytorch/vae.py of
github.com/lucidrains/DALLE-pytorch. No hashes of these files are published, so the hash of the first
download is recorded (see `models.published`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.models.published import PublishedFile, fetch_published

_HEIBOX = "https://heibox.uni-heidelberg.de/f/{}/?dl=1"
_OPENAI = "https://cdn.openai.com/dall-e/{}"


@dataclass(frozen=True, kw_only=True)
class PublishedCodec:
    """`family` is a key of `families.LOADERS`."""

    family: str
    files: tuple[PublishedFile, ...]


def _vqgan(name: str, config: str, checkpoint: str) -> PublishedCodec:
    return PublishedCodec(
        family="vqgan",
        files=(
            PublishedFile(name=f"{name}.yaml", url=_HEIBOX.format(config)),
            PublishedFile(name=f"{name}.ckpt", url=_HEIBOX.format(checkpoint)),
        ),
    )


PUBLISHED_CODECS: Mapping[str, PublishedCodec] = {
    "vqgan_imagenet_f16_1024": _vqgan(
        "vqgan_imagenet_f16_1024", "6ecf2af6c658432c8298", "140747ba53464f49b476"
    ),
    "vqgan_imagenet_f16_16384": _vqgan(
        "vqgan_imagenet_f16_16384", "274fb24ed38341bfa753", "867b05fc8c4841768640"
    ),
    "vqgan_openimages_f8_8192": _vqgan(
        "vqgan_openimages_f8_8192", "b24d14998a8d4f19a34f", "34a747d5765840b5a99d"
    ),
    "openai_dvae": PublishedCodec(
        family="openai_dvae",
        files=tuple(
            PublishedFile(name=f"openai_dvae_{half}.pkl", url=_OPENAI.format(f"{half}.pkl"))
            for half in ("encoder", "decoder")
        ),
    ),
}


def fetch_codec(name: str, cache: Path | None = None) -> tuple[Path, ...]:
    """The files of a published codec, downloaded once.

    Raises ModelError if they can't be downloaded or their hashes have changed.
    """
    return tuple(fetch_published(file, cache) for file in PUBLISHED_CODECS[name].files)
