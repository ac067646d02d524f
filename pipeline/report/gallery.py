"""The images of the data set: kept ones by caption and rank, rejected ones, clusters of near duplicates.

All three are lists that can be filtered, with bounded numbers of images at even distances through the data.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.report.page import Section, fields_of, filters, html_table, shown
from pipeline.report.samples import KEPT_COLUMNS, REJECTED_COLUMNS, SampleBook
from pipeline.report.view import View

CLUSTERS = 16
CLUSTER_IMAGES = 11  # a row on a wide screen
REJECTED_OF_A_REASON = 12


# --- Kept images --------------------------------------------------------------------------------------


def kept_gallery(view: View, book: SampleBook) -> Iterator[Section]:
    """Some captions of every section with their images, best rank first."""
    import pyarrow.compute as pc

    if not view.finished("dedupe"):
        return
    limit = view.config.wall_ranks
    rank = pc.field("rank")
    kept = view.read_table("kept/", ["caption", "section", "rank"], (rank < limit) | rank.is_null())
    groups = (
        kept.group_by(["section", "caption"], use_threads=False)
        .aggregate([([], "count_all")])
        .to_pylist()
    )
    groups.sort(key=lambda row: (row["section"], row["caption"]))
    single = (
        all(row["count_all"] == 1 for row in groups) and pc.all(pc.is_null(kept["rank"])).as_py()
    )
    number = view.config.wall_captions * (limit if single else 1)
    chosen = spread(groups, number)
    items = [_kept_item(book, images) for images in _images_of(view, chosen, limit)]
    sections = sorted({row["section"] for row in chosen})
    captions = [len({row["caption"] for row in rows}) for rows in (chosen, groups)]
    form = filters(
        "kept",
        search="Search in captions",
        choices={"section": sections, "split": ["train", "val"]},
    )
    yield Section(
        title="Kept images",
        note=f"{captions[0]:,} of {captions[1]:,} captions, from all sections, with their kept images"
        f"{'' if single else f' (at most {limit} each, the best ranks first)'}. A click shows "
        "everything about an image.",
        body=form
        + f'<ol class="strips{" grid" if single else ""}" id="kept">{"".join(items)}</ol>',
    )


def _images_of(
    view: View, chosen: Sequence[Mapping[str, Any]], limit: int
) -> Iterator[list[dict[str, Any]]]:
    """The rows of the images of each chosen caption: those with ranks below `limit`, or as many without."""
    import pyarrow as pa
    import pyarrow.compute as pc

    captions = pa.array(sorted({row["caption"] for row in chosen}), pa.string())
    rank, caption = pc.field("rank"), pc.field("caption")
    wanted = ((rank < limit) | rank.is_null()) & caption.isin(captions)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in view.read_table("kept/", list(KEPT_COLUMNS), wanted).to_pylist():
        found.setdefault((row["section"], row["caption"]), []).append(row)
    for group in chosen:
        rows = found[group["section"], group["caption"]]
        ranked = sum(row["rank"] is not None for row in rows)
        rows.sort(key=lambda row: (row["rank"] is None, row["rank"], row["key"]))
        yield rows[: max(ranked, limit)]


def _kept_item(book: SampleBook, images: Sequence[Mapping[str, Any]]) -> str:
    first = images[0]
    shots = "".join(book.button(row, _alt(row)) for row in images)
    fields = fields_of({"section": first["section"], "split": first["split"]})
    return (
        f'<li class="strip"{fields}><p><span class="text" dir="auto">{shown(first["caption"])}</span> '
        f"<small>{shown(first['section'])}, {shown(first['split'])}</small></p>"
        f'<div class="shots">{shots}</div></li>'
    )


def _alt(row: Mapping[str, Any]) -> str:
    return str(row["caption"]) if row["rank"] is None else f"rank {row['rank']}"


def spread(rows: Sequence[Mapping[str, Any]], number: int) -> list[Mapping[str, Any]]:
    """At most `number` of the sorted rows: as many from each section as possible, at even distances."""
    by_section: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_section.setdefault(row["section"], []).append(row)
    turns = itertools.zip_longest(*by_section.values())
    in_turn = [row for turn in turns for row in turn if row is not None]
    shares = Counter(row["section"] for row in in_turn[:number])
    return [
        row for section, share in shares.items() for row in thin_out(by_section[section], share)
    ]


def thin_out(rows: Sequence[Any], number: int) -> list[Any]:
    """At most `number` of the rows at even distances."""
    number = min(number, len(rows))
    return [rows[turn * len(rows) // number] for turn in range(number)]


# --- Rejected images ----------------------------------------------------------------------------------


def rejected_gallery(view: View, book: SampleBook) -> Iterator[Section]:
    """Counts by reason, and images of every reason beside its evidence and the image that represents them."""
    if not view.finished("dedupe"):
        return
    table = view.read_table("rejected/", ["reason", "section"])
    if not len(table):
        return
    counts = table.group_by(["reason", "section"], use_threads=False).aggregate([([], "count_all")])
    order = [("reason", "ascending"), ("section", "ascending")]
    sums = [
        (row["reason"].replace("_", " "), row["section"], row["count_all"])
        for row in counts.sort_by(order).to_pylist()
    ]
    rows = _rejected_rows(view, table["reason"].to_pylist())
    leaders = _kept_by_key(view, {row["stands_for"] for row in rows if row["stands_for"]})
    items = "".join(_rejected_item(book, row, leaders.get(row["stands_for"])) for row in rows)
    reasons = sorted({row["reason"] for row in rows})
    sections = sorted({row["section"] for row in rows})
    form = filters(
        "rejected",
        search="Search in captions and evidence",
        choices={"reason": reasons, "section": sections},
    )
    yield Section(
        title="Rejected images",
        note=f"At most {REJECTED_OF_A_REASON} of each reason, beside the evidence and the kept image that "
        "represents them. Of those that were not fetched there are no bytes to show.",
        body=html_table(("reason", "section", "images"), sums)
        + form
        + f'<ol class="strips wide" id="rejected">{items}</ol>',
    )


def _rejected_rows(view: View, reasons: Sequence[str]) -> list[dict[str, Any]]:
    """Some rows of every reason, at even distances."""
    places: dict[str, list[int]] = {}
    for place, reason in enumerate(reasons):
        places.setdefault(reason, []).append(place)
    chosen = [
        at for reason in sorted(places) for at in thin_out(places[reason], REJECTED_OF_A_REASON)
    ]
    rows = view.read_rows("rejected/", list(REJECTED_COLUMNS), chosen)
    return [rows[at] for at in chosen]


def _kept_by_key(view: View, keys: set[str]) -> dict[str, dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pc.field("key").isin(pa.array(sorted(keys), pa.string()))
    rows = view.read_table("kept/", list(KEPT_COLUMNS), wanted).to_pylist() if keys else []
    return {row["key"]: row for row in rows}


def _rejected_item(
    book: SampleBook, row: Mapping[str, Any], leader: Mapping[str, Any] | None
) -> str:
    shots = book.button(row, f"rejected: {row['caption']}")
    if leader is not None:
        kept = book.button(leader, f"kept: {leader['caption']}")
        shots += f'<span class="arrow">represented by</span>{kept}'
    evidence = f' <span class="text">{shown(row["detail"])}</span>' if row["detail"] else ""
    fields = fields_of({"reason": row["reason"], "section": row["section"]})
    return (
        f'<li class="strip"{fields}><p><span class="reason">{shown(row["reason"].replace("_", " "))}</span>'
        f'{evidence}<br><span class="text" dir="auto">{shown(row["caption"] or "no caption")}</span> '
        f"<small>{shown(row['section'])}, {shown(row['url'])}</small></p>"
        f'<div class="shots">{shots}</div></li>'
    )


# --- Clusters -----------------------------------------------------------------------------------------


def cluster_gallery(view: View, book: SampleBook) -> Iterator[Section]:
    """The largest clusters of near duplicates as rows of images."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not view.finished("dedupe"):
        return
    counts = view.read_table("kept/", ["cluster"])["cluster"].value_counts()
    sizes, names = counts.field("counts"), counts.field("values")
    several = pc.greater(sizes, 1)
    sizes, names = sizes.filter(several), names.filter(several)
    if not len(sizes):
        return
    ranked = sorted(
        zip(sizes.to_pylist(), names.to_pylist(), strict=True), key=lambda pair: (-pair[0], pair[1])
    )
    chosen = [name for _, name in ranked[:CLUSTERS]]
    wanted = pc.field("cluster").isin(pa.array(chosen, pa.string()))
    members: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for row in view.read_table("kept/", list(KEPT_COLUMNS), wanted).to_pylist():
        members[row["cluster"]].append(row)
    items = "".join(_cluster_item(book, members[name]) for name in chosen)
    images = sum(size for size, _ in ranked)
    yield Section(
        title="Near duplicates",
        note=f"{images:,} of the kept images are in {len(ranked):,} clusters, which are never divided "
        f"between the splits. The {len(chosen)} largest, with at most {CLUSTER_IMAGES} images each.",
        body=filters("clusters", search="Search in captions", choices={})
        + f'<ol class="strips" id="clusters">{items}</ol>',
    )


def _cluster_item(book: SampleBook, rows: Sequence[Mapping[str, Any]]) -> str:
    captions = list(dict.fromkeys(row["caption"] for row in rows))
    # The leader first, then at even distances, so that all captions have a chance to be seen.
    leading = sorted(rows, key=lambda row: row["key"] != row["cluster"])
    chosen = (
        leading[:1] + thin_out(leading[1:], CLUSTER_IMAGES - 1) if len(leading) > 1 else leading
    )
    shots = "".join(book.button(row, str(row["caption"])) for row in chosen)
    more = f" and {len(captions) - 3} more" if len(captions) > 3 else ""
    words = "; ".join(captions[:3])
    noun = "caption" if len(captions) == 1 else "captions"
    return (
        f'<li class="strip"><p><b>{len(rows):,} images</b>, {len(captions):,} {noun}: '
        f'<span class="text" dir="auto">{shown(words)}</span>{more}</p>'
        f'<div class="shots">{shots}</div></li>'
    )
