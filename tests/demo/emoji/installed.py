"""The emoji font and Unicode's list, where they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.demo.emoji.font import FONTS, INSTALL, LISTS

FONT = next((path for path in FONTS if path.is_file()), None)
NAMES = next((path for path in LISTS if path.is_file()), None)
needs_font = pytest.mark.skipif(FONT is None or NAMES is None, reason=f"needs {INSTALL}")


def short_list(path: Path, *, every: int) -> Path:
    """A list with one line in `every` of Unicode's, and all its groups."""
    assert NAMES is not None
    lines = NAMES.read_text(encoding="utf-8").splitlines()
    kept = [line for n, line in enumerate(lines) if line.startswith("# group") or n % every == 0]
    path.write_text("\n".join(kept), encoding="utf-8")
    return path
