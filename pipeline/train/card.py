"""The model card: a run's README.md, in the format of the DALLE-models zoo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline.core.config import declared_options, option_values
from pipeline.core.storage import write_bytes
from pipeline.models.dalle.config import DalleConfig
from pipeline.train.config import ModelOptions, TrainConfig
from pipeline.train.evaluation import choose_prompts

if TYPE_CHECKING:
    from pipeline.train.trainer import Trainer


_ZOO_SIZES = {
    "MODEL_DIM": "dim",
    "TEXT_SEQ_LEN": "text_seq_len",
    "DEPTH": "depth",
    "HEADS": "heads",
    "DIM_HEAD": "dim_head",
    "REVERSIBLE": "reversible",
}
_LISTED = {*_ZOO_SIZES.values(), "loss_img_weight", "attn_types", "num_text_tokens"}


def write_card(trainer: Trainer, inputs: Mapping[str, str]) -> None:
    """Write README.md: hyper-parameters, data, losses, prompts and sample images."""
    text = "\n".join(
        (
            f"# {trainer.config.name}",
            "",
            *_introduction(trainer),
            "## Hyperparameters",
            "",
            "```",
            *(
                f"{name} = {value}"
                for name, value in zoo_hyperparameters(
                    trainer.config, trainer.state.hyperparameters
                )
            ),
            "```",
            "",
            *_data(trainer, inputs),
            *_losses(trainer),
            *_generations(trainer),
        )
    )
    write_bytes(trainer.folder.root / "README.md", text.encode())


def zoo_hyperparameters(config: TrainConfig, model: DalleConfig) -> Iterator[tuple[str, str]]:
    """Hyper-parameters under the zoo's names, then those that the zoo does not list."""
    values = option_values(config) | model.as_dict()
    yield "16_BIT_PRECISION", str(values["precision"] != "fp32")
    length = "EPOCHS" if values["steps"] is None else "STEPS"
    yield length, str(values[length.lower()])
    yield "BATCH_SIZE", str(values["batch_size"] * values["ga_steps"])
    yield "LEARNING_RATE", f"{values['learning_rate']:g}"
    yield "NULL_COND_PROB", f"{values['null_cond_prob']:g}"
    yield "GRAD_CLIP_NORM", f"{values['clip_grad_norm']:g}"
    yield from ((shown, str(values[name])) for shown, name in _ZOO_SIZES.items())
    yield "LOSS_IMG_WEIGHT", f"{values['loss_img_weight']:g}"
    yield "LR_DECAY", str(values["lr_decay"] == "plateau")
    yield "ATTN_TYPES", str(tuple(values["attn_types"]))
    for name in declared_options(ModelOptions):
        if name in model.as_dict() and name not in _LISTED:
            yield name.upper(), str(values[name])
    for name in ("lr_decay", "warmup_steps", "warmup_type", "weight_decay", "beta2", "ema_decay"):
        yield f"{name.upper()}{'_KIND' if name == 'lr_decay' else ''}", str(values[name])
    yield "PRECISION", values["precision"]


def _introduction(trainer: Trainer) -> Iterator[str]:
    counts, details = trainer.summary()
    yield (
        f"A DALL·E of {counts['parameters']:,} parameters after {counts['steps']:,} steps on "
        f"{counts['samples']:,} samples. Its last checkpoint is `{details['checkpoint']}`; "
        "`pipeline export` makes a `dalle.pt` of it."
    )
    yield ""


def _data(trainer: Trainer, inputs: Mapping[str, str]) -> Iterator[str]:
    index = trainer.reader.index
    yield "## Data"
    yield ""
    yield "| what | name | fingerprint |"
    yield "|---|---|---|"
    for name, digest in inputs.items():
        yield f"| input | {name} | `{digest}` |"
    yield f"| codec | {index.codec.name} | `{index.codec.fingerprint}` |"
    yield f"| tokenizer | {index.tokenizer.file} | `{index.tokenizer.fingerprint}` |"
    yield ""
    yield f"{index.samples['train']:,} samples to train on, {index.samples['val']:,} to validate with."
    earlier = ", ".join(f"{name} ({n} epochs)" for name, n in trainer.state.passes.items())
    if earlier:
        yield f"Trained before on {earlier}."
    yield ""


def _losses(trainer: Trainer) -> Iterator[str]:
    yield "## Losses"
    yield ""
    yield "| loss, nats per position | last |"
    yield "|---|---|"
    for name, value in trainer.folder.last_losses().items():
        yield f"| {name} | {value:.4f} |"
    yield ""


def _generations(trainer: Trainer) -> Iterator[str]:
    prompts = choose_prompts(trainer.config, trainer.reader.folder)
    grid = trainer.folder.grid(trainer.state.step)
    yield "## Generations"
    yield ""
    if grid.exists():
        yield "One row per prompt, drawn by the last checkpoint and not cherry-picked:"
        yield ""
        yield from (f'* "{prompt}"' for prompt in prompts)
        yield ""
        yield f"![generations](samples/{grid.name})"
    else:
        yield "None were drawn in training (`--sample-every`). To draw:"
        yield ""
        yield "```"
        yield from (f'pipeline generate --run {trainer.config.name} "{p}"' for p in prompts)
        yield "```"
    yield ""
