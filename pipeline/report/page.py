"""The HTML of the report, built from values; reads nothing but its own style and script.

The page is one file. Its policy (CSP) allows no request at all, only embedded images, and no script but its
own, so that a caption can't run or load anything even if it got past the escaping.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from pipeline.core.plain_text import plain_text

Size = tuple[int, int]
_NUMBER = re.compile(r"[0-9][0-9,]*(\.[0-9]+)?")


def shown(text: object) -> str:
    """Text of whatever origin as HTML: escaped, with visible control and direction characters."""
    return escape(plain_text(str(text)))


@functools.cache
def static_text(name: str) -> str:
    """A file of `static/`: page.css or page.js."""
    return files("pipeline.report").joinpath("static", name).read_text("utf-8")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A number and its label."""

    value: str
    label: str


def fit(size: Size, side: int) -> Size:
    """Width and height of an image of `size` scaled to a square of `side`, in its own shape."""
    longer = max(size)
    width, height = (max(1, round(length * side / longer)) for length in size)
    return width, height


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as a `data:` URL of an image; `kind` is jpeg or png."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image_tag(data: bytes, *, kind: str, alt: str, size: Size | None = None) -> str:
    """An `<img>` with embedded bytes; `kind` is jpeg or png, `size` its width and height in CSS pixels."""
    sides = f' width="{size[0]}" height="{size[1]}"' if size else ""
    return f'<img src="{data_uri(data, kind)}" alt="{shown(alt)}"{sides}>'


