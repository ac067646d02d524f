"""The discrete VAE that OpenAI published with DALL·E: one code per 8×8 pixels, 8,192 entries.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation" (arXiv:2102.12092), appendix A. The files
`encoder.pkl` and `decoder.pkl` are pickled modules; only their tensors are read.

Legend: B images, C = 3 colours, H W pixels, R S rows and columns of the grid, N = R·S codes, D channels
after the codebook, K entries.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import ModelError
from pipeline.models.codecs.base import (
    LARGEST_IMAGE,
    MOST_TOKENS,
    Codec,
    check_image_size,
    counted,
    run_in_its_precision,
)
from pipeline.models.torch_files import Placeholder, read_torch_file, tensors_of
from pipeline.models.weights import fill

_DOWNSAMPLING = 8
_GROUPS = 4  # groups of blocks; all but the last end in a change of size
_MARGIN = 0.1  # the network sees pixels in [0.1, 0.9]: a logit-Laplace has no density at 0 and 1


@dataclass(frozen=True, kw_only=True)
class OpenAIDVAEConfig:
    """Architecture of an `OpenAIDVAE`; the defaults are the published one.

    `num_tokens`: entries of the codebook; `encoder_channels`, `decoder_channels`: channels of the finest
    group, of which the coarsest has 8 times as many; `code_channels`: channels after the codebook;
    `blocks`: per group; `image_size`: side in pixels.
    """

    num_tokens: int = counted(8192, high=MOST_TOKENS)
    encoder_channels: int = counted(256)
    decoder_channels: int = counted(256)
    code_channels: int = counted(128)
    blocks: int = counted(2, high=64)
    image_size: int = counted(256, high=LARGEST_IMAGE)


class Block(nn.Module):
    """x + gain · four convolutions, with a quarter of the channels inside."""

    def __init__(self, fan_in: int, fan_out: int, *, kernels: Sequence[int], gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.id_path = nn.Conv2d(fan_in, fan_out, 1) if fan_in != fan_out else nn.Identity()
        inner = fan_out // 4
        fans = [fan_in, inner, inner, inner, fan_out]
        self.res_path = nn.Sequential()
        for index, kernel in enumerate(kernels):
            layer = nn.Conv2d(fans[index], fans[index + 1], kernel, padding=kernel // 2)
            self.res_path.add_module(f"relu_{index + 1}", nn.ReLU())
            self.res_path.add_module(f"conv_{index + 1}", layer)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Tensor of the same height and width with `fan_out` channels."""
        return self.id_path(x_BCHW) + self.gain * self.res_path(x_BCHW)


