"""Line plots as SVG, without a plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 150, 12, 34
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#be185d", "#57534e")

Points = Sequence[tuple[float, float]]


def line_plot(series: Mapping[str, Points], *, x_label: str, y_label: str) -> str:
    """Draw named series of (x, y) points on shared axes, as an `<svg>` element.

    Series without points are omitted; returns an empty string if none has any.
    """
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    scale = _Scale(min(xs), max(xs), min(0.0, min(ys)), max(ys))
    body = [*_axes(scale, x_label, y_label)]
    for index, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        body.append(_legend(name, colour, index))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}">'
        + "".join(body)
        + "</svg>"
    )


class _Scale:
    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.x_low, self.x_span = x_low, (x_high - x_low) or 1.0
        self.y_low, self.y_span = y_low, (y_high - y_low) or 1.0

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / self.x_span * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / self.y_span * (HEIGHT - TOP - BOTTOM)


def _axes(scale: _Scale, x_label: str, y_label: str) -> list[str]:
    lines = []
    for step in range(5):
        y = scale.y_low + scale.y_span * step / 4
        x = scale.x_low + scale.x_span * step / 4
        at = scale.y(y)
        lines.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>'
        )
        lines.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:.3g}</text>')
        lines.append(
            f'<text x="{scale.x(x):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{x:,.0f}</text>'
        )
    lines.append(
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>'
    )
    lines.append(f'<text x="4" y="{HEIGHT - 4}">{escape(y_label)}</text>')
    return lines


def _legend(name: str, colour: str, index: int) -> str:
    y = TOP + 12 + 16 * index
    x = WIDTH - RIGHT + 10
    return (
        f'<rect x="{x}" y="{y - 8}" width="12" height="4" fill="{colour}"/>'
        f'<text x="{x + 18}" y="{y - 2}">{escape(name)}</text>'
    )
