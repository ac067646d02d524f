"""The images to generate: checks of the options, the prompts, and the seed of each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import ConfigError
from pipeline.core.text_files import read_lines
from pipeline.generate.config import MAX_IMAGES, GenerateConfig
from pipeline.models.dalle.sampling import image_seed


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt; `given` is the text that the model completed to it, None if it was not completed."""

    text: str
    given: str | None = None


@dataclass(frozen=True, kw_only=True)
class Order:
    """One image to draw: the `index`-th of the prompt with number `number`."""

    number: int
    index: int
    prompt: Prompt
    seed: int


def check_options(config: GenerateConfig) -> None:
    """Raise ConfigError for options that can't be used or contradict each other."""
    for option in ("top_k", "temperature", "cond_scale"):
        if not math.isfinite(value := getattr(config, option)):
            raise ConfigError(f"--{option.replace('_', '-')} is {value}. Give a finite number.")
    if config.prime_rows is not None and config.prime is None:
        raise ConfigError("--prime-rows needs an image to start with. Add --prime FILE.")
    if (config.vqgan_config is None) != (config.vqgan_checkpoint is None):
        raise ConfigError("--vqgan-config and --vqgan-checkpoint belong together. Give both.")
    if config.vqgan_config is not None and config.codec is not None:
        raise ConfigError("--vqgan-config and --codec both name a codec. Give only one of them.")
    if (config.best is None) != (config.of is None):
        raise ConfigError(
            "--best and --of belong together. Give both: --best 32 --of 512 draws 512 and keeps 32."
        )
    if config.best is None or config.of is None:
        return
    if config.best > config.of:
        raise ConfigError(
            f"--best {config.best} --of {config.of} would keep more images than it draws. Give a larger --of."
        )
    if config.clip is None:
        raise ConfigError(
            "--best needs a CLIP model to rank the images. Give --clip openai/clip-vit-base-patch32, "
            "or the folder of a CLIP model."
        )
    if config.num_images != 1:
        raise ConfigError("--best and --of set the number of images. Leave out --num-images.")


def list_prompts(config: GenerateConfig) -> list[str]:
    """The prompts in order, split at `|`; with `gentxt` one empty prompt if none is given.

    Raises ConfigError if there are none, one is empty or not text, they make too many images, or the file
    can't be read.
    """
    parts = [part.strip() for line in config.prompts for part in line.split("|")]
    if config.prompts_file is not None:
        parts += _read_prompts(config.prompts_file)
    _check_text(parts)
    if len(parts) * config.drawn > MAX_IMAGES:
        raise ConfigError(
            f"{len(parts):,} prompts with {config.drawn:,} images each exceed the limit of {MAX_IMAGES:,} "
            "images per command. Split them over several commands, each with its own --name."
        )
    if config.gentxt:
        return parts or [""]
    if not parts:
        raise ConfigError(
            'No prompt given. Expected: pipeline generate "a red cube", or --prompts-file FILE.'
        )
    if "" in parts:
        raise ConfigError(
            f"Prompt {parts.index('') + 1} of {len(parts)} is empty. Give it some text, or use --gentxt to "
            "have the model write it."
        )
    return parts


def _read_prompts(file: Path) -> list[str]:
    try:
        lines = read_lines(file)
    except ConfigError as error:
        raise ConfigError(f"The prompts file {error}") from error
    return [part.strip() for line in lines if line.strip() for part in line.split("|")]


def _check_text(prompts: Sequence[str]) -> None:
    """Raise ConfigError for non-UTF-8 bytes, which arrive from the command line as lone surrogates."""
    for number, prompt in enumerate(prompts, 1):
        shown = prompt.encode("utf-8", "backslashreplace").decode()
        if "\0" in prompt or shown != prompt:
            raise ConfigError(
                f"Prompt {number} of {len(prompts)} is not UTF-8 text: '{shown[:80]}'. Set the "
                "terminal to UTF-8, or use --prompts-file."
            )


def list_orders(prompts: Sequence[Prompt], *, count: int, seed: int) -> list[Order]:
    """`count` images of every prompt, prompt by prompt."""
    return [
        Order(number=number, index=index, prompt=prompt, seed=image_seed(seed, prompt.text, index))
        for number, prompt in enumerate(prompts)
        for index in range(count)
    ]
