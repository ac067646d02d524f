"""From the inputs of the source to its tars, each with a name that a move of their folder doesn't change."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.core.errors import ConfigError
from pipeline.core.original_files import is_address

PIPE = "pipe:"
_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Tar(NamedTuple):
    """A tar: where it is (an absolute path, an address, or a command after `pipe:`), its name, its group."""

    place: str
    name: str
    group: str

    @property
    def is_pipe(self) -> bool:
        """Whether a command writes it."""
        return self.place.startswith(PIPE)


def find_tars(inputs: tuple[str, ...], *, allow_pipe: bool) -> list[Tar]:
    """All tars, in the order of the inputs, each once.

    Raises ConfigError without an input, for a pattern that matches nothing, for a pipe that is not allowed.
    """
    if not inputs:
        raise ConfigError(
            "The source tars needs at least one: pipeline scrape tars 'data/{00000..00099}.tar'."
        )
    places = list(dict.fromkeys(place for each in inputs for place in _expand(each, allow_pipe)))
    names = _short_names(places)
    return [Tar(place, name, _group(place)) for place, name in zip(places, names, strict=True)]


def _expand(given: str, allow_pipe: bool) -> Iterator[str]:
    from braceexpand import braceexpand

    if given.startswith(PIPE):
        if not allow_pipe:
            raise ConfigError(f"{given!r} would run a command: give --allow-pipe to allow that.")
        yield from braceexpand(given)
        return
    for place in [given] if Path(given).exists() else braceexpand(given):
        found = _match_address(place) if is_address(place) else _match_path(place)
        if not found:
            raise ConfigError(f"{place} matches no tar. Give tars, folders of them, or URLs.")
        yield from found


def _match_path(place: str) -> list[str]:
    path = Path(place)
    if path.is_dir():
        inner = (each for each in path.rglob("*") if each.name.lower().endswith(_SUFFIXES))
        return [str(each.resolve()) for each in sorted(inner)]
    if path.exists() or not glob.has_magic(place):
        return [str(path.resolve())]  # if it is missing, that is said when it is opened
    return [str(Path(each).resolve()) for each in sorted(glob.glob(place, recursive=True))]  # noqa: PTH207


def _match_address(place: str) -> list[str]:
    if not glob.has_magic(place):
        return [place]
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(place)
        scheme = place.partition("://")[0]
        return [f"{scheme}://{found.lstrip('/')}" for found in sorted(filesystem.glob(path))]
    except Exception as error:  # each store has its own exceptions
        raise ConfigError(f"{place} can't be listed: {error}. Check the URL.") from error


def _short_names(places: list[str]) -> list[str]:
    """As few last parts of each path as make them differ."""
    parts = [PurePosixPath(place.replace("://", "/")).parts for place in places]
    for number in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-number:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return places


def _group(place: str) -> str:
    return PurePosixPath(place).parent.name if not place.startswith(PIPE) else "pipe"
