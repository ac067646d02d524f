"""The bytes of the mock server's images: drawn on first request, then cached in memory or in a folder."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from PIL import Image

from pipeline.core.storage import write_bytes
from pipeline.demo.replica.drawing import draw, draw_prompt, encode_png
from pipeline.demo.replica.holdings import Entry
from scrapers.sources.dalleblog.captions import Section

# Raised when captions are drawn differently: cached images are then drawn again.
DRAWING_VERSION = 1
_KEPT_IN_MEMORY = 4096


class Images:
    """Draws and caches images; thread-safe."""

    def __init__(self, *, size: int, cache_dir: Path | None = None) -> None:
        self._size = size
        self._cache_dir = cache_dir
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()
        self._tops: dict[str, Image.Image] = {}

    def sample(self, entry: Entry, rank: int, *, edition: int = 0) -> bytes:
        """The PNG of a caption's image; another `edition` is another image."""
        seed = entry.first_rank + rank + 32 * edition
        name = self._name(entry.section.name, entry.caption, seed)
        return self._get(name) or self._put(name, self._draw(entry, seed))

    def prompt(self, section: Section) -> bytes:
        """The PNG of a section's image prompt: the prompted rows on top, the rest white."""
        name = self._name(section.name, "image prompt", 0)
        return self._get(name) or self._put(name, encode_png(self._draw_prompt(section)))

    def _draw(self, entry: Entry, seed: int) -> bytes:
        section = entry.section
        if section.image_prompt is None:
            rows = _given_rows(section, self._size)
            return encode_png(draw(entry.caption, seed, size=self._size, masked_rows=rows))
        image = draw(entry.caption, seed, size=self._size)
        image.paste(self._given_top(section))
        return encode_png(image)

    def _draw_prompt(self, section: Section) -> Image.Image:
        image = Image.new("RGB", (self._size, self._size), (255, 255, 255))
        image.paste(self._given_top(section))
        return image

    def _given_top(self, section: Section) -> Image.Image:
        """The upper part that all images of a section share, drawn for its first caption."""
        if section.name not in self._tops:
            caption, rows = next(section.captions())[0], _given_rows(section, self._size)
            self._tops[section.name] = draw_prompt(caption, size=self._size, rows=rows)
        return self._tops[section.name]

    def _name(self, section: str, caption: str, seed: int) -> str:
        parts = (DRAWING_VERSION, self._size, section, caption, seed)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _get(self, name: str) -> bytes | None:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        if self._cache_dir is None:
            return None
        try:
            return self._path(self._cache_dir, name).read_bytes()
        except FileNotFoundError:
            return None

    def _put(self, name: str, data: bytes) -> bytes:
        with self._lock:
            self._kept[name] = data
            if len(self._kept) > _KEPT_IN_MEMORY:
                self._kept.popitem(last=False)
        if self._cache_dir is not None:
            write_bytes(self._path(self._cache_dir, name), data)
        return data

    def _path(self, folder: Path, name: str) -> Path:
        return folder / name[:2] / f"{name}.png"


def _given_rows(section: Section, size: int) -> int:
    """The prompted rows of a masked section's images: half if the captions repeat the subject below."""
    if not section.masked:
        return 0
    return size // 2 if section.name.startswith("im2im") else size // 5
