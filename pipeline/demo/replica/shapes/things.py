"""Draw man-made objects, each as a bold silhouette in a square from -1 to 1."""

from __future__ import annotations

from pipeline.demo.replica.palette import RGB
from pipeline.demo.replica.shapes.canvas import INK, PALE, Pen, Tone

GLASS: RGB = (190, 214, 232)


def armchair(pen: Pen, tone: Tone) -> None:
    """A padded back, two arms, a seat, feet."""
    for x in (-0.6, 0.6):
        pen.box(x - 0.08, 0.7, x + 0.08, 0.98, INK)
    pen.box(-0.62, -0.95, 0.62, 0.5, tone.main, round_=0.4)
    pen.box(-0.5, 0.1, 0.5, 0.45, tone.light, round_=0.1)
    pen.box(-0.6, 0.42, 0.6, 0.78, tone.main)
    for x in (-0.74, 0.74):
        pen.box(x - 0.2, -0.15, x + 0.2, 0.8, tone.dark, round_=0.18)


def bench(pen: Pen, tone: Tone) -> None:
    """Two boards on two pairs of legs."""
    for x in (-0.7, 0.7):
        pen.box(x - 0.08, -0.4, x + 0.08, 0.9, tone.dark)
    for y in (-0.5, -0.15, 0.3):
        pen.box(-0.95, y, 0.95, y + 0.25, tone.main)


def clock(pen: Pen, tone: Tone) -> None:
    """A round clock."""
    pen.circle(0, 0, 0.92, tone.main)
    clock_hands(pen, tone)


def clock_hands(pen: Pen, tone: Tone) -> None:
    """Twelve marks and two hands in the line colour."""
    for x, y in pen.ring(12, 0.52):
        pen.circle(x, y, 0.045, tone.line)
    pen.line([(0, 0), (0, -0.4)], tone.line, 0.08)
    pen.line([(0, 0), (0.26, 0.14)], tone.line, 0.08)


def table(pen: Pen, tone: Tone) -> None:
    """A low table."""
    for x in (-0.7, 0.7):
        pen.box(x - 0.09, 0.1, x + 0.09, 0.85, tone.dark)
    pen.box(-0.98, -0.2, 0.98, 0.15, tone.main, round_=0.1)


def lamp(pen: Pen, tone: Tone) -> None:
    """A shade on a stand."""
    pen.box(-0.07, -0.1, 0.07, 0.85, tone.dark)
    pen.ellipse(0, 0.85, 0.42, 0.13, tone.dark)
    pen.polygon([(-0.42, -0.95), (0.42, -0.95), (0.78, 0), (-0.78, 0)], tone.main)


def purse(pen: Pen, tone: Tone) -> None:
    """A bag with a handle and a clasp."""
    pen.arc((0, -0.25), (0.46, 0.68), (180, 360), tone.dark, 0.13)
    pen.polygon([(-0.7, -0.25), (0.7, -0.25), (0.92, 0.85), (-0.92, 0.85)], tone.main)
    pen.polygon([(-0.7, -0.25), (0.7, -0.25), (0, 0.3)], tone.dark)
    pen.circle(0, 0.24, 0.1, (196, 148, 28))


def soap_dispenser(pen: Pen, tone: Tone) -> None:
    """A bottle with a pump."""
    pen.line([(-0.4, -0.82), (0, -0.82), (0, -0.4)], tone.dark, 0.14)
    pen.box(-0.25, -0.5, 0.25, -0.3, tone.dark)
    pen.box(-0.52, -0.32, 0.52, 0.95, tone.main, round_=0.22)
    pen.box(-0.32, 0.1, 0.32, 0.6, tone.light)


def teapot(pen: Pen, tone: Tone) -> None:
    """A round pot with a lid, a spout and a handle."""
    pen.arc((0.62, 0.1), (0.34, 0.4), (250, 110), tone.dark, 0.14)
    pen.polygon([(-0.45, 0.45), (-0.98, -0.35), (-0.8, -0.42), (-0.35, 0.0)], tone.dark)
    pen.ellipse(0, 0.2, 0.68, 0.6, tone.main)
    pen.ellipse(0, -0.36, 0.36, 0.12, tone.dark)
    pen.circle(0, -0.55, 0.12, tone.dark)


def tissue_box(pen: Pen, tone: Tone) -> None:
    """A box with a tissue standing out."""
    pen.polygon([(-0.3, -0.1), (-0.45, -0.8), (0, -0.6), (0.4, -0.9), (0.3, -0.1)], PALE)
    pen.box(-0.9, -0.15, 0.9, 0.75, tone.main)
    pen.box(-0.35, -0.15, 0.35, -0.03, tone.dark)


