"""The frame of every page: head, navigation, and small pieces of HTML. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from urllib.parse import urlencode

LINKS = (
    ("/", "Overview"),
    ("/browse", "Images"),
    ("/clusters", "Near duplicates"),
    ("/training", "Training"),
    ("/generate", "Generate"),
)


def page(title: str, body: str, *, current: str = "", scripts: Iterable[str] = ()) -> str:
    """A whole page; `title` is text, `body` is HTML, `scripts` are names of files in static/."""
    links = "".join(
        f'<li><a href="{path}"{_current(path == current)}>{name}</a></li>' for path, name in LINKS
    )
    tags = "".join(f'<script src="/static/{name}" defer></script>' for name in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)} &middot; dalle-pipeline</title>\n"
        '<link rel="icon" href="data:,">\n'
        f'<link rel="stylesheet" href="/static/style.css">\n{tags}\n</head>\n<body>\n'
        '<a class="skip" href="#main">Skip to content</a>\n'
        f'<header><nav aria-label="Pages"><ul>{links}</ul></nav></header>\n'
        f'<main id="main" tabindex="-1">\n{body}\n</main>\n</body>\n</html>\n'
    )


def _current(is_current: bool) -> str:
    return ' aria-current="page"' if is_current else ""


# Control characters as their pictures; lone surrogates, which UTF-8 can't encode, as U+FFFD.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)


def text(value: object) -> str:
    """Text as HTML: escaped, control characters shown as their pictures, lone surrogates replaced."""
    shown = str(value)
    return escape(shown if shown.isprintable() else shown.translate(_PICTURES))


def caption(value: object) -> str:
    """A caption in an element of its own, so that right-to-left text does not disturb what is around it."""
    return f'<bdi dir="auto">{text(value)}</bdi>'


def link(path: str, parameters: Mapping[str, object], content: str, *, classes: str = "") -> str:
    """A link; `content` is HTML."""
    kind = f' class="{classes}"' if classes else ""
    return f'<a{kind} href="{url(path, parameters)}">{content}</a>'


def url(path: str, parameters: Mapping[str, object]) -> str:
    """A path with its parameters as an attribute's value; empty ones are left out."""
    given = {name: str(value) for name, value in parameters.items() if value not in (None, "")}
    if not given:
        return escape(path)
    return escape(f"{path}?{urlencode(given, errors='replace')}")


def notice(message: str) -> str:
    """A paragraph that says what is missing; `message` is HTML."""
    return f'<p class="notice">{message}</p>'


def table(head: Iterable[str], rows: Iterable[Iterable[str]], *, label: str) -> str:
    """A table that scrolls sideways; cells are HTML, heads are text."""
    cells = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}"><table><thead><tr>'
        f"{cells}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def select(
    name: str, label: str, options: Iterable[tuple[str, str]], chosen: str, *, all_of: str = ""
) -> str:
    """A labelled select; `all_of` is the text of the empty option, if there is one."""
    given = [("", all_of), *options] if all_of else list(options)
    items = "".join(
        f'<option value="{text(value)}"{" selected" if value == chosen else ""}>{text(shown)}</option>'
        for value, shown in given
    )
    return f'<label>{text(label)}<select name="{name}">{items}</select></label>'
