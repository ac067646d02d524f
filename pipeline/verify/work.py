"""A damaged folder under repair: its damaged files, and how they are set aside, restored or dropped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core import ownership
from pipeline.core.contracts import FileEntry
from pipeline.core.inventory import Folder
from pipeline.core.stage import Stage
from pipeline.core.storage import (
    MANIFEST_NAME,
    UNFINISHED_NAME,
    sha256_bytes,
    sha256_file,
    sync_folder,
    write_bytes,
    write_manifest,
)
from pipeline.verify.commands import command_for
from pipeline.verify.faults import Checked

DAMAGED_SUFFIX = ".damaged"
HEADS = (MANIFEST_NAME, UNFINISHED_NAME)


@dataclass
class Repairs:
    """The repairs made, the commands to run next in order, and what can't be repaired."""

    done: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    not_repaired: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The repairs as JSON values."""
        return {"repaired": self.done, "next": self.commands, "not_repaired": self.not_repaired}


@dataclass(frozen=True, kw_only=True)
class FolderRepair:
    """One damaged folder, the results for the whole workspace, and the log of repairs."""

    root: Path
    checked: Checked
    everything: Sequence[Checked]
    repairs: Repairs
    stages: Mapping[str, Stage]

    @property
    def folder(self) -> Folder:
        """The damaged folder."""
        return self.checked.folder

    @property
    def files(self) -> list[str]:
        """The damaged files, without the manifest and the mark."""
        return list(dict.fromkeys(f.file for f in self.checked.faults if f.file not in HEADS))

    @property
    def head_is_damaged(self) -> bool:
        """Whether the manifest, or the mark of an unfinished folder, is damaged."""
        return any(fault.file in HEADS for fault in self.checked.faults)

    @property
    def listed(self) -> tuple[FileEntry, ...]:
        """The files that the manifest lists; none if it can't be trusted."""
        manifest = self.folder.manifest
        return manifest.files if manifest is not None and not self.head_is_damaged else ()

    def note(self, file: str, what: str) -> None:
        """Record what was done with a file."""
        self.repairs.done.append(f"{self.folder.name}/{file}: {what}")

    def add_command(self, folder: Folder | None = None) -> None:
        """Record the command that makes this folder (or another one) again."""
        command = command_for(folder or self.folder, self.root, self.stages)
        if command not in self.repairs.commands:
            self.repairs.commands.append(command)

    def add_commands_of_readers(self) -> None:
        """Record the commands of the stages that read this folder."""
        for stage in self.stages.values():
            if self.folder.name in stage.reads and stage.contract is not None:
                contract, path = stage.contract.name, self.root / stage.contract.place
                there = [each.folder for each in self.everything if each.folder.path == path]
                missing = Folder(
                    contract=contract, name=path.name, path=path, manifest=None, problem=None
                )
                self.add_command(there[0] if there else missing)

    def give_up(self, why: str) -> None:
        """Record why the folder can't be repaired."""
        self.repairs.not_repaired.append(f"{self.folder.name}: {why}")

    # --- Files -----------------------------------------------------------------------------------

    def delete(self, file: str) -> None:
        """Delete a damaged file that can be made again."""
        (self.folder.path / file).unlink(missing_ok=True)
        self.note(file, "deleted")

    def set_aside(self, file: str, why: str) -> None:
        """Rename a file or folder to NAME.damaged (NAME.damaged-2, …); a missing one is only recorded."""
        path = self.folder.path / file
        if not path.exists() and not path.is_symlink():
            self.note(file, f"is missing; {why}")
            return
        target, number = path.with_name(path.name + DAMAGED_SUFFIX), 1
        while target.exists() or target.is_symlink():
            number += 1
            target = path.with_name(f"{path.name}{DAMAGED_SUFFIX}-{number}")
        path.rename(target)
        sync_folder(path.parent)
        self.note(file, f"kept as {target.name}; {why}")

    def restore(self, file: str, derived: bytes = b"") -> bool:
        """Restore a file from an intact copy in the workspace; return whether there is one.

        `derived` are its bytes as they follow from the manifest.
        """
        wanted = next((entry for entry in self.listed if entry.path == file), None)
        if wanted is None:
            return False
        data, source = self._find_bytes(wanted, derived)
        if data is None:
            return False
        write_bytes(self.folder.path / file, data)
        self.note(file, f"restored from {source}")
        return True

    def _find_bytes(self, wanted: FileEntry, derived: bytes) -> tuple[bytes | None, str]:
        if sha256_bytes(derived) == wanted.sha256:
            return derived, MANIFEST_NAME
        for each in self.everything:
            for entry in each.folder.manifest.files if each.folder.manifest is not None else ():
                path = each.folder.path / entry.path
                same = entry.sha256 == wanted.sha256 and each.folder.path != self.folder.path
                if same and path.is_file() and sha256_file(path) == wanted.sha256:
                    return path.read_bytes(), path.relative_to(self.root).as_posix()
        return None, ""

    def forget(self, files: Iterable[str], why: str) -> None:
        """Set files aside and remove them from the manifest, which stays valid throughout."""
        manifest, gone = self.folder.manifest, set(files)
        assert manifest is not None
        for file in sorted(gone):
            self.set_aside(file, why)
        kept = tuple(entry for entry in manifest.files if entry.path not in gone)
        write_manifest(self.folder.path, dataclasses.replace(manifest, files=kept))

    # --- The folder ------------------------------------------------------------------------------

    def make_unfinished(self, why: str, verified: Sequence[FileEntry] = ()) -> None:
        """Make the folder unfinished, so that its command resumes it.

        If its manifest is damaged, `verified` are the files known to be undamaged.
        """
        self.add_command()
        if self.head_is_damaged:
            # Write the mark first: a folder with neither manifest nor mark would not be ours.
            files = [dataclasses.asdict(entry) for entry in verified]
            ownership.mark_unfinished(self.folder.path, self.folder.contract, files)
            (self.folder.path / MANIFEST_NAME).unlink(missing_ok=True)
        else:
            ownership.reopen(self.folder.path, self.folder.contract)
        self.note(MANIFEST_NAME, why)
