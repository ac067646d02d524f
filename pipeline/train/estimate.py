"""What training takes, guessed before its first step.

The time of a step is the model's FLOPs (see `models.dalle.flops`) at a share of the rate of plain matrix
products, which is measured in half a second. The guess is corrected as soon as some steps are done. On CPUs
the share was 0.74 in fp32 and 0.68 in bf16 for the blog's model, and 0.47 for one of 2.8 million parameters;
on CUDA it is a guess.
"""

from __future__ import annotations

from pipeline.core.estimate import Estimate, memory_so_far
from pipeline.core.quantities import rough_duration
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.flops import training_flops
from pipeline.models.devices import matmul_rate
from pipeline.train.compiling import is_compiled
from pipeline.train.config import TrainConfig
from pipeline.train.distributed import Ranks, full_shape
from pipeline.train.precision import DTYPES
from pipeline.train.run_folder import RunFolder
from pipeline.train.state import TrainState

_SHARE_OF_PRODUCTS = {"cpu": 0.6, "cuda": 0.35}
_COMPILING_S = 60.0  # of torch.compile, before the first step
# Activations of a position, in numbers: of a layer relative to its width, and copies of a logit.
_LAYER_ACTIVATIONS, _LOGIT_COPIES = 20, 3


def estimate_training(
    config: TrainConfig, state: TrainState, folder: RunFolder, ranks: Ranks, total_steps: int
) -> Estimate:
    """The work of a run from its current step on, and what it takes."""
    parameters = sum(full_shape(parameter).numel() for parameter in state.model.parameters())
    model, left = state.hyperparameters, total_steps - state.step
    samples = config.schedule.batch_size * config.schedule.ga_steps
    tokens = samples * ranks.size * model.total_seq_len
    device, precision = ranks.device.type, config.parallel.precision
    where = device if ranks.size == 1 else f"{ranks.size} × {device}"
    return Estimate(
        stage="train",
        work=f"train {parameters:,} parameters on {where} in {precision}, {samples * ranks.size:,} samples "
        f"({tokens:,} tokens) a step, {left:,} steps",
        folder=folder.root,
        disk_bytes=_disk_bytes(config, parameters, left),
        memory_bytes=_memory_bytes(config, model, ranks, parameters),
        times=_describe_times(config, state, ranks, samples, left),
    )


def _describe_times(
    config: TrainConfig, state: TrainState, ranks: Ranks, samples: int, left: int
) -> str:
    device = ranks.device.type
    rate = matmul_rate(ranks.device, DTYPES[config.parallel.precision]) * _SHARE_OF_PRODUCTS[device]
    step_s = samples * training_flops(state.hyperparameters) / rate
    first_s = step_s + _COMPILING_S * is_compiled(state.model)
    whole_s = first_s + step_s * max(0, left - 1)
    return f"{rough_duration(first_s)} to the first step, {rough_duration(whole_s)} in all"


def _disk_bytes(config: TrainConfig, parameters: int, left: int) -> int:
    """The checkpoints at most at once: those kept, and the next one before the oldest is removed."""
    numbers = 3 + bool(config.optimizer.ema_decay)  # weights, two moments, their average
    every = config.logging.save_every or left
    saved = -(-left // every) if every else 0
    return 4 * parameters * numbers * min(saved, config.logging.keep_n_checkpoints + 1)


def _memory_bytes(config: TrainConfig, model: DalleConfig, ranks: Ranks, parameters: int) -> int:
    """The peak: weights, gradients, moments, and the activations of a batch."""
    shards = ranks.size if ranks.kind in ("fsdp", "deepspeed") else 1
    on_cpu = ranks.device.type == "cpu"
    # On a CPU the weights are part of what is loaded already.
    numbers = 3 + bool(config.optimizer.ema_decay) + (not on_cpu)
    layers = 1 if model.reversible else model.depth
    activations = model.total_seq_len * layers * model.dim * _LAYER_ACTIVATIONS
    logits = model.text_seq_len * model.total_text_tokens
    logits += model.image_seq_len * model.num_image_tokens
    width = 4 if config.parallel.precision == "fp32" else 2
    batch = config.schedule.batch_size * (activations * width + logits * 4 * _LOGIT_COPIES)
    return 4 * parameters * numbers // shards + batch + (memory_so_far() if on_cpu else 0)
