from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.contracts import Split
from pipeline.core.errors import (
    ConfigError,
    ContractError,
    DamageError,
    StorageError,
    WorkspaceError,
)
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import file_entry, read_manifest, sha256_file
from pipeline.models.tokenizers.load import load_tokenizer
from pipeline.shard.config import ShardConfig
from pipeline.shard.join import SampleText, TextFile
from pipeline.shard.run import run
from pipeline.webdata.index import read_index
from pipeline.webdata.reader import ShardReader


def configure(world: Any, **options: Any) -> ShardConfig:
    settings = {"workspace": world.root, "text_seq_len": 24, "max_samples": 10} | options
    return ShardConfig(**settings)


def read_all(world: Any, name: str = "default") -> dict[str, Any]:
    folder = world.workspace.shards(name)
    splits: tuple[Split, ...] = ("train", "val")
    samples = {}
    for split in splits:
        reader = ShardReader(folder, split)
        for row in range(len(reader)):
            sample = reader.sample(row)
            samples[sample.key] = (split, sample)
    return samples


def test_every_image_becomes_a_sample_of_its_split(world: Any) -> None:
    report = run(configure(world))
    assert report.outcome == "done"
    samples = read_all(world)
    tokenizer = load_tokenizer(world.workspace.shards("default"))
    assert set(samples) == {row["key"] for row in world.rows}
    for row in world.rows:
        split, sample = samples[row["key"]]
        assert split == row["split"]
        assert sample.caption == row["caption"]
        assert tokenizer.decode(sample.tokens) == row["caption"]
        assert sample.record["url"] == row["url"]
        assert sample.record["pixel_sha256"] == row["pixel_sha256"]
        assert sample.image is None


def test_codes_are_those_of_the_same_pixels(world: Any) -> None:
    from_table = {
        row["pixel_sha256"]: row["codes"]
        for row in pq.read_table(
            world.workspace.codes("tiny", "f" * 64) / "00000.parquet"
        ).to_pylist()
    }
    run(configure(world))
    for _, sample in read_all(world).values():
        assert sample.codes.tolist() == from_table[sample.record["pixel_sha256"]]


def test_the_law_of_counts_holds_and_names_what_is_left_out(world: Any) -> None:
    world.without_codes = {"key_00003", "key_00011"}
    world.rows[5]["caption"] = "long " * 200
    world.rows[7]["key"] = "with.dot"
    world.save()
    report = run(configure(world, long_captions="reject"))
    law = CONTRACTS["shards"].count_law
    assert law is not None
    assert report.outcome == "incomplete"
    assert report.counts[law.total] == 60 == sum(report.counts[part] for part in law.parts)
    left_out = pq.read_table(world.workspace.shards("default") / "left_out.parquet").to_pylist()
    assert [(row["key"], row["status"], row["reason"]) for row in left_out] == [
        ("key_00003", "failed", "no_codes"),
        ("key_00005", "rejected", "long_caption"),
        ("key_00011", "failed", "no_codes"),
        ("with.dot", "failed", "bad_key"),
    ]


def test_long_captions_are_cut_off_and_counted(world: Any) -> None:
    world.rows[5]["caption"] = "long " * 200
    world.save()
    report = run(configure(world))
    assert report.counts["long_captions"] == 1
    assert (read_all(world)["key_00005"][1].tokens != 0).all()


def test_long_captions_can_stop_the_stage(world: Any) -> None:
    world.rows[5]["caption"] = "long " * 200
    world.save()
    with pytest.raises(ConfigError, match="1 samples have captions of more than 24"):
        run(configure(world, long_captions="fail"))


def test_two_workspaces_give_the_same_bytes(make_world: Callable[..., Any]) -> None:
    first, second = make_world("one"), make_world("two")
    run(configure(first))
    run(configure(second))
    assert first.shard_bytes() == second.shard_bytes()


