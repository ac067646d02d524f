"""The convolutional network of a VQGAN: an encoder to latents and a decoder back.

Esser, Rombach, Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis" (arXiv:2012.09841).
Modules are named as in the published checkpoints.

Legend: B images, C channels, H W pixels of a level, X = H·W.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32  # of every group norm; channels are multiples of it


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


def _activate(norm: nn.Module, x_BCHW: Tensor) -> Tensor:
    """silu(norm(x)), in place on the norm's output."""
    return F.silu(norm(x_BCHW), inplace=True)


class ResidualBlock(nn.Module):
    """x + two convolutions of it; x passes a 1×1 convolution if the channels change."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(fan_in), _norm(fan_out)
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, padding=1)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(fan_in, fan_out, 1) if fan_in != fan_out else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Tensor of the same height and width with `fan_out` channels."""
        inner_BCHW = self.conv1(_activate(self.norm1, x_BCHW))
        inner_BCHW = self.conv2(_activate(self.norm2, inner_BCHW))
        return self.nin_shortcut(x_BCHW) + inner_BCHW


class Attention(nn.Module):
    """x + single-head self-attention over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Tensor of the same shape."""
        normed_BCHW = self.norm(x_BCHW)
        q_BXC, k_BXC, v_BXC = (
            project(normed_BCHW).flatten(2).transpose(1, 2) for project in (self.q, self.k, self.v)
        )
        gathered_BXC = attend(q_BXC, k_BXC, v_BXC, fused=x_BCHW.device.type == "cuda")
        return x_BCHW + self.proj_out(gathered_BXC.transpose(1, 2).reshape(x_BCHW.shape))


def attend(q_BXC: Tensor, k_BXC: Tensor, v_BXC: Tensor, *, fused: bool) -> Tensor:
    """Single-head attention; `fused` lets torch choose its fused kernels, which need an axis of heads.

    They round differently, so codes made on a CPU would change.
    """
    if not fused:
        return F.scaled_dot_product_attention(q_BXC, k_BXC, v_BXC)
    q_B1XC, k_B1XC, v_B1XC = (part_BXC.unsqueeze(1) for part_BXC in (q_BXC, k_BXC, v_BXC))
    return F.scaled_dot_product_attention(q_B1XC, k_B1XC, v_B1XC).squeeze(1)


class Middle(nn.Module):
    """The blocks at the coarsest level of encoder and decoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Tensor of the same shape."""
        return self.block_2(self.attn_1(self.block_1(x_BCHW)))


class Level(nn.Module):
    """Residual blocks at one size, each followed by attention if `attends` is set."""

    def __init__(self, fan_in: int, fan_out: int, *, blocks: int, attends: bool) -> None:
        super().__init__()
        fans = [fan_in, *[fan_out] * blocks]
        self.block = nn.ModuleList(ResidualBlock(fan, fan_out) for fan in fans[:-1])
        self.attn = nn.ModuleList(Attention(fan_out) for _ in range(blocks if attends else 0))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Tensor of the same height and width with `fan_out` channels."""
        for index, block in enumerate(self.block):
            x_BCHW = block(x_BCHW)
            if self.attn:
                x_BCHW = self.attn[index](x_BCHW)
        return x_BCHW


class DownLevel(Level):
    """A level and the downsampling to the next coarser one; none after the coarsest."""

    def __init__(
        self, fan_in: int, fan_out: int, *, blocks: int, attends: bool, downsample: nn.Module
    ) -> None:
        super().__init__(fan_in, fan_out, blocks=blocks, attends=attends)
        self.downsample = downsample

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Tensor of half the height and width with `fan_out` channels."""
        return self.downsample(super().forward(x_BCHW))


class UpLevel(Level):
    """A level and the upsampling to the next finer one; none after the finest."""

    def __init__(
        self, fan_in: int, fan_out: int, *, blocks: int, attends: bool, upsample: nn.Module
    ) -> None:
        super().__init__(fan_in, fan_out, blocks=blocks, attends=attends)
        self.upsample = upsample

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Tensor of twice the height and width with `fan_out` channels."""
        return self.upsample(super().forward(x_BCHW))


class Downsample(nn.Module):
    """Halve height and width."""

    def __init__(self, channels: int, *, convolve: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if convolve else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Tensor of half the height and width; the padding is on the right and below only."""
        if self.conv is None:
            return F.avg_pool2d(x_BCHW, 2)
        return self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width."""

    def __init__(self, channels: int, *, convolve: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if convolve else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Tensor of twice the height and width."""
        return self.conv(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))


class Encoder(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] → latents [B, `latents`, H / f, W / f], f = 2^(levels - 1).

    `widths`: channels of each level, from the finest; `attends`: whether the level has attention;
    `first`: channels before the first level.
    """

    def __init__(
        self,
        widths: Sequence[int],
        attends: Sequence[bool],
        *,
        first: int,
        blocks: int,
        latents: int,
        convolve: bool,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, first, 3, padding=1)
        self.down = nn.ModuleList()
        fan_in = first
        for index, width in enumerate(widths):
            last = index == len(widths) - 1
            resample = nn.Identity() if last else Downsample(width, convolve=convolve)
            self.down.append(
                DownLevel(fan_in, width, blocks=blocks, attends=attends[index], downsample=resample)
            )
            fan_in = width
        self.mid = Middle(fan_in)
        self.norm_out = _norm(fan_in)
        self.conv_out = nn.Conv2d(fan_in, latents, 3, padding=1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Latents float32."""
        x_BCHW = self.conv_in(images_BCHW)
        for level in self.down:
            x_BCHW = level(x_BCHW)
        return self.conv_out(_activate(self.norm_out, self.mid(x_BCHW)))


class Decoder(nn.Module):
    """Latents [B, `latents`, R, S] → images [B, 3, R·f, S·f] around [-1, 1]; see `Encoder`."""

    def __init__(
        self,
        widths: Sequence[int],
        attends: Sequence[bool],
        *,
        blocks: int,
        latents: int,
        convolve: bool,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(latents, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()  # indexed from the finest level, although that runs last
        for index, width in enumerate(widths):
            fan_in = widths[min(index + 1, len(widths) - 1)]
            resample = Upsample(width, convolve=convolve) if index else nn.Identity()
            self.up.append(
                UpLevel(fan_in, width, blocks=blocks + 1, attends=attends[index], upsample=resample)
            )
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, latents_BCHW: Tensor) -> Tensor:
        """Images float32, not clamped."""
        x_BCHW = self.mid(self.conv_in(latents_BCHW))
        for level in reversed(self.up):
            x_BCHW = level(x_BCHW)
        return self.conv_out(_activate(self.norm_out, x_BCHW))
