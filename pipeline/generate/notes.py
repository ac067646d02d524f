"""Progress of an unfinished folder: `unfinished.jsonl`, a line with its identity, then one per prompt.

A prompt is noted once all of its images are written; a killed run resumes with the first prompt that is not
noted. A truncated line and all lines after it are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.core.errors import ContractError
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import read_small_file
from pipeline.core.storage import write_bytes
from pipeline.core.text_files import split_lines

NOTES = "unfinished.jsonl"
RECORDS = "records.jsonl"

Record = Mapping[str, Any]
Records = list[list[Record]]  # by prompt


def read_identity(folder: Path) -> str | None:
    """The identity of the images started in `folder` (see `Recipe.identity`); None if not recorded."""
    lines = _read(folder / NOTES)
    head = lines[0] if lines else None
    return str(head["identity"]) if isinstance(head, dict) and "identity" in head else None


def read_notes(folder: Path) -> Records:
    """The records of each noted prompt whose images all exist."""
    prompts = [line for line in _read(folder / NOTES)[1:] if isinstance(line, list)]
    return _complete(folder, prompts)


def read_records(folder: Path) -> Records:
    """The records of each prompt of a finished folder whose images all exist."""
    records = [line for line in _read(folder / RECORDS) if isinstance(line, dict)]
    by_prompt = groupby(records, key=lambda record: record.get("number"))
    return _complete(folder, [list(group) for _, group in by_prompt])


def write_notes(folder: Path, identity: str, prompts: Records) -> None:
    """Start the notes with the prompts that already have their images."""
    lines = [{"identity": identity}, *prompts]
    write_bytes(folder / NOTES, b"".join(to_line(line) for line in lines))


def add_note(folder: Path, records: list[Record]) -> None:
    """Note a prompt whose images are written."""
    with (folder / NOTES).open("ab") as file:
        file.write(to_line(records))


def to_line(value: Any) -> bytes:
    """A value as a line of JSON."""
    return (json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _read(path: Path) -> list[Any]:
    """The values of the lines, up to the first invalid one."""
    try:
        text = read_small_file(path).decode("utf-8", "replace")
    except ContractError:
        return []
    values = []
    for line in split_lines(text):
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return values


def _complete(folder: Path, prompts: Iterable[list[Record]]) -> Records:
    return [records for records in prompts if records and _files_exist(folder, records)]


def _files_exist(folder: Path, records: list[Record]) -> bool:
    try:
        return all(
            isinstance(record["number"], int)
            and path_inside(folder, record["file"], source=folder / NOTES).is_file()
            for record in records
        )
    except (KeyError, TypeError, ContractError):
        return False