def tiles(items: Iterable[Tile]) -> str:
    """Numbers with labels, side by side."""
    cards = "".join(
        f'<div class="tile"><b>{shown(item.value)}</b><span>{shown(item.label)}</span></div>'
        for item in items
    )
    return f'<div class="tiles">{cards}</div>'


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, about: str = "") -> str:
    """A table captioned `about`; columns of numbers are right-aligned, integers with thousands separators."""
    rows = list(rows)
    numeric = [all(map(_is_number, values)) for values in zip(*rows, strict=True)]
    marks = [' class="number"' if is_number else "" for is_number in numeric] or [""] * len(columns)
    head = "".join(
        f'<th scope="col"{mark}>{shown(c)}</th>' for mark, c in zip(marks, columns, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{mark}>{_cell(v)}</td>" for mark, v in zip(marks, row, strict=True))
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{shown(about)}</caption>" if about else ""
    table = f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or _NUMBER.fullmatch(str(value)) is not None


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else shown(value)


def figures(items: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Images with their captions below, as many side by side as fit."""
    items = list(items)
    body = "".join(
        f'<figure>{"".join(images)}<figcaption dir="auto">{shown(words)}</figcaption></figure>'
        for words, images in items
    )
    kind = "group single" if len(items) == 1 else "group"
    return f'<div class="{kind}">{body}</div>'


def bars(rows: Sequence[tuple[str, int, str]]) -> str:
    """Numbers as bars: (name, number, remark); the longest is the largest number."""
    most = max((number for _, number, _ in rows), default=0) or 1
    body = "".join(
        f"<span>{shown(name)}: <b>{number:,}</b></span>"
        f'<div><i style="width:{100 * number / most:.1f}%"></i>'
        f"{f'<small>{shown(remark)}</small>' if remark else ''}</div>"
        for name, number, remark in rows
    )
    return f'<div class="bars">{body}</div>' if rows else ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of the funnel: how many are left, and what was lost since the step before, by reason."""

    name: str
    left: int
    lost: tuple[tuple[str, int], ...] = ()


def funnel(steps: Sequence[Step]) -> str:
    """What is left after each step, with what was lost since the step before, and why."""
    before = [None, *(step.left for step in steps)]
    return bars(
        [
            (step.name, step.left, _loss(step, previous))
            for step, previous in zip(steps, before, strict=False)
        ]
    )


def _loss(step: Step, previous: int | None) -> str:
    lost = 0 if previous is None else previous - step.left
    if not lost:
        return ""
    reasons = [(name.replace("_", " "), n) for name, n in step.lost if n]
    number = f"{-lost:+,}".replace("-", "−")
    if [n for _, n in reasons] == [lost]:
        return f"{number} {reasons[0][0]}"
    words = ", ".join(f"{name} {n:,}" for name, n in reasons)
    return f"{number}: {words}" if words else number


def pairs(items: Iterable[tuple[Sequence[tuple[str, str]], str]]) -> str:
    """Images with a word above each, and HTML below them; as many groups side by side as fit."""
    body = "".join(
        '<figure><div class="two">'
        + "".join(f"<span>{shown(word)}{tag}</span>" for word, tag in images)
        + f"</div><figcaption>{words}</figcaption></figure>"
        for images, words in items
    )
    return f'<div class="pairs">{body}</div>'


def filters(of: str, *, search: str | None = None, choices: dict[str, Sequence[str]]) -> str:
    """A form that hides items of the list with the id `of`.

    `search` labels the search in the items' elements `.text`; `choices` are the values of the items' fields,
    which they have as `data-NAME`. A field with one value can't be chosen.
    """
    fields = ""
    if search:
        fields += f'<label>{shown(search)}<input type="search" autocomplete="off"></label>'
    for name, values in choices.items():
        if len(values) > 1:
            options = "".join(f'<option value="{shown(v)}">{shown(v)}</option>' for v in values)
            fields += (
                f'<label>{shown(name)}<select name="{name}"><option value="">all</option>'
                f"{options}</select></label>"
            )
    if not fields:
        return ""
    return (
        f'<form class="tools only-script" data-of="{of}">{fields}<button type="reset">Reset</button>'
        '<output aria-live="polite"></output></form>'
    )


def fields_of(values: dict[str, object]) -> str:
    """The attributes of an item that `filters` compares."""
    return "".join(f' data-{name}="{shown(value)}"' for name, value in values.items())


def json_script(value: Any, **attributes: str) -> str:
    """A `<script>` that holds a value as JSON, which no text in it can end."""
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    names = "".join(f' {name}="{shown(content)}"' for name, content in attributes.items())
    return f'<script type="application/json"{names}>{text}</script>'


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: a heading, a note, and HTML."""

    title: str
    note: str
    body: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A chapter of the page: what the navigation names, and its sections."""

    title: str
    sections: tuple[Section, ...]

    @property
    def anchor(self) -> str:
        """Its id in the page."""
        return self.title.lower().replace(" ", "-")


_DIALOG = (
    '<dialog aria-labelledby="sample-title"><header><h2 id="sample-title" dir="auto">Sample</h2><div>'
    '<button type="button" data-by="-1">Previous</button><button type="button" data-by="1">Next</button>'
    '<button type="button" data-by="0">Close</button></div></header><div class="group"></div><dl></dl>'
    "<details><summary>JSON</summary><pre></pre></details></dialog>"
)


def page(
    title: str,
    lead: str,
    parts: Sequence[Part],
    *,
    samples: Sequence[Any] = (),
    made_from: str = "",
) -> str:
    """The whole document, self-contained.

    `samples` are what the buttons of images show, by their `data-sample`; `made_from` is stored in its head.
    """
    links = "".join(f'<a href="#{part.anchor}">{shown(part.title)}</a>' for part in parts)
    body = "".join(map(_part, parts))
    script = static_text("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )
    held = _DIALOG + json_script(list(samples), id="samples") if samples else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="made-from" content="{escape(made_from)}">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{shown(title)}</title><style>{static_text('page.css')}</style></head><body><main>"
        f'<h1>{shown(title)}</h1><p class="lead">{shown(lead)}</p>'
        f'<nav aria-label="Parts of the report">{links}</nav>{body}</main>{held}'
        f"<script>{script}</script></body></html>\n"
    )


def _part(part: Part) -> str:
    sections = "".join(map(_section, part.sections))
    return f'<section id="{part.anchor}"><h2>{shown(part.title)}</h2>{sections}</section>'


def _section(section: Section) -> str:
    heading = f"<h3>{shown(section.title)}</h3>" if section.title else ""
    note = f'<p class="note">{shown(section.note)}</p>' if section.note else ""
    return f"{heading}{note}{section.body}"
