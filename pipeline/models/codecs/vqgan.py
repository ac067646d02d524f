"""The codec of taming-transformers: VQGAN with a nearest-entry or a Gumbel codebook.

Esser, Rombach, Ommer 2021 (arXiv:2012.09841). `vqgan_files` reads the published files.

Legend: B images, C = 3 colours, H W pixels, R S rows and columns of the grid, N = R·S codes, D width of a
codebook entry, K entries, X = B·N latents.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from pipeline.models.codecs.vqgan_network import GROUPS, Decoder, Encoder

_MOST_LEVELS = 12
_SEARCH_ROWS = 2048  # latents per chunk: their distances to 16,384 entries take 134 MB


@dataclass(frozen=True, kw_only=True)
class VQGANConfig:
    """Architecture of a `VQGAN`; in brackets the names in published YAML files.

    `gumbel`: whether codes are the greatest logits (`GumbelVQ`) or the nearest entries (`VQModel`);
    `num_tokens`, `code_dim`: entries of the codebook and their width (n_embed, embed_dim); `channels`,
    `multipliers`: base channels, and their multiple per level (ch, ch_mult); `blocks`: residual blocks per
    level (num_res_blocks); `attention_sizes`, `training_size`: which levels have attention, as their side
    in pixels at the training size (attn_resolutions, resolution); `latents`: channels before the codebook
    (z_channels); `convolve`: whether resampling has a convolution (resamp_with_conv); `image_size`: side in
    pixels.
    """

    gumbel: bool = False
    num_tokens: int = counted(high=MOST_TOKENS)
    code_dim: int = counted()
    channels: int = counted()
    multipliers: tuple[int, ...] = counted()
    blocks: int = counted(high=64)
    attention_sizes: tuple[int, ...] = counted(high=LARGEST_IMAGE)
    training_size: int = counted(high=LARGEST_IMAGE)
    latents: int = counted()
    convolve: bool = True
    image_size: int = counted(high=LARGEST_IMAGE)

    def __post_init__(self) -> None:
        if not 1 <= len(self.multipliers) <= _MOST_LEVELS:
            raise ModelError(
                f"multipliers has {len(self.multipliers)} levels, expected 1 to {_MOST_LEVELS}."
            )

    @property
    def downsampling(self) -> int:
        """Side of a code, in pixels: each level but the last halves the size."""
        return 1 << (len(self.multipliers) - 1)


class NearestEntries(nn.Module):
    """The codebook of a `VQModel`: each latent is replaced by the nearest entry."""

    def __init__(self, num_tokens: int, code_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, code_dim)

    def codes(self, latents_BDRS: Tensor) -> Tensor:
        """Codes int64 [B, R, S], the first on ties; |z|² is the same for all entries and left out."""
        entries_KD = self.embedding.weight
        latents_BRSD = latents_BDRS.permute(0, 2, 3, 1)
        latents_XD = latents_BRSD.reshape(-1, entries_KD.shape[1])
        norms_K = entries_KD.square().sum(1)
        codes = [
            torch.addmm(norms_K, part_XD, entries_KD.T, alpha=-2).argmin(1)
            for part_XD in latents_XD.split(_SEARCH_ROWS)
        ]
        return torch.cat(codes).view(latents_BRSD.shape[:3])

    def entries(self, codes_BN: Tensor) -> Tensor:
        """The codes' entries, float32 [B, N, D]."""
        return self.embedding(codes_BN)


class GumbelEntries(nn.Module):
    """The codebook of a `GumbelVQ`: a logit for each entry, of which the greatest wins.

    The reference samples from the logits even when encoding, so its codes differ from call to call. Here
    they are the most probable ones, the reference's result without noise.
    """

    def __init__(self, num_tokens: int, code_dim: int, latents: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(latents, num_tokens, 1)
        self.embed = nn.Embedding(num_tokens, code_dim)

    def codes(self, latents_BDRS: Tensor) -> Tensor:
        """Codes int64 [B, R, S]."""
        return self.proj(latents_BDRS).argmax(1)

    def entries(self, codes_BN: Tensor) -> Tensor:
        """The codes' entries, float32 [B, N, D]."""
        return self.embed(codes_BN)


class VQGAN(Codec):
    """Encoder, codebook and decoder; see `Codec` for the interface.

    Raises ModelError for an invalid config.
    """

    kind = "vqgan"

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        attends = [
            config.training_size >> level in config.attention_sizes for level in range(len(widths))
        ]
        shape: dict[str, Any] = {
            "blocks": config.blocks,
            "latents": config.latents,
            "convolve": config.convolve,
        }
        self.encoder = Encoder(widths, attends, first=config.channels, **shape)
        self.decoder = Decoder(widths, attends, **shape)
        self.quantize = (
            GumbelEntries(config.num_tokens, config.code_dim, config.latents)
            if config.gumbel
            else NearestEntries(config.num_tokens, config.code_dim)
        )
        self.quant_conv = nn.Conv2d(config.latents, config.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.latents, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def downsampling(self) -> int:
        """Pixels of a code's side."""
        return self.config.downsampling

    @property
    def trunk(self) -> nn.Module:
        """The encoder; the 1×1 convolution after it stays in float32."""
        return self.encoder

    @property
    def widest_layer(self) -> int:
        """Activations of the widest level, mostly the finest one."""
        widths = [m >> (2 * level) for level, m in enumerate(self.config.multipliers)]
        return self.config.channels * max(1, *widths) * self.image_size**2

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Codes int64 [B, N] of images float32 [B, 3, H, W] in [0, 1]."""
        self.check_images(images_BCHW)
        return self.quantize.codes(self.encode_latents(images_BCHW)).flatten(1)

    @torch.no_grad()
    def decode(self, codes_BN: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] in [0, 1] of codes int64 [B, N]."""
        self.check_codes(codes_BN)
        entries_BDRS = self.quantize.entries(codes_BN).transpose(1, 2).unflatten(2, self.grid)
        images_BCHW = run_in_its_precision(self.decoder, self.post_quant_conv(entries_BDRS))
        return (images_BCHW.clamp(-1, 1) + 1) / 2

    def encode_latents(self, images_BCHW: Tensor) -> Tensor:
        """The latents before quantisation, float32 [B, D, R, S]."""
        centred_BCHW = (2 * images_BCHW - 1).contiguous(memory_format=torch.channels_last)
        return self.quant_conv(self.through_trunk(centred_BCHW))


def _check(config: VQGANConfig) -> None:
    check_image_size(config.image_size, config.downsampling)
    channels = [config.channels * multiplier for multiplier in (1, *config.multipliers)]
    if any(number % GROUPS for number in channels):
        raise ModelError(
            f"This VQGAN has levels of {channels} channels; expected multiples of {GROUPS}."
        )
    if config.gumbel and config.code_dim != config.latents:
        raise ModelError(
            f"This GumbelVQ has embed_dim {config.code_dim} and z_channels {config.latents}; expected "
            "the same number."
        )