def test_the_manifest_lists_every_file_with_its_hash(world: Any) -> None:
    run(configure(world))
    folder = world.workspace.shards("default")
    manifest = read_manifest(folder, "shards")
    listed = {entry.path: entry.sha256 for entry in manifest.files}
    there = {
        p.relative_to(folder).as_posix(): sha256_file(p) for p in folder.rglob("*") if p.is_file()
    }
    del there["manifest.json"]
    assert listed == there
    assert set(manifest.inputs) == {"dedupe", f"codes/tiny-{'f' * 12}", "tokenizers/bpe"}


def test_nothing_is_done_twice(world: Any) -> None:
    run(configure(world))
    times = {p: p.stat().st_mtime_ns for p in world.workspace.shards("default").rglob("*")}
    assert run(configure(world)).outcome == "unchanged"
    assert times == {p: p.stat().st_mtime_ns for p in world.workspace.shards("default").rglob("*")}


def test_new_images_go_into_new_shards(world: Any) -> None:
    run(configure(world))
    before = {name: data for name, data in world.shard_bytes().items() if "/" in name}
    inodes = {name: (world.workspace.shards("default") / name).stat().st_ino for name in before}
    world.add(range(100, 130))
    world.save()
    assert run(configure(world)).counts["written"] == 90
    after = world.shard_bytes()
    assert {name: after[name] for name in before} == before
    assert inodes == {n: (world.workspace.shards("default") / n).stat().st_ino for n in before}
    assert set(read_all(world)) == {row["key"] for row in world.rows}


def test_a_vanished_and_a_changed_sample_affect_only_their_shards(world: Any) -> None:
    run(configure(world))
    before = world.shard_bytes()
    samples = read_all(world)
    gone, changed = (r for r in list(world.rows) if r["key"] in ("key_00001", "key_00002"))
    world.rows.remove(gone)
    changed["caption"] = "another caption"
    world.save()
    run(configure(world))
    assert set(read_all(world)) == set(samples) - {"key_00001"}
    assert read_all(world)["key_00002"][1].caption == "another caption"
    after = world.shard_bytes()
    differ = [n for n in before if n.endswith(".tar") and after[n] != before[n]]
    touched = [
        n
        for n, data in before.items()
        if n.endswith(".tar") and (b"key_00001." in data or b"key_00002." in data)
    ]
    assert differ == touched
    assert {n for n in before if n.endswith(".tar")} == {n for n in after if n.endswith(".tar")}


def test_a_shard_that_would_be_empty_means_a_new_layout(world: Any) -> None:
    run(configure(world, max_samples=5))
    reader = ShardReader(world.workspace.shards("default"), "train")
    first = {reader.sample(row).key for row in range(5)}
    world.rows = [row for row in world.rows if row["key"] not in first]
    world.save()
    run(configure(world, max_samples=5))
    assert set(read_all(world)) == {row["key"] for row in world.rows}
    assert all(
        e.nsamples
        for e in ShardReader(world.workspace.shards("default"), "train").index.shards["train"]
    )


def test_another_config_assigns_everything_again(make_world: Callable[..., Any]) -> None:
    world, fresh = make_world("one"), make_world("two")
    run(configure(world))
    run(configure(world, shuffle_seed=7, max_samples=20))
    run(configure(fresh, shuffle_seed=7, max_samples=20))
    assert world.shard_bytes() == fresh.shard_bytes()


def test_shards_stay_within_their_limits(world: Any) -> None:
    run(configure(world, max_bytes=20_000))
    folder = world.workspace.shards("default")
    tars = sorted(folder.glob("*/*.tar"))
    assert len(tars) > 10
    assert all(tar.stat().st_size <= 20_000 for tar in tars)


def test_shuffled_order_differs_by_seed_and_sorted_order_is_by_key(world: Any) -> None:
    def keys(name: str, **options: Any) -> list[str]:
        run(configure(world, name=name, **options))
        reader = ShardReader(world.workspace.shards(name), "train")
        return [reader.sample(row).key for row in range(len(reader))]

    first, second, in_order = keys("a"), keys("b", shuffle_seed=1), keys("c", order="sorted")
    assert first != second
    assert sorted(first) == sorted(second) == in_order


