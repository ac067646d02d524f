"""DALL·E: one causal transformer over a caption's tokens and an image's codes.

The model of DALLE-pytorch 1.6.6 (`dalle_pytorch.DALLE`), with the same hyper-parameter names. A sequence is
BOS, the caption's T tokens and the image's N codes; in training the last code is dropped, because nothing
follows it. Positions 0..T-1 predict only text and T..T+N-1 only image codes, so each position computes only
the logits of its part of the vocabulary.

Shapes: B samples, T text positions, P given codes, N image codes, L positions, D model width, V ids of a
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.contracts import PADDING_ID
from pipeline.core.errors import ModelError
from pipeline.models.dalle.attention import KeyValueCache
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.linear import Linear, can_pack
from pipeline.models.dalle.losses import ChunkLoss, Part, chunk_loss, split_cross_entropy
from pipeline.models.dalle.transformer import Transformer

EMBEDDING_STD = 0.05
STABLE_SHARE = (
    0.1  # share of the embeddings' gradients kept with `stable` (CogView, arXiv 2105.13290)
)


class DalleLoss(NamedTuple):
    """`total` is the training loss; the others are cross-entropies in nats per position."""

    total: Tensor
    text: Tensor
    image: Tensor


class AxialPositions(nn.Module):
    """The sum of learned embeddings of a code's row and column."""

    def __init__(self, *, dim: int, fmap_size: int) -> None:
        super().__init__()
        self.fmap_size = fmap_size
        self.rows = nn.Parameter(torch.empty(fmap_size, dim))
        self.columns = nn.Parameter(torch.empty(fmap_size, dim))

    def forward(self, positions: Tensor) -> Tensor:
        """Embed code positions 0..fmap_size²-1, counted row by row."""
        rows, columns = positions // self.fmap_size, positions % self.fmap_size
        return F.embedding(rows, self.rows) + F.embedding(columns, self.columns)


