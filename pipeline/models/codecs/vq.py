"""Our own small codec: a VQ-VAE initialised from the principal components of image patches.

van den Oord et al. 2017, "Neural Discrete Representation Learning" (arXiv:1711.00937), with a linear path
beside the convolutions of encoder and decoder: a patch of 16×16 pixels ⇄ its principal components.
`pipeline.train_codec` sets that path and the codebook from the images before the first step. The
convolutions start at zero and learn only the rest: what neighbouring patches tell about a patch.

Legend: B images, C colours or channels, H W pixels, R S rows and columns of the grid, N = R·S codes,
D width of a codebook entry, K entries, X patches, P = 768 values of a patch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.codecs.base import (
    LARGEST_IMAGE,
    MOST_TOKENS,
    Codec,
    check_image_size,
    counted,
    run_in_its_precision,
)

_DOWNSAMPLING = 16  # side of a code, in pixels
_STEM = 8  # stride of the first convolution: at full size the convolutions would cost 30 times more
_CENTRE = 0.5  # subtracted from pixels to centre them on zero


@dataclass(frozen=True, kw_only=True)
class VQConfig:
    """Architecture of a `VQCodec`.

    `image_size`: side in pixels; `num_tokens` and `code_dim`: entries of the codebook and their width;
    `channels`: of the finer of the two levels, the coarser has 1.5 times as many; `deep_encoder`: whether
    the encoder has convolutions beside its linear path.
    """

    image_size: int = counted(128, high=LARGEST_IMAGE)
    num_tokens: int = counted(512, high=MOST_TOKENS)
    code_dim: int = counted(32)
    channels: int = counted(64)
    deep_encoder: bool = True


class ResidualBlock(nn.Module):
    """x + 1×1(relu(3×3(norm(x)))); the identity at first, as the last convolution starts at zero."""

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

    Raises ModelError if the image size is not a multiple of the downsampling.
    """

    kind = "vq"

    codebook_KD: Tensor

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        check_image_size(config.image_size, _DOWNSAMPLING)
        self.config = config
        side, dim = _DOWNSAMPLING, config.code_dim
        self.patch_encoder = nn.Conv2d(3, dim, side, stride=side, bias=False)
        self.patch_decoder = nn.ConvTranspose2d(dim, 3, side, stride=side, bias=False)
        self.encoder = _build_encoder(config) if config.deep_encoder else None
        self._no_trunk = nn.Identity()
        self.decoder = _build_decoder(config)
        self.register_buffer("codebook_KD", torch.zeros(config.num_tokens, config.code_dim))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.5–4× faster convolutions on a CPU

    @property
    def downsampling(self) -> int:
        """Pixels of a code's side."""
        return _DOWNSAMPLING

    @property
    def trunk(self) -> nn.Module:
        """The convolutions of the encoder; its linear path stays in float32."""
        return self._no_trunk if self.encoder is None else self.encoder

    @property
    def widest_layer(self) -> int:
        """Values of the image, or activations of the finer level if that is wider."""
        return max(3, self.config.channels // _STEM**2) * self.image_size**2

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Codes int64 [B, N] of images float32 [B, 3, H, W] in [0, 1]."""
        self.check_images(images_BCHW)
        with torch.no_grad():
            return self.nearest(self.encode_latents(images_BCHW)).flatten(1)

    def decode(self, codes_BN: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] in [0, 1] of codes int64 [B, N]."""
        self.check_codes(codes_BN)
        with torch.no_grad():
            latents_BDRS = self.look_up(codes_BN.unflatten(1, self.grid))
            return self.decode_latents(latents_BDRS).clamp(0, 1)

    def encode_latents(self, images_BCHW: Tensor) -> Tensor:
        """The latents before quantisation, float32 [B, D, R, S]."""
        centred_BCHW = images_BCHW - _CENTRE
        latents_BDRS: Tensor = self.patch_encoder(centred_BCHW)
        if self.encoder is None:
            return latents_BDRS
        return latents_BDRS + self.through_trunk(centred_BCHW)

    def decode_latents(self, latents_BDRS: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W], not yet clamped to [0, 1]."""
        deep_BCHW = run_in_its_precision(self.decoder, latents_BDRS)
        images_BCHW: Tensor = self.patch_decoder(latents_BDRS) + deep_BCHW
        return images_BCHW + _CENTRE

    @torch.no_grad()
    def set_patches(self, batches: Iterable[Tensor]) -> None:
        """Set the linear path to the first D principal components of the patches of images [B, 3, H, W].

        All components share one scale, so latents have unit variance on average and their distances are
        proportional to those of pixels.
        """
        side, dim = _DOWNSAMPLING, self.config.code_dim
        moment_PP = self.codebook_KD.new_zeros((3 * side**2,) * 2, dtype=torch.float64)
        patches = 0
        for images_BCHW in batches:
            patches_BPN = F.unfold(images_BCHW - _CENTRE, side, stride=side)
            patches_XP = patches_BPN.transpose(1, 2).flatten(0, 1).double()
            moment_PP += patches_XP.T @ patches_XP
            patches += len(patches_XP)
        spread_P, components_PP = torch.linalg.eigh(moment_PP / patches)
        scale = spread_P[-dim:].mean().clamp(min=1e-12).sqrt()
        components_DP = components_PP[:, -dim:].T.flip(0)
        self.patch_encoder.weight.copy_((components_DP / scale).view(dim, 3, side, side))
        self.patch_decoder.weight.copy_((components_DP * scale).view(dim, 3, side, side))

    def nearest(self, latents_BDRS: Tensor) -> Tensor:
        """Codes int64 [B, R, S] of the nearest entries."""
        return nearest_entry(latents_BDRS, self.codebook_KD)

    def look_up(self, codes_BRS: Tensor) -> Tensor:
        """The entries of codes, float32 [B, D, R, S]."""
        return F.embedding(codes_BRS, self.codebook_KD).permute(0, 3, 1, 2)


def nearest_entry(latents_BDRS: Tensor, codebook_KD: Tensor) -> Tensor:
    """Codes int64 [B, R, S] of the nearest entries; |z|² is the same for all, so it is left out."""
    latents_BRSD = latents_BDRS.permute(0, 2, 3, 1)
    return (codebook_KD.square().sum(1) - 2 * latents_BRSD @ codebook_KD.T).argmin(-1)


def _build_encoder(config: VQConfig) -> nn.Sequential:
    fine, coarse = config.channels, config.channels * 3 // 2
    return nn.Sequential(
        nn.Conv2d(3, fine, _STEM, stride=_STEM),
        ResidualBlock(fine),
        nn.Conv2d(fine, coarse, 2, stride=2),
        ResidualBlock(coarse),
        _zeroed(nn.Conv2d(coarse, config.code_dim, 1)),
    )


def _build_decoder(config: VQConfig) -> nn.Sequential:
    fine, coarse = config.channels, config.channels * 3 // 2
    return nn.Sequential(
        nn.Conv2d(config.code_dim, coarse, 1),
        ResidualBlock(coarse),
        nn.ConvTranspose2d(coarse, fine, 2, stride=2),
        ResidualBlock(fine),
        nn.GroupNorm(1, fine),
        nn.ReLU(),
        _zeroed(nn.ConvTranspose2d(fine, 3, _STEM, stride=_STEM)),
    )


def _zeroed(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """The layer with all parameters set to zero, so that its path contributes nothing at first."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
