"""The pages /browse, /clusters, /sample/KEY and /compare."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.core.contracts import REJECT_REASONS, SPLITS
from pipeline.serve.catalogue.catalogue import SORTS, STATES, Entry, Query
from pipeline.serve.pages.shell import caption, link, notice, page, select, text, url

PAGE_ROWS = 60
CLUSTER_PAGE = 20
CLUSTER_IMAGES = 12

_SORT_NAMES = {
    "key": "Key",
    "caption": "Caption",
    "rank": "Rank",
    "size": "Pixels",
    "bytes": "Bytes",
    "cluster": "Cluster size",
}
_STATE_NAMES = {"kept": "Kept", "rejected": "Rejected", "all": "All"}

NO_DEDUPE = notice(
    "There are no tables of images yet. Run <code>pipeline scrape</code>, then <code>pipeline dedupe</code>; "
    "this page then shows what was kept and rejected."
)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An entry, and its thumbnail as a data: URL: "" if it can't be shown, None if it is not ready."""

    entry: Entry
    thumbnail: str | None


def read_query(given: Mapping[str, str]) -> Query:
    """A query from a URL's parameters; values that mean nothing are those of the default."""
    state, sort = given.get("state", "kept"), given.get("sort", "key")
    return Query(
        text=given.get("q", "")[:500],
        state=state if state in STATES else "kept",
        section=given.get("section", ""),
        split=given.get("split", ""),
        reason=given.get("reason", ""),
        sort=sort if sort in SORTS else "key",
        descending=given.get("order") == "down",
    )


def read_start(given: Mapping[str, str], total: int, step: int) -> int:
    """Where a page starts, from a URL's parameters: within the result, at the start of a page."""
    written = given.get("start", "0")
    start = int(written) if written.isascii() and written.isdigit() and len(written) < 12 else 0
    return max(0, min(start, total - 1)) // step * step


def parameters(query: Query) -> dict[str, object]:
    """The parameters of a query's URL."""
    return {
        "q": query.text,
        "state": "" if query.state == "kept" else query.state,
        "section": query.section,
        "split": query.split,
        "reason": query.reason,
        "sort": "" if query.sort == "key" else query.sort,
        "order": "down" if query.descending else "",
    }


def browse_page(
    query: Query,
    shown: Sequence[Shown],
    *,
    start: int,
    total: int,
    sections: tuple[str, ...],
    is_indexed: bool,
) -> str:
    """A page of images, with the form to search and filter them."""
    hint = "" if is_indexed else '<p class="hint">The search index is being made.</p>'
    head = f"<h1>Images</h1>{_form(query, sections)}{hint}"
    if not total:
        body = notice("No image matches. Remove a filter, or search for another word.")
        return page("Images", head + body, current="/browse")
    last = min(start + PAGE_ROWS, total)
    body = (
        f'<p role="status">{start + 1:,}&ndash;{last:,} of {total:,} images</p>'
        f"{gallery(shown)}{_pages('/browse', parameters(query), start, total, PAGE_ROWS)}"
    )
    return page("Images", head + body, current="/browse")


@functools.lru_cache(maxsize=256)  # a third of the time of a page
def _form(query: Query, sections: tuple[str, ...]) -> str:
    named = [(name, name or "(none)") for name in sections]
    parts = (
        f'<label>Search captions<input type="search" name="q" value="{text(query.text)}" dir="auto"></label>',
        select("state", "State", list(_STATE_NAMES.items()), query.state),
        select("section", "Section", named, query.section, all_of="All"),
        select("split", "Split", [(name, name) for name in SPLITS], query.split, all_of="All"),
        select(
            "reason",
            "Reason of rejection",
            [(name, name.replace("_", " ")) for name in REJECT_REASONS],
            query.reason,
            all_of="All",
        ),
        select("sort", "Sort by", [(name, _SORT_NAMES[name]) for name in SORTS], query.sort),
        select(
            "order",
            "Order",
            [("up", "Ascending"), ("down", "Descending")],
            "down" if query.descending else "up",
        ),
        '<button type="submit">Show</button>',
    )
    return f'<form action="/browse" method="get" role="search">{"".join(parts)}</form>'


