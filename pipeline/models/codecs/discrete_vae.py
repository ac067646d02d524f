"""The discrete VAE that DALLE-pytorch trains (`train_vae.py`), and its file `vae.pt`.

Floor 3. Format: github.com/lucidrains/DALLE-pytorch, `{"hparams": …, "weights": …}`.

Legend: B pictures, C = 3 colours, H W pixels, N = rows · columns of the grid codes, K entries.
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

from pipeline.errors import ModelError
from pipeline.models.codecs.base import Codec, check_image_size
from pipeline.models.codecs.torch_files import read_torch_file
from pipeline.models.codecs.weights import load_weights


@dataclass(frozen=True, kw_only=True)
class DiscreteVAEConfig:
    """Architecture of a `DiscreteVAE`; names and defaults are those of DALLE-pytorch.

    `image_size`: pixels of a side; `num_tokens`, `codebook_dim`: entries of the codebook and numbers of
    each; `num_layers`: each halves the picture; `num_resnet_blocks`, `hidden_dim`: residual blocks and
    channels at each end; `means`, `stds`: how colours are normalised.
    """

    image_size: int = 256
    num_tokens: int = 512
    codebook_dim: int = 512
    num_layers: int = 3
    num_resnet_blocks: int = 0
    hidden_dim: int = 64
    means: tuple[float, ...] = (0.5, 0.5, 0.5)
    stds: tuple[float, ...] = (0.5, 0.5, 0.5)


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

    The decoder speaks of normalised colours. The reference hands those out as they are; `decode` takes
    the normalisation back, so that pictures lie in [0, 1] as they came.
    """

    def __init__(self, config: DiscreteVAEConfig) -> None:
        super().__init__()
        check_image_size(config.image_size, 1 << config.num_layers)
        self.config = config
        self.codebook = nn.Embedding(config.num_tokens, config.codebook_dim)
        self.encoder = _build_encoder(config)
        self._halves = (self.encoder[:-1], self.encoder[-1])  # in a tuple they get no second name
        self.decoder = _build_decoder(config)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def kind(self) -> str:
        """Name of the family."""
        return "discrete-vae"

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
        return 1 << self.config.num_layers

    @property
    def trunk(self) -> nn.Module:
        """The encoder up to its last convolution, which gives the logits."""
        return self._halves[0]

    @property
    def widest_layer(self) -> int:
        """Numbers of the first layer."""
        return self.config.hidden_dim * (self.image_size // 2) ** 2

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Codes int64 [B, N] of pictures float32 [B, 3, H, W] in [0, 1]."""
        self.check_images(images_BCHW)
        means_C11, stds_C11 = self._normalisation(images_BCHW)
        normal_BCHW = ((images_BCHW - means_C11) / stds_C11).contiguous(
            memory_format=torch.channels_last
        )
        return self._halves[1](self.through_trunk(normal_BCHW)).argmax(1).flatten(1)

    @torch.no_grad()
    def decode(self, codes_BN: Tensor) -> Tensor:
        """Pictures float32 [B, 3, H, W] in [0, 1] of codes int64 [B, N]."""
        self.check_codes(codes_BN)
        entries_BDRS = self.codebook(codes_BN).transpose(1, 2).unflatten(2, self.grid)
        normal_BCHW = self.decoder(entries_BDRS)
        means_C11, stds_C11 = self._normalisation(normal_BCHW)
        return (normal_BCHW * stds_C11 + means_C11).clamp(0, 1)

    def _normalisation(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        means_C11, stds_C11 = (
            images_BCHW.new_tensor(values)[:, None, None]
            for values in (self.config.means, self.config.stds)
        )
        return means_C11, stds_C11


def load_discrete_vae(
    path: Path, *, image_size: int | None = None, device: torch.device | str = "cpu"
) -> DiscreteVAE:
    """The codec of a `vae.pt`, ready to encode and decode on `device`.

    `image_size`: pixels of a side; by default the one that it was trained with. Raises
    ModelError for a file that can't be read, does not fit its own `hparams`, or wants to run code.
    """
    saved = read_torch_file(path)
    parts = [
        saved.get(key) if isinstance(saved, Mapping) else None for key in ("hparams", "weights")
    ]
    hparams, weights = parts
    if not isinstance(hparams, Mapping) or not isinstance(weights, Mapping):
        raise ModelError(
            f"{path} has no `hparams` and `weights`; expected a vae.pt of train_vae.py."
        )
    return build_discrete_vae(hparams, weights, path, image_size=image_size).to(device)


def build_discrete_vae(
    hparams: Mapping[str, Any],
    weights: Mapping[str, Any],
    path: Path,
    *,
    image_size: int | None = None,
) -> DiscreteVAE:
    """The codec of what `path` says of it, a `vae.pt` or a `dalle.pt`, ready to encode and decode.

    `image_size` as above. Raises ModelError where the weights don't fit the `hparams`.
    """
    config = _read_config(hparams, path)
    codec = DiscreteVAE(dataclasses.replace(config, image_size=image_size or config.image_size))
    tensors = {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    load_weights(codec, tensors, f"The weights of {path} do not fit its hparams")
    return codec.requires_grad_(False).eval()


def _read_config(hparams: Mapping[str, Any], path: Path) -> DiscreteVAEConfig:
    """The architecture in `hparams`; what only matters in training is passed over."""
    if hparams.get("channels", 3) != 3:
        raise ModelError(f"{path} has {hparams['channels']} channels, expected 3 colours.")
    fields = {field.name for field in dataclasses.fields(DiscreteVAEConfig)} & set(hparams)
    wrong = [key for key in sorted(fields) if not isinstance(hparams[key], int) or hparams[key] < 0]
    if wrong:
        raise ModelError(
            f"{path} has {wrong[0]} {hparams[wrong[0]]!r} in its hparams, expected a whole number."
        )
    sizes: dict[str, Any] = {key: hparams[key] for key in fields}
    return DiscreteVAEConfig(**sizes, **_read_normalisation(hparams, path))


def _read_normalisation(hparams: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if "normalization" not in hparams:
        return {}
    found = hparams["normalization"]
    if found is None:
        return {"means": (0.0,) * 3, "stds": (1.0,) * 3}
    try:
        means, stds = (tuple(float(value) for value in values[:3]) for values in found)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{path} has the normalization {found!r}, expected (means, stds)."
        ) from error
    if len(means) != 3 or len(stds) != 3 or not all(map(math.isfinite, means)) or 0 in stds:
        raise ModelError(f"{path} has the normalization {found!r}, expected 3 numbers each.")
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
    door = [nn.Conv2d(config.codebook_dim, hidden, 1)] if blocks else []
    return nn.Sequential(
        *door,
        *(Block(hidden) for _ in range(blocks)),
        *(
            nn.Sequential(nn.ConvTranspose2d(fan, hidden, 4, stride=2, padding=1), nn.ReLU())
            for fan in fans[:-1]
        ),
        nn.Conv2d(hidden, 3, 1),
    )
