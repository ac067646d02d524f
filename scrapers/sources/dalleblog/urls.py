"""Caption ⇄ URL: the URLs of the images of the DALL·E blog post.

    {cdn}/samples/{section}/{key}_{rank}.png        an image
    {cdn}/image_prompts/{section}.png               the image that prompted a section

A URL from the page is kept byte for byte, including its query; only its rank is taken out. URLs that we
compute are percent-encoded, and a base64 key is standard base64 of the caption's UTF-8 bytes with its
padding, written into the path as it is. Its alphabet contains `/`, which then looks like another folder:
`ab/cd_0.png`. It is not escaped, because that is the URL that a browser requests (unless the page escapes
its own: `escaped`); when a URL is parsed, the slashes belong to the key if the whole decodes to a caption.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import SourceError
from scrapers.fetch.page_urls import clean_text, encode_part, resolve_url

KeyKind = Literal["base64", "hex128", "uint32", "name"]

# nginx and most CDNs refuse a longer request line.
MAX_URL_CHARS = 8_000
RANKS = tuple(range(32))

# Where a URL of an image may be; anything else (a caption in `title`, say) is not one of ours.
ADDRESS = re.compile(r"(?:^|/|%2f)(?:samples|image_prompts)(?:/|%2f)", re.IGNORECASE)
_SRCSET = re.compile(r"\s[0-9.]+[wx]\s*(?:,|$)")
_ADDRESS_ENDS = re.compile(r"[\s\"'()<>]+|,(?=\s)")

_BASE64 = re.compile(
    r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)"
)
_HEX128 = re.compile(r"[0-9a-f]{32}")
_UINT32 = re.compile(r"0|[1-9][0-9]{0,9}")
_FILE = re.compile(
    r"(?P<key>.*?)(?:_(?P<rank>0|[1-9][0-9]{0,5}))?\.(?P<suffix>png|jpe?g|webp)", re.S | re.I
)
# A base64 key that the page wrote with its `+`, `/` and `=` percent-encoded.
_ESCAPED = re.compile(r"%(?:2b|2f|3d)", re.I)
_BASE64_PUNCTUATION = "+/="
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleUrl:
    """An image's URL, split.

    `cdn` is the URL above `samples/`; `rank` is None if the name ends in no number; `caption` is decoded from
    a base64 key, None for other kinds of key. `written` is section and key as the page wrote them, None if we
    compute them; `query` starts with its `?`.
    """

    cdn: str
    section: str
    key: str
    kind: KeyKind
    rank: int | None
    caption: str | None
    suffix: str = "png"
    written: str | None = None
    query: str = ""

    @property
    def template(self) -> str:
        """The URL with `{rank}` left to fill in."""
        rank = "" if self.rank is None else "_{rank}"
        written = self.written or f"{encode_part(self.section)}/{_encode_key(self.key)}"
        query = self.query.replace("{rank}", "%7Brank%7D")
        return f"{_plain_cdn(self.cdn)}/samples/{written}{rank}.{self.suffix}{query}"

    @property
    def identity(self) -> tuple[str, str, int | None]:
        """What has one caption: all ranks of a key; for a hand-made name, each image on its own."""
        return self.section, self.key, self.rank if self.kind == "name" else None

    @property
    def escaped(self) -> bool:
        """Whether the page percent-encodes the punctuation of base64."""
        return self.kind == "base64" and _ESCAPED.search(self.written or "") is not None

    def url(self) -> str:
        """The URL again, as `sample_url` would write it."""
        head, _, tail = self.template.rpartition("{rank}")
        return tail if self.rank is None else f"{head}{self.rank}{tail}"


def base64_key(caption: str) -> str:
    """The key of a caption in the sections whose keys can be computed."""
    return base64.b64encode(clean_text(caption).encode()).decode()


def caption_of_key(key: str) -> str | None:
    """The caption that a base64 key encodes, None if it is no such key.

    A key counts only if it is canonical base64 of UTF-8 without control characters: encoding the caption
    yields the key again. So a name of four letters is not taken for a caption.
    """
    if not _BASE64.fullmatch(key):
        return None
    try:
        caption = base64.b64decode(key, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    is_text = caption and not _CONTROL.search(caption)
    return caption if is_text and base64_key(caption) == key else None


def key_kind(key: str) -> KeyKind:
    """The kind of a key, by its form.

    Hex digits and decimals come first: some of them are also valid base64 of some strange text.
    """
    if _HEX128.fullmatch(key):
        return "hex128"
    if _UINT32.fullmatch(key) and int(key) < 2**32:
        return "uint32"
    return "name" if caption_of_key(key) is None else "base64"


def url_template(cdn: str, section: str, key: str, *, escaped: bool = False) -> str:
    """The URL of a key's images, `{rank}` left to fill in.

    `escaped`: as a page would write it that percent-encodes its base64. Raises SourceError if the URL is
    longer than servers accept.
    """
    file = encode_part(key) if escaped else _encode_key(key)
    template = f"{_plain_cdn(cdn)}/samples/{encode_part(section)}/{file}_{{rank}}.png"
    if len(template) > MAX_URL_CHARS:
        raise SourceError(
            f"An image of section '{section}' would need a URL of {len(template):,} "
            f"characters; servers accept {MAX_URL_CHARS:,}. Leave out its caption, whose key "
            f"starts '{key[:20]}'."
        )
    return template


def sample_url(cdn: str, section: str, key: str, rank: int) -> str:
    """The URL of the image with this rank, `cdn` being the folder above `samples/`."""
    return url_template(cdn, section, key).replace("{rank}", str(rank))


def image_prompt_url(cdn: str, section: str) -> str:
    """The URL of the image that prompted a section."""
    return f"{_plain_cdn(cdn)}/image_prompts/{encode_part(section)}.png"


@lru_cache(maxsize=4096)
def parse_sample_url(url: str, *, cdn: str | None = None) -> SampleUrl | None:
    """Split an image's URL; None if it is not one.

    Without `cdn` the section is what follows the last `/samples/`. A fragment is dropped. URLs that are too
    long, contain control characters, or whose section is not a plain name (`..`, a slash) are refused.
    """
    if len(url) > MAX_URL_CHARS or _UNSAFE.search(url):
        return None
    parts = _split(url, cdn=cdn)
    if parts is None:
        return None
    found_cdn, folder, file, query = parts
    section, match = unquote(folder), _FILE.fullmatch(file)
    if match is None or not match["key"] or not is_plain_name(section):
        return None
    key = unquote(match["key"])
    kind = key_kind(key)
    if "/" in file and kind != "base64":
        return None
    computed = f"{encode_part(section)}/{_encode_key(key)}"
    written = _without_braces(f"{folder}/{match['key']}")
    return SampleUrl(
        cdn=found_cdn,
        section=section,
        key=key,
        kind=kind,
        rank=None if match["rank"] is None else int(match["rank"]),
        caption=caption_of_key(key) if kind == "base64" else None,
        suffix=match["suffix"],
        written=None if written == computed else written,
        query=query,
    )


def addresses_in(text: str, *, base_url: str) -> Iterator[str]:
    """The URLs of samples and image prompts in an attribute, a string or a script, made absolute."""
    if not ADDRESS.search(text):
        return
    whole = None if _SRCSET.search(text) else _resolve(text, base_url)
    if whole is not None and parse_sample_url(whole) is not None:
        yield whole
        return
    for part in _ADDRESS_ENDS.split(text):
        if len(part) <= MAX_URL_CHARS and ADDRESS.search(part):
            found = _resolve(part, base_url)
            yield from () if found is None else (found,)


def _resolve(written: str, base_url: str) -> str | None:
    """A URL made absolute; for an image resizer (…?url=https%3A%2F%2F…&w=640), that of its image."""
    path, _, query = written.partition("#")[0].partition("?")
    if ADDRESS.search(path):
        return resolve_url(written, base_url)
    values = (unquote(pair.partition("=")[2]) for pair in query.split("&"))
    return next((resolve_url(v, base_url) for v in values if ADDRESS.search(v)), None)


def is_plain_name(name: str) -> bool:
    """Whether a section's name is one folder: printable, no slash, no `.` or `..`, not too long."""
    return 0 < len(name) <= 200 and name.isprintable() and "/" not in name and name.strip(".") != ""


def _split(url: str, *, cdn: str | None) -> tuple[str, str, str, str] | None:
    """(the URL above `samples/`, section, the rest, query), None if there are no such parts."""
    try:
        address = urlsplit(url)
    except ValueError:  # '[' with no ']' in the host
        return None
    path = address.path
    if cdn is None:
        above, _, below = path.rpartition("/samples/")
    else:
        above = urlsplit(cdn).path.rstrip("/")
        below = path[len(above) + 9 :] if path.startswith(f"{above}/samples/") else ""
    section, slash, file = below.partition("/")
    if not slash:
        return None
    origin = f"{address.scheme}://{address.netloc}" if address.netloc else ""
    query = url.partition("#")[0].partition("?")[1:]
    return origin + above, section, file, "".join(query)


def _plain_cdn(cdn: str) -> str:
    return _without_braces(cdn.rstrip("/"))


def _without_braces(text: str) -> str:
    return text.replace("{", "%7B").replace("}", "%7D")


def _encode_key(key: str) -> str:
    return encode_part(key, safe="" if caption_of_key(key) is None else _BASE64_PUNCTUATION)
