"""Writes the shards of a layout; a shard that is already there from the same samples stays.

Every finished shard leaves a note in `scratch/done/`, so that a run that was killed goes on after the
last of them. Nothing is believed: a shard stays only if its *recipe*, the hash of the samples that
belong in it, and the sha256 of its files are the expected ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.contracts import SHARD_MEMBERS, SPLITS, Split
from pipeline.core.errors import ContractError
from pipeline.core.parsing import parse_json_file
from pipeline.core.progress import Progress
from pipeline.core.storage import sha256_bytes, sha256_file, write_json
from pipeline.core.workspace import Workspace
from pipeline.shard.codes import CODES_DTYPE, CodesFile
from pipeline.shard.config import ShardConfig
from pipeline.shard.images import load_image
from pipeline.shard.inputs import Inputs
from pipeline.shard.join import Joined, Text
from pipeline.shard.layout import Layout, Rows
from pipeline.webdata.index import ShardEntry, codes_shape
from pipeline.webdata.npy import npy_header
from pipeline.webdata.tar import ShardWriter, member_bytes, open_shard, table_path, tar_bytes

logger = logging.getLogger(__name__)

Members = list[tuple[str, bytes]]
Picture = Future[tuple[str, bytes]]
_PICTURES_AHEAD = 64


def extend_recipe(recipe: hashlib._Hash, *parts: bytes) -> None:
    """Add key, caption, record, token ids and codes of a sample to the recipe of its shard."""
    recipe.update(b"%d %d %d %d %d " % tuple(map(len, parts)) + b"".join(parts))


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What a run notes of a shard that it has finished: `inputs` is a hash of what it was made from."""

    inputs: str
    entry: ShardEntry


@dataclass(kw_only=True)
class Shards:
    """Writes tars into `folder`/{train,val}, notes into `done`."""

    folder: Path
    done: Path
    config: ShardConfig
    inputs: Inputs
    joined: Joined
    codes: CodesFile
    threads: ThreadPoolExecutor
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
        """Bring every shard of the layout about; `base` are those that an earlier run finished."""
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

    # --- What is there already -------------------------------------------------------------------

    def _note_path(self, split: Split, number: int) -> Path:
        return self.done / f"{split}-{number:06d}.json"

    def _note(self, split: Split, number: int) -> ShardEntry | None:
        """What a killed run noted of a shard; only one made from the very same inputs counts."""
        path = self._note_path(split, number)
        try:
            note = parse_json_file(path, _Note)
        except ContractError:
            return None
        return note.entry if note.inputs == self._made_from else None

    def _reuse(self, rows: Rows, known: Iterable[ShardEntry | None]) -> ShardEntry | None:
        """The first of `known` that is made of the first of `rows` and lies there unharmed."""
        for entry in known:
            if entry and self._is_made_of(entry, rows) and self._is_whole(entry):
                self.reused += 1
                self._tell(entry)
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
        """Write one tar of `rows`; with `cut`, of as many of the first as one may hold."""
        path = self.folder / split / f"{number:06d}.tar"
        recipe = hashlib.sha256()
        with open_shard(path, len(self.inputs.members)) as writer:
            for row, text, codes, picture in self._read_ahead(rows):
                members = self._members_of(text, codes)
                if picture:
                    members.append(picture.result())
                if cut and self._is_full(writer, members):
                    break
                writer.add(self.joined.keys[row].decode(), members)
                self._extend(recipe, row, text, codes)
        entry = self._entry(path, writer, recipe.hexdigest())
        if entry.filesize > self.config.max_bytes:
            logger.warning(
                "%s has %d bytes, more than the %d of --max-bytes: its one sample is larger.",
                path,
                entry.filesize,
                self.config.max_bytes,
            )
        note = _Note(inputs=self._made_from, entry=entry)
        write_json(self._note_path(split, number), dataclasses.asdict(note))
        self._tell(entry)
        return entry

    def _read_ahead(self, rows: Rows) -> Iterator[tuple[int, Text, bytes, Picture | None]]:
        """Each row with its text, its codes and, where shards carry pictures, one under way."""
        ahead: deque[tuple[int, Text, bytes, Picture | None]] = deque()
        for row in rows.tolist():
            text = self.joined.texts.read(row)
            picture = None
            if text.image:
                picture = self.threads.submit(
                    load_image, self._segments, text.image, self.config.images
                )
            ahead.append((row, text, self._codes_of(row), picture))
            if picture is None or len(ahead) > _PICTURES_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def _extend(self, recipe: hashlib._Hash, row: int, text: Text, codes: bytes) -> None:
        """Add a sample to a recipe; its picture is in there by the hash that its record holds."""
        key = self.joined.keys[row]
        extend_recipe(recipe, key, text.caption, text.record, text.tokens, codes)

    def _codes_of(self, row: int) -> bytes:
        return self.codes.read(int(self.joined.codes_row[row]))

    def _members_of(self, text: Text, codes: bytes) -> Members:
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

    def _tell(self, entry: ShardEntry) -> None:
        self.written += entry.nsamples
        self.progress(self.written, len(self.joined.keys), {"shards reused": self.reused})