class Dalle(nn.Module):
    """Captions and image codes → the loss, or the next id's logits."""

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.norm_out = nn.LayerNorm(config.dim)
        self.to_logits = Linear(config.dim, config.total_tokens)
        self.chunk_loss: ChunkLoss = chunk_loss  # or compiled
        if not config.share_input_output_emb:
            self.text_emb = nn.Embedding(config.total_text_tokens, config.dim)
            self.image_emb = nn.Embedding(config.num_image_tokens, config.dim)
        if not config.rotary_emb:
            self.text_pos_emb = nn.Embedding(config.text_seq_len + 1, config.dim)  # BOS has one too
            self.image_pos_emb = AxialPositions(dim=config.dim, fmap_size=config.image_fmap_size)
        self._shrink_embeddings()

    def forward(self, tokens_BT: Tensor, codes_BN: Tensor) -> DalleLoss:
        """The loss of captions and their images.

        `tokens_BT` are int64 ids padded with 0, `codes_BN` int64 codebook indices.
        loss = (text + loss_img_weight · image) / (loss_img_weight + 1), as in DALLE-pytorch.
        """
        x_BLD = self._read(tokens_BT, codes_BN)
        length, split = self.config.text_seq_len, self.config.total_text_tokens
        text = Part(
            x_BLD[:, :length].flatten(0, 1), self.unique_padding(tokens_BT).flatten(), 0, split
        )
        image = Part(
            x_BLD[:, length:].flatten(0, 1), codes_BN.flatten(), split, self.config.total_tokens
        )
        head = self.to_logits
        text_loss, image_loss = split_cross_entropy(
            (text, image), head.weight, head.bias, self.chunk_loss
        )
        weight = self.config.loss_img_weight
        total = (text_loss + weight * image_loss) / (weight + 1)
        return DalleLoss(total=total, text=text_loss, image=image_loss)

    def logits(self, tokens_BT: Tensor, codes_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of all text ids at the text positions, and of all codes at the image positions."""
        x_BLD = self._read(tokens_BT, codes_BN)
        length = self.config.text_seq_len
        return self._text_logits(x_BLD[:, :length]), self._image_logits(x_BLD[:, length:])

    def unique_padding(self, tokens_BP: Tensor) -> Tensor:
        """Replace padding by the id `num_text_tokens + position`: each position has its own padding id."""
        positions = torch.arange(tokens_BP.shape[1], device=tokens_BP.device)
        padding = positions + self.config.num_text_tokens
        return torch.where(tokens_BP == PADDING_ID, padding, tokens_BP)

    def embed_text(self, tokens_BT: Tensor) -> Tensor:
        """Embed BOS and the caption: T + 1 positions.

        Raises ModelError if the caption's length is not `text_seq_len`.
        """
        if tokens_BT.shape[1] != self.config.text_seq_len:
            raise ModelError(
                f"Captions have {tokens_BT.shape[1]} tokens, but the model has "
                f"text_seq_len={self.config.text_seq_len}. Tokenise them with the model's length."
            )
        return self._embed_ids(F.pad(self.unique_padding(tokens_BT), (1, 0), value=0))

    def embed_codes(self, codes_BN: Tensor, start: int = 0) -> Tensor:
        """Embed codes, of which the first is the image's `start`-th."""
        positions_N = torch.arange(start, start + codes_BN.shape[1], device=codes_BN.device)
        return self._embed_codes_at(codes_BN, positions_N)

    def pack(self) -> None:
        """Pack the weights if that makes sampling faster; they must not change afterwards."""
        if not can_pack(self.to_logits.weight):
            return
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack(self.config.total_text_tokens if module is self.to_logits else 0)

    def start_images(
        self, tokens_BT: Tensor, codes_BP: Tensor | None = None, *, whole: bool = True
    ) -> tuple[Tensor, KeyValueCache]:
        """Process captions, and the first P codes of each image if given (P < N), in one pass.

        Returns logits_BV of each image's next code, and the cache to continue with, which has room for the
        rest of the image if `whole`. A caption of padding alone is the null condition of classifier-free
        guidance.
        """
        x_BLD = self.embed_text(tokens_BT)
        if codes_BP is not None:
            x_BLD = torch.cat((x_BLD, self.embed_codes(codes_BP)), dim=1)
        cache = self.transformer.new_cache(
            batch_size=tokens_BT.shape[0],
            max_length=self.config.total_seq_len if whole else x_BLD.shape[1],
        )
        return self._image_logits(self._transform(x_BLD, cache)[:, -1]), cache

    def next_logits(self, codes_B: Tensor, *, position: int, cache: KeyValueCache) -> Tensor:
        """Process the code chosen at `position`; returns logits_BV of the next one."""
        x_B1D = self._transform(self.embed_codes(codes_B[:, None], position), cache)
        return self._image_logits(x_B1D[:, -1])

    def logits_at(
        self, codes_B: Tensor, positions_B: Tensor, transform: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The same for codes at `positions_B`, one for each image; `transform` runs the layers on x_BD."""
        x_BD = self._embed_codes_at(codes_B, positions_B)
        return self._image_logits(self._normalised(x_BD, transform))

    def next_text_logits(
        self, tokens_BT: Tensor, position: int, cache: KeyValueCache | None = None
    ) -> Tensor:
        """logits_BV of the text id at `position`, over text and padding ids.

        Only BOS and the ids before `position` matter; those from `position` on are ignored. With a cache,
        only the positions that it does not hold yet are processed.
        """
        start = cache.length if cache is not None else 0
        x_BLD = self._transform(self.embed_text(tokens_BT)[:, start : position + 1], cache)
        return self._text_logits(x_BLD[:, -1])

    def _read(self, tokens_BT: Tensor, codes_BN: Tensor) -> Tensor:
        """The transformer's output for complete sequences: L = T + N positions."""
        text_BLD = self.embed_text(tokens_BT)
        return self._transform(torch.cat((text_BLD, self.embed_codes(codes_BN[:, :-1])), dim=1))

    def _transform(self, x_BLD: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        return self._normalised(x_BLD, lambda x_BLD: self.transformer(x_BLD, cache))

    def _normalised(self, x: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.config.stable:
            return self.norm_out(transform(x))
        x = transform(x * STABLE_SHARE + x.detach() * (1 - STABLE_SHARE))
        return self.norm_out(x / x.amax(dim=-1, keepdim=True).detach())

    def _embed_codes_at(self, codes: Tensor, positions: Tensor) -> Tensor:
        """Embed codes at positions of the image; the shapes must broadcast."""
        if self.config.share_input_output_emb:
            x = F.embedding(codes + self.config.total_text_tokens, self.to_logits.weight)
        else:
            x = self.image_emb(codes)
        return x if self.config.rotary_emb else x + self.image_pos_emb(positions)

    def _embed_ids(self, ids_BL: Tensor) -> Tensor:
        """Embed BOS and text ids."""
        shared = self.config.share_input_output_emb
        x_BLD = F.embedding(ids_BL, self.to_logits.weight if shared else self.text_emb.weight)
        if self.config.rotary_emb:
            return x_BLD
        return x_BLD + self.text_pos_emb(torch.arange(ids_BL.shape[1], device=ids_BL.device))

    def _shrink_embeddings(self) -> None:
        # torch's default N(0, 1) drowns out what the first layers add: after 500 steps of a small model the
        # image loss was 1.10 with it, and 0.88 with std 0.05.
        names = ("text_emb.", "image_emb.", "text_pos_emb.", "image_pos_emb.")
        for name, parameter in self.named_parameters():
            if name.startswith(names):
                nn.init.normal_(parameter, std=EMBEDDING_STD)

    def _text_logits(self, x_D: Tensor) -> Tensor:
        split = self.config.total_text_tokens
        return F.linear(x_D, self.to_logits.weight[:split], self.to_logits.bias[:split])

    def _image_logits(self, x_D: Tensor) -> Tensor:
        return self.to_logits.outputs_from(x_D, self.config.total_text_tokens)
