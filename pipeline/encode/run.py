"""`pipeline encode`: kept images → codes/CODEC-FINGERPRINT/NNNNN.parquet, each view of an image once.

Reads dedupe/kept, raw/segments and a codec. Images are sorted by pixel hash and split into parts; parts are
written atomically. After an interruption the same command resumes the current part (`draft`) or starts the
next one. New images and new views of old ones become new parts; existing parts never change. Codes of
another codec, precision or preprocessing go to another folder.

Legend: B views of a batch, N codes of a view.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.artifact import Artifact, digest_input, find_artifact
from pipeline.core.config import resolved
from pipeline.core.contracts import Manifest, StageReport
from pipeline.core.engine import count_cores
from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.estimate import announce
from pipeline.core.image_decode import RASTER
from pipeline.core.kept_images import KeptImage, read_kept
from pipeline.core.progress import NOW, Progress, no_progress
from pipeline.core.stop_signals import watch_signals
from pipeline.core.storage import sha256_bytes
from pipeline.core.workspace import Workspace
from pipeline.encode.batches import Task, decode_batches
from pipeline.encode.config import EncodeConfig
from pipeline.encode.draft import Done, count_images, read_draft, remove_draft, write_draft
from pipeline.encode.encoder import Encoder, pick_batch_size, should_compile
from pipeline.encode.encoding import (
    EncodeTasks,
    Recipe,
    Spread,
    start_encoding,
    threads_per_process,
)
from pipeline.encode.estimate import estimate_encoding
from pipeline.encode.parts import FAILED_NAME, CodesFolder
from pipeline.encode.precision_cost import MEASURED_IMAGES, PrecisionCost, switch_precision
from pipeline.encode.sources import CodecSource, chosen_codec, find_codec
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.load import load_codec
from pipeline.models.codecs.pixels import PREPROCESSING, VIEWS
from pipeline.models.codecs.precision import (
    Precision,
    pick_precision,
    use_huge_pages,
    use_precision,
)
from pipeline.models.devices import claim_gpu, gpu_failures, pick_device

log = logging.getLogger(__name__)

KEEP_EVERY_S = 60.0  # interval of saving the draft
_MOST_TOKENS = 65536  # codes are uint16
_FIRST_RASTER = "first frame, EXIF turned, over white, upper 8 bits, RGB; 1"


def run(config: EncodeConfig, progress: Progress = no_progress) -> StageReport:
    """Encode images that have no codes yet; does nothing if images and codec are unchanged.

    An image that can't be decoded, or whose bytes differ from those dedupe saw, becomes a row of
    failed.jsonl and is tried again by the next run; the outcome is then "incomplete". Raises ContractError
    if dedupe has not finished, a table was modified or a segment is missing; ModelError for a codec that
    can't be used; ConfigError if the codec or the device does not exist.
    """
    use_huge_pages()
    progress(0, None, {NOW: "loading the codec"})
    workspace = Workspace(config.workspace)
    asked, config = config, dataclasses.replace(config, codec=chosen_codec(config, workspace))
    dedupe = digest_input(workspace.dedupe, "dedupe", root=workspace.root)
    device = pick_device("cpu" if config.engine == "ray" else config.device)
    claim_gpu(device)
    # On Ray this process needs no GPU: its workers have them.
    name = config.device if config.engine == "ray" and config.device != "auto" else device.type
    precision = pick_precision(config.precision, torch.device(name))
    work = _begin(config, find_codec(asked, workspace), device, precision, name)
    inputs = {**dedupe, **work.source.digest}
    out = find_artifact(work.folder.path, "codes", config=resolved(config), inputs=inputs)
    if out.manifest is not None and not out.manifest.counts["failed"]:
        work.folder.sweep(out.manifest)
        return out.report(counts={"new": 0})
    work.folder.check(out.manifest)
    out.reopen()
    kept = read_kept(workspace)
    progress(0, len(kept), {NOW: f"switching the codec to {work.precision}"})
    with gpu_failures("The codes written so far are kept"):
        cost = _set_precision(work, list(itertools.islice(kept.values(), MEASURED_IMAGES)))
        new = _encode_missing(work, kept, progress)
    manifest = _finish(out, work, kept, cost)
    work.folder.sweep(manifest)
    _warn_of_failures(work.folder)
    return out.report(incomplete=manifest.counts["failed"] > 0, counts={"new": new})


# --- The codec and its folder --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A codec and the folder for its codes; `facts` describe the codec, `fingerprint` is the recipe's.

    `device` is `cpu` or `cuda`: the kind that images are encoded on.
    """

    config: EncodeConfig
    source: CodecSource
    codec: Codec
    facts: Mapping[str, Any]
    precision: Precision
    fingerprint: str
    folder: CodesFolder
    device: str

    @property
    def views(self) -> tuple[str, ...]:
        return VIEWS[self.config.views]

    @property
    def segments(self) -> Path:
        return Workspace(self.config.workspace).segments


