"""Rotary position embeddings of text and image, as in DALLE-pytorch 1.0.3 to 1.6.6.

A third of a head's channels is rotated by the text position, two thirds by row and column in the image. All
image codes have the text position 8192, all text has row and column -10. Queries, keys and values are all
rotated.

Shapes: B samples, H heads, L positions, K width of a head, R rotated channels of it (the first ones).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.models.dalle.config import DalleConfig

TEXT_BASE = 10_000
IMAGE_MAX_FREQUENCY = 10
IMAGE_TEXT_POSITION = 8192
TEXT_IMAGE_POSITION = -10.0


def rotary_angles(config: DalleConfig) -> Tensor:
    """Angles of all positions of a sequence, float32 [text_seq_len + 1 + codes, R]."""
    width = config.dim_head // 3
    count, size = config.text_seq_len + 1, config.image_fmap_size
    text_freqs = 1.0 / (TEXT_BASE ** (torch.arange(0, width, 2)[: width // 2].float() / width))
    image_freqs = torch.linspace(1.0, IMAGE_MAX_FREQUENCY / 2, width // 2) * math.pi
    places = torch.cat((torch.arange(count), torch.full((size**2,), IMAGE_TEXT_POSITION)))
    axis = torch.linspace(-1, 1, steps=size)
    outside = torch.full((count,), TEXT_IMAGE_POSITION)
    rows = torch.cat((outside, axis.repeat_interleave(size)))
    columns = torch.cat((outside, axis.repeat(size)))
    parts = (
        _angles(places.float(), text_freqs),
        _angles(rows, image_freqs),
        _angles(columns, image_freqs),
    )
    return torch.cat(parts, dim=1)


def rotate(x_BHLK: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs of adjacent channels by angles, given as their cosines and sines [L, R].

    The angles may differ between samples too: their shape must broadcast to [B, H, L, R].
    """
    cos_LR, sin_LR = turn
    turned, rest = x_BHLK.split((cos_LR.shape[-1], x_BHLK.shape[-1] - cos_LR.shape[-1]), dim=-1)
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    quarter = torch.stack((-odd, even), dim=-1).flatten(-2)
    turned = (turned * cos_LR + quarter * sin_LR).type_as(x_BHLK)
    return torch.cat((turned, rest), dim=-1)


def _angles(places: Tensor, freqs: Tensor) -> Tensor:
    return (places[:, None] * freqs).repeat_interleave(2, dim=1)
