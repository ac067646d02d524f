"""The pages /sample/KEY and /compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.generate.images import encode_png
from pipeline.report.page import data_uri
from pipeline.report.samples import facts_of_place, record_of_place, words_of_quality
from pipeline.serve.catalogue.catalogue import Entry
from pipeline.serve.pages.browse import Shown, gallery, sample_url
from pipeline.serve.pages.shell import caption, link, notice, page, table, text, url
from pipeline.serve.sample_lookup import Known

NO_SHARDS = notice("There are no shards yet. Run <code>pipeline shard</code>.")
NOT_READY = notice(
    "The shard, the token ids and the reconstruction of this image are still being looked up. "
    '<a href="">Reload this page</a> in a moment.'
)


def sample_page(
    entry: Entry,
    details: Mapping[str, Any],
    known: Known | None,
    cluster: Sequence[Shown],
    *,
    size: int,
) -> str:
    """One sample: original and reconstruction, all its columns, its shard, and its cluster of `size` images.

    `known` is None if what shards say of it is not ready.
    """
    what = f"Rejected: {entry.reason.replace('_', ' ')}" if entry.reason else "Kept"
    body = (
        f"<h1>{caption(entry.caption or entry.key)}</h1><p>{text(what)}{_stands_for(details)}</p>"
        f'<div class="pair"><div><div class="pair two"><figure>{_original(entry)}</figure>'
        f"{_reconstruction(known)}</div>"
        + ("" if entry.reason else f"<h2>In the shards</h2>{_place(known)}")
        + f"</div><div>{_facts(details)}</div></div>"
    )
    if size > 1:
        body += _cluster_of(entry, cluster, size)
    in_shard = known and known.place and record_of_place(known.place)
    shown = {"dedupe": details, "shard": in_shard}
    written = json.dumps(shown, indent=2, ensure_ascii=False, default=str)
    body += f"<section><h2>JSON</h2><pre>{text(written)}</pre></section>"
    return page(entry.caption or entry.key, body, current="/browse")


def _cluster_of(entry: Entry, cluster: Sequence[Shown], size: int) -> str:
    pairs = "".join(
        f"<li>{link('/compare', {'a': entry.key, 'b': each.entry.key}, text(each.entry.key))}</li>"
        for each in cluster
        if each.entry.row != entry.row
    )
    return (
        f"<section><h2>Its cluster: {size:,} images that look alike</h2>"
        f"{gallery(cluster, classes='grid strip')}"
        f"<details><summary>Compare side by side</summary><ul>{pairs}</ul></details></section>"
    )


def _reconstruction(known: Known | None) -> str:
    if known is None or known.reconstruction is None:
        return ""
    source = data_uri(encode_png(known.reconstruction.pixels_HWC, {}), "png")
    words = text(words_of_quality(known.reconstruction))
    return (
        f'<figure><img class="original" src="{source}" alt="Reconstruction from codes">'
        f'<figcaption class="hint">{words}</figcaption></figure>'
    )


def _place(known: Known | None) -> str:
    if known is None:
        return NOT_READY
    problem = notice(text(known.problem)) if known.problem else ""
    if known.place is not None:
        rows = [(text(name), caption(value)) for name, value in facts_of_place(known.place)]
        return problem + table(("what", "value"), rows, label="In the shards")
    if not known.has_shards:
        return problem + NO_SHARDS
    return problem or notice("The latest shards don&rsquo;t hold this image.")


def _stands_for(details: Mapping[str, Any]) -> str:
    parts = ""
    if details.get("detail"):
        parts += f" ({text(details['detail'])})"
    if details.get("stands_for"):
        key = str(details["stands_for"])
        parts += f'. <a href="{sample_url(key)}">The image that stands for it</a>'
    return parts


def _original(entry: Entry) -> str:
    if entry.place is None:
        return '<p class="notice">There is no file: it was never fetched.</p>'
    source = url(f"/image/{entry.key}", {"v": entry.place.bytes_sha256[:12]})
    return (
        f'<img class="original" src="{source}" alt="{text(entry.caption)}">'
        f'<figcaption class="hint"><a href="{source}">Original file</a></figcaption>'
    )


def _facts(details: Mapping[str, Any]) -> str:
    rows = [
        (text(name), _cell(name, value)) for name, value in details.items() if value is not None
    ]
    return table(("column", "value"), rows, label="Columns of the row")


def _cell(name: str, value: Any) -> str:
    if name in ("cluster", "stands_for"):
        return f'<a href="{sample_url(str(value))}">{text(value)}</a>'
    if isinstance(value, list):
        return "<br>".join(caption(each) for each in value)
    return caption(value) if isinstance(value, str) else text(value)


# --- Two side by side -----------------------------------------------------------------------------


def compare_page(pairs: Sequence[tuple[Entry, Mapping[str, Any]]]) -> str:
    """Two samples side by side, with the columns in which they differ first."""
    (one, first), (other, second) = pairs
    figures = "".join(
        f"<figure>{_original(entry)}<figcaption>"
        f'<a href="{sample_url(entry.key)}">{caption(entry.caption or entry.key)}</a></figcaption></figure>'
        for entry in (one, other)
    )
    names = list(dict.fromkeys([*first, *second]))
    differing = [name for name in names if first.get(name) != second.get(name)]
    same = [name for name in names if name not in differing]
    distance = _distance(first.get("phash"), second.get("phash"))
    far = (
        ""
        if distance is None
        else f"<p>Their perceptual hashes differ in {distance} of 64 bits.</p>"
    )
    body = (
        f'<h1>Side by side</h1><div class="pair two">{figures}</div>{far}'
        f"<section><h2>Differs</h2>{_comparison(differing, first, second, 'Columns that differ')}</section>"
        f"<section><h2>Same</h2>{_comparison(same, first, second, 'Columns that are the same')}</section>"
    )
    return page("Side by side", body, current="/browse")


def _comparison(
    names: Sequence[str], first: Mapping[str, Any], second: Mapping[str, Any], label: str
) -> str:
    rows = [(text(name), _plain(first.get(name)), _plain(second.get(name))) for name in names]
    return table(("column", "left", "right"), rows, label=label) if rows else "<p>Nothing.</p>"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "<br>".join(caption(each) for each in value)
    return "" if value is None else caption(value)


def _distance(first: Any, second: Any) -> int | None:
    if isinstance(first, int) and isinstance(second, int):
        return (first ^ second).bit_count()
    return None


def choose_page(problem: str) -> str:
    """The form to choose two samples, if /compare was not given two that exist."""
    form = (
        '<form action="/compare" method="get"><label>Key of the left image<input name="a"></label>'
        '<label>Key of the right image<input name="b"></label><button type="submit">Compare</button></form>'
    )
    warning = notice(text(problem)) if problem else ""
    return page("Side by side", f"<h1>Side by side</h1>{warning}{form}", current="/browse")
