"""Line plots as SVG with round numbers on their axes; colours and dashes come from the style sheet. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.serve.pages.shell import text

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 28, 12, 36
STYLES = 6  # distinguishable by dashes as well as by colour
_TICKS = 6


def line_plot(series: Mapping[str, Points], *, label: str, log: bool = False) -> str:
    """Named series of (x, y) points on shared axes, with a legend; "" if there is no point.

    With `log` the y axis is logarithmic, and points that are not positive are left out.
    """
    shown = {
        name: [(x, y) for x, y in points if y > 0 or not log] for name, points in series.items()
    }
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return ""
    xs = [x for points in shown.values() for x, _ in points]
    ys = [_height(y, log) for points in shown.values() for _, y in points]
    x_axis, y_axis = round_ticks(min(xs), max(xs)), round_ticks(min(ys), max(ys))
    body = _axes(x_axis, y_axis, log)
    for number, points in enumerate(shown.values()):
        path = " ".join(f"{_x(x, x_axis):.1f},{_y(_height(y, log), y_axis):.1f}" for x, y in points)
        body += f'<polyline class="series s{number % STYLES}" points="{path}"/>'
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(label)}">{body}</svg>'
        f"{_legend(shown)}"
    )


def _legend(series: Mapping[str, Points]) -> str:
    items = "".join(
        f'<li><svg class="plot" viewBox="0 0 36 12" aria-hidden="true">'
        f'<line class="series s{number % STYLES}" x1="0" x2="36" y1="6" y2="6"/></svg> '
        f"{text(name)}: {points[-1][1]:.4g} at step {points[-1][0]:,.0f}</li>"
        for number, (name, points) in enumerate(series.items())
    )
    return f'<ul class="legend">{items}</ul>'


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers around low..high: multiples of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    rough = span / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _tick(value: float) -> str:
    """A tick's label; a large number in full, such as 15,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _axes(x_axis: Sequence[float], y_axis: Sequence[float], log: bool) -> str:
    parts = []
    for value in y_axis:
        at = _y(value, y_axis)
        shown = 10.0**value if log else value
        parts.append(
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_tick(shown)}</text>'
        )
    for value in x_axis:
        at = _x(value, x_axis)
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_tick(value)}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">step</text>'
    )
    return "".join(parts)


def _height(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _x(value: float, axis: Sequence[float]) -> float:
    return LEFT + (value - axis[0]) / (axis[-1] - axis[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, axis: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (value - axis[0]) / (axis[-1] - axis[0]) * (HEIGHT - TOP - BOTTOM)