def gallery(shown: Iterable[Shown], *, classes: str = "grid") -> str:
    """Images as a list of links to their pages."""
    return f'<ul class="{classes}">{"".join(_card(each) for each in shown)}</ul>'


def _card(shown: Shown) -> str:
    entry = shown.entry
    facts = [entry.reason.replace("_", " ")] if entry.reason else []
    if entry.rank is not None:
        facts.append(f"rank {entry.rank}")
    if entry.width:
        facts.append(f"{entry.width} x {entry.height}")
    if entry.split == "val":
        facts.append("val")
    return (
        f'<li><a class="card" href="{sample_url(entry.key)}">{_picture(shown)}{caption(entry.caption)}'
        f"<small>{text(', '.join(facts))}</small></a></li>"
    )


def sample_url(key: str) -> str:
    """The path of a sample's page, as an attribute's value."""
    return url(f"/sample/{key}", {})


def _picture(shown: Shown) -> str:
    entry = shown.entry
    if entry.place is None:
        return '<span class="none">no file</span>'
    if shown.thumbnail == "":
        return '<span class="none">can&rsquo;t be shown</span>'
    source = shown.thumbnail or url(f"/thumb/{entry.key}", {"v": entry.place.bytes_sha256[:12]})
    return f'<img src="{source}" alt="" loading="lazy" decoding="async" width="160" height="160">'


def _pages(path: str, query: Mapping[str, object], start: int, total: int, step: int) -> str:
    """Links to the first, previous, next and last page; "" if there is only one."""
    if total <= step:
        return ""
    last = (total - 1) // step * step
    places = (
        ("First", 0, start > 0),
        ("Previous", start - step, start > 0),
        ("Next", start + step, start < last),
        ("Last", last, start < last),
    )
    links = "".join(
        link(path, {**query, "start": place or ""}, name, classes="button")
        for name, place, is_there in places
        if is_there
    )
    fields = "".join(
        f'<input type="hidden" name="{text(name)}" value="{text(value)}">'
        for name, value in query.items()
        if value
    )
    jump = (
        f'<form action="{path}" method="get">{fields}<label>Go to number<input type="number" name="start" '
        f'min="0" max="{max(total - 1, 0)}" value="{start}"></label><button type="submit">Go</button></form>'
    )
    return f'<nav class="pages" aria-label="Pages of the result">{links}{jump}</nav>'


# --- Clusters -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Some images of a cluster, the leader first, and how many it has."""

    size: int
    shown: Sequence[Shown]


def clusters_page(clusters: Sequence[Cluster], *, start: int, total: int) -> str:
    """Near duplicates, a cluster a row, the largest first."""
    about = (
        "<h1>Near duplicates</h1><p>A cluster is a kept image and the images that look like it: kept ones of "
        "the same split, and rejected ones that it stands for. The first of each row leads the cluster.</p>"
    )
    if not clusters:
        body = notice("There are no near duplicates: every image differs from all others.")
        return page("Near duplicates", about + body, current="/clusters")
    rows = "".join(_cluster(each) for each in clusters)
    last = min(start + CLUSTER_PAGE, total)
    body = (
        f'<p role="status">{start + 1:,}&ndash;{last:,} of {total:,} clusters</p>{rows}'
        f"{_pages('/clusters', {}, start, total, CLUSTER_PAGE)}"
    )
    return page("Near duplicates", about + body, current="/clusters")


def _cluster(cluster: Cluster) -> str:
    leader = cluster.shown[0].entry
    more = cluster.size - len(cluster.shown)
    rest = f'<p class="hint">and {more:,} more</p>' if more > 0 else ""
    compare = ""
    if len(cluster.shown) > 1:
        pair = {"a": leader.key, "b": cluster.shown[1].entry.key}
        compare = " &middot; " + link("/compare", pair, "Compare the first two")
    return (
        f'<section class="cluster" aria-label="{text(leader.caption)}: {cluster.size:,} images">'
        f"<h2>{cluster.size:,} images: {caption(leader.caption)}</h2>"
        f'<p class="hint"><a href="{sample_url(leader.key)}">Leader</a>{compare}</p>'
        f"{gallery(cluster.shown, classes='grid strip')}{rest}</section>"
    )
