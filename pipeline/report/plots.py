"""Plots as SVG, without a plotting library: curves and histograms with round numbers on their axes.

The SVG is complete without a script. `static/page.js` draws the lines again for a log axis or smoothing, from
the numbers that are embedded beside it, and shows the values under the cursor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.page import json_script, shown

WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 26, 12, 40
STYLES = 7  # classes s0 to s6 of page.css: a colour and a dash pattern each
POINTS = 240
_MARKS = 6
_SHAPES = (
    '<circle r="3.4"{0}/>',
    '<rect x="-3.2" y="-3.2" width="6.4" height="6.4"{0}/>',
    '<path d="M0-4.4 4 3-4 3Z"{0}/>',
    '<path d="M0-4.6 4.2 0 0 4.6-4.2 0Z"{0}/>',
    '<path d="M-3.5-3.5 3.5 3.5M-3.5 3.5 3.5-3.5"{0}/>',
    '<path d="M0 4.4 4-3-4-3Z"{0}/>',
    '<path d="M-4 0H4M0-4V4"{0}/>',
)

Points = Sequence[tuple[float, float]]
Limits = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Best:
    """A point of a series that is marked: its step and what is written at it."""

    x: float
    words: str


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    while math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1 > most:
        step *= 2 if f"{step:e}"[0] == "1" else 2.5 if f"{step:e}"[0] == "2" else 2
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(turn * step, 12) for turn in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`; of many, the powers alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    inside = [round(tick, 12) for tick in every if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    return inside if len(inside) <= 7 else [t for t in inside if f"{t:e}".startswith("1.0")]


def short_number(value: float) -> str:
    """A number for an axis: 2,000, 0.05, 3M."""
    for unit, size in (("G", 1e9), ("M", 1e6)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def thin_out(points: Points, most: int = POINTS) -> list[tuple[float, float]]:
    """At most `most` of the points at even distances, always with the first and the last."""
    if len(points) <= most:
        return list(points)
    return [points[round(turn * (len(points) - 1) / (most - 1))] for turn in range(most)]


def line_plot(
    series: Mapping[str, Points],
    *,
    x_label: str,
    y_label: str,
    best: Best | None = None,
    from_zero: bool = True,
) -> str:
    """Draw named series of (x, y) points on shared axes, as a `<figure>` with an `<svg>` and a legend.

    Each series has its own colour, dash pattern and mark. Series without points are left out; returns ""
    if none has any. With `from_zero` the linear axis includes 0.
    """
    drawn = {name: thin_out(points) for name, points in series.items() if points}
    if not drawn:
        return ""
    scale = _Scale.around(drawn, from_zero=from_zero)
    lines = "".join(
        _series(points, number % STYLES, scale) for number, points in enumerate(drawn.values())
    )
    drawing = (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{shown(y_label)} by {shown(x_label)}: {shown(", ".join(drawn))}">'
        f'<g class="linear">{"".join(_y_axis(round_ticks(*scale.y), scale.place_y))}</g>'
        + (f'<g class="log" hidden>{"".join(_log_axis(scale))}</g>' if scale.ylog else "")
        + "".join(_x_axis(scale, x_label))
        + (_best(best, scale) if best else "")
        + lines
        + f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="0" x2="0" hidden="hidden"/></svg>'
    )
    names = "".join(f"<li>{_key(n % STYLES)}{shown(name)}</li>" for n, name in enumerate(drawn))
    return (
        f'<figure class="curves"><h4>{shown(y_label)}</h4>{drawing}<ul class="legend">{names}</ul>'
        f"{_controls(has_log=scale.ylog is not None)}{json_script(_numbers(drawn, scale, x_label))}</figure>"
    )


_SMOOTHING = ("none", "0.6", "0.9", "0.98")


def _controls(*, has_log: bool) -> str:
    hint = "Move over the plot, or focus it and press the arrow keys, for values."
    log = (
        '<label class="check"><input type="checkbox" name="log">log axis</label>' if has_log else ""
    )
    options = "".join(f'<option value="{v.replace("none", "0")}">{v}</option>' for v in _SMOOTHING)
    return (
        f'<p class="values only-script" aria-live="polite" data-hint="{hint}">{hint}</p>'
        f'<div class="tools only-script">{log}'
        f'<label class="check">smoothing <select>{options}</select></label></div>'
    )


def _numbers(drawn: Mapping[str, Points], scale: _Scale, x_label: str) -> dict[str, Any]:
    """What the script needs to draw the lines again."""
    return {
        "frame": {"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM},
        "x": scale.x,
        "y": scale.y,
        "ylog": scale.ylog,
        "x_label": x_label,
        "series": [
            {"name": name, "points": [(x, float(f"{y:.5g}")) for x, y in points]}
            for name, points in drawn.items()
        ],
    }


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """The limits of the axes; `ylog` are those of the log axis, None if a value isn't positive."""

    x: Limits
    y: Limits
    ylog: Limits | None

    @classmethod
    def around(cls, drawn: Mapping[str, Points], *, from_zero: bool) -> _Scale:
        xs = [x for points in drawn.values() for x, _ in points]
        ys = [y for points in drawn.values() for _, y in points]
        low, high = min(ys), max(ys)
        bottom = min(0.0, low) if from_zero else low - 0.05 * (high - low)
        positive = low > 0 and high > low
        return cls(x=(min(xs), max(xs)), y=(bottom, high), ylog=(low, high) if positive else None)

    def place_x(self, value: float) -> float:
        return _place(value, self.x, LEFT, WIDTH - RIGHT)

    def place_y(self, value: float) -> float:
        return _place(value, self.y, HEIGHT - BOTTOM, TOP)

    def place_log(self, value: float) -> float:
        assert self.ylog is not None
        low, high = map(math.log10, self.ylog)
        return _place(math.log10(value), (low, high), HEIGHT - BOTTOM, TOP)


