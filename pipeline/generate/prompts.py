"""Which pictures are asked for. Pure, but for reading the file of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.models.sampling import image_seed


@dataclass(frozen=True, kw_only=True)
class Order:
    """One picture to draw: the `index`-th of the prompt with number `number`."""

    number: int
    index: int
    prompt: str
    seed: int

    @property
    def file(self) -> str:
        """Name of the picture's file."""
        return f"{self.number:04d}-{self.index:02d}.png"


def list_prompts(prompts: Sequence[str], file: Path | None) -> list[str]:
    """The prompts in order, split at `|`, without empty ones.

    Raises ConfigError where none are given, or the file can't be read.
    """
    lines = list(prompts)
    if file is not None:
        try:
            lines += file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"The file of prompts {file} can't be read ({error}). Give a UTF-8 text file."
            ) from error
    found = [part.strip() for line in lines for part in line.split("|")]
    found = [prompt for prompt in found if prompt]
    if not found:
        raise ConfigError(
            'No prompt is given. Expected --prompts "a red cube" or --prompts-file FILE.'
        )
    return found


def list_orders(prompts: Sequence[str], *, num_images: int, seed: int) -> list[Order]:
    """`num_images` pictures of every prompt, prompt by prompt."""
    return [
        Order(number=number, index=index, prompt=prompt, seed=image_seed(seed, prompt, index))
        for number, prompt in enumerate(prompts)
        for index in range(num_images)
    ]
