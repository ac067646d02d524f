"""The blog's page in three designs; the real one has changed at least as often.

`2021`: captions with `<select>`s, images in `<img>`s. `next`: an empty page with its data in a
`__NEXT_DATA__` script. `plain`: captions as plain text, images with relative URLs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from itertools import islice
from typing import Any

from pipeline.demo.replica.config import PageDesign
from pipeline.demo.replica.holdings import Entry, Holdings, option_labels
from scrapers.sources.dalleblog.captions import Section
from scrapers.sources.dalleblog.urls import image_prompt_url, sample_url

SHOWN_RANKS = 4
# How many captions with computable keys a design without choices lists.
PLAIN_CAPTIONS = 24
_SLOT = re.compile(r"\{(\w+)\}")
_TITLE = "DALL·E: Creating Images from Text"
# Makes the page interactive: linked choices change together; images follow if keys are base64.
_BEHAVIOUR = """
document.addEventListener("change", ({target}) => {
  const visual = target.closest("section");
  for (const s of visual.querySelectorAll("select")) if (s.name === target.name) s.value = target.value;
  if (visual.dataset.key !== "base64") return;
  const line = visual.querySelector("p").cloneNode(true), live = visual.querySelectorAll("p select");
  line.querySelectorAll("select").forEach((s, i) => s.replaceWith(live[i].value.toLowerCase()));
  const key = btoa(String.fromCharCode(...new TextEncoder().encode(line.textContent.trim())));
  visual.querySelectorAll("div img").forEach((img) => {
    img.src = img.src.replace(/(samples\\/[^/]+\\/).*(_\\d+\\.png)$/, (_, head, tail) => head + key + tail);
  });
});
"""


def render_page(holdings: Holdings, *, design: PageDesign, cdn: str) -> str:
    """The page's HTML; `cdn` is the URL above `samples/`, relative in the plain design."""
    body = {"2021": _body_2021, "next": _body_next, "plain": _body_plain}[design](holdings, cdn)
    head = f'<meta charset="utf-8"><title>{_TITLE}</title>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'


# --- 2021: choices in the markup ------------------------------------------------------------------


def _body_2021(holdings: Holdings, cdn: str) -> str:
    labels = option_labels()
    visuals = "".join(_visual(holdings, section, cdn, labels) for section in holdings.sections)
    return f"<h1>{_TITLE}</h1>\n<main>\n{visuals}</main>\n<script>{_BEHAVIOUR}</script>\n"


def _visual(holdings: Holdings, section: Section, cdn: str, labels: Mapping[str, str]) -> str:
    shown = _default_entry(holdings, section)
    chosen = section.match(shown.caption) if shown else None
    chosen = chosen or {slot: options[0] for slot, options in section.slots.items()}
    parts = [f"<h2>{escape(section.name.replace('_', ' '))}</h2>", _prompt_figure(section, cdn)]
    parts.append(f"<p>{_caption_with_choices(section, chosen, labels)}</p>")
    if section.axis is not None:
        parts += ["<div>", *_axis_row(holdings, section, cdn, chosen, labels), "</div>"]
    elif shown is not None:
        parts.append(f"<div>{_images(shown, cdn)}</div>")
    if section.key != "base64":
        rest = (entry for entry in holdings.shown(section.name) if entry != shown)
        parts += [_listed(entry, cdn) for entry in rest]
    inner = "\n".join(part for part in parts if part)
    return f'<section data-key="{section.key}">\n{inner}\n</section>\n'


def _default_entry(holdings: Holdings, section: Section) -> Entry | None:
    """The caption that the page opens with: one known from the real page if there is one."""
    known = {given.caption for given in section.given}
    fitting = [e for e in holdings.shown(section.name) if section.match(e.caption) is not None]
    return next((entry for entry in fitting if entry.caption in known), next(iter(fitting), None))


