"""`pipeline encode`: kept images → codes/CODEC-FINGERPRINT/NNNNN.parquet, each image once.

Reads dedupe/kept, raw/segments and a codec's folder. Images are taken in the order of their pixel
hashes and cut into parts; a part is written whole. Killed anywhere, the same command goes on with the
next part. New images become new parts; parts that are there stay as they are.

Legend: B images of a batch, N codes of an image.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config import resolved
from pipeline.contracts import Manifest, Outcome, StageReport
from pipeline.encode.batches import Batch, Failure, decode_batches
from pipeline.encode.config import EncodeConfig
from pipeline.encode.parts import CodesFolder
from pipeline.encode.rows import ImageRow, read_kept
from pipeline.errors import ConfigError, ModelError
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.load import CODEC_JSON, load_codec
from pipeline.models.codecs.pixels import PREPROCESSING, to_images
from pipeline.models.devices import pick_device
from pipeline.progress import Progress, no_progress
from pipeline.raster import RASTER
from pipeline.storage import (
    Workspace,
    find_current,
    input_digest,
    make_manifest,
    read_manifest,
)

_MOST_TOKENS = 65536  # codes are uint16


def run(config: EncodeConfig, progress: Progress = no_progress) -> StageReport:
    """Encode what has no codes yet; nothing to do if images and codec are the same.

    An image that can't be decoded is a row of failed.jsonl, tried again by the next run; the outcome is
    then "incomplete". Raises ContractError where dedupe has not finished or a segment lost bytes,
    ModelError for a codec that can't be used, ConfigError where the codec or the device is not there.
    """
    workspace = Workspace(config.workspace)
    read_manifest(workspace.dedupe, "dedupe")
    source = _find_codec(workspace, config.codec)
    codec = load_codec(source.folder, pick_device(config.device))
    if codec.num_tokens > _MOST_TOKENS:
        raise ModelError(
            f"The codec in {source.folder} has {codec.num_tokens} codes, expected {_MOST_TOKENS} at most."
        )
    inputs = {"dedupe": input_digest(workspace.dedupe), **source.digest}
    folder = CodesFolder(workspace.codes(source.name, codec.fingerprint))
    manifest = find_current(folder.path, "codes", config=resolved(config), inputs=inputs)
    if manifest is not None and not manifest.counts["failed"]:
        folder.sweep(manifest)
        return _report("unchanged", folder.path, manifest)
    folder.reopen(manifest)
    kept = read_kept(workspace)
    new = _encode_missing(config, codec, folder, kept, progress)
    manifest = _describe(config, codec, source.name, folder, kept, inputs)
    folder.finish(manifest)
    outcome: Outcome = "incomplete" if manifest.counts["failed"] else "done"
    return _report(outcome, folder.path, manifest, new)


def _report(outcome: Outcome, path: Path, manifest: Manifest, new: int = 0) -> StageReport:
    return StageReport(
        stage="encode",
        outcome=outcome,
        counts={**manifest.counts, "new": new},
        outputs=(str(path),),
        details=manifest.details,
    )


# --- Inputs --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CodecSource:
    """Where a codec lies, and its digest as an input by name."""

    name: str
    folder: Path
    digest: Mapping[str, str]


def _find_codec(workspace: Workspace, wanted: str) -> CodecSource:
    """A codec of the workspace by name, else the folder `wanted`.

    Raises ConfigError where there is neither.
    """
    own = workspace.codec(wanted)
    if own.is_dir() and own.parent == workspace.root / "codecs":
        read_manifest(own, "codec")
        return CodecSource(name=wanted, folder=own, digest={f"codecs/{wanted}": input_digest(own)})
    folder = Path(wanted)
    if not (folder / CODEC_JSON).exists():
        raise ConfigError(
            f"No codec {wanted!r}: neither {own} nor a folder of that name holds a {CODEC_JSON}. "
            "Run `pipeline train-codec`, or give another --codec."
        )
    fingerprint = load_codec(folder).fingerprint
    return CodecSource(name=folder.resolve().name, folder=folder, digest={"codec": fingerprint})


# --- Encoding ------------------------------------------------------------------------------------


def _encode_missing(
    config: EncodeConfig,
    codec: Codec,
    folder: CodesFolder,
    kept: Mapping[str, ImageRow],
    progress: Progress,
) -> int:
    """Add parts until every kept image has codes or a failure; returns how many got codes."""
    past = folder.encoded() | set(folder.failed())
    missing = [row for pixel_sha256, row in kept.items() if pixel_sha256 not in past]
    with ThreadPoolExecutor(config.workers or len(os.sched_getaffinity(0))) as threads:
        encoder = _Encoder(
            config, codec, folder, threads, progress, len(kept), len(kept) - len(missing)
        )
        for start in range(0, len(missing), config.part_rows):
            encoder.encode_part(missing[start : start + config.part_rows])
    return encoder.new


@dataclass
class _Encoder:
    """What encodes part after part, and the counts as they grow; `before` had been done already."""

    config: EncodeConfig
    codec: Codec
    folder: CodesFolder
    threads: ThreadPoolExecutor
    progress: Progress
    total: int
    before: int
    new: int = 0
    failed: int = 0

    def encode_part(self, part: Sequence[ImageRow]) -> None:
        """Encode `part` and write it."""
        hashes: list[str] = []
        codes = [np.empty((0, self.codec.num_codes), dtype=np.uint16)]
        failures: list[Failure] = []
        for batch in self._decoded(part):
            failures += batch.failures
            if batch.rows:
                hashes += [row.pixel_sha256 for row in batch.rows]
                codes.append(self._encode(batch))
            self._tell(len(batch.rows), len(batch.failures))
        failed = [_failed_row(failure) for failure in failures]
        self.folder.add_part(hashes, np.concatenate(codes), failed)

    def _decoded(self, part: Sequence[ImageRow]) -> Iterator[Batch]:
        return decode_batches(
            Workspace(self.config.workspace).segments,
            part,
            side=self.codec.image_size,
            batch_size=self.config.batch_size,
            threads=self.threads,
        )

    def _encode(self, batch: Batch) -> npt.NDArray[np.uint16]:
        device = next(self.codec.parameters()).device
        codes_BN = self.codec.encode(to_images(batch.pixels_BHWC, device))
        return codes_BN.cpu().numpy().astype(np.uint16)

    def _tell(self, new: int, failed: int) -> None:
        self.new += new
        self.failed += failed
        done = self.before + self.new + self.failed
        self.progress(done, self.total, {"failed": self.failed} if self.failed else None)


def _failed_row(failure: Failure) -> dict[str, str]:
    row = failure.row
    return {
        "pixel_sha256": row.pixel_sha256,
        "key": row.key,
        "status": "failed",
        "detail": failure.detail,
    }


# --- The end -------------------------------------------------------------------------------------


def _describe(
    config: EncodeConfig,
    codec: Codec,
    name: str,
    folder: CodesFolder,
    kept: Mapping[str, ImageRow],
    inputs: Mapping[str, str],
) -> Manifest:
    """The manifest; images = encoded + failed. Codes of images no longer kept stay, as `spare`."""
    encoded = folder.encoded()
    failed = [row for pixel_sha256, row in sorted(folder.failed().items()) if pixel_sha256 in kept]
    present = sum(pixel_sha256 in encoded for pixel_sha256 in kept)
    files = tuple(itertools.chain(folder.files(), folder.write_failed(failed)))
    return make_manifest(
        "codes",
        config=resolved(config),
        inputs=inputs,
        counts={
            "images": len(kept),
            "encoded": present,
            "failed": len(failed),
            "spare": len(encoded) - present,
        },
        files=files,
        details={
            "codec": {
                "name": name,
                "kind": codec.kind,
                "fingerprint": codec.fingerprint,
                "num_tokens": codec.num_tokens,
                "image_size": codec.image_size,
                "downsampling": codec.downsampling,
                "grid": list(codec.grid),
            },
            "raster": RASTER,
            "preprocessing": PREPROCESSING,
            "precision": "fp32",
        },
    )