def _place(value: float, limits: Limits, first: float, last: float) -> float:
    low, high = limits
    return first + (value - low) / ((high - low) or 1.0) * (last - first)


def _series(points: Points, style: int, scale: _Scale) -> str:
    places = [(scale.place_x(x), scale.place_y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    every = max(1, math.ceil(len(places) / _MARKS))
    marks = "".join(
        f'<g class="mark s{style}" transform="translate({x:.1f},{y:.1f})">{_SHAPES[style].format("")}</g>'
        for x, y in places[::every]
    )
    return f'<polyline class="s{style}" points="{path}"/>{marks}'


def _key(style: int) -> str:
    """A short piece of a series' line with its mark, for the legend."""
    mark = _SHAPES[style].format(f' class="mark s{style}"')
    return (
        f'<svg viewBox="0 0 34 12" aria-hidden="true"><line class="s{style}" x1="0" x2="34" y1="6" y2="6" '
        f'stroke-width="2"/><g transform="translate(17 6)">{mark}</g></svg>'
    )


def _y_axis(ticks: Sequence[float], place: Any) -> Iterator[str]:
    for tick in ticks:
        at = place(tick)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>'
        yield f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{short_number(tick)}</text>'


def _log_axis(scale: _Scale) -> Iterator[str]:
    assert scale.ylog is not None
    low, high = scale.ylog
    ticks = log_ticks(low, high)
    yield from _y_axis(ticks if len(ticks) > 1 else round_ticks(low, high), scale.place_log)


def _x_axis(scale: _Scale, label: str) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    for tick in round_ticks(*scale.x, most=5):
        at = scale.place_x(tick)
        yield f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{short_number(tick)}</text>'
    yield f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{shown(label)}</text>'


def _best(best: Best, scale: _Scale) -> str:
    at = scale.place_x(best.x)
    left_half = at < (LEFT + WIDTH - RIGHT) / 2
    anchor, shift = ("start", 4) if left_half else ("end", -4)
    return (
        f'<line class="best" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{at + shift:.1f}" y="{TOP + 10}" text-anchor="{anchor}">{shown(best.words)}</text>'
    )


def histogram(title: str, counts: Sequence[tuple[str, int]], *, unit: str = "") -> str:
    """Bars side by side: (label of the bin, number). Every bar has a tooltip; the label names all numbers."""
    if not counts:
        return ""
    width, height, left, bottom, top = 300, 150, 40, 30, 10
    most = max(number for _, number in counts) or 1
    ticks = [tick for tick in round_ticks(0, most, most=5) if tick == int(tick)]
    each = (width - left - 6) / len(counts)
    rows = []
    for tick in ticks:
        at = height - bottom - (height - bottom - top) * tick / most
        rows.append(
            f'<line class="grid" x1="{left}" x2="{width - 6}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        rows.append(f'<text x="{left - 4}" y="{at + 4:.1f}" text-anchor="end">{_kilo(tick)}</text>')
    every = max(1, math.ceil(max(len(label) for label, _ in counts) * 7.2 / each))
    for turn, (label, number) in enumerate(counts):
        tall = (height - bottom - top) * number / most
        rows.append(
            f'<rect class="bar" x="{left + turn * each + 0.5:.1f}" y="{height - bottom - tall:.1f}" '
            f'width="{max(1.0, each - 1):.1f}" height="{tall:.1f}">'
            f"<title>{shown(label)}{shown(unit)}: {number:,}</title></rect>"
        )
        if turn % every == 0:
            rows.append(
                f'<text x="{left + (turn + 0.5) * each:.1f}" y="{height - bottom + 15}" text-anchor="middle">'
                f"{shown(label)}</text>"
            )
    words = "; ".join(f"{label}{unit}: {number:,}" for label, number in counts)
    return (
        f'<figure><h4>{shown(title)}</h4><svg class="plot" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{shown(title)}. {shown(words)}">{"".join(rows)}</svg></figure>'
    )


def _kilo(value: float) -> str:
    return f"{value / 1000:g}k" if 1000 <= value < 1e6 else short_number(value)
