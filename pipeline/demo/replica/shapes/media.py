"""Twenty-seven neutral objects that carry an image: each a frame around the middle of the square.

All are gray, so that the image in their middle is the only thing with a colour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.demo.replica.palette import RGB
from pipeline.demo.replica.shapes.canvas import Pen


@dataclass(frozen=True)
class Grays:
    """The neutral tones of a medium: its face, its edge, and the ground behind it."""

    ground: RGB
    face: RGB
    edge: RGB


# The light face is nearer to gray and beige than to white: only the image may be white.
LIGHT = Grays(ground=(240, 240, 242), face=(190, 192, 196), edge=(104, 108, 116))
DARK = Grays(ground=(44, 46, 52), face=(74, 78, 86), edge=(164, 168, 176))

Medium = Callable[[Pen, Grays], None]


def _panel(
    pen: Pen, grays: Grays, half: tuple[float, float], round_: float = 0, edge: float = 0.06
) -> None:
    x, y = half
    pen.box(-x, -y, x, y, grays.edge, round_=round_)
    inner = max(0.0, round_ - edge)
    pen.box(-x + edge, -y + edge, x - edge, y - edge, grays.face, round_=inner)


def _disc(pen: Pen, grays: Grays, radius: float, edge: float = 0.06) -> None:
    pen.circle(0, 0, radius, grays.edge)
    pen.circle(0, 0, radius - edge, grays.face)


def _outlined(pen: Pen, grays: Grays, points: list[tuple[float, float]]) -> None:
    pen.polygon(points, grays.face)
    pen.line([*points, points[0]], grays.edge, 0.06)


def bag_of_chips(pen: Pen, grays: Grays) -> None:
    """A bag with crimped ends."""
    teeth = [(-0.8 + 0.16 * i, 0.97 if i % 2 else 0.86) for i in range(11)]
    top = [(x, -y) for x, y in teeth]
    _outlined(pen, grays, [*top, (0.68, 0), *reversed(teeth), (-0.68, 0)])


def billboard(pen: Pen, grays: Grays) -> None:
    """A board on two posts."""
    for x in (-0.5, 0.5):
        pen.box(x - 0.07, 0.6, x + 0.07, 1.2, grays.edge)
    _panel(pen, grays, (0.97, 0.68), edge=0.1)


def business_card(pen: Pen, grays: Grays) -> None:
    """A card with a line of text at its foot."""
    _panel(pen, grays, (0.97, 0.66), edge=0.03)
    for x in (-0.85, 0.6):
        pen.line([(x, -0.55), (x + 0.25, -0.55)], grays.edge, 0.06)
        pen.line([(x, 0.55), (x + 0.25, 0.55)], grays.edge, 0.06)


def button(pen: Pen, grays: Grays) -> None:
    """A disc with a thick rim."""
    _disc(pen, grays, 0.95, 0.17)


def can_of_soup(pen: Pen, grays: Grays) -> None:
    """A can with rims."""
    _panel(pen, grays, (0.68, 0.9))
    for y in (-0.85, 0.85):
        pen.ellipse(0, y, 0.7, 0.14, grays.edge)


def cap(pen: Pen, grays: Grays) -> None:
    """A crown with a peak to the right."""
    pen.box(0, 0.55, 1.02, 0.78, grays.edge, round_=0.1)
    pen.circle(-0.08, -0.02, 0.84, grays.edge)
    pen.circle(-0.08, -0.02, 0.78, grays.face)
    pen.box(-0.92, 0.55, 0.76, 0.78, grays.edge)


def cell_phone_case(pen: Pen, grays: Grays) -> None:
    """A tall rounded case with a hole for the lens."""
    _panel(pen, grays, (0.6, 0.98), 0.22, 0.07)
    pen.box(-0.46, -0.86, -0.1, -0.64, grays.edge, round_=0.1)


def computer_monitor(pen: Pen, grays: Grays) -> None:
    """A screen on a foot."""
    pen.box(-0.12, 0.6, 0.12, 0.95, grays.edge)
    pen.box(-0.45, 0.86, 0.45, 0.98, grays.edge)
    _panel(pen, grays, (0.98, 0.72), 0.06, 0.12)


def sidewalk(pen: Pen, grays: Grays) -> None:
    """Paving slabs to the edge of the image."""
    pen.box(-2, -2, 2, 2, grays.face)
    for at in (-0.78, 0.78):
        pen.line([(-2, at), (2, at)], grays.edge, 0.05)
        pen.line([(at, -2), (at, 2)], grays.edge, 0.05)


def app_icon(pen: Pen, grays: Grays) -> None:
    """A square with very round corners."""
    _panel(pen, grays, (0.92, 0.92), 0.4)


def latte_art(pen: Pen, grays: Grays) -> None:
    """A cup from above, with its saucer and handle."""
    pen.box(0.7, -0.14, 1.12, 0.14, grays.edge, round_=0.1)
    _disc(pen, grays, 0.98, 0.05)
    _disc(pen, grays, 0.82, 0.09)


def mural(pen: Pen, grays: Grays) -> None:
    """A wall of bricks."""
    pen.box(-2, -2, 2, 2, grays.face)
    for row in range(-6, 7):
        pen.line([(-2, row * 0.2), (2, row * 0.2)], grays.edge, 0.02)
        for column in range(-3, 4):
            x = column * 0.5 + (row % 2) * 0.25
            pen.line([(x, row * 0.2), (x, row * 0.2 + 0.2)], grays.edge, 0.02)


def neon_sign(pen: Pen, grays: Grays) -> None:
    """A double tube around the image, hung from two wires."""
    for x in (-0.5, 0.5):
        pen.line([(x, -1.3), (x, -0.8)], grays.edge, 0.04)
    _panel(pen, grays, (0.95, 0.84), 0.3, 0.05)
    _panel(pen, grays, (0.83, 0.72), 0.22, 0.05)


def lunchbox(pen: Pen, grays: Grays) -> None:
    """A box with a handle and two clips."""
    pen.arc((0, -0.68), (0.36, 0.32), (180, 360), grays.edge, 0.12)
    _panel(pen, grays, (0.96, 0.74), 0.16)
    for x in (-0.6, 0.6):
        pen.box(x - 0.1, -0.8, x + 0.1, -0.58, grays.edge)


def playing_card(pen: Pen, grays: Grays) -> None:
    """A card with a diamond in two corners."""
    _panel(pen, grays, (0.68, 0.97), 0.1, 0.04)
    for x, y in ((-0.5, -0.78), (0.5, 0.78)):
        pen.polygon([(x, y - 0.13), (x + 0.09, y), (x, y + 0.13), (x - 0.09, y)], grays.edge)


def postage_stamp(pen: Pen, grays: Grays) -> None:
    """A perforated edge."""
    _panel(pen, grays, (0.8, 0.92))
    for step in range(-5, 6):
        for x, y in (
            (step * 0.16, 0.92),
            (step * 0.16, -0.92),
            (0.8, step * 0.184),
            (-0.8, step * 0.184),
        ):
            pen.circle(x, y, 0.055, grays.ground)


def purse(pen: Pen, grays: Grays) -> None:
    """A bag with a handle."""
    pen.arc((0, -0.6), (0.42, 0.38), (180, 360), grays.edge, 0.1)
    _outlined(pen, grays, [(-0.7, -0.66), (0.7, -0.66), (0.95, 0.88), (-0.95, 0.88)])


def quilt(pen: Pen, grays: Grays) -> None:
    """A border of patches, every other one dark."""
    pen.box(-0.98, -0.98, 0.98, 0.98, grays.face)
    for step in range(7):
        near, far = -0.98 + step * 0.28, -0.7 + step * 0.28
        if step % 2 == 0:
            for side in (-0.98, 0.7):
                pen.box(near, side, far, side + 0.28, grays.edge)
                pen.box(side, near, side + 0.28, far, grays.edge)


def road_sign(pen: Pen, grays: Grays) -> None:
    """A square on its corner, on a post."""
    pen.box(-0.07, 0.8, 0.07, 1.3, grays.edge)
    pen.polygon([(0, -1.12), (1.12, 0), (0, 1.12), (-1.12, 0)], grays.edge)
    pen.polygon([(0, -1.0), (1.0, 0), (0, 1.0), (-1.0, 0)], grays.face)


def rug(pen: Pen, grays: Grays) -> None:
    """A rug with fringes left and right and a double border."""
    for step in range(-6, 7):
        pen.line([(-1.05, step * 0.11), (1.05, step * 0.11)], grays.edge, 0.03)
    _panel(pen, grays, (0.92, 0.74), edge=0.06)
    _panel(pen, grays, (0.8, 0.62), edge=0.03)


def soda_can(pen: Pen, grays: Grays) -> None:
    """A can with a narrow top and a ring pull."""
    points = [(-0.4, -0.96), (0.4, -0.96), (0.62, -0.72), (0.62, 0.8), (0.45, 0.97)]
    _outlined(pen, grays, [*points, *((-x, y) for x, y in reversed(points))])
    pen.ellipse(0, -0.9, 0.2, 0.07, grays.edge)


def sphere(pen: Pen, grays: Grays) -> None:
    """A ball with a shadow."""
    pen.ellipse(0.1, 0.95, 0.7, 0.12, grays.edge)
    pen.circle(0, 0, 0.92, grays.face)
    pen.arc((0, 0), (0.92, 0.92), (0, 110), grays.edge, 0.14)


def stained_glass_window(pen: Pen, grays: Grays) -> None:
    """A pointed arch with leads."""
    arch = [
        (-0.8, 0.97),
        (-0.8, -0.3),
        (-0.45, -0.8),
        (0, -1.0),
        (0.45, -0.8),
        (0.8, -0.3),
        (0.8, 0.97),
    ]
    pen.polygon(arch, grays.face)
    for x, y in ((-0.8, -0.6), (0.8, -0.6), (-0.8, 0.7), (0.8, 0.7), (0, -1.0), (0, 0.97)):
        pen.line([(0, 0), (x, y)], grays.edge, 0.05)
    pen.line([*arch, arch[0]], grays.edge, 0.1)


def t_shirt(pen: Pen, grays: Grays) -> None:
    """A shirt with short sleeves."""
    right = [(0.2, -0.9), (0.55, -0.9), (1.08, -0.5), (0.86, -0.16), (0.68, -0.3), (0.68, 0.97)]
    _outlined(pen, grays, [*right, *((-x, y) for x, y in reversed(right)), (0, -0.76)])


def tattoo(pen: Pen, grays: Grays) -> None:
    """A forearm across the image."""
    arm = [(-1.4, -0.8), (1.4, -0.66), (1.4, 0.66), (-1.4, 0.8)]
    _outlined(pen, grays, arm)


def tea_cup(pen: Pen, grays: Grays) -> None:
    """A cup from the side, with a handle and a saucer."""
    pen.ellipse(0, 0.9, 0.95, 0.12, grays.edge)
    pen.arc((0.8, -0.05), (0.3, 0.34), (-100, 100), grays.edge, 0.1)
    _outlined(pen, grays, [(-0.84, -0.78), (0.84, -0.78), (0.62, 0.8), (-0.62, 0.8)])


def wine_bottle(pen: Pen, grays: Grays) -> None:
    """A bottle with a long neck and a large label."""
    pen.box(-0.16, -1.25, 0.16, -0.6, grays.edge)
    pen.box(-0.7, -0.78, 0.7, 1.1, grays.edge, round_=0.3)
    pen.box(-0.62, -0.56, 0.62, 0.66, grays.face)


MEDIA: Mapping[str, Medium] = {
    "bag of chips": bag_of_chips, "billboard": billboard, "business card": business_card,
    "button": button, "can of soup": can_of_soup, "cap": cap, "cell phone case": cell_phone_case,
    "computer monitor": computer_monitor, "drawn on the sidewalk": sidewalk,
    "iphone app icon": app_icon, "latte art": latte_art, "mural": mural, "neon sign": neon_sign,
    "plastic lunchbox": lunchbox, "playing card": playing_card, "postage stamp": postage_stamp,
    "purse": purse, "quilt": quilt, "road sign": road_sign, "rug": rug, "soda can": soda_can,
    "sphere": sphere, "stained glass window": stained_glass_window, "t-shirt": t_shirt,
    "tattoo": tattoo, "tea cup": tea_cup, "wine bottle": wine_bottle,
}  # fmt: skip
