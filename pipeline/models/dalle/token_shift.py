"""Token shift: each position takes some channels from neighbouring positions.

A text token takes the first half of its channels from the token before it; a code takes the first quarter
from the code above it and the second from the code to its left; zeros if there is none. Source:
`PreShiftToken` of DALLE-pytorch 1.0.0 to 1.6.6.

Shapes: B samples, L positions, S rows (a row of zeros, then the positions so far), D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.dalle.config import DalleConfig


class TokenShift(nn.Module):
    """Moves channels between positions."""

    sources: Tensor

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        quarter, half = -(-config.dim // 4), -(-config.dim // 2)
        # Widths of the channel groups that share a source. The third is non-empty only if two quarters,
        # rounded up, are more than a half.
        self.widths = (quarter, half - quarter, 2 * quarter - half)
        self.register_buffer("sources", _sources(config), persistent=False)

    @property
    def moved(self) -> int:
        """The number of leading channels that may come from other positions."""
        return sum(self.widths)

    def forward(self, x_BLD: Tensor, rows_BSC: Tensor | None = None, start: int = 0) -> Tensor:
        """Shift the positions from `start` on.

        `rows_BSC` holds a row of zeros, then the first `moved` channels of all positions up to the last of
        `x_BLD`; without it `x_BLD` starts at the first position.
        """
        if rows_BSC is None:
            rows_BSC = nn.functional.pad(x_BLD[..., : self.moved], (0, 0, 1, 0))
        sources = self.sources[:, start : start + x_BLD.shape[1]]
        groups = rows_BSC.split(self.widths, dim=-1)
        moved = [
            group.index_select(1, source) for group, source in zip(groups, sources, strict=True)
        ]
        return torch.cat((*moved, x_BLD[..., self.moved :]), dim=-1)


def _sources(config: DalleConfig) -> Tensor:
    """For each channel group, the row that each position takes it from: int64 [3, L]."""
    text, size = config.text_seq_len + 1, config.image_fmap_size
    places = torch.arange(config.total_seq_len + 1)
    code = places - text
    is_text = code < 0
    above = torch.where(code >= size, places - size + 1, 0)
    left = torch.where(code % size != 0, places, 0)
    return torch.stack(
        (
            torch.where(is_text, places, above),
            torch.where(is_text, places, left),
            torch.where(is_text, places + 1, left),
        )
    )
