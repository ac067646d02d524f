"""What the package declares: its requirements with their extras, and the versions that are tested."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

OWN = "dalle-pipeline"
_PACKAGE = Path(__file__).parents[2]
CHECKOUT = _PACKAGE.parent
# A wheel contains the checkout's constraints.txt in the package.
_TESTED = (CHECKOUT / "constraints.txt", _PACKAGE / "constraints.txt")
_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;\s*(.*))?$")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_RELEASE = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A distribution and its versions; `extra` installs it, or it is always installed.

    `conditional`: only on some platforms or Python versions.
    """

    name: str
    extra: str | None = None
    versions: str = ""
    conditional: bool = False

    def allows(self, version: str) -> bool:
        """Whether `version` is in the range. Only ``>=`` and ``<`` are known."""
        bounds = [part.strip() for part in self.versions.split(",")]
        at_least = (part.removeprefix(">=") for part in bounds if part.startswith(">="))
        below = (part.removeprefix("<") for part in bounds if part.startswith("<"))
        number = _numbers(version)
        return all(number >= _numbers(low) for low in at_least) and all(
            number < _numbers(high) for high in below
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The release as numbers without zeros at the end: 2.0 is 2."""
    found = _RELEASE.match(version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def normalized(name: str) -> str:
    """The name of a distribution as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_requirement(text: str, extra: str | None = None) -> Requirement:
    """A requirement of pyproject.toml, with the extra it stands under, or of an installed package."""
    found = _REQUIREMENT.match(text.strip())
    assert found is not None, text
    marker = found[3] or ""
    in_marker = _EXTRA.search(marker)
    condition = _EXTRA.sub("", marker).replace("and", "").strip(" ()")
    return Requirement(
        name=found[1],
        extra=in_marker[1] if in_marker else extra,
        versions=found[2].strip(),
        conditional=bool(condition),
    )


def declared_requirements(checkout: Path = CHECKOUT) -> tuple[Requirement, ...]:
    """The requirements of the checkout's pyproject.toml, or else of the installed package."""
    found = _of_checkout(checkout / "pyproject.toml") or _of_installed()
    return tuple(each for each in found if normalized(each.name) != OWN)


def _of_checkout(file: Path) -> list[Requirement]:
    if not file.is_file():
        return []
    project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    if project.get("name") != OWN:
        return []
    extras = project["optional-dependencies"].items()
    return [
        *map(parse_requirement, project["dependencies"]),
        *(parse_requirement(text, extra) for extra, texts in extras for text in texts),
    ]


def _of_installed() -> list[Requirement]:
    try:
        return [parse_requirement(text) for text in metadata.requires(OWN) or ()]
    except metadata.PackageNotFoundError:
        return []


def tested_versions() -> Mapping[str, str]:
    """The versions of constraints.txt by normalized name."""
    for file in _TESTED:
        if file.is_file():
            return dict(_pins(file.read_text(encoding="utf-8")))
    return {}


def _pins(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, pinned, version = line.partition("#")[0].partition("==")
        if pinned:
            yield normalized(name.strip()), version.strip()


def installed_version(name: str) -> str | None:
    """The version of an installed distribution; `unknown` if its metadata are broken."""
    try:
        return metadata.version(name) or "unknown"
    except metadata.PackageNotFoundError:
        return None
    except Exception:  # whatever a broken METADATA file makes of its parser
        return "unknown"
