"""Checkpoint → images: draws pictures from prompts. Reads runs/NAME and codecs/*, writes generated/NAME
or another folder.

    generated/<name>/
      NNNN-RR.png     picture RR of prompt NNNN, with CLIP by rank; its PNG text says how it was made
      records.jsonl   one line a picture: prompt, seed, checkpoint, scores, file, sha256
      contact.png     all of them on a sheet
      manifest.json   last

Every picture has a seed of its own, made of `--seed`, its prompt and its number: what else is drawn
with it changes nothing. A killed run goes on with the first prompt whose pictures are not there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence

from pipeline.config import resolved
from pipeline.contracts import StageReport
from pipeline.errors import ConfigError
from pipeline.generate.artist import Artist, load_artist
from pipeline.generate.config import GenerateConfig
from pipeline.generate.materials import find_materials
from pipeline.generate.prompts import Order, Prompt, check_options, list_orders, list_prompts
from pipeline.generate.writing import Drawn, Sketchbook, check_place
from pipeline.models.clip import Clip, ClipFolder, find_clip, load_clip
from pipeline.progress import Progress, no_progress
from pipeline.storage import find_current, make_manifest, sha256_bytes, sha256_file, write_manifest
from pipeline.workspace import Workspace

logger = logging.getLogger(__name__)


def run(config: GenerateConfig, progress: Progress = no_progress) -> StageReport:
    """Draw every prompt; nothing to do if prompts, options and checkpoint are those of last time.

    Raises ConfigError for options that can't be used or a folder of other things, ContractError where the
    run has not finished, ModelError where checkpoint, codec, tokenizer or CLIP are damaged or don't fit,
    DependencyError where CLIP's package is missing.
    """
    check_options(config)
    workspace = Workspace(config.workspace)
    folder = config.out or workspace.generated(config.name)
    if config.out is not None:
        check_place(config.out)
    given = list_prompts(config)
    materials = find_materials(config, workspace)
    clip_folder = find_clip(config.clip) if config.clip else None
    inputs = materials.inputs | _outside_inputs(config, given, clip_folder)
    plan = resolved(config)
    current = find_current(folder, "generated", config=plan, inputs=inputs)
    if current is not None:
        return StageReport(
            stage="generate", outcome="unchanged", counts=current.counts, outputs=(str(folder),)
        )
    artist = load_artist(config, materials)
    clip = load_clip(clip_folder, artist.device) if clip_folder else None
    prompts = artist.complete(given) if config.gentxt else [Prompt(text=text) for text in given]
    long = _tell_of_long(prompts, artist)
    book = Sketchbook(folder, sha256_bytes(json.dumps([plan, inputs]).encode()))
    orders = list_orders(prompts, count=config.drawn, seed=config.seed)
    todo = [order for order in orders if order.number not in book.finished_prompts]
    facts = _facts(config, materials.digest)
    pictures = draw(artist, clip, todo, progress)
    book.write_prompts(pictures, drawn=config.drawn, keep=config.kept, facts=facts)
    kept = config.kept * len(prompts)
    counts = {
        "images": len(orders),
        "written": kept,
        "outranked": len(orders) - kept,
        "failed": 0,
        "prompts": len(prompts),
        "prompts_cut": long,
    }
    files = book.finish()
    write_manifest(
        folder,
        make_manifest("generated", config=plan, inputs=inputs, counts=counts, files=files),
    )
    return StageReport(stage="generate", outcome="done", counts=counts, outputs=(str(folder),))


def draw(
    artist: Artist, clip: Clip | None, orders: Sequence[Order], progress: Progress
) -> Iterator[Drawn]:
    """Every picture, with its score where there is a CLIP."""
    for batch, pixels_BHWC in artist.draw_all(orders, progress):
        scores: Sequence[float | None] = [None] * len(batch)
        if clip is not None:
            scores = clip.score([order.prompt.text for order in batch], pixels_BHWC)
        for order, pixels_HWC, score in zip(batch, pixels_BHWC, scores, strict=True):
            yield Drawn(order=order, pixels_HWC=pixels_HWC, score=score)


def _outside_inputs(
    config: GenerateConfig, prompts: Sequence[str], clip: ClipFolder | None
) -> dict[str, str]:
    """What comes from outside of the workspace, named by its hash."""
    inputs = {"prompts": sha256_bytes("\n".join(prompts).encode())}
    if config.prime is not None:
        try:
            inputs["prime"] = sha256_file(config.prime)
        except OSError as error:
            raise ConfigError(
                f"--prime {config.prime} can't be read ({error.strerror}). Give the file of a picture."
            ) from error
    if clip is not None:
        inputs["clip"] = clip.fingerprint
    return inputs


def _tell_of_long(prompts: Sequence[Prompt], artist: Artist) -> int:
    """Warn of prompts that the model reads the beginning of only; return how many there are."""
    long = [p.text for p, cut in zip(prompts, artist.too_long(prompts), strict=True) if cut]
    if long:
        logger.warning(
            "%d of %d prompts have more than the %d tokens that the model reads; the rest of them is "
            "ignored. The first: %r",
            len(long),
            len(prompts),
            artist.model.config.text_seq_len,
            long[0],
        )
    return len(long)


def _facts(config: GenerateConfig, checkpoint: str) -> dict[str, str]:
    """What every picture's record says alike."""
    options = ("top_k", "temperature", "cond_scale", "precision")
    return {"checkpoint": checkpoint, **{name: str(getattr(config, name)) for name in options}}
