"""The captions of an image: from a file beside it, its name, its folder, or its own metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import ConfigError
from pipeline.core.image_files import png
from pipeline.core.regular_files import read_regular
from pipeline.core.text_files import decode_text
from scrapers.fetch.optouts.xmp import read_titles
from scrapers.fetch.sniff import sniff

_MAX_CAPTION_BYTES = 1 << 20
_MAX_TITLE_BYTES = 64 * 1024
_PLAIN = ("txt", "filename", "folder", "png-title", "xmp")


class CaptionsFrom(NamedTuple):
    """A value of --captions-from: `kind`, and what follows its colon."""

    kind: str
    argument: str = ""

    @property
    def suffix(self) -> str | None:
        """The suffix of caption files; None if the captions are elsewhere."""
        return f".{self.kind}" if self.kind in ("txt", "json") else None


class Captions(NamedTuple):
    """Captions, and other facts from the same place; `fault` is why there are none."""

    texts: tuple[str, ...]
    extra: Mapping[str, Any] = {}
    fault: str | None = None


def parse_captions_from(value: str | None) -> CaptionsFrom:
    """Read a value of --captions-from. Raises ConfigError if it is unknown."""
    kind, colon, argument = (value or "txt").partition(":")
    if (kind in _PLAIN and not colon) or (kind in ("json", "csv") and argument):
        return CaptionsFrom(kind, argument)
    raise ConfigError(
        f"--captions-from {value!r} is not known: expected txt, json:FIELD, csv:FILE, filename, folder, "
        "png-title or xmp."
    )


def read_caption_file(path: Path, wanted: CaptionsFrom) -> Captions:
    """The captions in a file beside an image: all lines of a text, or a field of JSON."""
    try:
        text = decode_text(read_regular(path, max_bytes=_MAX_CAPTION_BYTES, remedy=""), "it")
    except ConfigError as error:
        return Captions((), fault=_why(str(error), path))
    return captions_in_json(text, wanted.argument) if wanted.kind == "json" else lines_of(text)


def _why(message: str, path: Path) -> str:
    """The reason in an error, without the name and the advice."""
    found = message.removeprefix("it can't be read: ").removeprefix(f"{path} can't be read: ")
    return found.split(". ")[0].rstrip(".")


def lines_of(text: str) -> Captions:
    """Each line that is not blank is a caption."""
    lines = tuple(filter(None, (line.strip() for line in text.split("\n"))))
    return Captions(lines) if lines else Captions((), fault="it is empty")


def captions_in_json(text: str, field: str) -> Captions:
    """The field of a JSON object: a text or a list of texts; the other fields are kept as well."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Captions((), fault=f"it is not JSON ({error})")
    if not isinstance(found, dict):
        return Captions((), fault="it is not a JSON object")
    if field not in found:
        return Captions((), fault=f"it has no field {field!r} but {', '.join(sorted(found)[:5])}")
    value = found.pop(field)
    listed = value if isinstance(value, list) else [value]
    texts = tuple(each.strip() for each in listed if isinstance(each, str) and each.strip())
    return Captions(texts, found) if texts else Captions((), fault=f"its {field!r} is no text")


def caption_in_name(stem: str) -> str:
    """A file's name as a caption: `a_red_cat` is "a red cat"."""
    return re.sub(r"[_\s]+", " ", stem).strip()


def captions_in_image(data: bytes, kind: str) -> Captions:
    """The title of a PNG, or the titles and descriptions in the XMP of an image."""
    if kind == "xmp":
        found = sniff(data).format
        texts = () if found is None else read_titles(data, found)
        return Captions(texts) if texts else Captions((), fault="its XMP has no title")
    title = png.find_text(data, b"Title", max_bytes=_MAX_TITLE_BYTES) if _is_png(data) else None
    text = "" if title is None else _decoded(title).strip()
    return Captions((text,)) if text else Captions((), fault="it has no title")


def _is_png(data: bytes) -> bool:
    return data.startswith(png.SIGNATURE)


def _decoded(title: bytes) -> str:
    """Latin-1 by the standard; many programs write UTF-8."""
    try:
        return title.decode("utf-8")
    except UnicodeDecodeError:
        return title.decode("latin-1")
