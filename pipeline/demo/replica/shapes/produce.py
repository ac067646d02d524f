"""Draw fruit, vegetables and food, each as a bold silhouette in a square from -1 to 1.

Each fills most of the middle of its square: an image of a pink carrot is mostly pink there.
"""

from __future__ import annotations

from pipeline.demo.replica.shapes.canvas import Pen, Tone


def artichoke(pen: Pen, tone: Tone) -> None:
    """A bud of overlapping scales."""
    pen.box(-0.14, 0.7, 0.14, 1.0, tone.dark)
    pen.ellipse(0, 0.1, 0.78, 0.78, tone.main)
    pen.polygon([(-0.6, -0.35), (0, -1.0), (0.6, -0.35)], tone.main)
    for row, count in ((-0.3, 2), (0.05, 3), (0.4, 2)):
        for index in range(count):
            x = (index - (count - 1) / 2) * 0.5
            pen.line([(x - 0.2, row + 0.22), (x, row), (x + 0.2, row + 0.22)], tone.dark, 0.07)


def broccoli(pen: Pen, tone: Tone) -> None:
    """A crown of round florets on a stem."""
    pen.polygon([(-0.26, 0.1), (0.26, 0.1), (0.34, 1.0), (-0.34, 1.0)], tone.light)
    for x, y, r in ((-0.55, 0, 0.42), (0.55, 0, 0.42), (-0.3, -0.5, 0.45), (0.32, -0.5, 0.45)):
        pen.circle(x, y, r, tone.main)
    pen.circle(0, -0.1, 0.52, tone.main)
    for x, y in ((-0.5, -0.1), (0.5, -0.1), (-0.15, -0.55), (0.3, -0.4), (0, 0.05)):
        pen.circle(x, y, 0.07, tone.dark)


def carrot(pen: Pen, tone: Tone) -> None:
    """A cone on its point, with a tuft."""
    for angle in (-35, 0, 35):
        pen.leaf(0, -0.45, 0.6, tone.dark, angle=angle, width=0.5)
    pen.ellipse(0, -0.35, 0.58, 0.24, tone.main)
    pen.polygon([(-0.58, -0.35), (0.58, -0.35), (0.08, 1.0), (-0.08, 1.0)], tone.main)
    for x, y in ((-0.35, -0.15), (0.1, 0.1), (-0.2, 0.35)):
        pen.line([(x, y), (x + 0.24, y)], tone.dark, 0.05)


def cucumber(pen: Pen, tone: Tone) -> None:
    """A thick diagonal bar."""
    pen.line([(-0.6, 0.5), (0.6, -0.5)], tone.main, 0.78)
    for step in (-0.5, -0.15, 0.2, 0.55):
        pen.circle(step, -step * 0.83 - 0.16, 0.06, tone.dark)
        pen.circle(step - 0.05, -step * 0.83 + 0.2, 0.06, tone.dark)


def eggplant(pen: Pen, tone: Tone) -> None:
    """A heavy drop hanging from its cap."""
    pen.circle(0.12, 0.38, 0.6, tone.main)
    pen.ellipse(-0.08, -0.15, 0.42, 0.62, tone.main)
    pen.polygon([(-0.5, -0.5), (0.36, -0.5), (0.1, -0.85), (-0.26, -0.85)], tone.dark)
    pen.line([(-0.08, -0.8), (0.02, -1.0)], tone.dark, 0.14)


def pear(pen: Pen, tone: Tone) -> None:
    """Round below, narrow above."""
    pen.circle(0, 0.35, 0.62, tone.main)
    pen.ellipse(0, -0.25, 0.38, 0.52, tone.main)
    pen.line([(0, -0.7), (0.06, -0.98)], tone.dark, 0.1)
    pen.leaf(0.04, -0.8, 0.42, tone.dark, angle=75)


def pineapple(pen: Pen, tone: Tone) -> None:
    """A hatched oval with a crown of leaves."""
    for angle in (-50, -25, 0, 25, 50):
        pen.leaf(0, -0.35, 0.68, tone.dark, angle=angle, width=0.35)
    pen.ellipse(0, 0.32, 0.58, 0.7, tone.main)
    for shift in (-0.4, 0, 0.4):
        pen.line([(shift - 0.22, 0.02), (shift * 0.6 + 0.22, 0.66)], tone.dark, 0.05)
        pen.line([(shift + 0.22, 0.02), (shift * 0.6 - 0.22, 0.66)], tone.dark, 0.05)


