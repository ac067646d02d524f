"""Repairs of what can't be made again from what is there: it is brought back, or kept as NAME.damaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core import ownership
from pipeline.core.errors import PipelineError
from pipeline.core.storage import MANIFEST_NAME, file_entry, make_manifest, write_manifest
from pipeline.verify.work import Work

_LOST = (
    "what was trained can't be brought back. Trained again on the same data with the same options on the "
    "same machine it is the same; else what was made with it has to be made again"
)
_REBUILT = (
    "written again from what is there; the options and inputs that it named are not known any more"
)
# What describes a codec, and is no part of it.
_DESCRIPTIONS = ("log.jsonl", "reconstructions.png")


def repair_tokenizer(work: Work) -> None:
    """Bring a tokenizer back from shards or a run that have a copy of it."""
    lost = _restore_all(work)
    if work.head_is_damaged and not lost and _tokenizer_is_whole(work):
        _rebuild_manifest(work, {})
    elif lost or work.head_is_damaged:
        _lose(work, lost or ["tokenizer.json"])


def repair_codec(work: Work) -> None:
    """Keep a codec that is whole but for its description; another one has to be trained again."""
    lost = _restore_all(work)
    if work.head_is_damaged:
        facts = _facts_of_whole_codec(work)
        if facts is not None:
            _rebuild_manifest(work, facts)
        else:
            _lose(work, ["codec.json", "codec.safetensors"])
    elif set(lost) <= set(_DESCRIPTIONS):
        work.forget(lost, "the codec itself is whole") if lost else None
    else:
        _lose(work, lost)


def repair_run(work: Work) -> None:
    """Keep what is whole of a run; it goes on from its last whole checkpoint if its last one is damaged."""
    lost = _restore_all(work)
    checkpoints = {str(Path(f).parent) for f in lost if f.startswith("checkpoints/")}
    for name in sorted(checkpoints):
        work.set_aside(name, "a checkpoint can't be brought back, only trained again")
    others = [file for file in lost if not file.startswith("checkpoints/")]
    manifest = work.folder.manifest
    last = manifest.details.get("checkpoint") if manifest is not None else None
    if work.head_is_damaged or last in checkpoints:
        for file in others:
            work.set_aside(file, "it describes the run")
        if work.head_is_damaged:
            work.set_aside(MANIFEST_NAME, "the run writes it again")
        work.make_unfinished("training goes on from the last whole checkpoint")
    elif manifest is not None:
        gone = [e.path for e in manifest.files if str(Path(e.path).parent) in checkpoints]
        work.forget([*others, *gone], "the manifest lists it no longer")
    else:
        work.add_command()


def repair_generated(work: Work) -> None:
    """Keep damaged images beside; the same prompts and options draw what is missing again."""
    lost = _restore_all(work)
    for file in lost:
        work.set_aside(file, "an image is drawn again from the same checkpoint alone")
    if work.head_is_damaged:
        _rebuild_manifest(work, {}, counts=_counts_of_images(work))
    elif lost:
        work.add_command()


def _restore_all(work: Work) -> list[str]:
    """The damaged files that are nowhere whole."""
    return [file for file in work.files if not work.restore(file)]


def _lose(work: Work, files: list[str]) -> None:
    for file in files:
        work.set_aside(file, _LOST)
    if work.head_is_damaged:
        work.set_aside(MANIFEST_NAME, "it is written again")
    work.make_unfinished("the folder is unfinished")


def _tokenizer_is_whole(work: Work) -> bool:
    from pipeline.models.tokenizers.load import TOKENIZER_FILE, load_tokenizer

    try:
        load_tokenizer(work.folder.path / TOKENIZER_FILE)
    except PipelineError:
        return False
    return True


def _facts_of_whole_codec(work: Work) -> dict[str, Any] | None:
    """What a manifest says of a codec that has the fingerprint it was written with."""
    try:
        from pipeline.models.codecs.load import load_codec

        codec = load_codec(work.folder.path)
    except (PipelineError, ModuleNotFoundError):
        return None
    return {
        "fingerprint": codec.fingerprint,
        "num_tokens": codec.num_tokens,
        "image_size": codec.image_size,
        "downsampling": codec.downsampling,
        "num_codes": codec.num_codes,
    }


def _counts_of_images(work: Work) -> dict[str, int]:
    images = len(list(work.folder.path.glob("[0-9]*.png")))
    return {"images": images, "written": images, "outranked": 0, "failed": 0}


def _rebuild_manifest(
    work: Work, details: Mapping[str, Any], counts: Mapping[str, int] | None = None
) -> None:
    """A manifest of the files that are there, in place of one that is damaged and set aside."""
    path, contract = work.folder.path, work.folder.contract
    ownership.mark_unfinished(path, contract)
    work.set_aside(MANIFEST_NAME, _REBUILT)
    files = tuple(file_entry(path / name, path) for name in ownership.own_files(path, contract))
    write_manifest(
        path,
        make_manifest(
            contract, config={}, inputs={}, counts=counts or {}, files=files, details=details
        ),
    )