def test_original_images_are_included(world: Any) -> None:
    run(configure(world, images="original"))
    for key, (_, sample) in read_all(world).items():
        row = next(r for r in world.rows if r["key"] == key)
        segment = (world.workspace.segments / "00000.tar").read_bytes()
        assert sample.image == segment[row["offset"] : row["offset"] + row["bytes"]]
    listing = subprocess.run(
        ["tar", "tf", world.workspace.shards("default") / "train/000000.tar"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [name.split(".", 1)[1] for name in listing[:5]] == [
        "txt",
        "json",
        "tokens.npy",
        "codes.npy",
        "png",
    ]


def test_images_can_be_converted_to_jpeg(world: Any) -> None:
    run(configure(world, images="jpg:90"))
    _, sample = next(iter(read_all(world).values()))
    assert Image.open(io.BytesIO(sample.image)).format == "JPEG"


@pytest.mark.parametrize("images", ["jpg", "jpg:0", "jpg:101", "webp", "jpg:x"])
def test_unknown_forms_of_images_are_refused(world: Any, images: str) -> None:
    with pytest.raises(ConfigError, match="expected none, original"):
        run(configure(world, images=images))


def test_a_changed_segment_is_named(world: Any) -> None:
    segment = world.workspace.segments / "00000.tar"
    segment.write_bytes(segment.read_bytes()[::-1])
    with pytest.raises(ContractError, match=r"raw/segments/00000\.tar does not match the tables"):
        run(configure(world, images="original"))


def test_codes_beyond_the_codebook_are_refused(world: Any) -> None:
    folder = world.workspace.codes("tiny", "f" * 64)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["details"]["codec"]["num_tokens"] = 100
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ContractError, match="its codebook ends at 99"):
        run(configure(world))


def test_codes_of_another_grid_are_refused(world: Any) -> None:
    folder = world.workspace.codes("tiny", "f" * 64)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["details"]["codec"]["grid"] = [8, 8]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ContractError, match="row of 16 codes; its codec yields 8 × 8"):
        run(configure(world))


def test_a_duplicate_key_is_named(world: Any) -> None:
    world.rows[3]["key"] = world.rows[4]["key"]
    world.save()
    with pytest.raises(ContractError, match="Two samples have the key 'key_00004'"):
        run(configure(world))


def test_an_unknown_codec_lists_what_is_there(world: Any) -> None:
    with pytest.raises(ConfigError, match="Choices: tiny, tiny-ffffffffffff"):
        run(configure(world, codec="vqgan"))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/a"])
def test_a_name_that_is_not_a_slug_is_refused(world: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="can't name a folder"):
        run(configure(world, name=name))


def test_a_codec_is_chosen_by_name_or_folder(world: Any) -> None:
    other = world.workspace.codes("other", "0" * 64)
    shutil.copytree(world.workspace.codes("tiny", "f" * 64), other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["details"]["codec"]["name"] = "other"
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="2 sets of codes fit"):
        run(configure(world))
    for codec in ("tiny", "tiny-ffffffffffff"):
        report = run(configure(world, name=codec, codec=codec))
        assert report.details["codec"]["name"] == "tiny"


def test_missing_codes_name_the_command_to_run(world: Any) -> None:
    shutil.rmtree(world.root / "codes")
    with pytest.raises(ContractError, match="Run `pipeline encode` first"):
        run(configure(world))


@pytest.mark.parametrize("calls", [1, 3, 6, 12])
def test_a_full_disk_is_explained_and_survived(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    whole, world = make_world("one"), make_world("two")
    run(configure(whole))
    left, sync = [calls], os.fsync

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageError, match="The disk is full"):
            run(configure(world))
    run(configure(world))
    assert world.shard_bytes() == whole.shard_bytes()


