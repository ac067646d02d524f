"""The interface of all image codecs: images → codes → images.

A codec is a torch module. Its fingerprint identifies weights and architecture together; codes made under
different fingerprints are never mixed.

Legend: B images of a batch, C = 3 colours, H = W = image_size pixels, N = rows × columns codes of an image
(row by row from the top left).
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from pipeline.core.errors import ModelError

MOST_TOKENS = 1 << 20
LARGEST_IMAGE = 1 << 13  # pixels of a side


def counted(default: Any = dataclasses.MISSING, *, low: int = 1, high: int = 1 << 14) -> Any:
    """A config field for an integer, or several, from `low` to `high`."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


class Codec(nn.Module, abc.ABC):
    """An image tokenizer: each square of `downsampling` pixels becomes an entry of a codebook.

    `kind` is the family's name in codec.json; `config` is the dataclass of its architecture, with the fields
    `num_tokens` and `image_size`. If it has a module `decoder`, this may run in lower precision than float32:
    `decode` calls it by `run_in_its_precision`.
    """

    kind: ClassVar[str]
    config: Any

    @property
    def architecture(self) -> Mapping[str, Any]:
        """Everything besides the weights that determines the codec's function, as JSON values."""
        return dataclasses.asdict(self.config)

    @property
    def num_tokens(self) -> int:
        """Entries of the codebook: codes are in [0, num_tokens)."""
        return int(self.config.num_tokens)

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.config.image_size)

    @property
    @abc.abstractmethod
    def downsampling(self) -> int:
        """Side of the square that becomes one code, in pixels."""

    @property
    @abc.abstractmethod
    def trunk(self) -> nn.Module:
        """The main part of the encoder, which may run in lower precision than float32."""

    @property
    @abc.abstractmethod
    def widest_layer(self) -> int:
        """Activations of the largest layer per image, which limits the batch size."""

    @abc.abstractmethod
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Codes int64 [B, N] of images float32 [B, 3, H, W] in [0, 1].

        Raises ModelError for images of another size.
        """

    @abc.abstractmethod
    def decode(self, codes_BN: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] in [0, 1] of codes int64 [B, N].

        Raises ModelError for another number of codes, or codes beyond the codebook.
        """

    def at_size(self, image_size: int) -> Self:
        """Set the image size to `image_size` pixels a side, in place; returns the codec.

        The weights don't depend on the size, the fingerprint does. Raises ModelError for a side that is not
        a multiple of `downsampling`.
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
        """Codes per image: N."""
        rows, columns = self.grid
        return rows * columns

    def through_trunk(self, x_BCHW: Tensor) -> Tensor:
        """Run the trunk in its precision; float32 out, so that the choice of codes stays in float32."""
        return run_in_its_precision(self.trunk, x_BCHW)

    def check_images(self, images_BCHW: Tensor) -> None:
        """Raise ModelError for images that are not [B, 3, image_size, image_size]."""
        size = (3, self.image_size, self.image_size)
        if tuple(images_BCHW.shape[1:]) != size:
            raise ModelError(
                f"Got images of shape {tuple(images_BCHW.shape)}, expected [B, {size}]."
            )

    def check_codes(self, codes_BN: Tensor) -> None:
        """Raise ModelError for codes that are not [B, N] or are outside the codebook."""
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
        """sha256 over kind, architecture and the weights' names, dtypes, shapes and bytes: 64 hex digits."""
        facts = {"kind": self.kind, "architecture": dict(self.architecture)}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()


def run_in_its_precision(module: nn.Module, x_BCHW: Tensor) -> Tensor:
    """The output in float32 of a module whose parameters may have a lower precision."""
    first = next(module.parameters(), x_BCHW)
    return module(x_BCHW.to(first.dtype)).to(torch.float32)


def check_image_size(image_size: int, downsampling: int) -> None:
    """Raise ModelError for a side that is not a multiple of `downsampling`."""
    if image_size < downsampling or image_size % downsampling:
        raise ModelError(
            f"This codec was asked for images of {image_size} pixels; expected a multiple of "
            f"{downsampling}."
        )


def tensor_bytes(tensor: Tensor) -> bytes:
    """The elements of `tensor` in row-major order, whatever its layout, dtype or device."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
