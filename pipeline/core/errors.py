"""The exceptions of the project.

    PipelineError                anything we can explain to a user in a sentence
    ├── ConfigError              an option, file or preset that can't be used            (exit code 2)
    ├── WorkspaceError           a folder that is not a workspace, or of another version
    │   └── LockedError          another process works in it
    ├── StorageError             reading or writing a disk or an object store failed
    ├── ContractError            a file between two stages that violates its contract
    │   └── DamageError          a file that was once intact: bytes were lost or changed since
    ├── SourceError              a source that can't be reached or read
    ├── ModelError               weights, codecs or tokenizers that do not fit
    └── DependencyError          an extra that is not installed

A message says what was found, what was expected and what to do. Library errors are translated to one of these
once, where their meaning is known, with ``raise … from``. A failed *item* never raises out of its stage: it
is a row with a status.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of every error that a user can do something about."""


class ConfigError(PipelineError):
    """An option, environment variable, TOML file or preset that can't be used."""


class WorkspaceError(PipelineError):
    """A workspace that is not ours, or that another version wrote."""


class LockedError(WorkspaceError):
    """A workspace that another process holds."""


class StorageError(PipelineError):
    """Reading or writing failed: disk full, permissions, a broken object store."""


class ContractError(PipelineError):
    """A file that violates its contract."""


class DamageError(ContractError):
    """A file of ours whose bytes were lost or changed since it was written; see `damaged`."""


class SourceError(PipelineError):
    """A source of captions and images that can't be reached or understood."""


class ModelError(PipelineError):
    """Weights, codecs, tokenizers or checkpoints that don't fit their use."""


class DependencyError(PipelineError):
    """A package that this command needs is not installed."""


REPAIR = "Run `pipeline verify --repair`: it removes what is damaged and prints how to rebuild it."


def damaged(found: str) -> DamageError:
    """The error for a damaged file: `found` is a sentence that names it; advice is appended."""
    return DamageError(f"{found} {REPAIR}")
