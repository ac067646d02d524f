"""What img2dataset's error messages mean in our words. Pure."""

from __future__ import annotations

import re

from pipeline.core.contracts import UrlState
from scrapers.source import Failure

_STATUS = re.compile(r"HTTP Error (\d{3})")
_GONE = ("404", "410")
# The first expression that is found counts. Messages are Python's own, or of img2dataset 1.47.
_MEANINGS: tuple[tuple[str, UrlState, str], ...] = (
    ("X-Robots-Tag", "opted_out", "x_robots_tag"),
    ("timed out|timeout", "failed", "timeout"),
    ("Connection refused", "failed", "refused"),
    ("No route to host|Network is unreachable", "failed", "unreachable"),
    ("Temporary failure in name resolution", "failed", "no_name_server"),
    ("Name or service not known|No address associated|nodename nor servname", "failed", "name_not_found"),
    ("CERTIFICATE|certificate|SSL|TLS", "failed", "tls"),
    ("IncompleteRead|ended before", "truncated", "truncated"),
    ("Connection reset|Remote end closed|Broken pipe|RemoteDisconnected", "failed", "disconnected"),
    ("unknown url type|no host given|nonnumeric port|Invalid URL|control characters", "failed", "bad_url"),
    ("[Rr]edirect", "failed", "redirects"),
    ("hash mismatch", "failed", "hash_mismatch"),
    ("Image decoding error", "not_an_image", "unknown_format"),
    ("image too small", "failed", "image_too_small"),
    ("image area too large", "failed", "image_too_large"),
    ("aspect ratio too large", "failed", "aspect_ratio"),
)  # fmt: skip


def read_failure(message: str | None) -> Failure:
    """The state and reason of a row that failed with `message`."""
    text = message or ""
    if (status := _STATUS.search(text)) is not None:
        state: UrlState = "missing" if status[1] in _GONE else "failed"
        return Failure(state, f"http_{status[1]}", text)
    for expression, state, reason in _MEANINGS:
        if re.search(expression, text):
            return Failure(state, reason, text)
    return Failure("failed", "img2dataset", text)