def _caption_with_choices(
    section: Section, chosen: Mapping[str, str], labels: Mapping[str, str]
) -> str:
    pieces = _SLOT.split(section.template)
    parts = [escape(pieces[0], quote=False)]
    for slot, text in zip(pieces[1::2], pieces[2::2], strict=True):
        is_axis = slot == section.axis
        parts.append("…" if is_axis else _select(section, slot, chosen.get(slot), labels))
        parts.append(escape(text, quote=False))
    return "".join(parts)


def _select(section: Section, slot: str, chosen: str | None, labels: Mapping[str, str]) -> str:
    options = "".join(
        f"<option{' selected' if option == chosen else ''}>{escape(labels.get(option, option))}</option>"
        for option in section.slots[slot]
    )
    return f'<select name="{section.name}-{slot}">{options}</select>'


def _axis_row(
    holdings: Holdings,
    section: Section,
    cdn: str,
    chosen: Mapping[str, str],
    labels: Mapping[str, str],
) -> Iterator[str]:
    assert section.axis is not None
    shown = {entry.key for entry in holdings.shown(section.name)}
    for option in section.slots[section.axis]:
        entry = holdings.entry_for(section.name, {**chosen, section.axis: option})
        if entry is not None and entry.key in shown:
            label = escape(labels.get(option, option))
            image = _images(entry, cdn, count=1, alt="")
            yield f"<figure>{image}<figcaption>{label}</figcaption></figure>"


def _listed(entry: Entry, cdn: str) -> str:
    return f"<figure>{_images(entry, cdn, count=1)}<figcaption>{escape(entry.caption)}</figcaption></figure>"


def _images(entry: Entry, cdn: str, *, count: int = SHOWN_RANKS, alt: str | None = None) -> str:
    text = escape(entry.caption if alt is None else alt)
    return "".join(f'<img src="{escape(url)}" alt="{text}">' for url in _urls(entry, cdn, count))


def _urls(entry: Entry, cdn: str, count: int) -> list[str]:
    return [sample_url(cdn, entry.section.name, entry.key, rank) for rank in entry.ranks[:count]]


def _prompt_figure(section: Section, cdn: str) -> str:
    if section.image_prompt is None:
        return ""
    return (
        f'<div><img src="{escape(image_prompt_url(cdn, section.name))}" alt="image prompt"></div>'
    )


# --- next: data in a script -----------------------------------------------------------------------


def _body_next(holdings: Holdings, cdn: str) -> str:
    labels = option_labels()
    visuals = [_data_of(holdings, section, cdn, labels) for section in holdings.sections]
    data = {"props": {"pageProps": {"title": _TITLE, "visuals": visuals}}, "page": "/blog/[slug]"}
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return f'<div id="__next"></div>\n<script id="__NEXT_DATA__" type="application/json">{text}</script>\n'


def _data_of(
    holdings: Holdings, section: Section, cdn: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    count = PLAIN_CAPTIONS if section.key == "base64" else None
    return {
        "section": section.name,
        "template": section.template,
        "slots": {s: [labels.get(o, o) for o in options] for s, options in section.slots.items()},
        "axis": section.axis,
        "imagePrompt": image_prompt_url(cdn, section.name) if section.image_prompt else None,
        "captions": [
            {"caption": entry.caption, "images": _urls(entry, cdn, 1)}
            for entry in islice(_listable(holdings, section), count)
        ],
    }


# --- plain: text and images ------------------------------------------------------------------------


def _body_plain(holdings: Holdings, cdn: str) -> str:
    return "".join(
        f"<div><p>{escape(entry.caption)}</p>\n<p>{_images(entry, cdn, count=2, alt='')}</p></div>\n"
        for section in holdings.sections
        for entry in islice(
            _listable(holdings, section), PLAIN_CAPTIONS if section.key == "base64" else None
        )
    )


def _listable(holdings: Holdings, section: Section) -> Iterator[Entry]:
    return (
        holdings.entries(section.name) if section.key == "base64" else holdings.shown(section.name)
    )
