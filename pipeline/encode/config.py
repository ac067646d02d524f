"""Options of `pipeline encode`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import option
from pipeline.core.engine_config import EngineConfig
from pipeline.core.errors import ConfigError

OWN_CODEC = "small"


def codec_name(codec: str) -> str:
    """The name that a codec has in the workspace: the kind of ``KIND:FILE``, else what it is called."""
    kind = re.match(r"([A-Za-z][\w-]+):.", codec)
    is_path = os.path.exists(codec)  # noqa: PTH110  (False for a text that is no path)
    return kind[1] if kind and not is_path else codec


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(EngineConfig):
    """Options of `encode.run`."""

    codec: str | None = option(
        None,
        "A codec of the workspace (codecs/NAME), a codec folder, files as KIND:FILE[,FILE] "
        "(vqgan:model.yaml,last.ckpt, openai-dvae:encoder.pkl,decoder.pkl, discrete-vae:vae.pt), or a "
        "published codec: vqgan_imagenet_f16_1024, vqgan_imagenet_f16_16384, vqgan_openimages_f8_8192, "
        "openai_dvae (default: the latest codec of the workspace). With --vqgan-config, --dvae-encoder or "
        "--vae: a name for that codec.",
        instead_of=("image_size",),
    )
    vqgan_config: Path | None = option(None, "YAML of a taming-transformers VQGAN.", runtime=True)
    vqgan_checkpoint: Path | None = option(
        None, "Checkpoint (.ckpt) for --vqgan-config.", runtime=True
    )
    dvae_encoder: Path | None = option(None, "encoder.pkl of OpenAI's discrete VAE.", runtime=True)
    dvae_decoder: Path | None = option(None, "decoder.pkl for --dvae-encoder.", runtime=True)
    vae: Path | None = option(None, "vae.pt written by DALLE-pytorch's train_vae.py.", runtime=True)
    image_size: int | None = option(
        None,
        "Image width and height in pixels for a third-party codec (default: its training size).",
        low=8,
        high=4096,
    )
    cache: Path | None = option(
        None, "Cache folder for published codecs (default: the user's cache folder).", runtime=True
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = option(
        "auto",
        "Precision of the encoder; auto is bf16 on CUDA, else fp32. The effect on the codes is measured and"
        " reported.",
    )
    views: Literal["center", "flip", "ten-crop"] = option(
        "center",
        "Which crops to encode: the center; center and its mirror image (flip); or center and four corners "
        "at 1.1 × size, each with its mirror image (ten-crop).",
    )
    part_rows: int = option(10_000, "Maximum images per Parquet file of codes.", low=1)
    batch_size: str = option(
        "auto",
        "Images per batch: a number, or auto to fit the device.",
        runtime=True,
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Device to encode on; auto uses CUDA if available.", runtime=True
    )
    devices: int | None = option(
        None,
        "Number of devices to encode on, one process per device (default: 1; with --engine ray: all devices "
        "of the cluster).",
        low=1,
        high=1024,
        runtime=True,
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto",
        "Use torch.compile; auto does so on CUDA when there are enough images.",
        runtime=True,
    )
    workers: int | None = option(
        None, "Threads that decode images (default: one per core).", low=1, runtime=True
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for an incomplete codec, several codecs, or an invalid batch size."""
        super().__post_init__()
        given = self.foreign_files()
        if len(given) > 1:
            raise ConfigError(
                f"Files of several codecs are given ({', '.join(given)}). Give those of one."
            )
        for family, files in given.items():
            for flag, path in files.items():
                if path is None:
                    raise ConfigError(
                        f"--{flag} is missing: the codec has {len(files)} files. Give it too."
                    )
            if self.codec is None:
                object.__setattr__(self, "codec", family)
        if self.batch_size != "auto" and not re.fullmatch("[1-9][0-9]{0,8}", self.batch_size):
            raise ConfigError(f"--batch-size is {self.batch_size!r}. Give a number or auto.")

    @property
    def is_spread(self) -> bool:
        """Whether other processes encode than this one."""
        return self.engine == "ray" or (self.devices or 1) > 1

    def foreign_files(self) -> dict[str, dict[str, Path | None]]:
        """The families of which files are given, by the names of `models.codecs.families.LOADERS`.

        Each with its files by flag, in the order of the loader.
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
