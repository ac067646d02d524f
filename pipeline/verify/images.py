"""Decode some codes of a folder and compare them with their images.

The sample is the images with the smallest pixel hashes: as good as random, and the same on each run. Codes
that belong to other images stand out: their PSNR is no better than that of two arbitrary images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.contracts import CodecFacts
from pipeline.core.errors import DependencyError, ModelError
from pipeline.core.extras import missing_package
from pipeline.core.inventory import Folder
from pipeline.core.kept_images import (
    STORED_IMAGE_COLUMNS,
    StoredImage,
    kept_tables,
    read_image,
    read_tables,
    stored_image,
)
from pipeline.core.ownership import path_inside
from pipeline.core.storage import MANIFEST_NAME, read_detail
from pipeline.core.workspace import Workspace

Facts = Mapping[str, object]
_ROWS = 16_384


def compare_images(folder: Folder, workspace: Workspace, images: int) -> Facts:
    """Mean PSNR in dB of some images, and of the same codes against other images.

    Raises ContractError if tables or images are not as described.
    """
    assert folder.manifest is not None
    places = _choose(workspace, images)
    codes = _read_codes(folder, list(places))
    chosen = [pixels for pixels in places if pixels in codes]
    if not chosen:
        return {"PSNR": "no image", "PSNR to other images": ""}
    try:
        from pipeline.models.codecs.load import find_codec, load_codec
        from pipeline.models.codecs.pixels import read_square
        from pipeline.models.codecs.reconstruct import psnr, reconstruct

        fingerprint = read_detail(folder.path, folder.manifest, "codec", CodecFacts).fingerprint
        codec = load_codec(find_codec(workspace.root / "codecs", fingerprint))
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{missing_package('Decoding', error.name or 'torch')} Or give --images 0."
        ) from error
    except ModelError:
        return {"PSNR": "codec not in codecs/, or damaged", "PSNR to other images": ""}
    originals = np.stack(
        [
            read_square(read_image(workspace.segments, places[pixels]), codec.image_size)
            for pixels in chosen
        ]
    )
    decoded = reconstruct(codec, np.stack([codes[pixels] for pixels in chosen]))
    right, wrong = psnr(originals, decoded), psnr(np.roll(originals, 1, axis=0), decoded)
    return {
        "PSNR": f"{np.mean(right):.2f} dB ({len(chosen)} images, lowest {min(right):.2f})",
        "PSNR to other images": f"{np.mean(wrong):.2f} dB" if len(chosen) > 1 else "",
    }


def _choose(workspace: Workspace, images: int) -> dict[str, StoredImage]:
    """The locations of some kept images, by pixel hash."""
    columns = ("pixel_sha256", *STORED_IMAGE_COLUMNS)
    first: list[dict[str, Any]] = []
    for rows in read_tables(kept_tables(workspace), columns, _ROWS):
        table = pa.Table.from_batches([rows])
        order = pc.select_k_unstable(table, k=images, sort_keys=[("pixel_sha256", "ascending")])
        more = table.take(order).to_pylist()
        first = sorted([*first, *more], key=lambda row: str(row["pixel_sha256"]))[:images]
    return {row["pixel_sha256"]: stored_image(row) for row in first}


def _read_codes(folder: Folder, hashes: list[str]) -> dict[str, npt.NDArray[np.int64]]:
    """The codes of the center view of the images with these pixel hashes."""
    assert folder.manifest is not None
    entries = [e for e in folder.manifest.files if e.path.endswith(".parquet")]
    paths = [path_inside(folder.path, e.path, source=folder.path / MANIFEST_NAME) for e in entries]
    found: dict[str, npt.NDArray[np.int64]] = {}
    for rows in read_tables(paths, ("pixel_sha256", "view", "codes"), _ROWS):
        wanted = pc.and_(
            pc.is_in(rows["pixel_sha256"], pa.array(hashes)), pc.equal(rows["view"], "center")
        )
        chosen = rows.filter(wanted).to_pylist()
        found |= {row["pixel_sha256"]: np.array(row["codes"]) for row in chosen}
    return found
