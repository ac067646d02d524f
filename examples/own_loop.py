"""Your own training loop over the shards of a workspace:

    python examples/own_loop.py data/blog/shards/default [STEPS]

Replace the toy model with yours: it predicts each code of an image from the caption and the previous code.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from pipeline.data import ShardDataset

BATCH = 8


class NextCode(nn.Module):
    """Predicts each code from the previous code and the mean of the caption's token embeddings."""

    def __init__(self, tokens: int, codes: int, width: int = 64) -> None:
        super().__init__()
        self.caption = nn.Embedding(tokens, width)
        self.code = nn.Embedding(codes + 1, width)  # the last one marks the start
        self.out = nn.Linear(width, codes)

    def forward(self, tokens_BT: Tensor, codes_BN: Tensor) -> Tensor:
        """The loss."""
        first_B1 = torch.full_like(codes_BN[:, :1], self.code.num_embeddings - 1)
        before_BN = torch.cat((first_B1, codes_BN[:, :-1]), dim=1)
        hidden_BND = self.code(before_BN) + self.caption(tokens_BT).mean(dim=1, keepdim=True)
        return F.cross_entropy(self.out(hidden_BND).flatten(0, 1), codes_BN.flatten())


def main(shards: Path, steps: int = 200) -> None:
    """Train for some steps and print the loss."""
    torch.manual_seed(0)
    index = json.loads((shards / "index.json").read_text())
    dataset = ShardDataset(str(shards), batch_size=BATCH, seed=0)
    model = NextCode(index["vocab_size"], index["codebook_size"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step = 0
    for epoch in itertools.count():
        dataset.set_epoch(epoch)
        for tokens_BT, codes_BN in DataLoader(dataset, batch_size=None):
            loss = model(tokens_BT, codes_BN)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % 20 == 0 or step == steps:
                print(f"step {step}: loss {loss.item():.3f}")
            if step == steps:
                return


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