def _begin(
    config: EncodeConfig,
    source: CodecSource,
    device: torch.device,
    precision: Precision,
    device_name: str,
) -> _Work:
    codec = load_codec(source.folder, device)
    if config.image_size not in (None, codec.image_size):
        raise ConfigError(
            f"--image-size {config.image_size}: the codec {source.name} is for {codec.image_size} pixels, "
            "and only a codec imported from files can be given another size. Leave it out."
        )
    if codec.num_tokens > _MOST_TOKENS:
        raise ModelError(
            f"The codec in {source.folder} has {codec.num_tokens} codes, expected at most {_MOST_TOKENS}. "
            "Use another codec."
        )
    facts = {
        "name": source.name,
        "kind": codec.kind,
        "fingerprint": codec.fingerprint,
        "num_tokens": codec.num_tokens,
        "image_size": codec.image_size,
        "downsampling": codec.downsampling,
        "grid": list(codec.grid),
    }
    fingerprint = recipe_digest(codec.fingerprint, precision)
    folder = CodesFolder(Workspace(config.workspace).codes(source.name, fingerprint))
    return _Work(
        config=config,
        source=source,
        codec=codec,
        facts=facts,
        precision=precision,
        fingerprint=fingerprint,
        folder=folder,
        device=device_name,
    )


def recipe_digest(codec_fingerprint: str, precision: Precision) -> str:
    """The hash of all that decides codes beside the pixels, so that codes are never mixed.

    How an image is decoded is not part of it: codes are kept by the hash of the pixels, which is checked
    when they are encoded. A word that once named the decoder stays, so that older codes are found.
    """
    recipe = [codec_fingerprint, precision, PREPROCESSING, _FIRST_RASTER]
    return sha256_bytes(json.dumps(recipe).encode())


def _set_precision(work: _Work, first: Sequence[KeptImage]) -> PrecisionCost | None:
    """Set the encoder's precision; returns its cost measured on the first images, None for fp32."""
    if work.precision == "fp32":
        use_precision(work.codec, "fp32")
        return None
    tasks = [Task(image=image, views=("center",)) for image in first]
    with ThreadPoolExecutor(1) as thread:
        batches = decode_batches(
            work.segments, tasks, side=work.codec.image_size, batch_size=1, threads=thread
        )
        pixels = [batch.pixels_BHWC for batch in batches]
    side = work.codec.image_size
    pixels_BHWC = np.concatenate([np.empty((0, side, side, 3), np.uint8), *pixels])
    cost = switch_precision(work.codec, work.precision, pixels_BHWC)
    log.warning("%s %s", work.precision, cost)
    return cost


# --- Encoding ------------------------------------------------------------------------------------


def _encode_missing(work: _Work, kept: Mapping[str, KeptImage], progress: Progress) -> int:
    """Add parts until every kept image has codes or failed; returns the number of newly encoded images."""
    tasks = list(_tasks(work, kept))
    failed_before = frozenset(row.pixel_sha256 for row in work.folder.failed_rows())
    parts = list(_cut(tasks, failed_before, work.config.part_rows))
    batch_size = pick_batch_size(work.config.batch_size, work.codec)
    estimate = estimate_encoding(
        work.codec,
        work.folder.path,
        name=work.source.name,
        precision=work.precision,
        images=len(tasks),
        views=len(work.views),
        batch_size=batch_size,
    )
    progress = announce(estimate, progress, force=work.config.force)
    progress(len(kept) - len(tasks), len(kept), {NOW: "the first batch"})
    writer = _PartWriter(work, progress, len(kept), len(kept) - len(tasks))
    if not parts:
        return 0
    done = count_images(read_draft(work.folder.path, parts[0], work.codec.num_codes))
    if work.config.is_spread:
        writer.write_all(parts, _spread(work, len(tasks)).start(parts, done))
        return writer.new
    encoder = Encoder(work.codec, batch_size)
    if should_compile(work.config.compile, len(tasks), encoder.device):
        encoder.compile()
    with ThreadPoolExecutor(work.config.workers or count_cores()) as threads:
        try:
            writer.write_all(parts, start_encoding(encoder, work.segments, threads, parts, done))
        finally:
            threads.shutdown(cancel_futures=True)  # what was decoded ahead, after an error
    return writer.new