def pumpkin(pen: Pen, tone: Tone) -> None:
    """Broad ribs and a stem."""
    pen.box(-0.11, -0.85, 0.13, -0.4, tone.dark)
    for x in (-0.48, 0.48, 0):
        pen.ellipse(x, 0.15, 0.46, 0.66, tone.main)
    for x in (-0.26, 0.26):
        pen.arc((x * 2.2, 0.15), (0.36, 0.62), (-60, 60) if x < 0 else (120, 240), tone.dark, 0.05)


def radish(pen: Pen, tone: Tone) -> None:
    """A ball with a long thin root and broad leaves."""
    for angle in (-40, 0, 40):
        pen.leaf(0, -0.25, 0.75, tone.dark, angle=angle, width=0.5)
    pen.circle(0, 0.15, 0.58, tone.main)
    pen.polygon([(-0.3, 0.6), (0.3, 0.6), (0.04, 1.0), (-0.04, 1.0)], tone.main)
    pen.circle(-0.2, 0, 0.1, tone.light)


def strawberry(pen: Pen, tone: Tone) -> None:
    """A heart with seeds and a green star, both in the berry's own tones."""
    pen.circle(-0.36, -0.22, 0.42, tone.main)
    pen.circle(0.36, -0.22, 0.42, tone.main)
    pen.polygon([(-0.75, -0.08), (0.75, -0.08), (0.06, 0.98), (-0.06, 0.98)], tone.main)
    for angle in (-70, -25, 25, 70):
        pen.leaf(0, -0.62, 0.5, tone.dark, angle=angle + 180 if abs(angle) < 30 else angle * 1.4)
    for x, y in ((-0.35, 0), (0, 0.08), (0.35, 0), (-0.17, 0.36), (0.17, 0.36), (0, 0.64)):
        pen.circle(x, y, 0.06, tone.light)


def avocado(pen: Pen, tone: Tone) -> None:
    """Half a pear with a stone."""
    pen.circle(0, 0.32, 0.66, tone.dark)
    pen.ellipse(0, -0.25, 0.44, 0.65, tone.dark)
    pen.circle(0, 0.32, 0.54, tone.light)
    pen.ellipse(0, -0.22, 0.32, 0.52, tone.light)
    pen.circle(0, 0.34, 0.3, (112, 66, 34))


def round_fruit(pen: Pen, tone: Tone) -> None:
    """A ball with a stem and a leaf."""
    pen.circle(0, 0.12, 0.8, tone.main)
    pen.line([(0, -0.6), (0.08, -0.95)], tone.dark, 0.1)
    pen.leaf(0.05, -0.75, 0.5, tone.dark, angle=70)


def cut_fruit(pen: Pen, tone: Tone) -> None:
    """A cut ball: rind, flesh and a ring of seeds."""
    pen.circle(0, 0, 0.92, tone.dark)
    pen.circle(0, 0, 0.78, tone.main)
    for x, y in pen.ring(8, 0.48):
        pen.ellipse(x, y, 0.08, 0.11, tone.line)


def bunch_of_leaves(pen: Pen, tone: Tone) -> None:
    """Leaves in a fan over a pale foot."""
    for angle in (-60, -30, 30, 60, 0):
        pen.leaf(0, 0.55, 1.5, tone.dark if angle % 60 else tone.main, angle=angle, width=0.5)
    pen.ellipse(0, 0.6, 0.36, 0.4, tone.light)


def loaf(pen: Pen, tone: Tone) -> None:
    """A long roll with cuts."""
    pen.line([(-0.65, 0.3), (0.65, -0.3)], tone.main, 0.56)
    for x in (-0.45, -0.05, 0.35):
        pen.line([(x - 0.02, -x * 0.46 - 0.16), (x + 0.14, -x * 0.46 + 0.14)], tone.dark, 0.08)


def burger(pen: Pen, tone: Tone) -> None:
    """A bun, its filling, a bun."""
    pen.box(-0.85, -0.75, 0.85, 0.1, tone.main, round_=0.4)
    pen.box(-0.9, 0, 0.9, 0.2, (34, 150, 62))
    pen.box(-0.85, 0.2, 0.85, 0.42, (112, 66, 34))
    pen.box(-0.85, 0.42, 0.85, 0.8, tone.main, round_=0.18)


def cake(pen: Pen, tone: Tone) -> None:
    """Two layers under icing, with a cherry."""
    pen.box(-0.8, -0.2, 0.8, 0.8, tone.main, round_=0.08)
    pen.box(-0.8, 0.25, 0.8, 0.38, tone.dark)
    pen.box(-0.85, -0.4, 0.85, 0, tone.light, round_=0.15)
    pen.circle(0, -0.55, 0.2, (214, 32, 38))


