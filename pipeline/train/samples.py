"""Grids of drawn images, while training goes on and for the model's card."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from pipeline.core.errors import ModelError
from pipeline.core.storage import write_bytes
from pipeline.core.workspace import Workspace
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.load import find_codec, load_codec
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import Choice, image_seed, sample_codes
from pipeline.models.tokenizers.load import load_tokenizer
from pipeline.train.config import TrainConfig
from pipeline.train.deepspeed_options import zero_stage
from pipeline.train.ranks import Ranks
from pipeline.train.stopping import Stop
from pipeline.webdata.reader import ShardReader

logger = logging.getLogger(__name__)

PROMPTS = 4  # rows of a grid, where none are given
COLUMNS = 4
CHOICE = Choice(filter_thres=0.9, temperature=1.0)  # what DALLE-pytorch's train_dalle.py draws with

# What the DALLE-models zoo asks of a model that was trained on general data.
GENERAL_PROMPTS = (
    "An armchair in the shape of an avocado. An armchair imitating an avocado.",
    "A red tshirt with a black circle drawn on it.",
    "People playing soccer on a field.",
)


@dataclass(frozen=True, kw_only=True)
class Painter:
    """Draws the same prompts with the same random numbers whenever it is asked to."""

    prompts: tuple[str, ...]
    tokens_BT: torch.Tensor
    codec: Codec
    seeds: tuple[int, ...]

    def draw(self, model: nn.Module, stop: Stop) -> npt.NDArray[np.uint8] | None:
        """A row of images for each prompt, as one RGB image [H, W, 3]; None where this rank is to stop."""
        assert isinstance(model, Dalle)
        model.eval()
        try:
            with _stoppable(model, stop):
                codes_BN = sample_codes(
                    model,
                    self.tokens_BT,
                    rows=range(len(self.seeds)),
                    image_seeds=self.seeds,
                    choice=CHOICE,
                )
        except _StoppedError:
            return None
        finally:
            model.train()
        with torch.inference_mode():
            images_BCHW = self.codec.decode(codes_BN).clamp(0, 1)
        pixels = (images_BCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        rows = [np.hstack(list(row)) for row in np.split(pixels, len(self.prompts))]
        return np.vstack(rows)

    def write(self, pixels_HWC: npt.NDArray[np.uint8], path: Path) -> None:
        """Write a grid as PNG."""
        file = io.BytesIO()
        Image.fromarray(pixels_HWC).save(file, "PNG")
        write_bytes(path, file.getvalue())


class _StoppedError(Exception):
    """Drawing ends here."""


@contextlib.contextmanager
def _stoppable(model: Dalle, stop: Stop) -> Iterator[None]:
    """Within, the model refuses the next code once this rank is asked to stop."""

    def check(*_: object) -> None:
        if stop.asked:
            raise _StoppedError

    hook = model.transformer.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def find_painter(config: TrainConfig, reader: ShardReader, ranks: Ranks) -> Painter | None:
    """The painter of a run that wants grids; None where it does not, or can't have them."""
    index, shards = reader.index, reader.folder
    if not config.sample_every:
        return None
    if (reason := why_not_drawn(config, ranks)) is not None:
        logger.warning(
            "No grids of images: %s. Draw from its checkpoints: pipeline generate --checkpoint %s …",
            reason,
            Workspace(config.workspace).run(config.name) / "checkpoints/step-NNNNNN",
        )
        return None
    try:
        folder = find_codec(Workspace(config.workspace).codecs, index.codec.fingerprint)
    except ModelError as error:
        logger.warning("No grids of images: %s", error)
        return None
    prompts = choose_prompts(config, shards)
    tokenizer = load_tokenizer(shards / index.tokenizer.file)
    repeated = [prompt for prompt in prompts for _ in range(COLUMNS)]
    tokens = torch.from_numpy(tokenizer.encode_batch(repeated, index.text_seq_len))
    seeds = tuple(image_seed(config.seed, p, i % COLUMNS) for i, p in enumerate(repeated))
    return Painter(
        prompts=prompts,
        tokens_BT=tokens.to(ranks.device, torch.int64),
        codec=load_codec(folder, ranks.device),
        seeds=seeds,
    )


def why_not_drawn(config: TrainConfig, ranks: Ranks) -> str | None:
    """Why a run can't draw while it trains, where it can't: rank 0 alone draws, with all weights."""
    if ranks.kind == "fsdp":
        return "--parallel fsdp parts the weights"
    if ranks.kind == "deepspeed" and zero_stage(config) == 3:
        return "--zero-stage 3 parts the weights"
    if config.model != "dalle":
        return f"--model {config.model} can't draw"
    return None


def choose_prompts(config: TrainConfig, shards: Path) -> tuple[str, ...]:
    """The captions to draw: those given (`general`: the zoo's), else some that training never sees."""
    if config.sample_prompts == ("general",):
        return GENERAL_PROMPTS
    if config.sample_prompts:
        return config.sample_prompts
    for split in ("val", "train"):
        reader = ShardReader(shards, split, check_hashes=False)
        rows = reader.order(seed=config.seed, epoch=0).tolist() if len(reader) else []
        captions = dict.fromkeys(reader.sample(row).caption for row in rows[: 16 * PROMPTS])
        if captions:
            return tuple(captions)[:PROMPTS]
    return ()
