"""Options of `pipeline train-codec`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.core.config import StageConfig, option
from pipeline.core.errors import ConfigError

LEAST_CHANNELS = 6  # of a discrete-vae: 3 colours and their negatives


@dataclass(frozen=True, kw_only=True)
class TrainCodecConfig(StageConfig):
    """What `train_codec.run` is told."""

    name: str = option("small", "Name of the codec: codecs/NAME in the workspace.")
    kind: Literal["vq", "discrete-vae"] = option(
        "vq",
        "vq: our own family, small and fast; discrete-vae: DALLE-pytorch's DiscreteVAE, with which its "
        "programs draw from an exported dalle.pt.",
    )
    image_size: int = option(
        128,
        "Side of the square images in pixels; a multiple of 16, for discrete-vae a power of 2.",
        low=32,
        high=1024,
    )
    num_tokens: int = option(512, "Entries of the codebook.", low=2, high=65536)
    channels: int = option(
        64,
        "Channels: of the finer level, the coarser has half as many more; of each level of a discrete-vae.",
        low=4,
        high=512,
    )
    code_dim: int = option(32, "Numbers in a codebook entry.", low=1, high=768)
    encoder: Literal["patches", "convolutional"] = option(
        "convolutional",
        "patches: an image's codes come from the principal components of its patches, and only the "
        "decoder learns (half the time); convolutional: the encoder learns, too.",
    )
    steps: int = option(3000, "Training steps.", low=2)
    batch_size: int = option(8, "Images in a step.", low=1)
    learning_rate: float = option(2e-3, "Peak of the one-cycle learning rate.", low=0.0)
    max_images: int = option(
        8000, "Training images at most, drawn by hash; they are held in memory.", low=1
    )
    seed: int = option(0, "Seed of weights, order and restarts.", low=0)
    checkpoint_every: int = option(
        100, "Steps between checkpoints, from which a killed run continues.", low=1, runtime=True
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Where to train; auto takes CUDA where it is.", runtime=True
    )
    workers: int | None = option(
        None, "Threads that decode images; one a core if not given.", low=1, runtime=True
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for options that make no DiscreteVAE of DALLE-pytorch."""
        if self.kind != "discrete-vae":
            return
        if self.image_size & (self.image_size - 1):
            raise ConfigError(
                f"--image-size {self.image_size}: a discrete-vae takes images of 2^n pixels, as "
                "DALLE-pytorch's class does. Give 64, 128, 256 or another power of 2."
            )
        if self.channels < LEAST_CHANNELS:
            raise ConfigError(
                f"--channels {self.channels}: a discrete-vae needs {LEAST_CHANNELS} at least, for 3 colours."
            )
        if self.encoder == "patches":
            raise ConfigError(
                "--encoder patches: a discrete-vae has convolutions in its encoder. Leave it out, or use "
                "--kind vq."
            )
