"""Dedupe depends on what the rows are and on nothing else: laws over rows in any order."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.captions import clean_caption, normalize_caption, read_caption
from pipeline.dedupe.clusters import find_clusters
from pipeline.dedupe.column_file import write_column
from pipeline.dedupe.splits import split_captions
from tests.helpers.dedupe import RawStore, dedupe, encode, photo, photo_png
from tests.helpers.laws import lawful


def folder_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def rows_of(root: Path, order: list[int]) -> RawStore:
    """Rows of every fate, added in this order; their bytes always lie alike."""
    raw = RawStore(root)
    png = [photo_png(1), photo_png(1), encode(photo(1), compress_level=1), photo_png(2), None]
    jpeg = encode(photo(1), "JPEG", quality=90)
    data = [*png, jpeg, photo_png(3)[:-30], b"<html>", photo_png(4)]
    for number in range(len(data)):
        caption = ("a cat", "a dog", "a {}")[number % 3]
        raw.add(f"k{number}", data[number], caption, rank=(7 * number) % 5)
    raw.rows = [raw.rows[number] for number in order]
    return raw


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("near_duplicates", ["flag", "drop"])
def test_the_order_of_rows_changes_no_byte(seed: int, near_duplicates: str, tmp_path: Path) -> None:
    order = list(range(9))
    options = {"near_duplicates": near_duplicates, "val_fraction": 0.5}
    first = rows_of(tmp_path / "first", order).write()
    random.Random(seed).shuffle(order)
    other = rows_of(tmp_path / "other", order).write()
    report = dedupe(first, **options)
    assert dedupe(other, **options).counts == report.counts
    assert folder_bytes(other.dedupe) == folder_bytes(first.dedupe)
    assert report.counts["rows"] == report.counts["kept"] + report.counts["rejected"] == 9


numbers = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12, unique=True)


@lawful(150)
@given(
    found=numbers,
    pairs=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12),
    fraction=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    rng=st.randoms(use_true_random=False),
)
def test_splits_go_by_captions_and_links_in_any_order_and_direction(
    found: list[int], pairs: list[tuple[int, int]], fraction: float, rng: random.Random
) -> None:
    def split(captions: list[int], links: list[tuple[int, int]]) -> dict[int, bool]:
        column = np.array(captions, dtype=np.uint64)
        places = [(captions.index(a), captions.index(b)) for a, b in links]
        table = np.array(places, dtype=np.int64).reshape(-1, 2)
        is_val = split_captions(column, table, val_fraction=fraction)
        return dict(zip(captions, is_val.tolist(), strict=True))

    links = [(found[a % len(found)], found[b % len(found)]) for a, b in pairs]
    first = split(found, links)
    turned = [(b, a) if rng.random() < 0.5 else (a, b) for a, b in links]
    rng.shuffle(turned)
    assert split(rng.sample(found, len(found)), turned) == first
    # Linked captions are on one side, and one that nothing links keeps its draw.
    assert all(first[a] == first[b] for a, b in links)
    alone = set(found) - {caption for pair in links for caption in pair}
    for caption in alone:
        assert first[caption] == (fraction >= 1 or caption < int(fraction * 2**64))


@lawful(40)
@given(
    hashes=st.lists(st.integers(0, 2**12 - 1), min_size=1, max_size=40),
    radius=st.integers(0, 4),
    rng=st.randoms(use_true_random=False),
)
def test_groups_of_look_alikes_are_the_same_in_any_order(
    hashes: list[int], radius: int, rng: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def groups(order: list[int]) -> set[frozenset[int]]:
        column = np.array([hashes[at] for at in order], dtype=np.uint64)
        file = write_column(tmp_path_factory.mktemp("hashes") / "hashes", [column])
        found = find_clusters(file, radius, workers=0)
        by_group: dict[int, set[int]] = {}
        for place, group in enumerate(found.group.tolist()):
            by_group.setdefault(group, set()).add(order[place])
        distance = np.bitwise_count(column ^ column[found.leader])
        assert (distance <= radius).all()
        return set(map(frozenset, by_group.values()))

    order = list(range(len(hashes)))
    assert groups(order) == groups(rng.sample(order, len(order)))


@lawful(300)
@given(text=st.text(max_size=40))
@example(text="A\u030a İ ǅ ﬁ ß")
@example(text="\ud800 lone")
def test_a_caption_is_cleaned_once_and_for_all(text: str) -> None:
    caption = read_caption(text)
    assert clean_caption(caption.caption) == caption.caption == clean_caption(text)
    assert normalize_caption(caption.caption) == caption.normalized
    assert read_caption(caption.caption) == caption
    assert read_caption(f"  {text}\n") == caption
    assert len(caption.caption_id) == 16
