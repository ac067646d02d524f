"""Unicode's list of emoji: emoji-test.txt of UTS #51 → their code points, names and groups."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import ConfigError
from pipeline.core.text_files import read_lines

_LAST_CODE_POINT = 0x10FFFF
_LINE = re.compile(r"([0-9A-F ]+?) *; fully-qualified *# \S+ E[0-9.]+ (.+)")
_GROUP = "# group: "
_SKIN_TONES = range(0x1F3FB, 0x1F400)


class Emoji(NamedTuple):
    """`text` is what a font draws as one image; `name` is Unicode's; `group` is like "animals_nature"."""

    text: str
    name: str
    group: str

    @property
    def file_stem(self) -> str:
        """Its code points, like "1f469-200d-1f680"."""
        return "-".join(f"{ord(each):x}" for each in self.text)


def read_emoji_list(path: Path) -> list[Emoji]:
    """The emoji of a list in its order, without the variants by skin tone.

    Raises ConfigError for a file that is not such a list.
    """
    found = list(_parse(read_lines(path)))
    if not found:
        raise ConfigError(
            f"{path} lists no emoji: expected lines like "
            "`1F600 ; fully-qualified # 😀 E1.0 grinning face`. Give Unicode's emoji-test.txt."
        )
    return found


def _parse(lines: list[str]) -> Iterator[Emoji]:
    group = "emoji"
    for line in lines:
        if line.startswith(_GROUP):
            group = _as_folder(line.removeprefix(_GROUP)) or "emoji"
        elif match := _LINE.fullmatch(line.strip()):
            points = [int(each, 16) for each in match[1].split()]
            if max(points) <= _LAST_CODE_POINT and not any(p in _SKIN_TONES for p in points):
                yield Emoji("".join(map(chr, points)), match[2].strip(), group)


def _as_folder(group: str) -> str:
    """ "Animals & Nature" is "animals_nature"."""
    return re.sub(r"[^a-z0-9]+", "_", group.lower()).strip("_")
