"""Which captions of an image become samples, and how a sample leads back to its image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.captions import read_caption
from pipeline.core.errors import DamageError
from pipeline.core.inventory import find_folders
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import read_manifest
from pipeline.shard.captions import draw_caption
from pipeline.shard.config import ShardConfig
from pipeline.shard.rebuild import rebuild_index
from pipeline.shard.run import run
from pipeline.verify.folders import check_folder
from pipeline.verify.shards import check_shards
from pipeline.webdata.index import INDEX_NAME
from pipeline.webdata.keys import caption_key, image_key
from pipeline.webdata.tar import is_key
from tests.old_tables import make_old
from tests.shard.test_shard import read_all

SEVERAL = ["a red cube", "a cube", "something red"]


def configure(world: Any, choice: str, **options: Any) -> ShardConfig:
    settings = {"workspace": world.root, "text_seq_len": 24, "max_samples": 10} | options
    return ShardConfig(caption_choice=choice, **settings)  # type: ignore[arg-type]


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    world = make_world(images=16)
    describe(world)
    return world


def describe(world: Any) -> None:
    """Give image 3 three captions, image 5 two, every other one."""
    for row in world.rows:
        row["captions"] = [row["caption"]]
    for number, captions in ((3, SEVERAL), (5, SEVERAL[1:])):
        row = world.rows[number]
        row |= {"captions": captions, "caption": captions[0]}
        row["caption_id"] = read_caption(captions[0]).caption_id
    world.save()


def captions_of(world: Any, name: str = "default") -> dict[str, str]:
    return {key: sample.caption for key, (_, sample) in read_all(world, name).items()}


# --- first -----------------------------------------------------------------------------------------


def test_the_first_caption_is_the_default_and_leaves_no_trace(world: Any) -> None:
    run(ShardConfig(workspace=world.root, text_seq_len=24, max_samples=10))
    files = world.shard_bytes()
    run(configure(world, "first", name="named"))
    assert {n: b for n, b in world.shard_bytes("named").items() if n.endswith(".tar")} == {
        n: b for n, b in files.items() if n.endswith(".tar")
    }
    assert captions_of(world)["key_00003"] == "a red cube"
    assert len(read_all(world)) == 16
    manifest = read_manifest(world.workspace.shards("default"), "shards")
    assert not {"caption_choice", "caption_seed"} & set(manifest.config)
    assert "further_captions" not in manifest.counts
    assert all("caption_index" not in sample.record for _, sample in read_all(world).values())


@pytest.mark.parametrize("choice", ["first", "all", "random"])
def test_tables_of_version_1_give_the_same_tars_with_every_choice(
    choice: str, make_world: Callable[..., Any]
) -> None:
    world = make_world(images=12)
    for row in world.rows:
        row["captions"] = [row["caption"]]
    world.save()
    run(configure(world, choice))
    tars = {n: b for n, b in world.shard_bytes().items() if n.endswith(".tar")}
    make_old(world.workspace)
    run(configure(world, choice, name="old"))
    assert {n: b for n, b in world.shard_bytes("old").items() if n.endswith(".tar")} == tars
    assert len(read_all(world, "old")) == 12


# --- all -------------------------------------------------------------------------------------------


def test_each_caption_becomes_a_sample_of_the_same_codes(world: Any) -> None:
    report = run(configure(world, "all"))
    samples = read_all(world)
    assert captions_of(world) == {row["key"]: row["caption"] for row in world.rows} | {
        "key_00003-C1": "a cube",
        "key_00003-C2": "something red",
        "key_00005-C1": "something red",
    }
    split, first = samples["key_00003"]
    for number, key in enumerate(("key_00003", "key_00003-C1", "key_00003-C2")):
        of_split, sample = samples[key]
        assert of_split == split
        assert sample.image_key == "key_00003"
        assert np.array_equal(sample.codes, first.codes)
        assert sample.record.get("caption_index", 0) == number
        assert sample.record["caption_id"] == read_caption(SEVERAL[number]).caption_id
        assert sample.record["pixel_sha256"] == first.record["pixel_sha256"]
    assert "caption_index" not in first.record  # the same bytes as with `first`
    assert report.counts["images"] == 16
    assert report.counts["further_captions"] == 3
    assert report.counts["written"] == 19


def test_the_law_of_counts_includes_the_further_captions(world: Any) -> None:
    world.rows[3]["captions"] = ["a red cube", "long " * 200, "a cube"]
    world.rows[6]["captions"] = [world.rows[6]["caption"], "a cube"]
    world.without_codes = {"key_00006"}
    world.rows[7]["key"] = "with.dot"
    world.save()
    counts = run(configure(world, "all", long_captions="reject")).counts
    law = CONTRACTS["shards"].count_law
    assert law is not None
    assert law.further is not None
    assert counts["images"] + counts[law.further] == sum(counts[part] for part in law.parts) == 20
    assert (counts["written"], counts["rejected"], counts["failed"]) == (16, 1, 3)
    left_out = pq.read_table(world.workspace.shards("default") / "left_out.parquet").to_pylist()
    assert [(row["key"], row["reason"]) for row in left_out] == [
        ("key_00003-C1", "long_caption"),
        ("key_00006", "no_codes"),
        ("key_00006-C1", "no_codes"),
        ("with.dot", "bad_key"),
    ]


@pytest.mark.parametrize("choice", ["first", "all", "random"])
def test_verify_finds_nothing_in_sound_shards_and_a_wrong_count(choice: str, world: Any) -> None:
    run(configure(world, choice))
    (folder,) = (f for f in find_folders(world.root) if f.contract == "shards")
    assert list(check_folder(folder)) == []
    faults, facts = check_shards(folder, world.workspace, 0)
    assert faults == []
    assert sum(int(str(each["samples"])) for each in facts) == (19 if choice == "all" else 16)
    assert folder.manifest is not None
    index = rebuild_index(world.root, folder.path, folder.manifest)
    assert index == (folder.path / INDEX_NAME).read_bytes()


def test_a_wrong_number_of_further_captions_breaks_the_law(world: Any) -> None:
    run(configure(world, "all"))
    (folder,) = (f for f in find_folders(world.root) if f.contract == "shards")
    assert folder.manifest is not None
    folder.manifest.counts["further_captions"] += 1  # type: ignore[index]
    (fault,) = check_folder(folder)
    assert "images + further_captions 20, which is not written 19" in fault.found


def test_a_caption_more_goes_to_a_new_shard_and_one_fewer_leaves_its_own(world: Any) -> None:
    run(configure(world, "all"))
    before = world.shard_bytes()
    split = world.rows[7]["split"]
    world.rows[7]["captions"] = [world.rows[7]["caption"], "a thing"]
    world.save()
    report = run(configure(world, "all"))
    after = world.shard_bytes()
    tars = {name for name in before if name.endswith(".tar")}
    assert all(before[name] == after[name] for name in tars)
    (new,) = {name for name in after if name.endswith(".tar")} - tars
    assert new.startswith(split)
    assert report.details["shards_reused"] == len(tars)
    world.rows[7]["captions"].pop()
    world.save()
    run(configure(world, "all"))
    assert "key_00007-C1" not in read_all(world)


def test_ten_thousand_captions_become_as_many_samples(world: Any) -> None:
    world.rows[3]["captions"] = [f"red {number}" for number in range(10_000)]
    world.rows[3]["caption"] = "red 0"
    world.save()
    counts = run(configure(world, "all", max_samples=5000, text_seq_len=8)).counts
    assert (counts["written"], counts["further_captions"]) == (10_016, 10_000)
    samples = read_all(world)
    assert samples["key_00003-C9999"][1].caption == "red 9999"
    assert {image_key(key) for key in samples} == {row["key"] for row in world.rows}


@pytest.mark.parametrize("captions", [None, [], ["only this"]])
def test_an_image_with_one_caption_is_one_sample(captions: Any, world: Any) -> None:
    row = world.rows[0]
    row |= {"captions": captions, "caption": "only this"}
    world.save()
    run(configure(world, "all"))
    found = {key: text for key, text in captions_of(world).items() if "key_00000" in key}
    assert found == {"key_00000": "only this"}


# --- random ----------------------------------------------------------------------------------------


def test_one_caption_is_drawn_and_the_sample_has_the_key_of_its_image(world: Any) -> None:
    report = run(configure(world, "random"))
    samples = read_all(world)
    assert set(samples) == {row["key"] for row in world.rows}
    record = samples["key_00003"][1].record
    drawn = SEVERAL[draw_caption("key_00003", SEVERAL, 0)]
    assert samples["key_00003"][1].caption == SEVERAL[record.get("caption_index", 0)] == drawn
    assert record["caption_id"] == read_caption(drawn).caption_id
    assert "caption_index" not in samples["key_00004"][1].record
    assert report.counts["images"] == report.counts["written"] == 16
    assert "further_captions" not in report.counts


def test_the_draw_depends_on_seed_and_key_alone(make_world: Callable[..., Any]) -> None:
    first, other = make_world("one", images=16), make_world("other", images=16)
    for world in (first, other):
        for row in world.rows:
            row["captions"] = [row["caption"], *SEVERAL]
    for row in other.rows:
        row["captions"].reverse()  # another order: `caption` stays
    del other.rows[1:4]  # other neighbours, other batches
    first.save()
    other.save()
    run(configure(first, "random", workers=1))
    run(configure(other, "random", workers=4, max_samples=3, order="sorted"))
    found = captions_of(first)
    assert {key: found[key] for key in captions_of(other)} == captions_of(other)
    run(configure(first, "random", caption_seed=1, name="seed1"))
    assert captions_of(first, "seed1") != found


def test_every_caption_is_drawn_equally_often() -> None:
    drawn = Counter(draw_caption(f"key_{n:05}", SEVERAL, 0) for n in range(6000))
    assert all(1800 < drawn[index] < 2200 for index in range(3))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_one_more_caption_changes_a_draw_only_to_itself(seed: int) -> None:
    for number in range(200):
        before = SEVERAL[draw_caption(f"key_{number}", SEVERAL, seed)]
        more = ["one more", *SEVERAL]
        assert more[draw_caption(f"key_{number}", more, seed)] in (before, "one more")


def test_the_law_of_the_draw_never_changes() -> None:
    """These values are in the shards of users."""
    assert [draw_caption(f"key_{n}", SEVERAL, 0) for n in range(8)] == [2, 0, 1, 2, 1, 1, 1, 0]


# --- Keys and extra values -------------------------------------------------------------------------


def test_a_key_leads_to_its_image_and_back() -> None:
    for key in ("a", "emojis-0123456789abcdef-07-v2", "x-c1", "x-C0", "x-C01", "x-C"):
        assert image_key(key) == key
        assert caption_key(key, 0) == key
        for index in (1, 9, 10, 12_345):
            assert image_key(caption_key(key, index)) == key
            assert is_key(caption_key(key, index))


def test_a_key_without_room_for_the_suffix_fails_alone(world: Any) -> None:
    world.rows[3]["key"] = "k" * 78
    world.save()
    counts = run(configure(world, "all")).counts
    assert (counts["written"], counts["failed"]) == (17, 2)


@pytest.mark.parametrize("choice", ["first", "all", "random"])
def test_extra_values_are_in_the_json_of_each_sample(choice: str, world: Any) -> None:
    extra = {"license": "CC0", "é": [1, 2.5, None], "nested": {"a": True}}
    world.rows[3]["extra"] = json.dumps(extra, ensure_ascii=False)
    world.save()
    run(configure(world, choice))
    for key, (_, sample) in read_all(world).items():
        is_of_it = image_key(key) == "key_00003"
        assert sample.record.get("extra") == (extra if is_of_it else None)
        assert ("extra" in sample.record) is is_of_it
    card = (world.workspace.shards("default") / "README.md").read_text()
    assert "(`extra`)" in card
    assert ("(`caption_index`)" in card) is (choice != "first")


def test_numbers_that_json_lacks_become_null(world: Any) -> None:
    world.rows[3]["extra"] = '{"score": NaN, "other": [-Infinity, 1e999], "size": 3.5}'
    world.save()
    run(configure(world, "first"))
    tar = b"".join(data for name, data in world.shard_bytes().items() if name.endswith(".tar"))
    assert b'"extra":{"score":null,"other":[null,null],"size":3.5}' in tar


def test_half_a_surrogate_pair_stays_an_escape(world: Any) -> None:
    world.rows[3]["extra"] = '{"title": "x\\ud800y \\ud83d\\ude00"}'
    world.save()
    run(configure(world, "first"))
    found = read_all(world)["key_00003"][1].record["extra"]
    assert found == {"title": "x\ud800y 😀"}


@pytest.mark.parametrize("extra", ["{", "", "[" * 100_000])
def test_an_extra_value_that_is_not_json_is_damage(extra: str, world: Any) -> None:
    world.rows[3]["extra"] = extra
    world.save()
    with pytest.raises(DamageError, match="'key_00003' an `extra` that is not JSON"):
        run(configure(world, "first"))


def test_the_card_counts_pairs_of_images_and_captions(world: Any) -> None:
    for choice, words in (
        ("first", ("16 image-caption pairs", "Of 16 kept images 16 are here")),
        ("all", ("19 image-caption pairs", "Of 19 captions of 16 kept images 19 are here")),
    ):
        run(configure(world, choice))
        card = (world.workspace.shards("default") / "README.md").read_text()
        assert all(text in card for text in words)


def test_inspect_shows_a_further_caption_with_the_image_of_its_image(
    world: Any, tmp_path: Path
) -> None:
    run(configure(world, "all", order="sorted"))
    split = world.rows[3]["split"]
    options = {"inspect": (f"{split}/000000", "key_00003-C2"), "out": str(tmp_path / "x.png")}
    shown = run(configure(world, "all", **options)).details["shown"]
    assert (shown["key"], shown["caption"]) == ("key_00003-C2", "something red")
