"""Training DALLE-pytorch's `DiscreteVAE` with a nearest-entry codebook, folded into its logits at the end.

The reference samples codes from a Gumbel softmax over K logits. The logits are a 1×1 convolution of the
encoder's last channels h, so they can express distances to codebook entries: for a latent z = L·h + c, the
entry e with the least |z − e|² has the greatest 2e·z − |e|², which is linear in h. So during training the
encoder ends in a projection L, the codebook learns by moving averages like the VQ codec's, and `finished`
multiplies the two to get the class's logits.

Before the first step every level is initialised with the principal components of 2×2 values of the level
before. There is a ReLU between levels, so each component has two channels, positive and negative, whose
difference passes unchanged. The remaining channels, and the outer ring of the 4×4 kernels, keep their random
weights but have no effect at first.

Legend: B images, C channels, H W pixels, R S grid, D code width, K entries, J components, Z hidden channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.codecs.discrete_vae import Block, DiscreteVAE, DiscreteVAEConfig
from pipeline.models.codecs.vq import nearest_entry

_INNER = slice(1, 3)  # the 2×2 centre of a kernel of 4 with stride 2 and padding 1


class DiscreteVAETrainee(nn.Module):
    """A `DiscreteVAE` in training, with the methods of `VQCodec` that `training` uses."""

    codebook_KD: Tensor

    def __init__(self, config: DiscreteVAEConfig) -> None:
        super().__init__()
        self.network = DiscreteVAE(config)
        self.project = nn.Conv2d(config.hidden_dim, config.codebook_dim, 1)
        self.register_buffer("codebook_KD", torch.zeros(config.num_tokens, config.codebook_dim))

    def encode_latents(self, images_BCHW: Tensor) -> Tensor:
        """The latents before quantisation, float32 [B, D, R, S]."""
        latents_BDRS: Tensor = self.project(self.network.trunk(self.network.normalise(images_BCHW)))
        return latents_BDRS

    def decode_latents(self, latents_BDRS: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W], not yet clamped to [0, 1]."""
        return self.network.denormalise(self.network.decoder(latents_BDRS))

    def nearest(self, latents_BDRS: Tensor) -> Tensor:
        """Codes int64 [B, R, S] of the nearest entries."""
        return nearest_entry(latents_BDRS, self.codebook_KD)

    def look_up(self, codes_BRS: Tensor) -> Tensor:
        """The entries of codes, float32 [B, D, R, S]."""
        return F.embedding(codes_BRS, self.codebook_KD).permute(0, 3, 1, 2)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters before the codebook."""
        yield from self.network.trunk.parameters()
        yield from self.project.parameters()

    @torch.no_grad()
    def finished(self) -> DiscreteVAE:
        """The finished codec, whose greatest logit is the nearest entry."""
        projection_DZ, offset_D = self.project.weight[:, :, 0, 0], self.project.bias
        assert offset_D is not None
        logits = _convolution(self.network.encoder[-1])
        assert logits.bias is not None
        logits.weight.copy_((2 * self.codebook_KD @ projection_DZ)[:, :, None, None])
        logits.bias.copy_(2 * self.codebook_KD @ offset_D - self.codebook_KD.square().sum(1))
        self.network.codebook.weight.copy_(self.codebook_KD)
        return self.network.requires_grad_(False).eval()

    @torch.no_grad()
    def set_patches(self, batches: Iterable[Tensor]) -> None:
        """Initialise encoder and decoder with principal components of images, one pass per level."""
        config, network = self.network.config, self.network
        layers: list[Tensor] = []  # components of each level [J, C, 2, 2]
        spread_J = self.codebook_KD.new_zeros(0)
        for level in range(config.num_layers):
            signals = (_signal(network.normalise(images), layers) for images in batches)
            components_JC22, spread_J = _components(signals, config.hidden_dim // 2)
            _set_down(_convolution(network.encoder[level]), components_JC22, first=not layers)
            layers.append(components_JC22)
        for module in network.modules():
            if isinstance(module, Block):
                _zero(_convolution(module.net[-1]))
        kept = min(config.codebook_dim, len(spread_J))
        scale = float(spread_J[:kept].mean().clamp(min=1e-12).sqrt())
        _set_projection(self.project, kept, len(spread_J), 1 / scale)
        self._set_decoder(layers, kept, scale)

    def _set_decoder(self, layers: Sequence[Tensor], kept: int, scale: float) -> None:
        """Initialise the decoder, for codes whose first `kept` values are components divided by `scale`."""
        config, decoder = self.network.config, self.network.decoder
        first = (
            len(decoder) - 1 - config.num_layers
        )  # the first level; a stem and blocks may precede it
        if config.num_resnet_blocks:
            stem = _convolution(decoder[0])
            _zero(stem)
            passed = range(min(kept, config.hidden_dim))
            stem.weight[passed, passed] = scale
            kept, scale = len(passed), 1.0
        for index, components_JC22 in enumerate(reversed(layers)):
            level = _convolution(decoder[first + index])
            components = components_JC22 if index else scale * components_JC22[:kept]
            _set_up(level, components, paired=index > 0)
        _set_projection(_convolution(decoder[-1]), 3, 3, 1.0)


Convolution = nn.Conv2d | nn.ConvTranspose2d


def _convolution(layer: nn.Module) -> Convolution:
    """The layer itself if it is a convolution, else the first one in it."""
    found = layer[0] if isinstance(layer, nn.Sequential) else layer
    assert isinstance(found, Convolution)
    return found


def _zero(layer: Convolution) -> None:
    """Set a layer's weight and bias to zero."""
    assert layer.bias is not None
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _signal(images_BCHW: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """The component values of an image batch after these levels."""
    for components_JC22 in layers:
        images_BCHW = F.conv2d(images_BCHW, components_JC22, stride=2)
    return images_BCHW


def _components(signals: Iterable[Tensor], most: int) -> tuple[Tensor, Tensor]:
    """The first principal components of 2×2 values [J, C, 2, 2], at most `most`, with their variances."""
    moments_PP, counts = [], []
    for signal_BCHW in signals:
        values_XP = F.unfold(signal_BCHW, 2, stride=2).transpose(1, 2).flatten(0, 1).double()
        moments_PP.append(values_XP.T @ values_XP)
        counts.append(len(values_XP))
    spread_P, components_PP = torch.linalg.eigh(torch.stack(moments_PP).sum(0) / sum(counts))
    components_JP = components_PP[:, -most:].T.flip(0).float()
    return components_JP.unflatten(1, (-1, 2, 2)), spread_P[-most:].flip(0).float()


def _set_down(level: Convolution, components_JC22: Tensor, *, first: bool) -> None:
    """Make the first 2·J outputs the components and their negatives; `first`: the inputs aren't paired."""
    count, channels = components_JC22.shape[:2]
    assert level.bias is not None
    level.weight[: 2 * count] = 0
    level.bias[: 2 * count] = 0
    for sign, rows in ((1, slice(count)), (-1, slice(count, 2 * count))):
        level.weight[rows, :channels, _INNER, _INNER] = sign * components_JC22
        if not first:
            level.weight[rows, channels : 2 * channels, _INNER, _INNER] = -sign * components_JC22


def _set_up(level: Convolution, components_JC22: Tensor, *, paired: bool) -> None:
    """The transpose of `_set_down`: map components back to their values and the negatives."""
    count, channels = components_JC22.shape[:2]
    assert level.bias is not None
    level.weight[:, : 2 * channels] = 0
    level.bias[: 2 * channels] = 0
    for sign, columns in ((1, slice(channels)), (-1, slice(channels, 2 * channels))):
        level.weight[:count, columns, _INNER, _INNER] = sign * components_JC22
        if paired:
            level.weight[count : 2 * count, columns, _INNER, _INNER] = -sign * components_JC22


def _set_projection(layer: Convolution, kept: int, count: int, factor: float) -> None:
    """Make the outputs the first `kept` of `count` paired inputs, times `factor`."""
    _zero(layer)
    rows = range(kept)
    layer.weight[rows, rows] = factor
    layer.weight[rows, [count + row for row in rows]] = -factor
