"""`pipeline shard --inspect SHARD KEY`: show one sample for a person to check.

Prints the caption, the record, the token ids and the text that they decode to; writes a PNG with the original
on the left and the reconstruction of each view beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from PIL import Image

from pipeline.core.contracts import SPLITS, Split, StageReport
from pipeline.core.errors import ConfigError, ContractError, ModelError, damaged
from pipeline.core.kept_images import (
    STORED_IMAGE_COLUMNS,
    kept_tables,
    read_image,
    read_tables,
    stored_image,
)
from pipeline.core.outputs import write_output
from pipeline.core.ownership import path_inside
from pipeline.core.workspace import Workspace
from pipeline.models.tokenizers.load import TextTokenizer, load_tokenizer
from pipeline.shard.config import ShardConfig
from pipeline.webdata.index import INDEX_NAME
from pipeline.webdata.keys import read_keys
from pipeline.webdata.reader import Sample, ShardReader

_SIDE = 256  # minimum size of an image in the PNG, in pixels
_GAP = 8
_ROWS = 16_384
Square = npt.NDArray[np.uint8]


def inspect_sample(config: ShardConfig, shard: str, key: str) -> StageReport:
    """Show the sample `key` of `shard`: the path of a tar, or a name such as `train/000000`.

    The PNG goes to `config.out` or to `inspect/KEY.png` in the workspace. Without the codec or torch no PNG
    is written, and the report says so. Raises ConfigError if there is no such shard or key, ContractError for
    shards that differ from their index.
    """
    workspace = Workspace(config.workspace)
    folder, split, url = _find_shard(workspace.shards(config.name), shard)
    reader = ShardReader(folder, split, check_hashes=False)
    reader.check(url)
    row = _find_row(reader, url, key)
    sample = reader.sample(row)
    shown = {"key": key, "caption": sample.caption, **sample.record, **_show_ids(reader, sample)}
    path = Path(config.out) if config.out else workspace.root / "inspect" / f"{key}.png"
    if not config.out:
        path.parent.mkdir(exist_ok=True)
    try:
        images = _draw(reader, row, sample, workspace)
    except (ModelError, ModuleNotFoundError) as error:
        shown["image"] = f"none: {error}"
        return StageReport(stage="shard", outcome="done", details={"shown": shown})
    if len(images) > len(reader.index.views):
        shown["PSNR"] = _compare(*images)
    _write_png(path, images)
    return StageReport(
        stage="shard", outcome="done", outputs=(str(path),), details={"shown": shown}
    )


def _find_shard(default: Path, shard: str) -> tuple[Path, Split, str]:
    """Folder, split and relative path of a shard."""
    name = shard if shard.endswith(".tar") else f"{shard}.tar"
    for tar in (Path(name), default / name, default / SPLITS[0] / name):
        folder = tar.parent.parent
        if tar.is_file() and tar.parent.name in SPLITS and (folder / INDEX_NAME).is_file():
            return folder, tar.parent.name, f"{tar.parent.name}/{tar.name}"
    raise ConfigError(
        f"No shard {shard!r}: it is neither a tar beside an {INDEX_NAME} nor in {default}. "
        "Give a path, or a name such as train/000000."
    )


def _find_row(reader: ShardReader, url: str, key: str) -> int:
    rows = reader.rows_of(url)
    (entry,) = (entry for entry in reader.index.shards[reader.split] if entry.url == url)
    keys = read_keys(reader.folder, entry)
    found = np.flatnonzero(keys == key.encode())
    if not len(found):
        raise ConfigError(
            f"{url} has no sample {key!r}; its {len(keys)} keys begin with {keys[0].decode()}."
        )
    return rows[int(found[0])]


def _show_ids(reader: ShardReader, sample: Sample) -> dict[str, str]:
    tokenizer = _read_tokenizer(reader)
    ids = np.trim_zeros(sample.tokens, "b").tolist()
    rows, columns = reader.index.grid
    return {
        "ids": " ".join(map(str, ids)),
        "ids as text": tokenizer.decode(ids),
        "codes": f"{rows} × {columns}, {len(set(sample.codes.tolist()))} different, "
        f"beginning with {' '.join(map(str, sample.codes[:8].tolist()))}",
    }


def _read_tokenizer(reader: ShardReader) -> TextTokenizer:
    ref, source = reader.index.tokenizer, reader.folder / INDEX_NAME
    tokenizer = load_tokenizer(path_inside(reader.folder, ref.file, source=source))
    if tokenizer.fingerprint != ref.fingerprint:
        raise damaged(f"{reader.folder / ref.file} is not the tokenizer that {INDEX_NAME} names.")
    return tokenizer


def _draw(reader: ShardReader, row: int, sample: Sample, workspace: Workspace) -> list[Square]:
    """The original, if available, and the reconstruction of each view: [side, side, 3] each."""
    from pipeline.models.codecs.load import find_codec, load_codec
    from pipeline.models.codecs.pixels import read_square
    from pipeline.models.codecs.reconstruct import reconstruct

    codec = load_codec(find_codec(workspace.codecs, reader.index.codec.fingerprint))
    views = range(len(reader.index.views))
    codes = np.concatenate([reader.gather([row], view).codes_BN for view in views])
    original = sample.image or _original(workspace, sample)
    first = [] if original is None else [read_square(original, codec.image_size)]
    return [*first, *reconstruct(codec, codes)]


def _compare(original: Square, *views: Square) -> str:
    from pipeline.models.codecs.reconstruct import psnr

    return f"{psnr(original[None], views[0][None])[0]:.2f} dB"


def _original(workspace: Workspace, sample: Sample) -> bytes | None:
    """The image file as fetched, if the workspace still has it."""
    try:
        tables = kept_tables(workspace)
    except ContractError:
        return None
    for rows in read_tables(tables, ("key", *STORED_IMAGE_COLUMNS), _ROWS):
        found = pc.index(rows["key"], sample.image_key).as_py()
        if found >= 0:
            return read_image(workspace.segments, stored_image(rows.slice(found, 1).to_pylist()[0]))
    return None


def _write_png(path: Path, images: list[Square]) -> None:
    """Put images side by side; small ones are enlarged so that their pixels are visible."""
    scale = max(1, _SIDE // images[0].shape[0])
    side = images[0].shape[0] * scale
    sheet = Image.new("RGB", (len(images) * (side + _GAP) - _GAP, side), "white")
    for number, pixels in enumerate(images):
        image = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(image, (number * (side + _GAP), 0))
    with write_output(path, kind="PNG image", magic=b"\x89PNG\r\n\x1a\n") as output:
        sheet.save(output.file, "PNG")
