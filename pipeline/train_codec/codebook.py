"""Learning a codebook: k-means once, then moving averages; unused entries are restarted.

van den Oord et al. 2017, appendix A.1 (moving averages instead of a loss on the codebook);
Dhariwal et al. 2020, "Jukebox" (arXiv:2005.00341), section 3.1 (restart of dead entries).

Legend: M latents of a batch, D width of a latent, K entries of the codebook.
"""

from __future__ import annotations

import torch
from torch import Tensor

_DECAY = 0.99
_DEAD_SHARE = 0.03  # below this fraction of uniform usage an entry is restarted
_FRESH_SHARE = 0.3
_KMEANS_ROUNDS = 15
_ROWS = 4096  # latents compared to the codebook at once


class CodebookLearner:
    """Moving averages of the usage of each entry and of its latents; updates `codebook_KD` in place."""

    def __init__(self, codebook_KD: Tensor) -> None:
        self.codebook_KD = codebook_KD
        self.share_K = codebook_KD.new_zeros(len(codebook_KD))
        self.sum_KD = torch.zeros_like(codebook_KD)

    @torch.no_grad()
    def start(self, latents_MD: Tensor, generator: torch.Generator) -> None:
        """Initialise the entries by k-means on `latents_MD`."""
        entries = len(self.codebook_KD)
        self.codebook_KD.copy_(_draw(latents_MD, entries, generator))
        for _ in range(_KMEANS_ROUNDS):
            share_K, sum_KD = self._gather(latents_MD, self._nearest(latents_MD))
            used_K = share_K > 0
            self.codebook_KD[used_K] = sum_KD[used_K] / share_K[used_K, None]
            self.codebook_KD[~used_K] = _draw(latents_MD, int((~used_K).sum()), generator)
        self.share_K.fill_(1 / entries)
        self.sum_KD.copy_(self.codebook_KD / entries)

    @torch.no_grad()
    def update(self, latents_MD: Tensor, codes_M: Tensor, generator: torch.Generator) -> int:
        """Move the entries towards the latents assigned to them; returns how many were restarted."""
        share_K, sum_KD = self._gather(latents_MD, codes_M)
        self.share_K.lerp_(share_K, 1 - _DECAY)
        self.sum_KD.lerp_(sum_KD, 1 - _DECAY)
        dead_X = (self.share_K < _DEAD_SHARE / len(self.share_K)).nonzero()[:, 0]
        if len(dead_X):
            fresh = _FRESH_SHARE / len(self.share_K)
            self.share_K[dead_X] = fresh
            self.sum_KD[dead_X] = fresh * _draw(latents_MD, len(dead_X), generator)
        self.codebook_KD.copy_(self.sum_KD / self.share_K[:, None])
        return len(dead_X)

    def state(self) -> dict[str, Tensor]:
        """The state to save, besides the codebook."""
        return {"share_K": self.share_K, "sum_KD": self.sum_KD}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore the result of `state`."""
        self.share_K.copy_(state["share_K"])
        self.sum_KD.copy_(state["sum_KD"])

    def _nearest(self, latents_MD: Tensor) -> Tensor:
        norms_K = self.codebook_KD.square().sum(1)
        parts = latents_MD.split(_ROWS)
        return torch.cat([(norms_K - 2 * part @ self.codebook_KD.T).argmin(1) for part in parts])

    def _gather(self, latents_MD: Tensor, codes_M: Tensor) -> tuple[Tensor, Tensor]:
        """The share of latents assigned to each entry [K], and their sum divided by M [K, D]."""
        count_K = torch.bincount(codes_M, minlength=len(self.codebook_KD))
        sum_KD = torch.zeros_like(self.sum_KD).index_add_(0, codes_M, latents_MD)
        return count_K / len(codes_M), sum_KD / len(codes_M)


def _draw(latents_MD: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random latents, repeated if there are fewer."""
    order = torch.randperm(len(latents_MD), generator=generator)
    repeats = -(-count // len(order))
    return latents_MD[order.repeat(repeats)[:count].to(latents_MD.device)]
