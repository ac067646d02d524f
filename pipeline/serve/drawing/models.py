"""The runs of the workspace by name, loaded when a request asks for one, unloaded by least recent use.

Only the drawing thread loads models; importing torch waits until the first request.

Legend: B images of a batch, P codes so far, N codes of an image, H rows, W columns of pixels.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.inventory import find_folders
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.serve.config import ServeConfig
from pipeline.serve.drawing.drawing_queue import Item
from pipeline.serve.drawing.jobs import Job, Pixels, Prime, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.generate.sampler import ImageSampler
    from pipeline.models.clip import Clip

logger = logging.getLogger(__name__)

DEFAULT_RUN = "dalle"
_LIST_EVERY_S = 2.0
_CHECKPOINTS = "checkpoints"


def list_runs(workspace: Workspace) -> dict[str, Path]:
    """The runs that have a checkpoint, by name, sorted."""
    prefix = "runs/"
    folders = (folder for folder in find_folders(workspace.root) if folder.contract == "run")
    return {
        folder.name.removeprefix(prefix): folder.path
        for folder in folders
        if any(folder.path.glob(f"{_CHECKPOINTS}/step-*/checkpoint.json"))
    }


class Models:
    """The runs that can draw; `get` is for the drawing thread alone, the rest for any."""

    def __init__(self, config: ServeConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self._workspace = Workspace(config.workspace)
        self._listed: tuple[float, dict[str, Path]] | None = None
        self._loaded: OrderedDict[str, LoadedDalle] = OrderedDict()
        self._clip: Clip | None = None

    @property
    def runs(self) -> dict[str, Path]:
        """The runs that have a checkpoint, by name; listed again every few seconds."""
        now_s = self._clock()
        if self._listed is None or now_s - self._listed[0] > _LIST_EVERY_S:
            self._listed = now_s, list_runs(self._workspace)
        return self._listed[1]

    @property
    def loaded(self) -> list[str]:
        """The names of the loaded models, least recently used first."""
        return list(self._loaded)

    def default(self) -> str | None:
        """The name to use if a request gives none: --run, else dalle, else the first; None without any."""
        runs = self.runs
        wanted = self._config.run or DEFAULT_RUN
        return wanted if wanted in runs else None if self._config.run else next(iter(runs), None)

    def get(self, name: str) -> LoadedDalle:
        """The model of a run, loaded from its latest checkpoint.

        Raises ModelError if it can't be loaded, DependencyError if a package is missing.
        """
        path = self.runs.get(name)
        if path is None:
            raise ModelError(f"There is no run {name!r} with a checkpoint any more.")
        version = _version(path)
        loaded = self._loaded.pop(name, None)
        if loaded is None or loaded.version != version:
            del loaded
            while len(self._loaded) >= self._config.loaded_models:
                unloaded, _ = self._loaded.popitem(last=False)
                logger.info("Unloaded %s", unloaded)
            loaded = self._load(name, version)
        self._loaded[name] = loaded
        return loaded

    def _load(self, name: str, version: tuple[Any, ...]) -> LoadedDalle:
        from pipeline.generate.inputs import find_model_inputs
        from pipeline.generate.sampler import load_sampler

        config = self._config
        options = GenerateConfig(
            workspace=config.workspace,
            run=name,
            precision=config.precision,
            device=config.device,
            threads=config.threads,
            batch_size=config.batch_size,
        )
        try:
            inputs = find_model_inputs(options, self._workspace)
            sampler = load_sampler(options, inputs)
        except ConfigError as error:  # an option of `serve` is not the fault of the request
            raise ModelError(str(error)) from error
        logger.info("Loaded %s from %s", name, inputs.checkpoint)
        return LoadedDalle(
            sampler, checkpoint=inputs.digest, version=version, find_clip=self._find_clip
        )

    def _find_clip(self) -> Clip | None:
        if self._clip is None and self._config.clip is not None:
            from pipeline.models.clip import find_clip, load_clip
            from pipeline.models.devices import pick_device

            folder = find_clip(self._config.clip)
            self._clip = load_clip(folder, pick_device(self._config.device))
        return self._clip


def _version(run: Path) -> tuple[Any, ...]:
    """What changes when a run gets another latest checkpoint."""
    names = sorted(path.name for path in (run / _CHECKPOINTS).glob("step-*"))
    manifest = run / "manifest.json"
    return (*names, manifest.stat().st_mtime_ns if manifest.exists() else None)


class LoadedDalle:
    """A loaded model; `checkpoint` is the hash of its checkpoint."""

    def __init__(
        self,
        sampler: ImageSampler,
        *,
        checkpoint: str,
        version: tuple[Any, ...],
        find_clip: Callable[[], Clip | None],
    ) -> None:
        self._sampler, self.checkpoint, self.version = sampler, checkpoint, version
        self._find_clip = find_clip

    def is_cut(self, prompt: str) -> bool:
        """Whether the prompt has more tokens than the model reads."""
        from pipeline.generate.prompts import Prompt

        return self._sampler.too_long([Prompt(text=prompt)])[0]

    def seed_of(self, job: Job, index: int) -> int:
        """The seed of a job's image: that of `pipeline generate --seed`."""
        from pipeline.models.dalle.sampling import image_seed

        return image_seed(job.seed, job.prompt, index)

    def draw(
        self,
        recipe: Recipe,
        items: Sequence[Item],
        watch: Callable[[Sequence[Item], Callable[[], tuple[Sequence[Pixels], int]]], None],
    ) -> Sequence[Pixels]:
        """The images; if memory runs out, in smaller batches."""
        from pipeline.core.progress import no_progress
        from pipeline.generate.prompts import Order, Prompt

        orders = [
            Order(
                number=number,
                index=item.index,
                prompt=Prompt(text=item.job.prompt),
                seed=self.seed_of(item.job, item.index),
            )
            for number, item in enumerate(items)
        ]

        def forward(batch: Sequence[Order], codes_BP: Tensor) -> None:
            own = [items[order.number] for order in batch]
            watch(own, lambda: self._decode_part(codes_BP))

        sampler = self._with(recipe)
        drawn = sampler.draw_all(orders, no_progress, forward)
        return [pixels_HWC for _, batch in drawn for pixels_HWC in batch]

    def score(self, prompt: str, images: Sequence[Pixels]) -> Sequence[float]:
        """The CLIP scores of images; raises ModelError without a CLIP."""
        import numpy as np

        clip = self._find_clip()
        if clip is None:
            raise ModelError("Choosing the best needs a CLIP model: start the server with --clip.")
        return clip.score([prompt] * len(images), np.stack(images))

    def _with(self, recipe: Recipe) -> ImageSampler:
        """The sampler with the options of a recipe; it shares the weights."""
        config = dataclasses.replace(
            self._sampler.config,
            top_k=recipe.top_k,
            temperature=recipe.temperature,
            cond_scale=recipe.cond_scale,
        )
        first_codes_P = None if recipe.prime is None else self._first_codes(recipe.prime)
        return dataclasses.replace(self._sampler, config=config, first_codes_P=first_codes_P)

    def _first_codes(self, prime: Prime) -> Tensor:
        """The codes of the upper part of an uploaded image, int64 [P]."""
        import torch
        from PIL import Image

        from pipeline.generate.sampler import encode_prime
        from pipeline.models.codecs.pixels import square_pixels

        codec, device = self._sampler.codec, self._sampler.device
        rows = None if prime.rows is None else min(prime.rows, codec.grid[0] - 1)
        square_HWC = square_pixels(Image.fromarray(prime.pixels_HWC), codec.image_size)
        with torch.inference_mode():
            return encode_prime(square_HWC, codec, device, rows=rows)

    def _decode_part(self, codes_BP: Tensor) -> tuple[Sequence[Pixels], int]:
        """The complete rows of unfinished images, each uint8 [rows, W, 3], and the height of an image.

        The codes that are still missing are filled with the last row's: only the rows above are shown.
        """
        import torch

        from pipeline.models.codecs.pixels import to_pixels

        codec = self._sampler.codec
        rows, columns = codec.grid
        done = codes_BP.shape[1] // columns
        last = codes_BP[:, (done - 1) * columns : done * columns]
        codes_BN = torch.cat((codes_BP[:, : done * columns], *[last] * (rows - done)), dim=1)
        with torch.inference_mode():
            pixels_BHWC = to_pixels(codec.decode(codes_BN))
        height = pixels_BHWC.shape[1]
        return list(pixels_BHWC[:, : height * done // rows]), height
