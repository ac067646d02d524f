"""Write the shards of a layout; existing shards of the same samples are kept.

Every finished shard leaves a note in `scratch/done/`, so that a killed run resumes after the last one. Notes
are verified: a shard is kept only if its *recipe* (the hash of the samples that belong in it) and the sha256
of its files are as expected.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.contracts import SHARD_MEMBERS, SPLITS, Split
from pipeline.core.engine import Pool
from pipeline.core.errors import ContractError
from pipeline.core.parsing import parse_json_file
from pipeline.core.progress import Progress
from pipeline.core.storage import sha256_bytes, sha256_file, write_json
from pipeline.core.workspace import Workspace
from pipeline.shard.codes import CODES_DTYPE, CodesFile
from pipeline.shard.config import ShardConfig
from pipeline.shard.images import load_image
from pipeline.shard.inputs import Inputs
from pipeline.shard.join import Joined, SampleText
from pipeline.shard.layout import Layout, Rows
from pipeline.webdata.index import ShardEntry, codes_shape
from pipeline.webdata.npy import npy_header
from pipeline.webdata.tar import ShardWriter, member_bytes, open_shard, table_path, tar_bytes

logger = logging.getLogger(__name__)

Members = list[tuple[str, bytes]]
PendingImage = Future[tuple[str, bytes]]
_IMAGES_AHEAD = 64


def extend_recipe(recipe: hashlib._Hash, *parts: bytes) -> None:
    """Add a sample's key, caption, record, token ids and codes to the recipe of its shard."""
    recipe.update(b"%d %d %d %d %d " % tuple(map(len, parts)) + b"".join(parts))


@dataclass(frozen=True, kw_only=True)
class _Note:
    """A note about a finished shard; `inputs` is a hash of its inputs."""

    inputs: str
    entry: ShardEntry


