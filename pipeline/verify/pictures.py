"""Some codes of a folder decoded and compared with their pictures.

The sample is the pictures with the smallest pixel hashes: as good as drawn by lot, and the same each
time. Codes that belong to other pictures show: their PSNR is that of any two pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.contracts import CodecFacts
from pipeline.errors import ContractError, DependencyError, ModelError
from pipeline.inventory import Folder
from pipeline.storage import read_detail, read_manifest, read_slice
from pipeline.workspace import Workspace

Facts = Mapping[str, object]


def compare_pictures(folder: Folder, workspace: Workspace, pictures: int) -> Facts:
    """PSNR in dB of some pictures and of the same codes against other pictures.

    Raises ContractError where tables or images are not what they should be.
    """
    assert folder.manifest is not None
    places = _choose(workspace, pictures)
    codes = _read_codes(folder, list(places))
    chosen = [pixels for pixels in places if pixels in codes]
    if not chosen:
        return {"PSNR": "no picture", "against others": ""}
    try:
        from pipeline.models.codecs.load import find_codec, load_codec
        from pipeline.models.codecs.pixels import read_square
        from pipeline.models.codecs.reconstruct import psnr, reconstruct

        fingerprint = read_detail(folder.path, folder.manifest, "codec", CodecFacts).fingerprint
        codec = load_codec(find_codec(workspace.root / "codecs", fingerprint))
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"decoding needs {error.name}: install 'dalle-pipeline[train]', or give --pictures 0"
        ) from error
    except ModelError:
        return {"PSNR": "codec not in codecs/", "against others": ""}
    originals = np.stack(
        [read_square(_image(workspace, places[pixels]), codec.image_size) for pixels in chosen]
    )
    decoded = reconstruct(codec, np.stack([codes[pixels] for pixels in chosen]))
    right, wrong = psnr(originals, decoded), psnr(np.roll(originals, 1, axis=0), decoded)
    return {
        "PSNR": f"{np.mean(right):.2f} dB ({len(chosen)} pictures, lowest {min(right):.2f})",
        "against others": f"{np.mean(wrong):.2f} dB" if len(chosen) > 1 else "",
    }


def _choose(workspace: Workspace, pictures: int) -> dict[str, dict[str, Any]]:
    """Where the bytes of some kept images lie, by pixel hash."""
    columns = ["pixel_sha256", "segment", "offset", "bytes"]
    rows: list[dict[str, Any]] = []
    for entry in read_manifest(workspace.dedupe, "dedupe").files:
        if entry.path.startswith("kept/"):
            table = _read(workspace.dedupe / entry.path, columns)
            first = pc.select_k_unstable(
                table, k=pictures, sort_keys=[("pixel_sha256", "ascending")]
            )
            rows = sorted(
                [*rows, *table.take(first).to_pylist()], key=lambda row: row["pixel_sha256"]
            )[:pictures]
    return {row["pixel_sha256"]: row for row in rows}


def _read_codes(folder: Folder, hashes: list[str]) -> dict[str, npt.NDArray[np.int64]]:
    """The codes of the whole pictures with these pixel hashes."""
    assert folder.manifest is not None
    found: dict[str, npt.NDArray[np.int64]] = {}
    wanted = [("pixel_sha256", "in", hashes), ("view", "=", "center")]
    for entry in folder.manifest.files:
        if entry.path.endswith(".parquet"):
            table = _read(folder.path / entry.path, ["pixel_sha256", "codes"], filters=wanted)
            found |= {row["pixel_sha256"]: np.array(row["codes"]) for row in table.to_pylist()}
    return found


def _read(path: Path, columns: list[str], **options: Any) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, **options)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ContractError(f"{path} can't be read ({error})") from error


def _image(workspace: Workspace, row: dict[str, Any]) -> bytes:
    path = workspace.segments / row["segment"]
    return read_slice(path, offset=row["offset"], length=row["bytes"])
