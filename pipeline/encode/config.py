"""Options of `pipeline encode`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import StageConfig, option
from pipeline.core.errors import ConfigError

OWN_CODEC = "small"


def codec_name(codec: str) -> str:
    """The name that a codec has in the workspace: the kind of ``KIND:FILE``, else what it is called."""
    kind = re.match(r"([A-Za-z][\w-]+):.", codec)
    return kind[1] if kind and not Path(codec).exists() else codec


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(StageConfig):
    """What `encode.run` is told."""

    codec: str | None = option(
        None,
        "Name of a codec in the workspace (codecs/NAME), the folder of one, or a published name: "
        "vqgan_imagenet_f16_1024, vqgan_imagenet_f16_16384, vqgan_openimages_f8_8192, openai_dvae "
        "(default: the workspace's latest codec). Beside files of a codec: what to call it.",
        instead_of=("image_size",),
    )
    vqgan_config: Path | None = option(None, "YAML of a taming VQGAN.", runtime=True)
    vqgan_checkpoint: Path | None = option(
        None, "Checkpoint (.ckpt) that belongs to --vqgan-config.", runtime=True
    )
    dvae_encoder: Path | None = option(None, "encoder.pkl of OpenAI's discrete VAE.", runtime=True)
    dvae_decoder: Path | None = option(
        None, "decoder.pkl that belongs to --dvae-encoder.", runtime=True
    )
    vae: Path | None = option(
        None, "A vae.pt that DALLE-pytorch's train_vae.py left.", runtime=True
    )
    image_size: int | None = option(
        None,
        "Side of the images for a codec of others, in pixels (default: what it was trained at).",
        low=8,
        high=4096,
    )
    cache: Path | None = option(
        None, "Where published files are kept (default: the user's cache folder).", runtime=True
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = option(
        "auto", "Of the encoder; auto is bf16 on CUDA, fp32 elsewhere. What it costs is measured."
    )
    views: Literal["center", "flip", "ten-crop"] = option(
        "center",
        "Codes of an image: of its centre; of that and its mirror image; of these and the four corners "
        "of the image at 1.1 times the size, each also mirrored.",
    )
    part_rows: int = option(10_000, "Images in a table of codes.", low=1)
    batch_size: str = option(
        "auto",
        "Images that the codec encodes at once: a number, or auto for what the device has room for.",
        runtime=True,
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Where the codec runs; auto takes CUDA where it is.", runtime=True
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto",
        "Compile the encoder; auto does where it pays: on CUDA, for many images.",
        runtime=True,
    )
    workers: int | None = option(
        None, "Threads that decode images; one a core if not given.", low=1, runtime=True
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for half a codec, two codecs at once, or a batch size that is none."""
        given = self.foreign_files()
        if len(given) > 1:
            raise ConfigError(f"Files of {' and of '.join(given)} are given; expected one codec.")
        for family, files in given.items():
            for flag, path in files.items():
                if path is None:
                    raise ConfigError(f"--{flag} is missing: the codec has {len(files)} files.")
            if self.codec is None:
                object.__setattr__(self, "codec", family)
        if self.batch_size != "auto" and not re.fullmatch("[1-9][0-9]{0,8}", self.batch_size):
            raise ConfigError(f"--batch-size {self.batch_size!r}: expected a number or auto.")

    def foreign_files(self) -> dict[str, dict[str, Path | None]]:
        """The families of which files are given, by the names of `models.codecs.families.LOADERS`.

        Each with its files by flag, in the loader's order.
        """
        families: dict[str, dict[str, Path | None]] = {
            "vqgan": {
                "vqgan-config": self.vqgan_config,
                "vqgan-checkpoint": self.vqgan_checkpoint,
            },
            "openai_dvae": {"dvae-encoder": self.dvae_encoder, "dvae-decoder": self.dvae_decoder},
            "vae": {"vae": self.vae},
        }
        return {name: files for name, files in families.items() if any(files.values())}