@dataclass(kw_only=True)
class LayoutWriter:
    """Writes tars into `folder`/{train,val} and notes into `done`."""

    folder: Path
    done: Path
    config: ShardConfig
    inputs: Inputs
    joined: Joined
    codes: CodesFile
    pool: Pool
    progress: Progress
    reused: int = field(default=0, init=False)
    written: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._segments = Workspace(self.config.workspace).segments
        self._tokens_head = npy_header(self.inputs.tokens_dtype, self.config.text_seq_len)
        self._codes_head = npy_header(
            CODES_DTYPE, *codes_shape(self.inputs.views, self.inputs.num_codes)
        )
        self._made_from = self.inputs.lineage(self.inputs.digests)

    def write(
        self, layout: Layout, base: Mapping[Split, Sequence[ShardEntry]]
    ) -> dict[Split, tuple[ShardEntry, ...]]:
        """Write or reuse every shard of the layout; `base` are the shards of an earlier run."""
        return {split: tuple(self._write_split(split, layout, base[split])) for split in SPLITS}

    def _write_split(
        self, split: Split, layout: Layout, base: Sequence[ShardEntry]
    ) -> Iterator[ShardEntry]:
        number = 0
        for number, rows in enumerate(layout.old[split], start=1):
            known = [self._note(split, number - 1), *base[number - 1 : number]]
            yield self._reuse(rows, known) or self._write_shard(split, number - 1, rows, cut=False)
        rows = layout.new[split]
        while len(rows):
            entry = self._reuse(rows, [self._note(split, number), *base[number : number + 1]])
            entry = entry or self._write_shard(split, number, rows, cut=True)
            rows = rows[entry.nsamples :]
            number += 1
            yield entry

    # --- Reuse of existing shards ------------------------------------------------------------------

    def _note_path(self, split: Split, number: int) -> Path:
        return self.done / f"{split}-{number:06d}.json"

    def _note(self, split: Split, number: int) -> ShardEntry | None:
        """The shard that a killed run noted, if it was made from the very same inputs."""
        path = self._note_path(split, number)
        try:
            note = parse_json_file(path, _Note)
        except ContractError:
            return None
        return note.entry if note.inputs == self._made_from else None

    def _reuse(self, rows: Rows, known: Iterable[ShardEntry | None]) -> ShardEntry | None:
        """The first of `known` that holds the first of `rows` and is undamaged."""
        for entry in known:
            if entry and self._is_made_of(entry, rows) and self._is_whole(entry):
                self.reused += 1
                self._report_progress(entry)
                return entry
        return None

    def _is_made_of(self, entry: ShardEntry, rows: Rows) -> bool:
        recipe = hashlib.sha256()
        for row in rows[: entry.nsamples].tolist():
            self._extend(recipe, row, self.joined.texts.read(row), self._codes_of(row))
        return entry.nsamples <= len(rows) and recipe.hexdigest() == entry.recipe

    def _is_whole(self, entry: ShardEntry) -> bool:
        files = ((entry.url, entry.sha256), (entry.table, entry.table_sha256))
        paths = [(self.folder / name, sha256) for name, sha256 in files]
        return all(path.exists() and sha256_file(path) == sha256 for path, sha256 in paths)

    # --- Writing ---------------------------------------------------------------------------------

    def _write_shard(self, split: Split, number: int, rows: Rows, *, cut: bool) -> ShardEntry:
        """Write one tar of `rows`; with `cut`, only as many rows as fit."""
        path = self.folder / split / f"{number:06d}.tar"
        recipe = hashlib.sha256()
        with open_shard(path, len(self.inputs.members)) as writer:
            for row, text, codes, image in self._read_ahead(rows):
                members = self._members_of(text, codes)
                if image:
                    members.append(image.result())
                if cut and self._is_full(writer, members):
                    break
                writer.add(self.joined.keys[row].decode(), members)
                self._extend(recipe, row, text, codes)
        entry = self._entry(path, writer, recipe.hexdigest())
        if entry.filesize > self.config.max_bytes:
            logger.warning(
                "%s has %d bytes, more than the %d of --max-bytes: its only sample is larger.",
                path,
                entry.filesize,
                self.config.max_bytes,
            )
        note = _Note(inputs=self._made_from, entry=entry)
        write_json(self._note_path(split, number), dataclasses.asdict(note))
        self._report_progress(entry)
        return entry

    def _read_ahead(
        self, rows: Rows
    ) -> Iterator[tuple[int, SampleText, bytes, PendingImage | None]]:
        """Each row with its text, its codes and, if shards hold images, its pending image."""
        ahead: deque[tuple[int, SampleText, bytes, PendingImage | None]] = deque()
        for row in rows.tolist():
            text = self.joined.texts.read(row)
            image = None
            if text.image:
                image = self.pool.submit(load_image, self._segments, text.image, self.config.images)
            ahead.append((row, text, self._codes_of(row), image))
            if image is None or len(ahead) > _IMAGES_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def _extend(self, recipe: hashlib._Hash, row: int, text: SampleText, codes: bytes) -> None:
        """Add a sample to a recipe; its image is covered by the hash in its record."""
        key = self.joined.keys[row]
        extend_recipe(recipe, key, text.caption, text.record, text.tokens, codes)

    def _codes_of(self, row: int) -> bytes:
        return self.codes.read(int(self.joined.codes_row[row]))

    def _members_of(self, text: SampleText, codes: bytes) -> Members:
        contents = (
            text.caption,
            text.record,
            self._tokens_head + text.tokens,
            self._codes_head + codes,
        )
        return list(zip(SHARD_MEMBERS, contents, strict=True))

    def _is_full(self, writer: ShardWriter, members: Members) -> bool:
        more = sum(member_bytes(len(data)) for _, data in members)
        too_large = tar_bytes(writer.bytes + more) > self.config.max_bytes
        return writer.samples >= self.config.max_samples or (writer.samples > 0 and too_large)

    def _entry(self, path: Path, writer: ShardWriter, recipe: str) -> ShardEntry:
        table = table_path(path)
        return ShardEntry(
            url=path.relative_to(self.folder).as_posix(),
            nsamples=writer.samples,
            filesize=writer.bytes,
            sha256=writer.sha256,
            table=table.relative_to(self.folder).as_posix(),
            table_bytes=table.stat().st_size,
            table_sha256=sha256_bytes(table.read_bytes()),
            recipe=recipe,
        )

    def _report_progress(self, entry: ShardEntry) -> None:
        self.written += entry.nsamples
        self.progress(self.written, len(self.joined.keys), {"shards reused": self.reused})
