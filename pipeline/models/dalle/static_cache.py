"""Keys and values of images that are being drawn, in tensors of fixed shapes.

The position of each image is data: it picks the places where keys and values are written and the rows of the
attention masks. So the same operators run at every position, which a compiler turns into one graph and a
CUDA graph repeats without launching them one by one; and the images of a batch may be at different positions.

A caption is stored once for all of its images. Attention to it is one product for all of them, so its keys
and values are read once: of 225 positions that an image of 256 codes attends to on average, 97 are the
caption's in a model with 96 text tokens.

On a CPU fixed shapes gain nothing, and a batch whose images are at different positions runs the attention of
the growing cache over the rows of each position: the same bits, and faster.

Shapes: U captions, G images of a caption, B = U · G rows of the batch, P positions of BOS and the caption, N
codes of an image, S of them that are attended to, H heads, K width of a head, C channels that token shift
moves, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple, cast

import torch
from torch import Tensor

from pipeline.models.dalle.attention import Attention, KeyValueCache, Pattern, Turn
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.rotary import rotate
from pipeline.models.dalle.token_shift import TokenShift
from pipeline.models.dalle.transformer import Block

CAPTURED_LENGTHS = 5  # each is a CUDA graph; attention reads at most a fifth of the codes in vain
_ALIGNMENT = 8  # lengths are multiples of it, as kernels for half precision want


class Captions(NamedTuple):
    """Keys and values UHPK of a layer, for consecutive rows of the batch: `images` of each caption."""

    keys: Tensor
    values: Tensor
    images: int

    @property
    def rows(self) -> int:
        """The rows of the batch that they are for."""
        return len(self.keys) * self.images


class LayerCache(NamedTuple):
    """What a layer keeps: its captions, keys and values BHNK of the codes, and inputs of token shift.

    `shifted` BNC are the inputs of the layer's two branches, after a row of zeros; none without token shift.
    `joined` are keys and values BH(P+N)K, of which captions and codes are views; empty unless asked for.
    """

    captions: tuple[Captions, ...]
    keys: Tensor
    values: Tensor
    shifted: tuple[Tensor, ...]
    joined: tuple[Tensor, ...] = ()


class Place(NamedTuple):
    """Where the rows of the batch are.

    `codes_B` are the numbers of their codes (int64), `above_B` and `left_B` the rows that token shift takes
    channels from, `turn` the cosines and sines of their rotary angles, `hidden_B1S` what is added to
    attention scores: 0, or minus infinity for positions that must not be seen, over the caption's positions
    and then S codes. `spans` are used instead with a `joined` cache: consecutive rows at the same code.
    """

    codes_B: Tensor
    above_B: Tensor
    left_B: Tensor
    turn: Turn | None
    hidden_B1S: Tensor | None
    spans: tuple[tuple[slice, int], ...] = ()


class StaticCache:
    """The cache of `rows` images, which share the captions of `starts`.

    `starts` are caches of captions, made by `Dalle.start_images`, each with the number of images of each of
    its captions; `rows` is their sum. If they hold first codes of the images, these are taken over.
    `joined` keeps captions and codes in one tensor, for one start with one image per caption.
    """

    def __init__(
        self, model: Dalle, starts: Sequence[tuple[KeyValueCache, int]], *, joined: bool = False
    ) -> None:
        config, transformer = model.config, model.transformer
        self.text = config.text_seq_len + 1
        self.codes = config.image_seq_len
        self.rows = sum(len(cache.keys[0]) * images for cache, images in starts)
        self.groups = _groups_of(starts)
        build = _joined_cache if joined else _layer_cache
        self.layers = [build(self, starts, layer) for layer in range(config.depth)]
        self._take_codes(starts)
        masks = {
            kind: cast("Tensor | None", transformer.patterns[kind].mask_LL)
            for kind in sorted(set(config.layer_types))
        }
        # The last code is never read, but has a row and a column here: both are as many as codes.
        self.visible = {
            kind: None
            if mask_LL is None
            else torch.nn.functional.pad(mask_LL[self.text :], (0, 1, 0, 1))
            for kind, mask_LL in masks.items()
        }

    def refill(self, starts: Sequence[tuple[KeyValueCache, int]]) -> bool:
        """Begin other images in the same tensors; false, and nothing changes, if they don't fit."""
        if _groups_of(starts) != self.groups:
            return False
        for number, layer in enumerate(self.layers):
            for captions, (start, _) in zip(layer.captions, starts, strict=True):
                captions.keys.copy_(start.keys[number][:, :, : self.text])
                captions.values.copy_(start.values[number][:, :, : self.text])
        self._take_codes(starts)
        return True

    def lead(self, rows: int) -> list[LayerCache]:
        """The caches of the first `rows` rows, without a copy; needs one image per caption."""
        if rows == self.rows:
            return self.layers
        return [
            LayerCache(
                captions=tuple(
                    Captions(part.keys[:rows], part.values[:rows], part.images)
                    for part in layer.captions
                ),
                keys=layer.keys[:rows],
                values=layer.values[:rows],
                shifted=tuple(part[:rows] for part in layer.shifted),
                joined=tuple(part[:rows] for part in layer.joined),
            )
            for layer in self.layers
        ]

    def copy_row(self, source: int, target: int) -> None:
        """Copy an image with its caption to another row; needs one image per caption."""
        for layer in self.layers:
            (captions,) = layer.captions
            for part in (captions.keys, captions.values, layer.keys, layer.values, *layer.shifted):
                part[target] = part[source]

    def put(self, start: KeyValueCache, caption: int, targets_R: Tensor) -> None:
        """Begin images of one of the captions of `start`, in the rows `targets_R` (int64)."""
        given = start.length - self.text
        for number, layer in enumerate(self.layers):
            (captions,) = layer.captions
            for ours, codes, theirs in (
                (captions.keys, layer.keys, start.keys[number][caption]),
                (captions.values, layer.values, start.values[number][caption]),
            ):
                ours[targets_R] = theirs[:, : self.text]
                codes[targets_R, :, :given] = theirs[:, self.text :]
            for branch, part in enumerate(layer.shifted):
                theirs = start.rows[2 * number + branch][caption]
                part[targets_R, 1 : given + 1] = theirs[self.text + 1 :]

    def _take_codes(self, starts: Sequence[tuple[KeyValueCache, int]]) -> None:
        """Take over the first codes of the images."""
        for number, layer in enumerate(self.layers):
            first = 0
            for start, images in starts:
                given = start.length - self.text
                rows = slice(first, first + len(start.keys[number]) * images)
                first = rows.stop
                for ours, theirs in (
                    (layer.keys, start.keys[number]),
                    (layer.values, start.values[number]),
                ):
                    ours[rows, :, :given] = theirs[:, :, self.text :].repeat_interleave(images, 0)
                for branch, part in enumerate(layer.shifted):
                    theirs = start.rows[2 * number + branch][:, self.text + 1 :]
                    part[rows, 1 : given + 1] = theirs.repeat_interleave(images, 0)


