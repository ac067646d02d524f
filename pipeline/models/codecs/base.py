"""What every image codec can do: pictures → codes → pictures.

Layer 3. A codec is a torch module whose weights and architecture together have one name, its
fingerprint: codes made under one fingerprint are never mixed with those of another.

Legend: B pictures of a batch, C = 3 colours, H = W = image_size pixels, N = rows × columns of the grid
codes of a picture (row by row from the top left).
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from pipeline.core.errors import ModelError

MOST_TOKENS = 1 << 20
LARGEST_IMAGE = 1 << 13  # pixels of a side


def counted(default: Any = dataclasses.MISSING, *, low: int = 1, high: int = 1 << 14) -> Any:
    """A field of an architecture that holds a whole number, or several, from `low` to `high`."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


class Codec(nn.Module, abc.ABC):
    """An image tokenizer: each square of `downsampling` pixels becomes an entry of a codebook.

    `config` is the dataclass of the family's architecture.
    """

    config: Any

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """Name of the family, as codec.json has it."""

    @property
    @abc.abstractmethod
    def architecture(self) -> Mapping[str, Any]:
        """All that decides the function beside the weights, as JSON values."""

    @property
    @abc.abstractmethod
    def num_tokens(self) -> int:
        """Entries of the codebook: codes lie in [0, num_tokens)."""

    @property
    @abc.abstractmethod
    def image_size(self) -> int:
        """Side of the square pictures in pixels."""

    @property
    @abc.abstractmethod
    def downsampling(self) -> int:
        """Side of the square of pixels that becomes one code."""

    @property
    @abc.abstractmethod
    def trunk(self) -> nn.Module:
        """The deep part of the encoder, which may compute in lower precision than float32."""

    @property
    @abc.abstractmethod
    def widest_layer(self) -> int:
        """Numbers of the largest layer for one picture: what the size of a batch hangs on."""

    @abc.abstractmethod
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Codes int64 [B, N] of pictures float32 [B, 3, H, W] in [0, 1].

        Raises ModelError for pictures of another size.
        """

    @abc.abstractmethod
    def decode(self, codes_BN: Tensor) -> Tensor:
        """Pictures float32 [B, 3, H, W] in [0, 1] of codes int64 [B, N].

        Raises ModelError for another number of codes, or codes beyond the codebook.
        """

    def at_size(self, image_size: int) -> Self:
        """The codec itself, from now on for square images of `image_size` pixels a side.

        Its weights know no size, its fingerprint does. Raises ModelError for a side that is not a multiple of
        `downsampling`.
        """
        check_image_size(image_size, self.downsampling)
        self.config = dataclasses.replace(self.config, image_size=image_size)
        return self

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes."""
        side = self.image_size // self.downsampling
        return side, side

    @property
    def num_codes(self) -> int:
        """Codes of a picture: N."""
        rows, columns = self.grid
        return rows * columns

    def through_trunk(self, x_BCHW: Tensor) -> Tensor:
        """What the trunk makes of its input, float32; what decides between entries comes after it."""
        first = next(self.trunk.parameters(), x_BCHW)
        return self.trunk(x_BCHW.to(first.dtype)).to(torch.float32)

    def check_images(self, images_BCHW: Tensor) -> None:
        """Raise ModelError for pictures that are not [B, 3, image_size, image_size]."""
        size = (3, self.image_size, self.image_size)
        if tuple(images_BCHW.shape[1:]) != size:
            raise ModelError(
                f"Got images of shape {tuple(images_BCHW.shape)}, expected [B, {size}]."
            )

    def check_codes(self, codes_BN: Tensor) -> None:
        """Raise ModelError for codes that are not [B, N], or lie beyond the codebook."""
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

    @property
    def fingerprint(self) -> str:
        """sha256 over kind, architecture and the weights' names, types, shapes and bytes: 64 hex digits."""
        facts = {"kind": self.kind, "architecture": dict(self.architecture)}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()


def check_image_size(image_size: int, downsampling: int) -> None:
    """Raise ModelError where pictures of that side can't be cut into whole squares."""
    if image_size < downsampling or image_size % downsampling:
        raise ModelError(
            f"This codec was asked for images of {image_size} pixels; expected a multiple of "
            f"{downsampling}."
        )


def tensor_bytes(tensor: Tensor) -> bytes:
    """The elements of `tensor` in row-major order, whatever its layout, type or device."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
