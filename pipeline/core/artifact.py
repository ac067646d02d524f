"""A folder that a stage makes: whether it is current, how it is written, and the manifest that finishes it.

Every stage follows the same steps:

    out = find_artifact(folder, "words", config=resolved(config), inputs=inputs)
    if not out.is_current:
        out.start_over()  # or out.reopen(), to resume with the files that are there
        ...  # write the files
        out.finish(counts=counts, files=("words.json",))
    return out.report()

A folder is current if its manifest has the same config and inputs. From `start_over` or `reopen` to `finish`
it is marked as unfinished (see `ownership`), so a killed stage never leaves a folder that looks finished.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import ownership
from pipeline.core.contracts import FileEntry, Manifest, Outcome, StageReport
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import (
    MANIFEST_NAME,
    file_entry,
    find_current,
    input_digest,
    make_manifest,
    read_manifest,
    write_manifest,
)

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Artifact:
    """A folder of a contract, and the config and inputs that it is made from.

    `manifest` is that of the folder if it is current, and the new one after `finish`.
    """

    folder: Path
    contract: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    manifest: Manifest | None = None
    is_new: bool = False

    @property
    def is_current(self) -> bool:
        """Whether the folder is finished and was made from this config and these inputs."""
        return self.manifest is not None

    def start_over(self) -> None:
        """Mark the folder as unfinished and delete the stage's files; see `ownership.start_over`."""
        ownership.start_over(self.folder, self.contract)

    def reopen(self) -> None:
        """Mark the folder as unfinished and keep its files; see `ownership.reopen`."""
        ownership.reopen(self.folder, self.contract)

    def finish(
        self,
        *,
        counts: Mapping[str, int],
        files: Iterable[FileEntry | str],
        details: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Write the manifest, which marks the folder as finished.

        `files` are descriptions, or names of files to be described here.
        """
        self.manifest = make_manifest(
            self.contract,
            config=self.config,
            inputs=self.inputs,
            counts=counts,
            files=tuple(map(self._describe, files)),
            details=details,
        )
        self.is_new = True
        write_manifest(self.folder, self.manifest)
        return self.manifest

    def report(
        self,
        *,
        incomplete: bool = False,
        counts: Mapping[str, int] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> StageReport:
        """The report of a finished folder: its manifest's counts and details, and more of this run's.

        The outcome is `unchanged` unless this run has finished it; with `incomplete` some items failed.
        """
        assert self.manifest is not None
        outcome: Outcome = "incomplete" if incomplete else "done"
        return StageReport(
            stage=CONTRACTS[self.contract].maker,
            outcome=outcome if self.is_new else "unchanged",
            counts={**self.manifest.counts, **(counts or {})},
            outputs=(str(self.folder),),
            details={**self.manifest.details, **(details or {})},
        )

    def _describe(self, file: FileEntry | str) -> FileEntry:
        return file_entry(self.folder / file, self.folder) if isinstance(file, str) else file


def find_artifact(
    folder: Path, contract: str, *, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> Artifact:
    """The artifact in `folder`; it is current if it was made from this config and these inputs."""
    manifest = find_current(folder, contract, config=config, inputs=inputs)
    return Artifact(
        folder=folder, contract=contract, config=config, inputs=inputs, manifest=manifest
    )


def find_trained(
    folder: Path,
    contract: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    can_resume: Callable[[Path], bool] = lambda _: True,
) -> Artifact:
    """The artifact of a training as `folder`, or beside it as NAME-2, NAME-3, …

    It is a current one, else an unfinished one that `can_resume` accepts, else a new one: a finished folder
    is never replaced, since others may have been made with it.
    """
    family = list(reversed(ownership.list_family(folder)))
    for member in family:
        found = find_artifact(member, contract, config=config, inputs=inputs)
        if found.is_current:
            return found
    unfinished = (path for path in family if not (path / MANIFEST_NAME).exists())
    place = next(filter(can_resume, unfinished), None) or ownership.next_free(folder)
    if place != folder and place not in family:
        log.warning(
            "%s is kept, since other folders may depend on it. The new one is %s.", folder, place
        )
    return Artifact(folder=place, contract=contract, config=config, inputs=inputs)


def digest_input(folder: Path, contract: str, *, root: Path) -> dict[str, str]:
    """A folder of the workspace `root` as an entry of `inputs`: the digest of its content by its path.

    Raises ContractError if its stage has not finished.
    """
    read_manifest(folder, contract)
    return {folder.relative_to(root).as_posix(): input_digest(folder)}
