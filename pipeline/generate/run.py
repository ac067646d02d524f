"""Checkpoint → images: draws images from prompts. Reads runs/NAME and codecs/*, writes generated/NAME
or another folder.

    generated/<name>/
      NNNN-RR.png     image RR of prompt NNNN, with CLIP by rank; its PNG text says how it was made
      records.jsonl   one line an image: prompt, seed, checkpoint, scores, file, sha256
      contact.png     all of them on a sheet
      manifest.json   last

Every image has a seed of its own, made of `--seed`, its prompt and its number: what else is drawn
with it changes nothing. A killed run goes on with the first prompt whose images are not there. Images of
other prompts or options are never replaced unless `--on-change restart` says so (see `place`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.core.config import resolved
from pipeline.core.contracts import Outcome, StageReport
from pipeline.core.ownership import claim
from pipeline.core.progress import Progress, no_progress
from pipeline.core.storage import sha256_bytes
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.inputs import Materials, find_materials
from pipeline.generate.place import CONTRACT, Wish, choose_place, hold_place, named_folder
from pipeline.generate.prompts import Order, Prompt, check_options, list_orders, list_prompts
from pipeline.generate.sampler import Artist, load_artist, read_prime
from pipeline.generate.sketches import Drawn
from pipeline.generate.writing import Sketchbook, missing_files
from pipeline.models.clip import Clip, ClipFolder, find_clip, load_clip

logger = logging.getLogger(__name__)


def run(config: GenerateConfig, progress: Progress = no_progress) -> StageReport:
    """Draw every prompt; nothing to do if prompts, options and checkpoint are those of last time.

    Raises ConfigError for options that can't be used, WorkspaceError for a folder that holds something else,
    ModelError where there is no checkpoint, or where checkpoint, codec, tokenizer or CLIP are damaged or
    don't fit, DependencyError where CLIP's package is missing.
    """
    check_options(config)
    workspace = Workspace(config.workspace)
    folder = named_folder(config.out) if config.out else workspace.generated(config.name)
    claim(folder, CONTRACT)
    given = list_prompts(config)
    materials = find_materials(config, workspace)
    clip_folder = None if config.clip is None else find_clip(config.clip)
    inputs = materials.inputs | _outside_inputs(config, given, clip_folder)
    wish = Wish(config=resolved(config), inputs=inputs)
    place = choose_place(folder, wish, config.on_change)
    if place.manifest is not None and not missing_files(place):
        return _report("unchanged", place.folder, place.manifest.counts, materials)
    artist = load_artist(config, materials)
    clip = load_clip(clip_folder, artist.device) if clip_folder else None
    prompts = artist.complete(given) if config.gentxt else [Prompt(text=text) for text in given]
    counts = _counts(config, prompts, cut=_tell_of_long(prompts, artist))
    _tell_of_guidance(config, materials)
    orders = list_orders(prompts, count=config.drawn, seed=config.seed)
    with hold_place(folder, wish, config.on_change) as place:
        book = Sketchbook(place, wish.identity, numbers=range(len(prompts)), keep=config.kept)
        images = draw(artist, clip, book.still_to_draw(orders), progress)
        facts = _facts(config, materials.digest)
        book.write_prompts(images, drawn=config.drawn, keep=config.kept, facts=facts)
        book.finish(wish, counts)
    return _report("done", place.folder, counts, materials)


def draw(
    artist: Artist, clip: Clip | None, orders: Sequence[Order], progress: Progress
) -> Iterator[Drawn]:
    """Every image, with its score where there is a CLIP."""
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
    several_lines = any("\n" in prompt for prompt in prompts)
    text = json.dumps(prompts) if several_lines else "\n".join(prompts)
    inputs = {"prompts": sha256_bytes(text.encode())}
    if config.prime is not None:
        inputs["prime"] = sha256_bytes(read_prime(config.prime))
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


def _tell_of_guidance(config: GenerateConfig, materials: Materials) -> None:
    """Warn of guidance by a model that may never have seen what it is guided away from."""
    if config.cond_scale == 1 or (materials.null_cond_prob or 0) > 0:
        return
    if materials.is_own:
        logger.warning(
            "--cond-scale %g compares with an empty caption, and %s was trained without any (train "
            "--null-cond-prob): the images may be worse than with --cond-scale 1",
            config.cond_scale,
            materials.checkpoint,
        )
    else:
        logger.warning(
            "--cond-scale %g compares with an empty caption, and %s doesn't say whether it was trained with "
            "any (--null_cond_prob): if not, the images may be worse than with --cond-scale 1",
            config.cond_scale,
            materials.checkpoint,
        )


def _counts(config: GenerateConfig, prompts: Sequence[Prompt], *, cut: int) -> dict[str, int]:
    images, kept = config.drawn * len(prompts), config.kept * len(prompts)
    return {
        "images": images,
        "written": kept,
        "outranked": images - kept,
        "failed": 0,
        "prompts": len(prompts),
        "prompts_cut": cut,
    }


def _report(
    outcome: Outcome, folder: Path, counts: Mapping[str, int], materials: Materials
) -> StageReport:
    return StageReport(
        stage="generate",
        outcome=outcome,
        counts=counts,
        outputs=(str(folder),),
        details={"checkpoint": str(materials.checkpoint)},
    )


def _facts(config: GenerateConfig, checkpoint: str) -> dict[str, str]:
    """What every image's record says alike."""
    options = ("top_k", "temperature", "cond_scale", "precision")
    return {"checkpoint": checkpoint, **{name: str(getattr(config, name)) for name in options}}
