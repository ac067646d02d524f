"""A damaged folder under repair: what is damaged of it, and how files are set aside, restored, forgotten."""

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
    json_bytes,
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
    """What was done, which commands make it anew in their order, and what can't be repaired."""

    done: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    hopeless: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"repaired": self.done, "next": self.commands, "not_repaired": self.hopeless}


@dataclass(frozen=True, kw_only=True)
class Work:
    """One damaged folder, what else was found in the workspace, and where to note what is done."""

    root: Path
    checked: Checked
    everything: Sequence[Checked]
    repairs: Repairs
    stages: Mapping[str, Stage]

    @property
    def folder(self) -> Folder:
        """The folder."""
        return self.checked.folder

    @property
    def files(self) -> list[str]:
        """The damaged files, without the manifest and the mark."""
        return list(dict.fromkeys(f.file for f in self.checked.faults if f.file not in HEADS))

    @property
    def head_is_damaged(self) -> bool:
        """Whether the manifest, or the mark of an unfinished folder, is."""
        return any(fault.file in HEADS for fault in self.checked.faults)

    @property
    def listed(self) -> tuple[FileEntry, ...]:
        """The files that the manifest lists; none where it can't be trusted."""
        manifest = self.folder.manifest
        return manifest.files if manifest is not None and not self.head_is_damaged else ()

    def note(self, file: str, what: str) -> None:
        """Say what became of a file."""
        self.repairs.done.append(f"{self.folder.name}/{file}: {what}")

    def add_command(self, folder: Folder | None = None) -> None:
        """Note the command that makes this folder (or another one) anew."""
        command = command_for(folder or self.folder, self.root, self.stages)
        if command not in self.repairs.commands:
            self.repairs.commands.append(command)

    def give_up(self, why: str) -> None:
        """Note what can't be repaired."""
        self.repairs.hopeless.append(f"{self.folder.name}: {why}")

    # --- Files -----------------------------------------------------------------------------------

    def delete(self, file: str) -> None:
        """Delete a damaged file that is made again."""
        (self.folder.path / file).unlink(missing_ok=True)
        self.note(file, "deleted")

    def set_aside(self, file: str, why: str) -> None:
        """Rename a file or a folder to NAME.damaged (NAME.damaged-2, …); one that is gone is only noted."""
        path = self.folder.path / file
        if not path.exists() and not path.is_symlink():
            self.note(file, f"is gone; {why}")
            return
        target, number = path.with_name(path.name + DAMAGED_SUFFIX), 1
        while target.exists() or target.is_symlink():
            number += 1
            target = path.with_name(f"{path.name}{DAMAGED_SUFFIX}-{number}")
        path.rename(target)
        sync_folder(path.parent)
        self.note(file, f"kept as {target.name}; {why}")

    def restore(self, file: str) -> bool:
        """Bring a file back from where the same bytes are whole; whether there is such a place."""
        wanted = next((entry for entry in self.listed if entry.path == file), None)
        if wanted is None:
            return False
        data, source = self._find_bytes(wanted)
        if data is None:
            return False
        write_bytes(self.folder.path / file, data)
        self.note(file, f"brought back from {source}")
        return True

    def _find_bytes(self, wanted: FileEntry) -> tuple[bytes | None, str]:
        manifest = self.folder.manifest
        if manifest is not None and (manifest.contract, wanted.path) == ("run", "plan.json"):
            plan = json_bytes({"config": manifest.config, "inputs": manifest.inputs})
            if sha256_bytes(plan) == wanted.sha256:
                return plan, MANIFEST_NAME
        for each in self.everything:
            for entry in each.folder.manifest.files if each.folder.manifest is not None else ():
                path = each.folder.path / entry.path
                same = entry.sha256 == wanted.sha256 and each.folder.path != self.folder.path
                if same and path.is_file() and sha256_file(path) == wanted.sha256:
                    return path.read_bytes(), path.relative_to(self.root).as_posix()
        return None, ""

    def forget(self, files: Iterable[str], why: str) -> None:
        """Set files aside, and let the manifest list the others only; it is whole before and after."""
        manifest, gone = self.folder.manifest, set(files)
        assert manifest is not None
        for file in sorted(gone):
            self.set_aside(file, why)
        kept = tuple(entry for entry in manifest.files if entry.path not in gone)
        write_manifest(self.folder.path, dataclasses.replace(manifest, files=kept))

    # --- The folder ------------------------------------------------------------------------------

    def make_unfinished(self, why: str, proven: Sequence[FileEntry] = ()) -> None:
        """Let the folder count as unfinished, so that its command goes on with it.

        Where its manifest is damaged, `proven` are the files that are known to be whole.
        """
        self.add_command()
        if self.head_is_damaged:
            # The mark first: a folder without a head would be nobody's.
            files = [dataclasses.asdict(entry) for entry in proven]
            ownership.mark_unfinished(self.folder.path, self.folder.contract, files)
            (self.folder.path / MANIFEST_NAME).unlink(missing_ok=True)
        else:
            ownership.reopen(self.folder.path, self.folder.contract)
        self.note(MANIFEST_NAME, why)