def doughnut(pen: Pen, tone: Tone) -> None:
    """A ring with sprinkles; the hole is pale."""
    pen.circle(0, 0, 0.9, tone.main)
    for x, y in pen.ring(9, 0.62):
        pen.circle(x, y, 0.07, tone.dark)
    pen.circle(0, 0, 0.3, (238, 238, 240))


def bowl(pen: Pen, tone: Tone) -> None:
    """A bowl, filled."""
    pen.ellipse(0, 0, 0.9, 0.32, tone.light)
    for x in (-0.45, -0.1, 0.25):
        pen.line([(x, -0.05), (x + 0.22, 0.05)], tone.dark, 0.08)
    pen.polygon([(-0.9, 0.05), (0.9, 0.05), (0.5, 0.8), (-0.5, 0.8)], tone.main)
    pen.line([(0.2, -0.1), (0.75, -0.9)], tone.dark, 0.08)


def cup(pen: Pen, tone: Tone) -> None:
    """A tall cup with a straw and pearls."""
    pen.line([(0.1, -0.4), (0.3, -1.0)], tone.dark, 0.12)
    pen.polygon([(-0.6, -0.5), (0.6, -0.5), (0.42, 0.95), (-0.42, 0.95)], tone.main)
    pen.box(-0.68, -0.62, 0.68, -0.42, tone.light)
    for x, y in ((-0.25, 0.7), (0, 0.78), (0.25, 0.7), (-0.12, 0.55), (0.14, 0.52)):
        pen.circle(x, y, 0.11, (60, 36, 24))


def ice_cream(pen: Pen, tone: Tone) -> None:
    """A ball on a cone."""
    pen.polygon([(-0.5, 0), (0.5, 0), (0, 1.0)], (196, 148, 90))
    pen.circle(0, -0.3, 0.6, tone.main)


def pizza(pen: Pen, tone: Tone) -> None:
    """A slice with rounds on it."""
    pen.polygon([(-0.8, -0.6), (0.8, -0.6), (0, 0.98)], tone.main)
    pen.box(-0.88, -0.85, 0.88, -0.55, (196, 132, 60), round_=0.14)
    for x, y in ((-0.35, -0.3), (0.3, -0.2), (0, 0.25)):
        pen.circle(x, y, 0.19, (214, 32, 38))


def mushroom(pen: Pen, tone: Tone) -> None:
    """A cap with spots on a stalk."""
    pen.box(-0.28, 0, 0.28, 0.95, tone.light, round_=0.14)
    pen.polygon([(-0.9, 0.12), (-0.7, -0.5), (0, -0.9), (0.7, -0.5), (0.9, 0.12)], tone.main)
    for x, y in ((-0.4, -0.25), (0.1, -0.55), (0.45, -0.15)):
        pen.circle(x, y, 0.13, tone.light)


def flower(pen: Pen, tone: Tone) -> None:
    """Six petals, a heart, a stem."""
    pen.line([(0, 0), (0, 1.0)], (34, 150, 62), 0.1)
    pen.leaf(0, 0.85, 0.55, (34, 150, 62), angle=60)
    for x, y in pen.ring(6, 0.42):
        pen.circle(x, y - 0.25, 0.32, tone.main)
    pen.circle(0, -0.25, 0.26, tone.dark)


def spiky_ball(pen: Pen, tone: Tone) -> None:
    """A ball of spikes: a virus, a durian, a sun."""
    for (x, y), angle in zip(pen.ring(12, 0.55), range(0, 360, 30), strict=True):
        pen.leaf(x, y, 0.45, tone.dark, angle=angle, width=0.6)
    pen.circle(0, 0, 0.64, tone.main)


def pot_plant(pen: Pen, tone: Tone) -> None:
    """Fleshy leaves in a pot."""
    for angle in (-65, -35, 35, 65, 0):
        pen.leaf(0, 0.4, 1.2, tone.dark if angle % 65 else tone.main, angle=angle, width=0.45)
    pen.polygon([(-0.5, 0.35), (0.5, 0.35), (0.36, 1.0), (-0.36, 1.0)], (168, 92, 60))


def tree(pen: Pen, tone: Tone) -> None:
    """A round crown on a trunk."""
    pen.box(-0.14, 0.1, 0.14, 1.0, (112, 66, 34))
    for x, y, r in ((-0.4, -0.1, 0.42), (0.4, -0.1, 0.42), (0, -0.45, 0.5)):
        pen.circle(x, y, r, tone.main)