def cuboid(pen: Pen, tone: Tone) -> None:
    """A block seen slightly from the right and above."""
    pen.polygon([(-0.8, -0.5), (-0.4, -0.9), (0.9, -0.9), (0.5, -0.5)], tone.light)
    pen.polygon([(0.5, -0.5), (0.9, -0.9), (0.9, 0.4), (0.5, 0.8)], tone.dark)
    pen.box(-0.8, -0.5, 0.5, 0.8, tone.main)


def bottle(pen: Pen, tone: Tone) -> None:
    """A bottle with a label."""
    pen.box(-0.17, -0.98, 0.17, -0.3, tone.main)
    pen.box(-0.2, -0.98, 0.2, -0.8, tone.dark)
    pen.box(-0.45, -0.45, 0.45, 0.98, tone.main, round_=0.25)
    pen.box(-0.45, 0.0, 0.45, 0.55, tone.light)


def glasses(pen: Pen, tone: Tone) -> None:
    """Two rims and a bridge."""
    for x in (-0.5, 0.5):
        pen.circle(x, 0, 0.42, tone.main)
        pen.circle(x, 0, 0.28, GLASS)
    pen.line([(-0.1, -0.05), (0.1, -0.05)], tone.main, 0.12)


def car(pen: Pen, tone: Tone) -> None:
    """A car from the side."""
    pen.polygon([(-0.5, -0.1), (-0.3, -0.55), (0.3, -0.55), (0.58, -0.1)], tone.main)
    pen.polygon([(-0.38, -0.12), (-0.24, -0.43), (0.24, -0.43), (0.42, -0.12)], GLASS)
    pen.box(-0.98, -0.12, 0.98, 0.4, tone.main, round_=0.15)
    for x in (-0.55, 0.55):
        pen.circle(x, 0.42, 0.25, INK)
        pen.circle(x, 0.42, 0.1, PALE)


def airplane(pen: Pen, tone: Tone) -> None:
    """A plane from the side."""
    pen.polygon([(0.55, -0.1), (0.95, -0.65), (0.95, 0)], tone.dark)
    pen.box(-0.98, -0.2, 0.9, 0.25, tone.main, round_=0.22)
    pen.polygon([(-0.2, 0.05), (0.25, 0.05), (0.55, 0.75)], tone.dark)
    for x in (-0.6, -0.3, 0, 0.3):
        pen.circle(x, -0.04, 0.07, GLASS)


def rocket(pen: Pen, tone: Tone) -> None:
    """A rocket on its flame."""
    pen.polygon([(-0.2, 0.6), (0.2, 0.6), (0, 1.0)], (246, 132, 24))
    pen.polygon([(-0.6, 0.65), (-0.3, 0.1), (0.3, 0.1), (0.6, 0.65)], tone.dark)
    pen.ellipse(0, -0.1, 0.38, 0.86, tone.main)
    pen.circle(0, -0.3, 0.17, GLASS)


def house(pen: Pen, tone: Tone) -> None:
    """A front with a gable."""
    pen.polygon([(-0.9, -0.1), (0, -0.9), (0.9, -0.1)], tone.dark)
    pen.box(-0.72, -0.1, 0.72, 0.9, tone.main)
    pen.box(-0.14, 0.35, 0.18, 0.9, INK)
    for x in (-0.48, 0.4):
        pen.box(x - 0.12, 0.08, x + 0.14, 0.34, GLASS)


def tower(pen: Pen, tone: Tone) -> None:
    """A slim pyramid with rows of windows."""
    pen.polygon([(0, -1.0), (0.5, 0.95), (-0.5, 0.95)], tone.main)
    for row in range(5):
        half = 0.08 + row * 0.07
        pen.box(-half, -0.3 + row * 0.25, half, -0.22 + row * 0.25, tone.dark)


def columns(pen: Pen, tone: Tone) -> None:
    """A front of columns under a gable."""
    pen.polygon([(-0.95, -0.35), (0, -0.9), (0.95, -0.35)], tone.main)
    for x in (-0.7, -0.24, 0.24, 0.7):
        pen.box(x - 0.12, -0.3, x + 0.12, 0.7, tone.main)
    pen.box(-0.95, 0.7, 0.95, 0.95, tone.dark)


def dome(pen: Pen, tone: Tone) -> None:
    """A hall with a dome."""
    pen.circle(0, -0.25, 0.48, tone.light)
    pen.line([(0, -0.7), (0, -1.0)], tone.dark, 0.07)
    pen.box(-0.95, -0.1, 0.95, 0.9, tone.main)
    for x in (-0.7, -0.35, 0, 0.35, 0.7):
        pen.box(x - 0.08, 0.15, x + 0.08, 0.65, tone.dark)


def bridge(pen: Pen, tone: Tone) -> None:
    """Two towers, a deck, a hanging cable."""
    pen.box(-1.2, 0.3, 1.2, 0.45, tone.main)
    for x in (-0.55, 0.55):
        pen.box(x - 0.09, -0.85, x + 0.09, 0.95, tone.main)
    pen.arc((0, -0.85), (0.55, 1.05), (0, 180), tone.dark, 0.06)
    for x in (-1.1, 1.1):
        pen.line([(x / 2, -0.8), (x, 0.3)], tone.dark, 0.06)


