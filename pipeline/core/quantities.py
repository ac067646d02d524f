"""Times and sizes as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A time that is counted down: `12 s`, `3 min 05 s`, `31 h 00 min`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def rough_duration(seconds: float) -> str:
    """A guessed time with no more digits than a guess has: `8 s`, `3 min`, `2.5 hours`, `11 days`."""
    if seconds < 1:
        return "less than 1 s"
    for limit_s, unit_s, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "hours")):
        if seconds < limit_s:
            number = seconds / unit_s
            return (
                f"{number:.1f} {unit}"
                if unit == "hours" and number < 10
                else f"{number:.0f} {unit}"
            )
    return f"{seconds / 86_400:,.0f} days"


def size(number: float) -> str:
    """A number of bytes: `512 bytes`, `3 MB`, `1.4 GB`."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    number, unit = (number, "GB") if number < 1000 else (number / 1000, "TB")
    return f"{number:.1f} {unit}" if number < 10 else f"{number:,.0f} {unit}"
