"""The exceptions of the project. Floor 1: imports nothing of ours.

    PipelineError                anything we can explain to a user in a sentence
    ├── ConfigError              an option, file or preset that can't be used            (exit code 2)
    ├── WorkspaceError           a folder that is not a workspace, or of another version
    │   └── LockedError          another process works in it
    ├── StorageError             the disk or the object store refused
    ├── ContractError            a file between two stages that breaks its contract
    │   └── DamageError          a file that was whole once: its bytes were lost or changed since
    ├── SourceError              a source that can't be reached or read
    ├── ModelError               weights, codecs or tokenizers that do not fit
    └── DependencyError          an extra that is not installed

A message says what was found, what was expected and what to do. Library errors become one of these
once, at the place that knows what they mean, with ``raise … from``. A failed *item* is never an
exception that leaves its stage: it is a row with a status.
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
    """A file on disk that does not hold what its contract promises."""


class DamageError(ContractError):
    """A file of ours whose bytes were lost or changed since it was written; see `damaged`."""


class SourceError(PipelineError):
    """A source of captions and images that can't be reached or understood."""


class ModelError(PipelineError):
    """Weights, codecs, tokenizers or checkpoints that do not fit what they are used for."""


class DependencyError(PipelineError):
    """A package that this command needs is not installed."""


REPAIR = "Run `pipeline verify --repair`: it drops what is damaged and prints the command that makes it anew."


def damaged(found: str) -> DamageError:
    """The error for a damaged file: `found` is a sentence that names it, the advice follows."""
    return DamageError(f"{found} {REPAIR}")