def _spread(work: _Work, num_images: int) -> Spread:
    config = work.config
    recipe = Recipe(
        codec=work.source.folder,
        segments=work.segments,
        precision=work.precision,
        device=work.device,
        threads=threads_per_process(config.engine, work.device, config.devices),
        batch_size=config.batch_size,
        compile=config.compile,
        num_images=num_images // (config.devices or 1),
    )
    return Spread.of(
        recipe,
        dataclasses.replace(config.where(), gpus=int(work.device == "cuda")),
        workers=config.devices,
        batch_size=pick_batch_size(config.batch_size, work.codec),
    )


def _tasks(work: _Work, kept: Mapping[str, KeptImage]) -> Iterator[Task]:
    """Images with views that have no codes yet, sorted by pixel hash; views sorted by name."""
    encoded, failed = work.folder.encoded(), work.folder.failed()
    for pixel_sha256, image in kept.items():
        views = frozenset(work.views) - encoded.get(pixel_sha256, frozenset())
        if views and pixel_sha256 not in failed:
            yield Task(image=image, views=tuple(sorted(views)))


def _cut(
    tasks: Sequence[Task], failed_before: frozenset[str], part_rows: int
) -> Iterator[Sequence[Task]]:
    """Split tasks into parts. Earlier failures come last, so that a lost part is rebuilt as it was."""
    again = [task for task in tasks if task.image.pixel_sha256 in failed_before]
    fresh = [task for task in tasks if task.image.pixel_sha256 not in failed_before]
    for some in (fresh, again):
        for start in range(0, len(some), part_rows):
            yield some[start : start + part_rows]


@dataclass
class _PartWriter:
    """Writes part after part and counts images; `before` images were already done."""

    work: _Work
    progress: Progress
    total: int
    before: int
    new: int = 0
    failed: int = 0
    _kept_s: float = field(default_factory=time.monotonic)

    def write_all(self, parts: Iterable[Sequence[Task]], encode: EncodeTasks) -> None:
        """Encode the parts and write each; a draft is saved every minute and on an interrupt."""
        for part in parts:
            self._write(part, encode)

    def _write(self, part: Sequence[Task], encode: EncodeTasks) -> None:
        folder = self.work.folder
        done = read_draft(folder.path, part, self.work.codec.num_codes)
        for batch in done:
            self._count(batch)
        try:
            for batch in encode(part[count_images(done) :]):
                done.append(batch)
                self._keep(done)
                self._count(batch)
        except KeyboardInterrupt:
            with watch_signals():  # a second signal must not interrupt the write
                if done:
                    write_draft(folder.path, done)
            raise
        views = [view for batch in done for view in batch.views]
        failed = [row for batch in done for row in batch.failed]
        none = np.empty((0, self.work.codec.num_codes), dtype=np.uint16)
        folder.add_part(views, np.concatenate([none, *(batch.codes_BN for batch in done)]), failed)
        remove_draft(folder.path)

    def _keep(self, done: Sequence[Done]) -> None:
        if time.monotonic() - self._kept_s >= KEEP_EVERY_S:
            write_draft(self.work.folder.path, done)
            self._kept_s = time.monotonic()

    def _count(self, batch: Done) -> None:
        self.new += batch.images - len(batch.failed)
        self.failed += len(batch.failed)
        done = self.before + self.new + self.failed
        self.progress(done, self.total, {"failed": self.failed} if self.failed else None)


def _warn_of_failures(folder: CodesFolder) -> None:
    rows = folder.failed_rows()
    if rows:
        log.warning(
            "%d images have no codes (see %s). The first, %s: %s",
            len(rows),
            folder.path / FAILED_NAME,
            rows[0].key,
            rows[0].detail,
        )


# --- The end -------------------------------------------------------------------------------------


def _finish(
    out: Artifact, work: _Work, kept: Mapping[str, KeptImage], cost: PrecisionCost | None
) -> Manifest:
    """Write the manifest: images = encoded + failed; `spare` images have codes but are no longer kept."""
    encoded = work.folder.encoded()
    failed = [row for key, row in sorted(work.folder.failed().items()) if key in kept]
    whole = frozenset(work.views)
    present = sum(whole <= encoded.get(pixel_sha256, frozenset()) for pixel_sha256 in kept)
    return out.finish(
        counts={
            "images": len(kept),
            "encoded": present,
            "failed": len(failed),
            "spare": sum(pixel_sha256 not in kept for pixel_sha256 in encoded),
        },
        files=(*work.folder.files(), *work.folder.write_failed(failed)),
        details={
            "codec": work.facts,
            "fingerprint": work.fingerprint,
            "raster": RASTER,
            "preprocessing": PREPROCESSING,
            "views": list(work.views),
            "precision": work.precision,
            "price": dataclasses.asdict(cost) if cost else None,
        },
    )
