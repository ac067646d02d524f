"""Repairs of what can't be made again: it is restored from a copy, or kept as NAME.damaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core import ownership
from pipeline.core.errors import PipelineError
from pipeline.core.storage import (
    MANIFEST_NAME,
    file_entry,
    json_bytes,
    make_manifest,
    write_manifest,
)
from pipeline.verify.work import FolderRepair

_LOST = (
    "a trained file can't be restored without a copy. Training again with the same data, options and "
    "machine yields the same file; otherwise everything made with it has to be rebuilt"
)
_REBUILT = "rebuilt from the files; the options and inputs that it named are lost"
# Files that describe a codec without being part of it.
_DESCRIPTIONS = ("log.jsonl", "reconstructions.png")


def repair_tokenizer(work: FolderRepair) -> None:
    """Restore a tokenizer from shards or a run that have a copy."""
    lost = _restore_all(work)
    if work.head_is_damaged and not lost and _tokenizer_is_whole(work):
        _rebuild_manifest(work, {})
    elif lost or work.head_is_damaged:
        _lose(work, lost or ["tokenizer.json"])


def repair_codec(work: FolderRepair) -> None:
    """Keep a codec if only its description is damaged; otherwise it has to be trained again."""
    lost = _restore_all(work)
    if work.head_is_damaged:
        facts = _facts_of_whole_codec(work)
        if facts is not None:
            _rebuild_manifest(work, facts)
        else:
            _lose(work, ["codec.json", "codec.safetensors"])
    elif set(lost) <= set(_DESCRIPTIONS):
        work.forget(lost, "the codec itself is undamaged") if lost else None
    else:
        _lose(work, lost)


def repair_run(work: FolderRepair) -> None:
    """Keep what is undamaged; training resumes from the last undamaged checkpoint if the last is damaged."""
    manifest = work.folder.manifest
    plan = {"config": manifest.config, "inputs": manifest.inputs} if manifest is not None else {}
    lost = _restore_all(work, {"plan.json": json_bytes(plan)})
    checkpoints = {str(Path(f).parent) for f in lost if f.startswith("checkpoints/")}
    for name in sorted(checkpoints):
        work.set_aside(name, "a checkpoint can't be restored, only trained again")
    others = [file for file in lost if not file.startswith("checkpoints/")]
    last = manifest.details.get("checkpoint") if manifest is not None else None
    if work.head_is_damaged or last in checkpoints:
        for file in others:
            work.set_aside(file, "it describes the run")
        if work.head_is_damaged:
            work.set_aside(MANIFEST_NAME, "the run writes it again")
        work.make_unfinished("training resumes from the last undamaged checkpoint")
    elif manifest is not None:
        gone = [e.path for e in manifest.files if str(Path(e.path).parent) in checkpoints]
        work.forget([*others, *gone], "the manifest no longer lists it")
    else:
        work.add_command()


def repair_generated(work: FolderRepair) -> None:
    """Set damaged images aside; the same prompts and options generate them again."""
    lost = _restore_all(work)
    for file in lost:
        work.set_aside(file, "only the same checkpoint can generate the image again")
    if work.head_is_damaged:
        _rebuild_manifest(work, {}, counts=_counts_of_images(work))
    elif lost:
        work.add_command()


def _restore_all(work: FolderRepair, derived: Mapping[str, bytes] | None = None) -> list[str]:
    """The damaged files that have no intact copy and don't follow from the manifest as in `derived`."""
    known = derived or {}
    return [file for file in work.files if not work.restore(file, known.get(file, b""))]


def _lose(work: FolderRepair, files: list[str]) -> None:
    for file in files:
        work.set_aside(file, _LOST)
    if work.head_is_damaged:
        work.set_aside(MANIFEST_NAME, "it is written again")
    work.make_unfinished("the folder is unfinished")


def _tokenizer_is_whole(work: FolderRepair) -> bool:
    from pipeline.models.tokenizers.load import TOKENIZER_FILE, load_tokenizer

    try:
        load_tokenizer(work.folder.path / TOKENIZER_FILE)
    except PipelineError:
        return False
    return True


def _facts_of_whole_codec(work: FolderRepair) -> dict[str, Any] | None:
    """Manifest details of a codec whose fingerprint matches, None otherwise."""
    try:
        from pipeline.models.codecs.load import codec_details, load_codec

        return codec_details(load_codec(work.folder.path))
    except (PipelineError, ModuleNotFoundError):
        return None


def _counts_of_images(work: FolderRepair) -> dict[str, int]:
    images = len(list(work.folder.path.glob("[0-9]*.png")))
    return {"images": images, "written": images, "outranked": 0, "failed": 0}


def _rebuild_manifest(
    work: FolderRepair, details: Mapping[str, Any], counts: Mapping[str, int] | None = None
) -> None:
    """Write a manifest of the existing files, and set the damaged one aside."""
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
