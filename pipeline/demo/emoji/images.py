"""Write the emoji as a folder of images with a text file beside each: what `pipeline scrape folder` reads."""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.core.errors import ConfigError
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import parse_json_file
from pipeline.core.progress import Progress
from pipeline.core.storage import sha256_bytes, storage_error, write_json
from pipeline.demo.emoji.font import EmojiFont
from pipeline.demo.emoji.listing import Emoji, read_emoji_list

log = logging.getLogger(__name__)

_RECORD = "rendered.json"
_VERSION = 1  # raised when the same font and list would yield other files
_REMEDY = "Delete it to render the images again."


@dataclass(frozen=True, kw_only=True)
class _Rendered:
    """What a folder was rendered from, and its files."""

    made_from: str
    files: tuple[str, ...]


def render_emoji(font: Path, names: Path, folder: Path, progress: Progress) -> bool:
    """Write images and captions of all emoji that the font has; False if they are there already.

    Files of an earlier font or list that are not overwritten are removed. Raises ConfigError for a font or a
    list that can't be used.
    """
    drawing, emoji = EmojiFont(font), read_emoji_list(names)
    made_from = sha256_bytes(f"{_VERSION} {sha256_bytes(drawing.data)} {emoji!r}".encode())
    before = _read_record(folder)
    if before.made_from == made_from and all(map(_is_there, _paths(folder, before))):
        return False
    files = tuple(_write_all(drawing, emoji, folder, progress))
    if not files:
        raise ConfigError(f"{font} has none of the emoji in {names}. Give another --font.")
    old = dataclasses.replace(before, files=tuple(set(before.files) - set(files)))
    for path in _paths(folder, old):
        path.unlink(missing_ok=True)
    write_json(folder / _RECORD, {"made_from": made_from, "files": files})
    return True


def _paths(folder: Path, rendered: _Rendered) -> Iterator[Path]:
    return (path_inside(folder, name, source=folder / _RECORD) for name in rendered.files)


def _is_there(path: Path) -> bool:
    """The files are not synced one by one, so after a power failure one may be empty."""
    return path.is_file() and path.stat().st_size > 0


def _read_record(folder: Path) -> _Rendered:
    path = folder / _RECORD
    if not path.exists():
        return _Rendered(made_from="", files=())
    return parse_json_file(path, _Rendered, remedy=_REMEDY)


def _write_all(
    font: EmojiFont, emoji: list[Emoji], folder: Path, progress: Progress
) -> Iterator[str]:
    """Write the files, and yield their names."""
    missing = []
    for number, each in enumerate(emoji, 1):
        image = font.draw(each.text)
        if image is None:
            missing.append(each.name)
        else:
            yield from _write(each, image, folder)
        progress(number, len(emoji))
    if missing:
        log.warning("The font lacks %d emoji: %s.", len(missing), ", ".join(missing[:10]))


def _write(emoji: Emoji, image: Image.Image, folder: Path) -> Iterator[str]:
    out = io.BytesIO()
    image.save(out, "PNG")
    stem = f"{emoji.group}/{emoji.file_stem}"
    path = folder / stem
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".png").write_bytes(out.getvalue())
        path.with_suffix(".txt").write_text(f"{emoji.name}\n", encoding="utf-8")
    except OSError as error:
        raise storage_error(error, path) from error
    yield from (f"{stem}.png", f"{stem}.txt")
