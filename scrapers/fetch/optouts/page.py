"""The signals in the <meta> elements of a page, which refuse its captions and its images. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from html.parser import HTMLParser

from scrapers.fetch.optouts.signals import REFUSING_DIRECTIVES, Refusal

# Name (in lower case) and content of each <meta> element.
Meta = Iterable[tuple[str, str]]


def meta_elements(text: str) -> Meta:
    """Name (in lower case) and content of each `<meta>` of a page that can't be read otherwise."""
    reader = _MetaReader()
    reader.feed(text)
    reader.close()
    return reader.found


class _MetaReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        if tag == "meta" and fields.get("name"):
            self.found.append((str(fields["name"]).lower(), fields.get("content") or ""))


def page_refusal(meta: Meta, *, agent: str, url: str) -> Refusal | None:
    """The element that refuses the page at `url`, None if none does; `agent` is our product token."""
    policy = ""
    reserved = False
    for name, content in meta:
        if name in ("robots", agent.lower()):
            words = {word.strip().lower() for word in content.split(",")}
            if words & REFUSING_DIRECTIVES:
                return _refusal(f'<meta name="{name}" content="{content}">', url)
        elif name == "tdm-reservation":
            reserved = reserved or content.strip() == "1"
        elif name == "tdm-policy":
            policy = f' <meta name="tdm-policy" content="{content}">'
    if not reserved:
        return None
    return _refusal(f'<meta name="tdm-reservation" content="1">{policy}', url)


def _refusal(text: str, url: str) -> Refusal:
    return Refusal(signal="page-meta", reason="page_meta", where=url, text=text)
