"""Names of images in the segments: short, readable, and always the same for the same URL. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from scrapers.fetch.request_url import credentials_in, encodable_url, without_credentials
from scrapers.source import CaptionForm

RANK_MARK = "{rank}"
_MAX_SECTION = 40


class Address(NamedTuple):
    """The images of one caption form: `prefix + rank + suffix`, or `prefix` alone without a rank.

    `key` is the prefix of all their names: the section and 16 hex digits of the SHA-256 of the URL with
    `{rank}` instead of the rank. `userinfo`, the `user:password@` in the source's URL, is in none of these:
    it is for requests only.
    """

    prefix: str
    suffix: str | None
    key: str
    userinfo: str = ""


def address_of(form: CaptionForm, section: str) -> Address:
    """The URLs and names of the images of `form`."""
    userinfo = credentials_in(form.url_template)
    template = without_credentials(form.url_template) if userinfo else form.url_template
    head, found, tail = encodable_url(template).rpartition(RANK_MARK)
    digest = hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    key = f"{section_slug(section)}-{digest}"
    return Address(head, tail, key, userinfo) if found else Address(tail, None, key, userinfo)


def key_of_name(name: str) -> str:
    """The key of an image by its name in the source, a path with `/`: its first folder and a hash."""
    head, slash, _ = name.partition("/")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{section_slug(head if slash else '')}-{digest}"


def section_slug(section: str) -> str:
    """A section's name in characters that file names and WebDataset keys may contain."""
    slug = re.sub(r"[^a-z0-9_]+", "_", section.lower()).strip("_")
    return slug[:_MAX_SECTION] or "images"


def image_key(address_key: str, rank: int, version: int) -> str:
    """The key of one image; later versions of a changed image have a suffix."""
    key = f"{address_key}-{rank:02d}"
    return key if version == 1 else f"{key}-v{version}"
