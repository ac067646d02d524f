"""Checkpoint → images: generates images from prompts.

Reads runs/NAME and codecs/*, writes generated/NAME or another folder:

    generated/<name>/
      NNNN-RR.png     image RR of prompt NNNN, ranked if CLIP is used; its PNG text records how it was made
      records.jsonl   one line per image: prompt, seed, checkpoint, scores, file, sha256
      contact.png     contact sheet of all images
      manifest.json   written last

Every image has its own seed, derived from `--seed`, its prompt and its index, so it does not depend on the
images drawn with it. A killed run resumes with the first prompt whose images are missing. Images of other
prompts or options are replaced only with `--on-change restart` (see `place`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence

from pipeline.core.config import resolved
from pipeline.core.contracts import StageReport
from pipeline.core.estimate import announce
from pipeline.core.ownership import claim
from pipeline.core.progress import NOW, Progress, no_progress
from pipeline.core.storage import sha256_bytes
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.estimate import estimate_drawing
from pipeline.generate.inputs import ModelInputs, find_model_inputs
from pipeline.generate.place import CONTRACT, Recipe, choose_place, lock_place, resolve_name
from pipeline.generate.prompts import Order, Prompt, check_options, list_orders, list_prompts
from pipeline.generate.sampler import ImageSampler, load_sampler, pick_precision, read_prime
from pipeline.generate.sketches import Drawn
from pipeline.generate.writing import ImageWriter, is_whole
from pipeline.models.clip import Clip, ClipFolder, find_clip, load_clip
from pipeline.models.devices import gpu_failures, keep_thread_count

logger = logging.getLogger(__name__)


@keep_thread_count()
def run(config: GenerateConfig, progress: Progress = no_progress) -> StageReport:
    """Generate images for every prompt; does nothing if prompts, options and checkpoint are unchanged.

    Raises ConfigError for options that can't be used, WorkspaceError for a folder with other contents,
    ModelError if there is no checkpoint, or if checkpoint, codec, tokenizer or CLIP are damaged or don't
    match, DependencyError if CLIP's package is missing.
    """
    check_options(config)
    config = dataclasses.replace(config, precision=pick_precision(config.precision, config.device))
    workspace = Workspace(config.workspace)
    folder = resolve_name(config.out) if config.out else workspace.generated(config.name)
    claim(folder, CONTRACT)
    given = list_prompts(config)
    model_inputs = find_model_inputs(config, workspace)
    clip_folder = None if config.clip is None else find_clip(config.clip)
    inputs = model_inputs.digests | _outside_inputs(config, given, clip_folder)
    recipe = Recipe(config=resolved(config), inputs=inputs)
    out = choose_place(folder, recipe, config.on_change)
    details = {"checkpoint": str(model_inputs.checkpoint)}
    if is_whole(out):
        return out.report(details=details)
    progress(0, None, {NOW: "loading the model"})
    sampler = load_sampler(config, model_inputs)
    clip = load_clip(clip_folder, sampler.device) if clip_folder else None
    prompts = sampler.complete(given) if config.gentxt else [Prompt(text=text) for text in given]
    counts = _counts(config, prompts, cut=_warn_of_long(prompts, sampler))
    _warn_of_guidance(config, model_inputs)
    orders = list_orders(prompts, count=config.drawn, seed=config.seed)
    with lock_place(folder, recipe, config.on_change) as out:
        writer = ImageWriter(out, recipe.identity, numbers=range(len(prompts)), keep=config.kept)
        missing = writer.missing_orders(orders)
        kept = len(missing) * config.kept // config.drawn
        estimate = estimate_drawing(sampler, out.folder, images=len(missing), kept=kept)
        progress = announce(estimate, progress, force=config.force)
        images = draw(sampler, clip, missing, progress)
        facts = _facts(config, model_inputs.digest)
        with gpu_failures("The images written so far are kept"):
            writer.write_prompts(images, drawn=config.drawn, keep=config.kept, facts=facts)
        writer.finish(counts)
    return out.report(details=details)


def draw(
    sampler: ImageSampler, clip: Clip | None, orders: Sequence[Order], progress: Progress
) -> Iterator[Drawn]:
    """Draw every image, and score it if there is a CLIP."""
    for batch, pixels_BHWC in sampler.draw_all(orders, progress):
        scores: Sequence[float | None] = [None] * len(batch)
        if clip is not None:
            scores = clip.score([order.prompt.text for order in batch], pixels_BHWC)
        for order, pixels_HWC, score in zip(batch, pixels_BHWC, scores, strict=True):
            yield Drawn(order=order, pixels_HWC=pixels_HWC, score=score)


def _outside_inputs(
    config: GenerateConfig, prompts: Sequence[str], clip: ClipFolder | None
) -> dict[str, str]:
    """Hashes of the inputs from outside the workspace."""
    several_lines = any("\n" in prompt for prompt in prompts)
    text = json.dumps(prompts) if several_lines else "\n".join(prompts)
    inputs = {"prompts": sha256_bytes(text.encode())}
    if config.prime is not None:
        inputs["prime"] = sha256_bytes(read_prime(config.prime))
    if clip is not None:
        inputs["clip"] = clip.fingerprint
    return inputs


def _warn_of_long(prompts: Sequence[Prompt], sampler: ImageSampler) -> int:
    """Warn about prompts that are longer than the model's text length; returns their number."""
    long = [p.text for p, cut in zip(prompts, sampler.too_long(prompts), strict=True) if cut]
    if long:
        logger.warning(
            "%d of %d prompts are longer than the model's %d tokens; the excess is ignored. The first: %r",
            len(long),
            len(prompts),
            sampler.model.config.text_seq_len,
            long[0],
        )
    return len(long)


def _warn_of_guidance(config: GenerateConfig, model_inputs: ModelInputs) -> None:
    """Warn about guidance if the model may not have been trained with empty captions."""
    if config.cond_scale == 1 or (model_inputs.null_cond_prob or 0) > 0:
        return
    if model_inputs.is_own:
        logger.warning(
            "--cond-scale %g compares with an empty caption, but %s was trained without any (train "
            "--null-cond-prob): the images may be worse than with --cond-scale 1",
            config.cond_scale,
            model_inputs.checkpoint,
        )
    else:
        logger.warning(
            "--cond-scale %g compares with an empty caption, but %s doesn't record whether it was trained "
            "with any (--null_cond_prob): if not, the images may be worse than with --cond-scale 1",
            config.cond_scale,
            model_inputs.checkpoint,
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


def _facts(config: GenerateConfig, checkpoint: str) -> dict[str, str]:
    """The fields that all images' records share."""
    options = ("top_k", "temperature", "cond_scale", "precision")
    return {"checkpoint": checkpoint, **{name: str(getattr(config, name)) for name in options}}