class OpenAIDVAE(Codec):
    """Encoder to logits over the codebook, and decoder; see `Codec` for the interface."""

    kind = "openai-dvae"
    decoder: nn.Sequential

    def __init__(self, config: OpenAIDVAEConfig) -> None:
        super().__init__()
        check_image_size(config.image_size, _DOWNSAMPLING)
        self.config = config
        wide, deep = config.encoder_channels, config.decoder_channels
        self.encoder = _network(
            nn.Conv2d(3, wide, 7, padding=3),
            [wide, wide, 2 * wide, 4 * wide, 8 * wide],
            config.num_tokens,
            blocks=config.blocks,
            kernels=(3, 3, 3, 1),
            resample=("pool", nn.MaxPool2d(2)),
        )
        self._halves = (
            self.encoder[:-1],
            self.encoder[-1],
        )  # a tuple, so that they aren't registered twice
        self.decoder = _network(
            nn.Conv2d(config.num_tokens, config.code_channels, 1),
            [config.code_channels, 8 * deep, 4 * deep, 2 * deep, deep],
            6,  # a mean and a scale per colour; the means are the image
            blocks=config.blocks,
            kernels=(1, 3, 3, 3),
            resample=("upsample", nn.Upsample(scale_factor=2, mode="nearest")),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def downsampling(self) -> int:
        """Pixels of a code's side."""
        return _DOWNSAMPLING

    @property
    def trunk(self) -> nn.Module:
        """The encoder without its last convolution, which computes the logits."""
        return self._halves[0]

    @property
    def widest_layer(self) -> int:
        """Activations of the first layer."""
        return self.config.encoder_channels * self.image_size**2

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Codes int64 [B, N] of images float32 [B, 3, H, W] in [0, 1]."""
        self.check_images(images_BCHW)
        inner_BCHW = ((1 - 2 * _MARGIN) * images_BCHW + _MARGIN).contiguous(
            memory_format=torch.channels_last
        )
        return self._halves[1](self.through_trunk(inner_BCHW)).argmax(1).flatten(1)

    @torch.no_grad()
    def decode(self, codes_BN: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] in [0, 1] of codes int64 [B, N]."""
        self.check_codes(codes_BN)
        entries_BDRS = self._look_up(codes_BN.unflatten(1, self.grid))
        statistics_BCHW = run_in_its_precision(self.decoder[1:], entries_BDRS)
        inner_BCHW = statistics_BCHW[:, :3].sigmoid()
        return ((inner_BCHW - _MARGIN) / (1 - 2 * _MARGIN)).clamp(0, 1)

    def _look_up(self, codes_BRS: Tensor) -> Tensor:
        """The first layer applied to one-hot codes: columns of its weight [D, K, 1, 1]."""
        first = self.decoder[0]
        assert isinstance(first, nn.Conv2d)
        assert first.bias is not None
        entries_BRSD = F.embedding(codes_BRS, first.weight.flatten(1).T) + first.bias
        return entries_BRSD.permute(0, 3, 1, 2)


def load_openai_dvae(
    encoder_path: Path,
    decoder_path: Path,
    *,
    image_size: int = 256,
    device: torch.device | str = "cpu",
) -> OpenAIDVAE:
    """The codec of `encoder.pkl` and `decoder.pkl`, in eval mode on `device`.

    Sizes are taken from the tensors. Raises ModelError for files that can't be read, do not match each
    other, or contain code.
    """
    weights = _read_half(encoder_path, "encoder") | _read_half(decoder_path, "decoder")
    complaint = f"{encoder_path} and {decoder_path} are not the two halves of OpenAI's discrete VAE"
    try:
        config = OpenAIDVAEConfig(
            num_tokens=len(weights["encoder.output.conv.weight"]),
            encoder_channels=len(weights["encoder.input.weight"]),
            decoder_channels=weights["decoder.output.conv.weight"].shape[1],
            code_channels=len(weights["decoder.input.weight"]),
            blocks=sum(
                f"encoder.group_1.block_{index}.res_path.conv_1.weight" in weights
                for index in range(1, 100)
            ),
            image_size=image_size,
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(
            f"{complaint}: tensor {error} is missing or has too few dimensions."
        ) from error
    codec = fill(
        lambda: OpenAIDVAE(config),
        weights,
        source=f"{encoder_path} or {decoder_path}",
        complaint=complaint,
    )
    return codec.requires_grad_(False).eval().to(device)


def published_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names in dalle-pytorch's `OpenAIDiscreteVAE`."""
    halves, endings = {"encoder": "enc", "decoder": "dec"}, {"weight": "w", "bias": "b"}
    named = {}
    for name, tensor in weights.items():
        half, _, inner = name.partition(".")
        stem, _, ending = inner.rpartition(".")
        named[f"{halves[half]}.blocks.{stem}.{endings[ending]}"] = tensor
    return named


def _network(
    first: nn.Module,
    widths: Sequence[int],
    outputs: int,
    *,
    blocks: int,
    kernels: Sequence[int],
    resample: tuple[str, nn.Module],
) -> nn.Sequential:
    """`first`, groups of blocks with `resample` between them, a 1×1 convolution to `outputs`."""
    gain = 1 / (_GROUPS * blocks) ** 2
    layers = OrderedDict[str, nn.Module](input=first)
    for group, (fan_in, width) in enumerate(pairwise(widths), 1):
        fans = [fan_in, *[width] * blocks]
        members = OrderedDict[str, nn.Module](
            (f"block_{index}", Block(fan, width, kernels=kernels, gain=gain))
            for index, fan in enumerate(fans[:-1], 1)
        )
        if group < _GROUPS:
            members[resample[0]] = resample[1]
        layers[f"group_{group}"] = nn.Sequential(members)
    head = OrderedDict[str, nn.Module](relu=nn.ReLU(), conv=nn.Conv2d(widths[-1], outputs, 1))
    layers["output"] = nn.Sequential(head)
    return nn.Sequential(layers)


def _read_half(path: Path, half: str) -> dict[str, Tensor]:
    """The tensors of a pickled module, with `blocks.input.w` renamed to `encoder.input.weight`."""
    module = read_torch_file(path)
    if not isinstance(module, Placeholder):
        raise ModelError(
            f"{path} holds a {type(module).__name__}, expected OpenAI's pickled {half}."
        )
    endings = {"w": "weight", "b": "bias"}
    weights = {}
    for name, tensor in tensors_of(module).items():
        stem, _, ending = name.removeprefix("blocks.").rpartition(".")
        weights[f"{half}.{stem}.{endings.get(ending, ending)}"] = tensor
    return weights
