"""The checks of Python and of the packages that the pipeline can use."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from pipeline.app.doctor.check import Check, State
from pipeline.app.doctor.importing import Imported, try_groups
from pipeline.app.doctor.requirements import (
    Requirement,
    declared_requirements,
    installed_version,
    normalized,
    tested_versions,
)
from pipeline.core.version import __version__

IMPORT_TIMEOUT_S = 300.0
_SECTION = "Python and packages"
_OLDEST, _NEWEST = (3, 11), (3, 13)
# What each extra is for. The others are for developers, or are installed elsewhere.
PURPOSES: Mapping[str, str] = {
    "train": "all stages after dedupe",
    "clip": "generate --best",
    "deepspeed": "train --parallel deepspeed",
    "encodings": "responses compressed with Brotli or Zstandard",
    "heif": "HEIC images",
    "jxl": "JPEG XL images",
    "ray": "--engine ray",
    "s3": "shards, lists and workspaces on s3://",
    "gcs": "shards, lists and workspaces on gs://",
}
# Modules whose name is not that of their distribution.
_MODULES = {
    "beautifulsoup4": "bs4",
    "pillow": "PIL",
    "pillow-heif": "pillow_heif",
    "pillow-jxl-plugin": "pillow_jxl",
    "pyyaml": "yaml",
    "backports-zstd": "backports.zstd",
}
# torch takes a second to import. What imports it, too, follows it in the same process.
_WITH_TORCH = ("torch", "transformers", "deepspeed", "webdataset")


def module_of(distribution: str) -> str:
    """The module of a distribution: ``bs4`` of ``beautifulsoup4``."""
    name = normalized(distribution)
    return _MODULES.get(name, name.replace("-", "_"))


def check_python(version: Sequence[int] = sys.version_info[:3]) -> Check:
    """Whether this Python is one of those that are tested."""
    short = tuple(version[:2])
    advice = ""
    if short < _OLDEST:
        advice = "Python 3.11 or newer is needed"
    elif short > _NEWEST:
        advice = "Tested with Python 3.11 to 3.13"
    where = f"{platform.python_implementation()} on {platform.platform()}, {sys.executable}"
    return Check(
        section=_SECTION,
        name="Python",
        state="bad" if short < _OLDEST else "ok",
        found=f"{'.'.join(map(str, version[:3]))}, {where}",
        advice=advice,
        needed=True,
    )


def check_own() -> Check:
    """The version of this package."""
    return Check(section=_SECTION, name="dalle-pipeline", state="ok", found=__version__)


Importer = Callable[[Sequence[Sequence[str]]], Mapping[str, Imported]]


def import_for_real(groups: Sequence[Sequence[str]]) -> Mapping[str, Imported]:
    """Import the modules of each group in a process of its own."""
    return try_groups(groups, timeout_s=IMPORT_TIMEOUT_S)


def import_installed(importer: Importer = import_for_real) -> Mapping[str, Imported]:
    """Try to import every package that the pipeline needs or can use, by module."""
    wanted = dict.fromkeys(module_of(each.name) for each in _wanted())
    with_torch = [name for name in _WITH_TORCH if name in wanted]
    return importer([with_torch, [name for name in wanted if name not in _WITH_TORCH]])


def wanted_requirements(declared: Iterable[Requirement]) -> list[Requirement]:
    """Each package once: as required, or else with the first extra of `PURPOSES` that installs it.

    A wheel's metadata name it under every extra, since they list what an extra takes from another.
    """
    rank = {extra: index for index, extra in enumerate((None, *PURPOSES))}
    known = sorted((each for each in declared if each.extra in rank), key=lambda r: rank[r.extra])
    first: dict[str, Requirement] = {}
    for each in known:
        first.setdefault(normalized(each.name), each)
    return list(first.values())


def _wanted() -> list[Requirement]:
    return wanted_requirements(declared_requirements())


def check_packages(
    imported: Mapping[str, Imported], version_of: Callable[[str], str | None] = installed_version
) -> list[Check]:
    """A check for each required package, and for each package of an extra."""
    tested = tested_versions()
    return [
        _check(each, version_of(each.name), imported[module_of(each.name)], tested)
        for each in _wanted()
    ]


def _check(
    wanted: Requirement, version: str | None, imported: Imported, tested: Mapping[str, str]
) -> Check:
    state, found, advice = _judge(wanted, version, imported)
    pinned = tested.get(normalized(wanted.name))
    if state == "ok" and pinned not in (None, (version or "").partition("+")[0]):
        found = f"{found} (tested with {pinned})"
    return Check(
        section=_SECTION,
        name=wanted.name,
        state=state,
        found=found,
        advice=advice,
        needed=wanted.extra in (None, "train"),
        facts={"version": version, "tested": pinned, "extra": wanted.extra, **imported.facts},
    )


def _judge(wanted: Requirement, version: str | None, imported: Imported) -> tuple[State, str, str]:
    """The state, what was found, and what to do."""
    if version is None and imported.missing:
        return _absent(wanted)
    if imported.missing:
        return "bad", f"{version}, but its files are missing", _reinstall(wanted)
    if imported.error is not None:
        return "bad", f"{version or 'no version'}, but {imported.error}", _reinstall(wanted)
    if version not in (None, "unknown") and not wanted.allows(version or ""):
        return "bad", f"{version}, but {wanted.versions} is needed", _install(wanted)
    return "ok", version or "importable, but not installed by pip", ""


def _absent(wanted: Requirement) -> tuple[State, str, str]:
    if wanted.extra is not None:
        purpose = f"for {PURPOSES[wanted.extra]}"
        return "missing", f"not installed; {purpose}", _install(wanted)
    if wanted.conditional:
        return "missing", "not installed; optional on some platforms", ""
    return "bad", "not installed, but every command needs it", _install(wanted)


def _install(wanted: Requirement) -> str:
    extra = f"[{wanted.extra}]" if wanted.extra else ""
    return f"Install it with: pip install 'dalle-pipeline{extra}'"


def _reinstall(wanted: Requirement) -> str:
    quoted = f"'{wanted.name}{wanted.versions}'" if wanted.versions else wanted.name
    return f"Reinstall it with: pip install --force-reinstall {quoted}"
