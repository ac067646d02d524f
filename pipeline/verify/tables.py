"""Check the tables of dedupe: keys are unique and sorted."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.inventory import Folder
from pipeline.core.kept_images import read_tables
from pipeline.core.ownership import path_inside
from pipeline.core.storage import MANIFEST_NAME
from pipeline.core.workspace import Workspace
from pipeline.verify.faults import Facts, Fault

_ROWS = 16_384


def check_tables(
    folder: Folder, _workspace: Workspace, _images: int
) -> tuple[list[Fault], list[Facts]]:
    """The faults of the tables of dedupe; nothing is measured."""
    return list(_check_order(folder)), []


def _check_order(folder: Folder) -> Iterator[Fault]:
    """Yield a fault for each table of images with unsorted or duplicate keys.

    Raises DamageError for a table that can't be read.
    """
    assert folder.manifest is not None
    names = [entry.path for entry in folder.manifest.files]
    for prefix in ("kept/", "rejected/"):
        last = ""
        for name in (name for name in names if name.startswith(prefix)):
            wrong, last = _first_out_of_order(folder, name, last)
            if wrong is not None:
                found = f"has the key {wrong!r} twice or out of order"
                yield Fault(folder=folder.name, file=name, found=found)


def _first_out_of_order(folder: Folder, name: str, last: str) -> tuple[str | None, str]:
    """The first key that does not come after its predecessor, and the table's last key."""
    path = path_inside(folder.path, name, source=folder.path / MANIFEST_NAME)
    wrong = None
    for rows in read_tables([path], ("key",), _ROWS):
        for key in rows["key"].to_pylist():
            if wrong is None and str(key) <= last:
                wrong = str(key)
            last = str(key)
    return wrong, last