def ball(pen: Pen, tone: Tone) -> None:
    """A ball with two seams."""
    pen.circle(0, 0, 0.9, tone.main)
    pen.arc((-0.95, 0), (0.6, 0.75), (-65, 65), tone.dark, 0.08)
    pen.arc((0.95, 0), (0.6, 0.75), (115, 245), tone.dark, 0.08)


def screen(pen: Pen, tone: Tone) -> None:
    """A screen on a foot: a television, a computer."""
    pen.polygon([(-0.15, 0.5), (0.15, 0.5), (0.4, 0.9), (-0.4, 0.9)], tone.dark)
    pen.box(-0.95, -0.75, 0.95, 0.6, tone.main, round_=0.1)
    pen.box(-0.75, -0.56, 0.75, 0.38, GLASS)


def phone(pen: Pen, tone: Tone) -> None:
    """A receiver on a body with a dial."""
    pen.polygon([(-0.4, -0.35), (0.4, -0.35), (0.8, 0.8), (-0.8, 0.8)], tone.main)
    pen.circle(0, 0.25, 0.33, tone.light)
    for x, y in pen.ring(8, 0.22):
        pen.circle(x, y + 0.25, 0.05, tone.dark)
    pen.line([(-0.8, -0.35), (-0.7, -0.65), (0.7, -0.65), (0.8, -0.35)], tone.dark, 0.28)


def camera(pen: Pen, tone: Tone) -> None:
    """A box with a lens."""
    pen.box(-0.35, -0.75, 0.35, -0.4, tone.dark)
    pen.box(-0.95, -0.5, 0.95, 0.7, tone.main, round_=0.12)
    pen.circle(0, 0.1, 0.45, INK)
    pen.circle(0, 0.1, 0.28, GLASS)


def radio(pen: Pen, tone: Tone) -> None:
    """A box with a loudspeaker and an aerial."""
    pen.line([(0.5, -0.4), (0.85, -0.98)], tone.dark, 0.06)
    pen.box(-0.95, -0.45, 0.95, 0.75, tone.main, round_=0.12)
    pen.circle(-0.4, 0.15, 0.4, tone.dark)
    pen.box(0.15, -0.2, 0.78, 0.05, PALE)


def vacuum_cleaner(pen: Pen, tone: Tone) -> None:
    """A handle, a bag, a broad foot."""
    pen.line([(0.75, -0.95), (0.0, 0.65)], tone.dark, 0.12)
    pen.ellipse(0.2, 0.0, 0.38, 0.58, tone.main)
    pen.box(-0.75, 0.6, 0.35, 0.92, tone.main, round_=0.1)


def sheet_of_paper(pen: Pen, tone: Tone) -> None:
    """A poster or a magazine: an image and lines of text."""
    pen.box(-0.72, -0.98, 0.72, 0.98, tone.main)
    pen.box(-0.55, -0.55, 0.55, 0.35, tone.light)
    pen.circle(0, -0.1, 0.3, tone.dark)
    for y in (-0.8, 0.55, 0.75):
        pen.line([(-0.5, y), (0.5, y)], tone.line, 0.09)


def bust(pen: Pen, tone: Tone) -> None:
    """A head on shoulders."""
    pen.polygon([(-0.75, 0.95), (-0.6, 0.5), (0.6, 0.5), (0.75, 0.95)], tone.main)
    pen.box(-0.22, 0.1, 0.22, 0.6, tone.dark)
    pen.ellipse(0, -0.3, 0.48, 0.6, tone.main)
    pen.ellipse(0, -0.68, 0.5, 0.28, tone.dark)


def heart(pen: Pen, tone: Tone) -> None:
    """A heart."""
    for x in (-0.42, 0.42):
        pen.circle(x, -0.3, 0.46, tone.main)
    pen.polygon([(-0.85, -0.12), (0.85, -0.12), (0, 0.9)], tone.main)


def volcano(pen: Pen, tone: Tone) -> None:
    """A cone with fire."""
    pen.polygon([(-0.25, -0.4), (0, -1.0), (0.25, -0.4)], (246, 132, 24))
    pen.polygon([(-0.95, 0.85), (-0.3, -0.45), (0.3, -0.45), (0.95, 0.85)], tone.main)


def seeded_blob(pen: Pen, tone: Tone, *, word: bytes) -> None:
    """A closed outline determined by `word` (at least 9 bytes), for words without a shape."""
    points = [
        (x * (0.55 + byte / 600), y * (0.55 + byte / 600))
        for (x, y), byte in zip(pen.ring(8, 0.98), word, strict=False)
    ]
    pen.polygon(points, tone.main)
    pen.circle(0, 0, 0.12 + word[8] / 1000, tone.dark)
