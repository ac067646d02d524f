"""How much of a codebook is used. Pure.

Legend: K entries of the codebook.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class CodebookUse:
    """Counts the occurrences of each of `num_tokens` codebook entries."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self._counts_K = np.zeros(num_tokens, dtype=np.int64)

    def add(self, codes: npt.NDArray[np.integer]) -> int:
        """Count codes and return the highest; codes outside the codebook are not counted."""
        if not codes.size:
            return -1
        counts = np.bincount(codes.ravel().astype(np.int64), minlength=len(self._counts_K))
        self._counts_K += counts[: len(self._counts_K)]
        return len(counts) - 1 if len(counts) > len(self._counts_K) else int(codes.max())

    @property
    def used(self) -> int:
        """The number of entries that occur."""
        return int((self._counts_K > 0).sum())

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the entries: the size of an evenly used codebook with the same entropy."""
        total = self._counts_K.sum()
        share = self._counts_K[self._counts_K > 0] / max(int(total), 1)
        return float(np.exp(-(share * np.log(share)).sum()))

    def __str__(self) -> str:
        return f"{self.used} of {len(self._counts_K)}"
