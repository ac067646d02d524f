"""A workspace whose images and captions were chosen to break pages."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from pipeline.core.workspace import Workspace
from tests.helpers.dedupe import RawStore, dedupe, encode, photo, photo_png

SCRIPT = '<script>document.title = "owned"</script><img src=x onerror="document.title = 1">'
RIGHT_TO_LEFT = "\u202eمكعب أحمر\u202c red cube"
CONTROL = "a red\x07 cube\x1b[31m"
QUOTES = 'a "blue" cube & <b>bold</b>'


def write_images(root: Path, *, plain: int = 70) -> Workspace:
    """`plain` images that differ, one for each hostile caption, a cluster of near duplicates, and rejects."""
    raw = RawStore(root)
    for number in range(plain):
        caption = f"a photo of thing {number % 7}"
        raw.add(
            f"plain-{number:03d}", photo_png(number), caption, rank=number % 3, section="things"
        )
    for number, caption in enumerate((SCRIPT, RIGHT_TO_LEFT, CONTROL, QUOTES)):
        raw.add(f"hostile-{number}", photo_png(1000 + number), caption, section='"><i>section')
    original = photo(2000)
    raw.add("twin-0", encode(original), "a twin", rank=0)
    raw.add("twin-1", encode(original, "JPEG", quality=92), "a twin", rank=1)
    raw.add("twin-2", encode(original, "JPEG", quality=80), "another twin", rank=2)
    raw.add("webp-0", encode(photo(3000), "WEBP", lossless=True), "a webp")
    raw.add("clear-0", encode(Image.new("RGBA", (40, 24), (9, 9, 9, 0))), "a clear image")
    raw.add("missing-0", None, "never fetched")
    raw.add("broken-0", b"\x89PNG\r\n\x1a\nthis is no image", "broken bytes")
    raw.add(
        "svg-0", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "svg"
    )
    workspace = raw.write(finished=True)
    dedupe(workspace, near_duplicates="drop")
    return workspace
