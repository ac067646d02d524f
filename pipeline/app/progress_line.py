"""The progress of a stage as one line of text, however narrow the terminal is. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rich.cells import cell_len, set_cell_size

from pipeline.core.quantities import duration

Notes = Mapping[str, int | float | str] | None


def describe_progress(done: int, total: int | None, rate: float, notes: Notes = None) -> str:
    """Items done, rate (`rate` items per second), time left, and the notes."""
    return "".join(_parts(done, total, rate).values()) + _format_notes(notes)


def progress_line(
    label: str,
    done: int,
    total: int | None,
    rate: float,
    notes: Notes = None,
    *,
    width: int | None = None,
) -> str:
    """The same after a label, in at most `width` columns.

    If it doesn't fit, the notes are cut; then the percentage, the rate and the time left are left out.
    """
    parts = _parts(done, total, rate)
    line = f"{label}: {''.join(parts.values())}"
    for name in ("percent", "rate", "left"):
        if width is not None and cell_len(line) > width:
            parts.pop(name, None)
            line = f"{label}: {''.join(parts.values())}"
    line += _format_notes(notes)
    if width is None or cell_len(line) <= width:
        return line
    return set_cell_size(line, width - 1).rstrip() + "…"


def _parts(done: int, total: int | None, rate: float) -> dict[str, str]:
    shown = {"rate": f", {rate:.1f}/s"} if rate > 0 else {}
    if not total:
        return {"count": f"{done:,} done", **shown}
    parts = {
        "count": f"{done:,} of {total:,}",
        "percent": f" ({100 * done // total} %)",
        **shown,
    }
    if rate > 0 and done < total:
        parts["left"] = f", {duration((total - done) / rate)} left"
    return parts


def _format_notes(notes: Notes) -> str:
    if not notes:
        return ""
    parts = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in notes.items()]
    return "  " + ", ".join(parts)
