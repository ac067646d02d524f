"""A built-in 5×5 alphabet: fonts differ between machines, these letters don't."""

from __future__ import annotations

from pipeline.demo.replica.palette import RGB
from pipeline.demo.replica.shapes.canvas import Pen

# Five rows of five bits per letter, with the left column in the highest bit.
_ROWS = {
    "a": "0e 11 1f 11 11", "b": "1e 11 1e 11 1e", "c": "0f 10 10 10 0f", "d": "1e 11 11 11 1e",
    "e": "1f 10 1e 10 1f", "f": "1f 10 1e 10 10", "g": "0f 10 13 11 0f", "h": "11 11 1f 11 11",
    "i": "0e 04 04 04 0e", "j": "07 02 02 12 0c", "k": "11 12 1c 12 11", "l": "10 10 10 10 1f",
    "m": "11 1b 15 11 11", "n": "11 19 15 13 11", "o": "0e 11 11 11 0e", "p": "1e 11 1e 10 10",
    "q": "0e 11 15 12 0d", "r": "1e 11 1e 12 11", "s": "0f 10 0e 01 1e", "t": "1f 04 04 04 04",
    "u": "11 11 11 11 0e", "v": "11 11 11 0a 04", "w": "11 11 15 1b 11", "x": "11 0a 04 0a 11",
    "y": "11 0a 04 04 04", "z": "1f 02 04 08 1f", "-": "00 00 0e 00 00", "?": "0e 11 06 00 04",
}  # fmt: skip


def write_word(pen: Pen, word: str, fill: RGB, *, width: float = 1.6) -> None:
    """Write `word` in one line around the centre, at most `width` wide; unknown characters are gaps."""
    step = min(width / (6 * len(word)), 0.09)
    left = -step * (6 * len(word) - 1) / 2
    for index, letter in enumerate(word.lower()):
        _write_letter(pen, letter, fill, corner=left + index * 6 * step, step=step)


def _write_letter(pen: Pen, letter: str, fill: RGB, *, corner: float, step: float) -> None:
    for row, bits in enumerate(_ROWS.get(letter, "").split()):
        for column in range(5):
            if int(bits, 16) >> (4 - column) & 1:
                x, y = corner + column * step, (row - 2.5) * step
                pen.box(x, y, x + step, y + step, fill)
