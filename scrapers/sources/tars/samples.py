"""The image and the captions of a sample, by the suffixes of its members."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.core.errors import ConfigError
from pipeline.core.text_files import decode_text
from scrapers.sources.folder.captions import Captions, captions_in_json
from scrapers.sources.tars.members import Member, read_small

# The first of these that a sample has is its image.
IMAGES = (
    "jpg", "jpeg", "png", "webp", "gif", "bmp", "avif", "tif", "tiff", "heic", "jxl", "img", "image",
)  # fmt: skip
_TEXTS = ("txt", "caption", "text", "cap")
_JSON_FIELDS = ("caption", "text")
_MAX_TEXT_BYTES = 1 << 20
_MAX_EXTRA_BYTES = 64 * 1024


class CaptionsFrom(NamedTuple):
    """Where captions are: a suffix, and a field if it is JSON; without a suffix the usual ones are tried."""

    suffix: str | None
    field: str | None = None


def parse_captions_from(value: str | None) -> CaptionsFrom:
    """Read a value of --captions-from. Raises ConfigError if it makes no sense."""
    if value is None:
        return CaptionsFrom(None)
    suffix, colon, field = value.partition(":")
    if not suffix or (colon and (suffix != "json" or not field)) or value == "json":
        raise ConfigError(
            f"--captions-from {value!r} is not known: expected json:FIELD, or the suffix of a member, such "
            "as txt."
        )
    return CaptionsFrom(suffix.lower(), field or None)


def image_of(sample: Mapping[str, Any]) -> tuple[Member | None, int]:
    """The image of a sample, and how many others it has."""
    suffixes = [suffix for suffix in IMAGES if suffix in sample]
    if not suffixes:  # such as `rgb.png`
        suffixes = [each for each in sample if each.rpartition(".")[2] in IMAGES[:-2]]
    return (sample[suffixes[0]], len(suffixes) - 1) if suffixes else (None, 0)


def captions_of(sample: Mapping[str, Any], wanted: CaptionsFrom) -> Captions:
    """The captions of a sample, and what its JSON says besides."""
    facts = _facts_of(sample)
    if wanted.field is not None or wanted.suffix == "json":
        return facts if wanted.field is None else _field_of(sample, wanted.field)
    suffixes = _TEXTS if wanted.suffix is None else (wanted.suffix,)
    suffix = next((each for each in suffixes if each in sample), None)
    if suffix is not None:
        found = _text_of(sample[suffix])
        return found._replace(extra=facts.extra)
    if wanted.suffix is None:
        for field in _JSON_FIELDS:
            if field in facts.extra:
                return _field_of(sample, field)
    return Captions((), fault=f"it has no {' or '.join(suffixes)}")


def _text_of(member: Member) -> Captions:
    data = read_small(member, max_bytes=_MAX_TEXT_BYTES)
    if data is None:
        return Captions((), fault=f"{member.name} is too large")
    try:
        text = decode_text(data, member.name).strip()
    except ConfigError as error:
        return Captions((), fault=str(error).split(". ")[0])
    return Captions((text,)) if text else Captions((), fault=f"{member.name} is empty")


def _field_of(sample: Mapping[str, Any], field: str) -> Captions:
    if "json" not in sample:
        return Captions((), fault="it has no json")
    text = _text_of(sample["json"])
    return captions_in_json(text.texts[0], field) if text.texts else text


def _facts_of(sample: Mapping[str, Any]) -> Captions:
    """What the JSON of a sample says."""
    member = sample.get("json")
    if member is None or member.place.size > _MAX_EXTRA_BYTES:
        return Captions(())
    text = _text_of(member)
    try:
        found = json.loads(text.texts[0]) if text.texts else {}
    except (ValueError, RecursionError):
        found = {}
    return Captions((), found if isinstance(found, dict) else {})