def _groups_of(starts: Sequence[tuple[KeyValueCache, int]]) -> list[tuple[int, int]]:
    """The captions of each start, and the images of each of them."""
    return [(len(cache.keys[0]), images) for cache, images in starts]


def _layer_cache(
    cache: StaticCache, starts: Sequence[tuple[KeyValueCache, int]], layer: int
) -> LayerCache:
    captions = tuple(
        Captions(start.keys[layer][:, :, : cache.text], start.values[layer][:, :, : cache.text], n)
        for start, n in starts
    )
    like = captions[0].keys
    keys, values = (
        # Zeros: positions not yet written are multiplied by a share of 0, and 0 · NaN would be NaN.
        like.new_zeros(cache.rows, like.shape[1], cache.codes, like.shape[3])
        for _ in range(2)
    )
    return LayerCache(captions, keys, values, _shifted_inputs(cache, starts, layer))


def _joined_cache(
    cache: StaticCache, starts: Sequence[tuple[KeyValueCache, int]], layer: int
) -> LayerCache:
    ((start, images),) = starts
    text = cache.text
    keys, values = (
        torch.nn.functional.pad(part[:, :, :text], (0, 0, 0, cache.codes))
        for part in (start.keys[layer], start.values[layer])
    )
    return LayerCache(
        captions=(Captions(keys[:, :, :text], values[:, :, :text], images),),
        keys=keys[:, :, text:],
        values=values[:, :, text:],
        shifted=_shifted_inputs(cache, starts, layer),
        joined=(keys, values),
    )


