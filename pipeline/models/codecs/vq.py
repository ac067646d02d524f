"""Our own small codec: a convolutional autoencoder with a codebook in its middle (VQ-VAE).

Floor 3. van den Oord et al. 2017, "Neural Discrete Representation Learning" (arXiv:1711.00937). The
shape is chosen for a few minutes on a CPU: 4×4 patches at the door instead of convolutions at full
size, two levels more, residual blocks whose second convolution is 1×1. Trained by
`pipeline.train_codec`, which owns the codebook's learning; here is only what a finished codec needs.

Legend: B pictures, C colours or channels, H W pixels, R S rows and columns of the grid, N = R·S codes,
D numbers of a codebook entry, K entries.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import ModelError
from pipeline.models.codecs.base import Codec

_PATCH = 4  # pixels of the first patch's side
_LEVELS = (1, 2, 4)  # channels of a level, in multiples of `channels`; each level halves the side
_CENTRE = 0.5  # pictures are shifted to be centred on zero


@dataclass(frozen=True, kw_only=True)
class VQConfig:
    """Architecture of a `VQCodec`: image side in pixels, entries and width of the codebook, channels."""

    image_size: int = 128
    num_tokens: int = 512
    code_dim: int = 16
    channels: int = 32

    @property
    def downsampling(self) -> int:
        """Pixels of a code's side."""
        return int(_PATCH * 2 ** (len(_LEVELS) - 1))


class ResidualBlock(nn.Module):
    """x + 1×1(relu(3×3(norm(x)))), nothing at first: the last convolution starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.mix.weight)

    def forward(self, x_BCRS: Tensor) -> Tensor:
        """Tensor of the same shape."""
        return x_BCRS + self.mix(F.relu(self.spatial(self.norm(x_BCRS))))


class VQCodec(Codec):
    """Encoder, codebook and decoder; see `Codec` for the interface.

    Raises ModelError where the image size is no multiple of the downsampling.
    """

    codebook_KD: Tensor

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        if config.image_size % config.downsampling:
            raise ModelError(
                f"This codec was asked for images of {config.image_size} pixels; expected a multiple of "
                f"{config.downsampling}."
            )
        self.config = config
        self.encoder = _build_encoder(config)
        self.decoder = _build_decoder(config)
        self.register_buffer("codebook_KD", torch.zeros(config.num_tokens, config.code_dim))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.5–4× faster convolutions on a CPU

    @property
    def kind(self) -> str:
        """Name of the family."""
        return "vq"

    @property
    def architecture(self) -> Mapping[str, Any]:
        """The config as JSON values."""
        return dataclasses.asdict(self.config)

    @property
    def num_tokens(self) -> int:
        """K."""
        return self.config.num_tokens

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return self.config.image_size

    @property
    def downsampling(self) -> int:
        """Pixels of a code's side."""
        return self.config.downsampling

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Codes int64 [B, N] of pictures float32 [B, 3, H, W] in [0, 1]."""
        size = (3, self.image_size, self.image_size)
        if tuple(images_BCHW.shape[1:]) != size:
            raise ModelError(
                f"Got images of shape {tuple(images_BCHW.shape)}, expected [B, {size}]."
            )
        with torch.no_grad():
            return self.nearest(self.encode_latents(images_BCHW)).flatten(1)

    def decode(self, codes_BN: Tensor) -> Tensor:
        """Pictures float32 [B, 3, H, W] in [0, 1] of codes int64 [B, N]."""
        if codes_BN.ndim != 2 or codes_BN.shape[1] != self.num_codes:
            raise ModelError(
                f"Got codes of shape {tuple(codes_BN.shape)}, expected [B, {self.num_codes}]."
            )
        if (
            codes_BN.numel()
            and not 0 <= int(codes_BN.min()) <= int(codes_BN.max()) < self.num_tokens
        ):
            raise ModelError(
                f"Got a code outside [0, {self.num_tokens}), the codebook of this codec."
            )
        with torch.no_grad():
            latents_BDRS = self.look_up(codes_BN.unflatten(1, self.grid))
            return self.decode_latents(latents_BDRS).clamp(0, 1)

    def encode_latents(self, images_BCHW: Tensor) -> Tensor:
        """What the codebook is to come close to, float32 [B, D, R, S]."""
        latents_BDRS: Tensor = self.encoder(images_BCHW - _CENTRE)
        return latents_BDRS

    def decode_latents(self, latents_BDRS: Tensor) -> Tensor:
        """Pictures float32 [B, 3, H, W], not yet clamped to [0, 1]."""
        images_BCHW: Tensor = self.decoder(latents_BDRS) + _CENTRE
        return images_BCHW

    def nearest(self, latents_BDRS: Tensor) -> Tensor:
        """Codes int64 [B, R, S] of the nearest entries; |z|² is the same for all, so it is left out."""
        latents_BRSD = latents_BDRS.permute(0, 2, 3, 1)
        norms_K = self.codebook_KD.square().sum(1)
        return (norms_K - 2 * latents_BRSD @ self.codebook_KD.T).argmin(-1)

    def look_up(self, codes_BRS: Tensor) -> Tensor:
        """The entries of codes, float32 [B, D, R, S]."""
        return F.embedding(codes_BRS, self.codebook_KD).permute(0, 3, 1, 2)


def _build_encoder(config: VQConfig) -> nn.Sequential:
    widths = [config.channels * multiple for multiple in _LEVELS]
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], _PATCH, stride=_PATCH)]
    for width, below in itertools.pairwise(widths):
        layers += [ResidualBlock(width), nn.Conv2d(width, below, 2, stride=2)]
    layers += [ResidualBlock(widths[-1]), nn.Conv2d(widths[-1], config.code_dim, 1)]
    return nn.Sequential(*layers)


def _build_decoder(config: VQConfig) -> nn.Sequential:
    widths = [config.channels * multiple for multiple in reversed(_LEVELS)]
    layers: list[nn.Module] = [nn.Conv2d(config.code_dim, widths[0], 1)]
    for width, above in itertools.pairwise(widths):
        layers += [ResidualBlock(width), nn.ConvTranspose2d(width, above, 2, stride=2)]
    layers += [ResidualBlock(widths[-1]), nn.GroupNorm(1, widths[-1]), nn.ReLU()]
    layers += [nn.ConvTranspose2d(widths[-1], 3, _PATCH, stride=_PATCH)]
    return nn.Sequential(*layers)
