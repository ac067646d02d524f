"""The HTML of the report, built from values; reads no files."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_STYLE = """
:root { --ink: #1c1917; --muted: #78716c; --line: #e7e5e4; --ground: #fafaf9; --card: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f5f5f4; --muted: #a8a29e; --line: #44403c; --ground: #1c1917; --card: #292524; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 24px 20px 64px; color: var(--ink);
  background: var(--ground); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 28px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 28px 0 6px; }
h1, h2, p, td, figcaption, .tile { overflow-wrap: anywhere; }
p.note { color: var(--muted); margin: 4px 0 12px; max-width: 75ch; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 12px 0; }
nav a { color: inherit; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px; }
.tile b { display: block; font-size: 24px; } .tile span { color: var(--muted); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; background: var(--card); font-size: 14px; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.wall td { padding: 3px 6px; } .wall img, .row img { display: inline-block; border-radius: 4px; }
.wall td.caption { width: 30%; min-width: 180px; } .wall td.row { white-space: nowrap; }
th.number { text-align: right; }
.group { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 12px; }
.group.single { display: block; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px; max-width: 100%; }
figcaption { font-size: 13px; margin-top: 6px; }
figure img { max-width: 100%; border-radius: 4px; margin-right: 3px; }
.single figure img { min-width: min(100%, 640px); image-rendering: pixelated; }
.scroll + .scroll { margin-top: 12px; } ul { margin: 4px 0; padding-left: 20px; }
.funnel { display: grid; grid-template-columns: max-content 1fr; gap: 4px 10px;
  margin: 14px 0; font-size: 14px; }
.funnel i { display: block; height: 100%; min-width: 2px; background: #2563eb; border-radius: 3px; }
.funnel span { white-space: nowrap; font-variant-numeric: tabular-nums; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(230px, 100%), 1fr)); gap: 12px; }
.pairs .two { display: flex; gap: 8px; } .two span { font-size: 12px; color: var(--muted); }
.two span img { display: block; margin: 0; }
@media (max-width: 600px) {
  body { padding: 16px 12px 48px; }
  .wall tr, .wall td { display: block; } .wall td.caption { width: auto; border: 0; }
  .wall td.row { white-space: normal; }
}
svg { width: 100%; max-width: 760px; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
svg text { font: 11px system-ui, sans-serif; fill: var(--muted); } svg .grid { stroke: var(--line); }
"""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A number and its label."""

    value: str
    label: str


def image_tag(data: bytes, *, kind: str, alt: str, width: int | None = None) -> str:
    """An `<img>` with embedded bytes; `kind` is jpeg or png."""
    size = f' width="{width}" height="{width}"' if width else ""
    encoded = base64.b64encode(data).decode()
    return f'<img src="data:image/{kind};base64,{encoded}" alt="{escape(alt)}"{size}>'


def tiles(items: Iterable[Tile]) -> str:
    """Numbers with labels, side by side."""
    cards = "".join(
        f'<div class="tile"><b>{escape(item.value)}</b><span>{escape(item.label)}</span></div>'
        for item in items
    )
    return f'<div class="tiles">{cards}</div>'


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; integers get thousands separators and are right-aligned."""
    rows = list(rows)
    numeric = [
        bool(rows) and all(isinstance(v, int) for v in values) for values in zip(*rows, strict=True)
    ]
    marks = [' class="number"' if is_number else "" for is_number in numeric] or [""] * len(columns)
    head = "".join(f"<th{mark}>{escape(c)}</th>" for mark, c in zip(marks, columns, strict=True))
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{escape(str(value))}</td>"


def wall(rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Captions with their images in order of rank; `images` are `<img>` elements."""
    body = "".join(
        f'<tr><td class="caption">{escape(caption)}</td><td class="row">{"".join(images)}</td></tr>'
        for caption, images in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="wall"><tbody>{body}</tbody></table></div>'
    )


def figures(items: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Images with their captions below, as many side by side as fit."""
    items = list(items)
    body = "".join(
        f"<figure>{''.join(images)}<figcaption>{escape(words)}</figcaption></figure>"
        for words, images in items
    )
    kind = "group single" if len(items) == 1 else "group"
    return f'<div class="{kind}">{body}</div>'


def funnel(steps: Sequence[tuple[str, int]]) -> str:
    """What is left after each step, as bars, with what was lost since the step before."""
    most = max((number for _, number in steps), default=0) or 1
    before = [None, *(number for _, number in steps)]
    body = "".join(
        f"<span>{escape(name)}: <b>{number:,}</b>{_lost(previous, number)}</span>"
        f'<div><i style="width:{100 * number / most:.1f}%"></i></div>'
        for (name, number), previous in zip(steps, before, strict=False)
    )
    return f'<div class="funnel">{body}</div>' if steps else ""


def _lost(previous: int | None, number: int) -> str:
    return "" if previous is None or previous == number else f" ({number - previous:+,})"


def pairs(items: Iterable[tuple[Sequence[tuple[str, str]], str]]) -> str:
    """Images with a word above each, and HTML below them; as many groups side by side as fit."""
    body = "".join(
        '<figure><div class="two">'
        + "".join(f"<span>{escape(word)}{tag}</span>" for word, tag in images)
        + f"</div><figcaption>{words}</figcaption></figure>"
        for images, words in items
    )
    return f'<div class="pairs">{body}</div>'


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: a heading, a note, and HTML."""

    title: str
    note: str
    body: str


def page(title: str, lead: str, sections: Sequence[Section], *, made_from: str = "") -> str:
    """The whole document, self-contained; `made_from` is stored in its head."""
    links = "".join(
        f'<a href="#part-{number}">{escape(section.title)}</a>'
        for number, section in enumerate(sections)
    )
    parts = "".join(
        f'<h2 id="part-{number}">{escape(section.title)}</h2>'
        f'<p class="note">{escape(section.note)}</p>{section.body}'
        for number, section in enumerate(sections)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="made-from" content="{escape(made_from)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="note">{escape(lead)}</p><nav>{links}</nav>{parts}'
        "</main></body></html>\n"
    )