def test_a_full_disk_under_the_scratch_files_is_explained(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(self: TextFile, texts: list[Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TextFile, "append", append)
    with pytest.raises(StorageError, match="The disk is full"):
        run(configure(world))


def test_an_unknown_tokenizer_is_explained(world: Any) -> None:
    with pytest.raises(ConfigError, match="No tokenizer 'klip'"):
        run(configure(world, tokenizer="klip"))


CLIP_FILE = "#version: 0.2\nt a\nta b\ntab l\ntabl e</w>\n"
YTTM_FILE = "4 1\n9601 4\n97 5\n98 6\n99 7\n4 5 8\n1 0 2 3\n"


@pytest.mark.parametrize(("kind", "content"), [("clip", CLIP_FILE), ("yttm", YTTM_FILE)])
def test_a_tokenizer_of_another_kind_is_stored_with_the_shards(
    world: Any, tmp_path: Path, kind: str, content: str
) -> None:
    if kind == "clip":
        pytest.importorskip("ftfy")
    (tmp_path / "vocabulary").write_text(content)
    spec = f"{kind}:{tmp_path / 'vocabulary'}"
    run(configure(world, tokenizer=spec))
    folder = world.workspace.shards("default")
    carried = load_tokenizer(folder)
    assert carried.fingerprint == load_tokenizer(spec).fingerprint
    assert read_index(folder).tokenizer.fingerprint == carried.fingerprint
    for _, sample in read_all(world).values():
        assert sample.tokens.tolist() == carried.encode(sample.caption, 24).tolist()


def test_a_third_party_tokenizer_is_given_by_path(world: Any) -> None:
    path = world.workspace.tokenizer("bpe") / "tokenizer.json"
    run(configure(world, tokenizer=f"hf:{path}"))
    copied = world.workspace.shards("default") / "tokenizer.json"
    assert copied.read_bytes() == path.read_bytes()


def test_the_card_has_front_matter_that_the_hub_reads(world: Any) -> None:
    run(configure(world))
    card = (world.workspace.shards("default") / "README.md").read_text()
    assert card.startswith("---\n")
    assert "path: train/*.tar" in card
    assert "| train | 52 | 6 |" in card


def test_samples_stay_small(world: Any) -> None:
    """txt, json, 24 ids and 16 codes: four headers and four blocks of data."""
    run(configure(world))
    tar = world.workspace.shards("default") / "train/000000.tar"
    assert tar.stat().st_size == 10 * 8 * 512 + 1024


def test_memory_per_row_is_its_key_and_position(tmp_path: Path) -> None:
    texts = TextFile(tmp_path / "texts")
    texts.append(
        [SampleText(b"caption", b"{}", b"\1\0", b""), SampleText(b"", b"{}", b"\2\0", b"x")]
    )
    texts.finish()
    assert texts.read(0) == (b"caption", b"{}", b"\1\0", b"")
    assert texts.read(1) == (b"", b"{}", b"\2\0", b"x")
    texts.close()


def test_tokens_and_codes_are_small_integers(world: Any) -> None:
    run(configure(world))
    index = ShardReader(world.workspace.shards("default"), "train").index
    assert (index.tokens_dtype, index.codes_dtype) == ("<u2", "<u2")
    assert np.dtype(index.codes_dtype).itemsize == 2


def test_codes_of_another_fingerprint_are_never_mixed(world: Any) -> None:
    """The same codec name with other weights: both sets are kept, and shards contain only one."""
    run(configure(world))
    codes, other = world.workspace.codes("tiny", "f" * 64), world.workspace.codes("tiny", "0" * 64)
    shutil.copytree(codes, other)
    table = pq.read_table(other / "00000.parquet")
    turned = [[511 - code for code in row] for row in table["codes"].to_pylist()]
    column = pa.array(turned, table.schema.field("codes").type)
    pq.write_table(
        table.set_column(2, table.schema.field("codes"), column), other / "00000.parquet"
    )
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["details"]["codec"]["fingerprint"] = "0" * 64
    manifest["files"] = [vars(file_entry(other / "00000.parquet", other))]
    (other / "manifest.json").write_text(json.dumps(manifest))
    for codec in (None, "tiny"):
        with pytest.raises(
            ConfigError, match=r"fit the codec .*: tiny-000000000000, tiny-ffffffffffff"
        ):
            run(configure(world, codec=codec))
    report = run(configure(world, codec="tiny-000000000000"))
    assert report.details["codec"]["fingerprint"] == "0" * 64
    by_pixels = dict(zip(table["pixel_sha256"].to_pylist(), turned, strict=True))
    for _, sample in read_all(world).values():
        assert sample.codes.tolist() == by_pixels[sample.record["pixel_sha256"]]


@pytest.mark.parametrize("images", ["original", "jpg:90"])
def test_the_number_of_threads_changes_no_byte(make_world: Callable[..., Any], images: str) -> None:
    one, many = make_world("one"), make_world("many")
    run(configure(one, images=images, workers=1))
    run(configure(many, images=images, workers=7))
    assert one.shard_bytes() == many.shard_bytes()


def test_the_record_says_where_a_sample_comes_from(world: Any) -> None:
    run(configure(world))
    row = world.rows[9]
    assert read_all(world)[row["key"]][1].record == {
        name: row[name]
        for name in (
            *("caption_id", "section", "rank", "url", "bytes_sha256", "pixel_sha256"),
            *("width", "height", "masked_rows"),
        )
    }


def test_slashes_and_dots_in_a_key_leave_the_image_out_and_name_it(world: Any) -> None:
    world.rows[2]["key"], world.rows[3]["key"] = "a/../b", "a.b"
    world.save()
    assert run(configure(world)).counts["failed"] == 2
    left_out = pq.read_table(world.workspace.shards("default") / "left_out.parquet").to_pylist()
    assert [(row["key"], row["reason"]) for row in left_out] == [
        ("a.b", "bad_key"),
        ("a/../b", "bad_key"),
    ]


def flip_a_byte(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["kept/00001.parquet", "codes/00000.parquet"])
def test_a_table_that_changed_is_refused_before_anything_is_written(world: Any, file: str) -> None:
    codes = world.workspace.codes("tiny", "f" * 64)
    flip_a_byte(codes / "00000.parquet" if "codes" in file else world.workspace.dedupe / file, 0.05)
    with pytest.raises(DamageError, match="verify --repair"):
        run(configure(world))
    assert not world.workspace.shards("default").exists()


def test_a_tokenizer_that_changed_is_never_sharded_with(world: Any) -> None:
    path = world.workspace.tokenizer("bpe") / "tokenizer.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"a": ', b'"a":  ', 1) if b'"a": ' in data else data + b" ")
    load_tokenizer(path)  # it is a tokenizer still
    with pytest.raises(DamageError, match=r"bpe/tokenizer\.json is not the file .*--repair"):
        run(configure(world))


def test_an_empty_validation_split_causes_a_warning(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run(configure(world))
    assert "validation" not in caplog.text
    for row in world.rows:
        row["split"] = "train"
    world.save()
    assert run(configure(world)).counts["val"] == 0
    assert "No sample is in the validation split" in caplog.text


def test_a_sample_larger_than_a_shard_causes_a_warning(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    report = run(configure(world, max_bytes=2048))
    assert report.counts["shards"] == 60
    assert "more than the 2048 of --max-bytes: its only sample is larger" in caplog.text


def test_other_files_among_the_shards_stay(world: Any) -> None:
    run(configure(world))
    notes = [world.workspace.shards("default") / name for name in ("note.txt", "train/note.txt")]
    for note in notes:
        note.write_text("mine")
    world.rows = world.rows[:30]
    world.save()
    run(configure(world, text_seq_len=16))
    assert [note.read_text() for note in notes] == ["mine", "mine"]


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(world: Any) -> None:
    note = world.workspace.shards("default") / "note.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine")
    with pytest.raises(WorkspaceError, match=r"holds note\.txt"):
        run(configure(world))
    assert [path.name for path in note.parent.iterdir()] == ["note.txt"]
