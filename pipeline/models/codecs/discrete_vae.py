"""The discrete VAE that DALLE-pytorch trains (`train_vae.py`), and its file `vae.pt`.

Format: github.com/lucidrains/DALLE-pytorch, `{"hparams": …, "weights": …}`.

Legend: B images, C = 3 colours, H W pixels, N = rows · columns of the grid codes, K entries.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.models.codecs.base import (
    LARGEST_IMAGE,
    MOST_TOKENS,
    Codec,
    check_image_size,
    counted,
    run_in_its_precision,
)
from pipeline.models.description import Description, plain
from pipeline.models.torch_files import read_torch_file
from pipeline.models.weights import fill, strip_prefix, tensors_in

_MOST_LAYERS, _MOST_BLOCKS = 12, 64
_ANCHOR = "codebook.weight"
_ADVICE = "Give a vae.pt as train_vae.py wrote it."


@dataclass(frozen=True, kw_only=True)
class DiscreteVAEConfig:
    """Architecture of a `DiscreteVAE`; names and defaults are those of DALLE-pytorch.

    `image_size`: side in pixels; `num_tokens`, `codebook_dim`: entries of the codebook and their width;
    `num_layers`: each halves the image; `num_resnet_blocks`, `hidden_dim`: residual blocks and channels of
    encoder and decoder; `means`, `stds`: normalisation of the colours.
    """

    image_size: int = counted(256, high=LARGEST_IMAGE)
    num_tokens: int = counted(512, high=MOST_TOKENS)
    codebook_dim: int = counted(512)
    num_layers: int = counted(3, high=_MOST_LAYERS)
    num_resnet_blocks: int = counted(0, low=0, high=_MOST_BLOCKS)
    hidden_dim: int = counted(64)
    means: tuple[float, ...] = (0.5, 0.5, 0.5)
    stds: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        numbers = (*self.means, *self.stds)
        if len(self.means) != 3 or len(self.stds) != 3 or not all(map(math.isfinite, numbers)):
            raise ModelError(
                f"means and stds are {self.means}, {self.stds}; expected 3 numbers each."
            )
        if 0 in self.stds:
            raise ModelError(f"stds are {self.stds}; colours can't be divided by 0.")


class Block(nn.Module):
    """x + three convolutions of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Tensor of the same shape."""
        return x_BCHW + self.net(x_BCHW)


class DiscreteVAE(Codec):
    """Encoder to logits over the codebook, and decoder; see `Codec` for the interface.

    The decoder outputs normalised colours. The reference returns them as they are; `decode` undoes the
    normalisation, so that images are in [0, 1] again.
    """

    kind = "discrete-vae"
    decoder: nn.Sequential

    def __init__(self, config: DiscreteVAEConfig) -> None:
        super().__init__()
        check_image_size(config.image_size, 1 << config.num_layers)
        self.config = config
        self.codebook = nn.Embedding(config.num_tokens, config.codebook_dim)
        self.encoder = _build_encoder(config)
        self._halves = (
            self.encoder[:-1],
            self.encoder[-1],
        )  # a tuple, so that they aren't registered twice
        self.decoder = _build_decoder(config)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def downsampling(self) -> int:
        """Pixels of a code's side."""
        return 1 << self.config.num_layers

    @property
    def trunk(self) -> nn.Module:
        """The encoder without its last convolution, which computes the logits."""
        return self._halves[0]

    @property
    def widest_layer(self) -> int:
        """Activations of the first layer."""
        return self.config.hidden_dim * (self.image_size // 2) ** 2

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Codes int64 [B, N] of images float32 [B, 3, H, W] in [0, 1]."""
        self.check_images(images_BCHW)
        inner_BCHW = self.through_trunk(self.normalise(images_BCHW))
        return self._halves[1](inner_BCHW).argmax(1).flatten(1)

    @torch.no_grad()
    def decode(self, codes_BN: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] in [0, 1] of codes int64 [B, N]."""
        self.check_codes(codes_BN)
        entries_BDRS = self.codebook(codes_BN).transpose(1, 2).unflatten(2, self.grid)
        normal_BCHW = run_in_its_precision(self.decoder, entries_BDRS)
        return self.denormalise(normal_BCHW).clamp(0, 1)

    def normalise(self, images_BCHW: Tensor) -> Tensor:
        """Normalise colours in [0, 1] for the encoder."""
        means_C11, stds_C11 = self._normalisation(images_BCHW)
        normal_BCHW = (images_BCHW - means_C11) / stds_C11
        return normal_BCHW.contiguous(memory_format=torch.channels_last)

    def denormalise(self, normal_BCHW: Tensor) -> Tensor:
        """Undo the normalisation of the decoder's output; not clamped."""
        means_C11, stds_C11 = self._normalisation(normal_BCHW)
        return normal_BCHW * stds_C11 + means_C11

    def _normalisation(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        means_C11, stds_C11 = (
            images_BCHW.new_tensor(values)[:, None, None]
            for values in (self.config.means, self.config.stds)
        )
        return means_C11, stds_C11


def load_discrete_vae(
    path: Path, *, image_size: int | None = None, device: torch.device | str = "cpu"
) -> DiscreteVAE:
    """The codec of a `vae.pt`, in eval mode on `device`.

    `image_size`: side in pixels (default: the training size). Raises ModelError for a file that can't be
    read, does not match its own `hparams`, or contains code.
    """
    saved = read_torch_file(path)
    hparams, weights = (
        saved.get(key) if isinstance(saved, Mapping) else None for key in ("hparams", "weights")
    )
    if hparams is None or not isinstance(weights, Mapping):
        raise ModelError(f"{path} lacks `hparams` or `weights`; expected a vae.pt of train_vae.py.")
    tensors = strip_prefix(tensors_in(weights, str(path)), _ANCHOR, str(path))
    description = Description.of(hparams, path, "hparams", _ADVICE)
    return build_discrete_vae(description, tensors, image_size=image_size).to(device)


def build_discrete_vae(
    hparams: Description, weights: Mapping[str, Tensor], *, image_size: int | None = None
) -> DiscreteVAE:
    """The codec described by a `vae.pt` or a `dalle.pt`, in eval mode.

    `image_size` as above. Raises ModelError if the weights don't match the `hparams`.
    """
    config = _read_config(hparams)
    config = dataclasses.replace(config, image_size=image_size or config.image_size)
    codec = fill(
        lambda: DiscreteVAE(config),
        weights,
        source=hparams.source,
        complaint=f"The weights of {hparams.source} do not match its {hparams.place}",
    )
    return codec.requires_grad_(False).eval()


def _read_config(hparams: Description) -> DiscreteVAEConfig:
    """The architecture in `hparams`; training-only parameters are ignored."""
    if hparams.has("channels"):
        hparams.expect("channels", 3)
    defaults = DiscreteVAEConfig()
    sizes: dict[str, Any] = {
        field.name: hparams.integer(field.name, getattr(defaults, field.name), **field.metadata)
        for field in dataclasses.fields(DiscreteVAEConfig)
        if field.metadata
    }
    return DiscreteVAEConfig(**sizes, **_read_normalisation(hparams))


def _read_normalisation(hparams: Description) -> dict[str, Any]:
    if "normalization" not in hparams.values:
        return {}
    found = plain(hparams.values["normalization"])
    if found is None:
        return {"means": (0.0,) * 3, "stds": (1.0,) * 3}
    try:
        means, stds = (tuple(float(plain(v)) for v in plain(values)[:3]) for values in found)
        DiscreteVAEConfig(means=means, stds=stds)
    except (TypeError, ValueError, LookupError, OverflowError, ModelError) as error:
        expected = "the means and the stds of 3 colours"
        raise hparams.wrong("normalization", found, expected) from error
    return {"means": means, "stds": stds}


def _build_encoder(config: DiscreteVAEConfig) -> nn.Sequential:
    hidden = config.hidden_dim
    fans = [3, *[hidden] * config.num_layers]
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(fan, hidden, 4, stride=2, padding=1), nn.ReLU())
            for fan in fans[:-1]
        ),
        *(Block(hidden) for _ in range(config.num_resnet_blocks)),
        nn.Conv2d(fans[-1], config.num_tokens, 1),
    )


def _build_decoder(config: DiscreteVAEConfig) -> nn.Sequential:
    hidden, blocks = config.hidden_dim, config.num_resnet_blocks
    fans = [hidden if blocks else config.codebook_dim, *[hidden] * config.num_layers]
    stem = [nn.Conv2d(config.codebook_dim, hidden, 1)] if blocks else []
    return nn.Sequential(
        *stem,
        *(Block(hidden) for _ in range(blocks)),
        *(
            nn.Sequential(nn.ConvTranspose2d(fan, hidden, 4, stride=2, padding=1), nn.ReLU())
            for fan in fans[:-1]
        ),
        nn.Conv2d(hidden, 3, 1),
    )
