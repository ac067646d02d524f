"""What a run evaluates: its losses, also on the validation split, and grids of sample images."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.core.storage import write_bytes
from pipeline.core.workspace import Workspace
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.load import find_codec, load_codec
from pipeline.models.dalle.model import Dalle, DalleLoss
from pipeline.models.dalle.sampling import Choice, image_seed, sample_codes
from pipeline.models.dalle.static_decoder import FixedShapes
from pipeline.models.tokenizers.load import load_tokenizer
from pipeline.train.compiling import eager
from pipeline.train.config import TrainConfig
from pipeline.train.deepspeed import zero_stage
from pipeline.train.distributed import Ranks, Stop
from pipeline.webdata.reader import ShardReader, TokenBatch

logger = logging.getLogger(__name__)
NAMES = ("loss", "loss_text", "loss_image")


def loss_values(loss: DalleLoss) -> Tensor:
    """The three losses as a detached float64 tensor [3], in the order of `NAMES`."""
    return torch.stack([loss.total, loss.text, loss.image]).detach().double()


def mean_losses(losses_S3: Tensor, weights: Sequence[float] | None = None) -> dict[str, float]:
    """Losses by name: the mean over all axes but the last, or weighted by `weights`, which sum to 1."""
    rows = losses_S3.reshape(-1, len(NAMES))
    if weights is None:
        means = rows.mean(dim=0)
    else:
        means = (rows * torch.tensor(weights, dtype=rows.dtype)[:, None]).sum(dim=0)
    return dict(zip(NAMES, means.tolist(), strict=True))


@torch.no_grad()
def validate(
    reader: ShardReader,
    ranks: Ranks,
    loss_of: Callable[[TokenBatch], DalleLoss],
    module: nn.Module,
    *,
    config: TrainConfig,
    stop: Stop,
) -> dict[str, float] | None:
    """Mean losses over the first samples of the split's seeded order: val_loss and its two parts.

    Each batch is split over the ranks. FSDP needs every rank to call the model equally often, so a rank with
    no samples left computes one and discards it. None if the ranks agree to stop on the way.
    """
    rows = reader.order(seed=config.seed, epoch=0)[: config.logging.val_samples]
    whole = config.schedule.batch_size * ranks.size
    losses, weights = [], []
    module.eval()
    for start in range(0, len(rows), whole):
        if stop.agree():
            break
        mine = np.array_split(rows[start : start + whole], ranks.size)[ranks.rank]
        batch = reader.gather(mine if len(mine) else rows[:1])
        with eager(module, len(mine) != config.schedule.batch_size):
            losses.append(loss_values(loss_of(batch)))
        weights.append(len(mine) / len(rows))
    module.train()
    if stop.agreed:
        return None
    all_weights = ranks.gather(torch.tensor(weights, dtype=torch.float64)).flatten().tolist()
    means = mean_losses(ranks.gather(torch.stack(losses)), all_weights)
    return {f"val_{name}": value for name, value in means.items()}


PROMPTS = 4  # rows of a grid if no prompts are given
COLUMNS = 4
CHOICE = Choice(filter_thres=0.9, temperature=1.0)  # as in DALLE-pytorch's train_dalle.py
# The DALLE-models zoo's prompts for models trained on general data.
GENERAL_PROMPTS = (
    "An armchair in the shape of an avocado. An armchair imitating an avocado.",
    "A red tshirt with a black circle drawn on it.",
    "People playing soccer on a field.",
)


@dataclass(frozen=True, kw_only=True)
class GridSampler:
    """Draws the same prompts with the same random numbers each time.

    `fixed` draws by operators of fixed shapes, as CUDA wants. The model is never compiled for it: a graph of
    the training step does not fit.
    """

    prompts: tuple[str, ...]
    tokens_BT: torch.Tensor
    codec: Codec
    seeds: tuple[int, ...]
    fixed: bool

    def draw(self, model: nn.Module, stop: Stop) -> npt.NDArray[np.uint8] | None:
        """A row of images per prompt as one RGB image [H, W, 3]; None if this rank is asked to stop."""
        assert isinstance(model, Dalle)

        def check(_codes_BP: Tensor) -> None:
            if stop.asked:
                raise _StoppedError

        model.eval()
        try:
            with eager(model, True):
                codes_BN = sample_codes(
                    model,
                    self.tokens_BT,
                    rows=range(len(self.seeds)),
                    image_seeds=self.seeds,
                    choice=CHOICE,
                    fixed=FixedShapes() if self.fixed else None,
                    watch=check,
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
    """Drawing was interrupted by a stop request."""


def make_grid_sampler(config: TrainConfig, reader: ShardReader, ranks: Ranks) -> GridSampler | None:
    """The sampler for a run's grids; None if they are disabled or not possible."""
    index, shards = reader.index, reader.folder
    if not config.logging.sample_every:
        return None
    if (reason := why_no_grids(config, ranks)) is not None:
        logger.warning(
            "No sample grids: %s. Generate from its checkpoints instead: pipeline generate --checkpoint %s …",
            reason,
            Workspace(config.workspace).run(config.name) / "checkpoints/step-NNNNNN",
        )
        return None
    try:
        folder = find_codec(Workspace(config.workspace).codecs, index.codec.fingerprint)
    except ModelError as error:
        logger.warning("No sample grids: %s", error)
        return None
    prompts = choose_prompts(config, shards)
    tokenizer = load_tokenizer(shards / index.tokenizer.file)
    repeated = [prompt for prompt in prompts for _ in range(COLUMNS)]
    tokens = torch.from_numpy(tokenizer.encode_batch(repeated, index.text_seq_len))
    seeds = tuple(image_seed(config.seed, p, i % COLUMNS) for i, p in enumerate(repeated))
    return GridSampler(
        prompts=prompts,
        tokens_BT=tokens.to(ranks.device, torch.int64),
        codec=load_codec(folder, ranks.device),
        seeds=seeds,
        fixed=ranks.device.type == "cuda",
    )


def why_no_grids(config: TrainConfig, ranks: Ranks) -> str | None:
    """Why a run can't draw samples in training, or None: rank 0 draws alone and needs all weights."""
    if ranks.kind == "fsdp":
        return "--parallel fsdp shards the weights"
    if ranks.kind == "deepspeed" and zero_stage(config) == 3:
        return "--zero-stage 3 shards the weights"
    if config.model.kind != "dalle":
        return f"--model {config.model.kind} does not support them"
    return None


def choose_prompts(config: TrainConfig, shards: Path) -> tuple[str, ...]:
    """The prompts given (`general`: the zoo's), else captions from the validation split."""
    if config.logging.sample_prompts == ("general",):
        return GENERAL_PROMPTS
    if config.logging.sample_prompts:
        return config.logging.sample_prompts
    for split in ("val", "train"):
        reader = ShardReader(shards, split, check_hashes=False)
        rows = reader.order(seed=config.seed, epoch=0).tolist() if len(reader) else []
        captions = dict.fromkeys(reader.sample(row).caption for row in rows[: 16 * PROMPTS])
        if captions:
            return tuple(captions)[:PROMPTS]
    return ()
