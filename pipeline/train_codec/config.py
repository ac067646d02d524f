"""Options of `pipeline train-codec`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.core.config import WorkConfig, option
from pipeline.core.errors import ConfigError

LEAST_CHANNELS = 6  # of a discrete-vae: 3 colours, each positive and negative


@dataclass(frozen=True, kw_only=True)
class TrainCodecConfig(WorkConfig):
    """Options of `train_codec.run`."""

    name: str = option("small", "Name of the codec: codecs/NAME in the workspace.")
    kind: Literal["vq", "discrete-vae"] = option(
        "vq",
        "vq: our own, small and fast. discrete-vae: DALLE-pytorch's DiscreteVAE, which its programs can "
        "decode from an exported dalle.pt.",
    )
    image_size: int = option(
        128,
        "Image width and height in pixels; a multiple of 16, or a power of 2 for discrete-vae.",
        low=32,
        high=1024,
    )
    num_tokens: int = option(512, "Codebook size.", low=2, high=65536)
    channels: int = option(
        64,
        "Channels: of the finer level (the coarser has 1.5 ×), or of every level of a discrete-vae.",
        low=4,
        high=512,
    )
    code_dim: int = option(32, "Dimension of a codebook entry.", low=1, high=768)
    encoder: Literal["patches", "convolutional"] = option(
        "convolutional",
        "patches: codes from the principal components of image patches, only the decoder is trained (half "
        "the time). convolutional: the encoder is trained too.",
    )
    steps: int = option(3000, "Training steps.", low=2)
    batch_size: int = option(8, "Images per step.", low=1)
    learning_rate: float = option(2e-3, "Peak of the one-cycle learning rate.", low=0.0)
    max_images: int = option(
        8000,
        "Maximum number of training images; they are chosen by hash and held in memory.",
        low=1,
    )
    seed: int = option(0, "Seed of initialization, sample order and codebook restarts.", low=0)
    checkpoint_every: int = option(
        100, "Steps between checkpoints, from which a killed run resumes.", low=1, runtime=True
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Device; auto uses CUDA if available.", runtime=True
    )
    workers: int | None = option(
        None, "Threads that decode images (default: one per core).", low=1, runtime=True
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for options that DALLE-pytorch's DiscreteVAE does not support."""
        if self.kind != "discrete-vae":
            return
        if self.image_size & (self.image_size - 1):
            raise ConfigError(
                f"--image-size {self.image_size}: a discrete-vae needs images of 2^n pixels, like "
                "DALLE-pytorch's class. Give 64, 128, 256 or another power of 2."
            )
        if self.channels < LEAST_CHANNELS:
            raise ConfigError(
                f"--channels {self.channels}: a discrete-vae needs at least {LEAST_CHANNELS}, for 3 colours."
            )
        if self.encoder == "patches":
            raise ConfigError(
                "--encoder patches: a discrete-vae has a convolutional encoder. Leave it out, or use "
                "--kind vq."
            )