def _shifted_inputs(
    cache: StaticCache, starts: Sequence[tuple[KeyValueCache, int]], layer: int
) -> tuple[Tensor, ...]:
    return tuple(
        part.new_zeros(cache.rows, cache.codes + 1, part.shape[2])
        for part in starts[0][0].rows[2 * layer : 2 * layer + 2]
    )


def row_bytes(model: Dalle) -> int:
    """The memory of an image's keys and values, its caption included."""
    config, transformer = model.config, model.transformer
    cache = transformer.new_cache(batch_size=1, max_length=config.total_seq_len)
    parts = (*cache.keys, *cache.values, *cache.rows)
    return sum(part.numel() * part.element_size() for part in parts)


def captured_lengths(codes: int) -> tuple[int, ...]:
    """The numbers of codes that attention may read, up to all of them."""
    step = -(-codes // CAPTURED_LENGTHS)
    step = -(-step // _ALIGNMENT) * _ALIGNMENT
    return (*range(step, codes, step), codes)


def shift_sources(codes_B: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """The rows of a `LayerCache.shifted` with the codes above and to the left; 0 is the row of zeros."""
    above_B = torch.where(codes_B >= columns, codes_B - columns + 1, 0)
    return above_B, torch.where(codes_B % columns != 0, codes_B, 0)


def spans_of(codes: Sequence[int]) -> tuple[tuple[slice, int], ...]:
    """The runs of consecutive rows at the same code, each with that code."""
    spans, first = [], 0
    for code, run in groupby(codes):
        last = first + len(list(run))
        spans.append((slice(first, last), code))
        first = last
    return tuple(spans)


def hidden_scores(codes_B: Tensor, visible_NS: Tensor | None, *, text: int, length: int) -> Tensor:
    """What to add to the scores of rows at `codes_B`, float32 [B, 1, P + length]; see `Place`."""
    if visible_NS is None:
        places_S = torch.arange(-text, length, device=codes_B.device)
        visible_BS = places_S <= codes_B[:, None]
    else:
        visible_BS = visible_NS[:, : text + length].index_select(0, codes_B)
    hidden_BS = torch.zeros_like(visible_BS, dtype=torch.float32).masked_fill_(
        ~visible_BS, -torch.inf
    )
    return hidden_BS[:, None]


def run_layer(
    block: Block, cache: LayerCache, place: Place, first_BD: Tensor, second_BD: Tensor
) -> tuple[Tensor, Tensor]:
    """A layer over one new code of each row, whose keys and values are added to the cache."""

    def attend(x_BD: Tensor) -> Tensor:
        x_BD = _shift(block.shift, cache.shifted, 0, place, x_BD)
        return _attend(block.attention, block.pattern, cache, place, x_BD)

    def feed_forward(x_BD: Tensor) -> Tensor:
        return block.feed_forward(_shift(block.shift, cache.shifted, 1, place, x_BD))

    streams: tuple[Tensor, Tensor] = block.layer(first_BD, second_BD, attend, feed_forward)
    return streams


def _attend(
    attention: Attention, pattern: Pattern, cache: LayerCache, place: Place, x_BD: Tensor
) -> Tensor:
    # One product for all three: `chunks` would make three of them without packed weights.
    parts = attention.to_qkv(x_BD).unflatten(-1, (3, attention.heads, 1, -1)).unbind(1)
    if place.turn is not None:
        turn = place.turn
        parts = tuple(rotate(part_BH1K, turn) for part_BH1K in parts)
    query_BHK, key_BHK, value_BHK = (part[:, :, 0].to(cache.keys.dtype) for part in parts)
    if place.hidden_B1S is None:
        mixed_BHK = _attend_by_spans(query_BHK, (key_BHK, value_BHK), pattern, cache, place.spans)
    else:
        rows_B = torch.arange(len(x_BD), device=x_BD.device)
        cache.keys[rows_B, :, place.codes_B] = key_BHK
        cache.values[rows_B, :, place.codes_B] = value_BHK
        mixed_BHK = attend_to_both(query_BHK, cache, place.hidden_B1S)
    return attention.to_out(mixed_BHK.flatten(1).to(x_BD.dtype))


def _attend_by_spans(
    query_BHK: Tensor,
    new: tuple[Tensor, Tensor],
    pattern: Pattern,
    cache: LayerCache,
    spans: tuple[tuple[slice, int], ...],
) -> Tensor:
    """Attention as with a growing cache, to which the `new` keys and values BHK are added."""
    mixed = []
    for rows, code in spans:
        for part, new_BHK in zip((cache.keys, cache.values), new, strict=True):
            part[rows, :, code] = new_BHK[rows]
        end = cache.captions[0].keys.shape[2] + code + 1
        seen = (part[rows, :, :end] for part in cache.joined)
        mixed.append(pattern.attend(query_BHK[rows, :, None], *seen))
    return torch.cat(mixed)[:, :, 0]


def attend_to_both(query_BHK: Tensor, cache: LayerCache, hidden_B1S: Tensor) -> Tensor:
    """Attention to the captions and the codes with one softmax over both."""
    text = cache.captions[0].keys.shape[2]
    length = hidden_B1S.shape[-1] - text
    keys_BHSK, values_BHSK = cache.keys[:, :, :length], cache.values[:, :, :length]
    query_BHK = query_BHK * query_BHK.shape[-1] ** -0.5
    parts = query_BHK.split([part.rows for part in cache.captions])
    of_captions = [
        _of_captions(part_BHK, part.keys.transpose(2, 3), part.images)
        for part_BHK, part in zip(parts, cache.captions, strict=True)
    ]
    of_codes_BHS = (keys_BHSK @ query_BHK[..., None])[..., 0]
    scores_BHS = torch.cat((torch.cat(of_captions), of_codes_BHS), dim=-1)
    shares_BHS = (scores_BHS + hidden_B1S).softmax(dim=-1).to(query_BHK.dtype)
    to_captions_BHP, to_codes_BHS = shares_BHS.split([text, length], dim=-1)
    mixed = [
        _of_captions(shares_BHP, part.values, part.images)
        for shares_BHP, part in zip(
            to_captions_BHP.split([part.rows for part in cache.captions]),
            cache.captions,
            strict=True,
        )
    ]
    return torch.cat(mixed) + (to_codes_BHS[:, :, None] @ values_BHSK)[:, :, 0]


def _of_captions(rows_BHX: Tensor, captions_UHXY: Tensor, images: int) -> Tensor:
    """Each row times its caption's matrix [B, H, Y]: one product for all images of a caption."""
    rows_UHGX = rows_BHX.unflatten(0, (-1, images)).transpose(1, 2)
    return (rows_UHGX @ captions_UHXY).transpose(1, 2).flatten(0, 1)


def _shift(
    shift: TokenShift | None,
    shifted: tuple[Tensor, ...],
    branch: int,
    place: Place,
    x_BD: Tensor,
) -> Tensor:
    """Token shift of codes; see `TokenShift`."""
    if shift is None:
        return x_BD
    inputs_BNC, moved, quarter = shifted[branch], shift.moved, shift.widths[0]
    rows_B = torch.arange(len(x_BD), device=x_BD.device)
    inputs_BNC[rows_B, place.codes_B + 1] = x_BD[:, :moved].to(inputs_BNC.dtype)
    from_above_BC = inputs_BNC[rows_B, place.above_B]
    from_left_BC = inputs_BNC[rows_B, place.left_B]
    return torch.cat((from_above_BC[:, :quarter], from_left_BC[:, quarter:], x_BD[:, moved:]), -1)
