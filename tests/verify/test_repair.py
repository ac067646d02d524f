"""`pipeline verify --repair`: only damaged files are removed, and the printed commands make them again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.core.ownership import reopen
from pipeline.core.storage import MANIFEST_NAME, UNFINISHED_NAME
from tests.helpers.cli import run_command
from tests.helpers.crawls import members, stored
from tests.verify.small_pipeline import Small, flip

CODES = "codes/small-*"


def find(small: Small, pattern: str) -> Path:
    (path,) = small.root.glob(pattern)
    return path


def repair_and_make_anew(small: Small, named: str) -> list[dict[str, Any]]:
    """Verify, repair, run the printed commands, verify; returns the reports of the commands."""
    code_before = small.call("verify", "--images", "0", code=1)
    assert named in json.dumps(code_before["details"]["folders"])
    details = small.repair()
    assert details["not_repaired"] == []
    reports = [small.type(command) for command in details["next"]]
    small.call("verify", "--images", "0")
    return reports


def damage_in_the_middle(path: Path) -> None:
    flip(path)


def damage_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def delete(path: Path) -> None:
    path.unlink()


# What a repair does with a file depends on whether there is one: `test_folders` has the other damages.
DAMAGES = [damage_in_the_middle, delete]


@pytest.fixture(params=DAMAGES, ids=lambda kind: str(kind.__name__))
def damage(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    kind: Callable[[Path], None] = request.param
    return kind


# Of tables and shards, what can still be read is used.
@pytest.fixture(params=[*DAMAGES, damage_the_end], ids=lambda kind: str(kind.__name__))
def any_damage(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    kind: Callable[[Path], None] = request.param
    return kind


def test_without_damage_nothing_is_touched(small: Small) -> None:
    before = small.files()
    details = small.repair()
    assert (details["repaired"], details["next"], details["not_repaired"]) == ([], [], [])
    assert small.files() == before


# --- Computed ------------------------------------------------------------------------------------


def test_a_damaged_part_of_the_codes_is_encoded_again(
    small: Small, any_damage: Callable[[Path], None]
) -> None:
    before = small.files()
    part = find(small, f"{CODES}/00002.parquet")
    rows = pq.read_metadata(part).num_rows
    any_damage(part)
    (report,) = repair_and_make_anew(small, "00002.parquet")
    assert (report["stage"], report["counts"]["new"]) == ("encode", rows)
    assert small.files() == before


def test_codes_whose_manifest_is_damaged_are_not_encoded_again(
    small: Small,
) -> None:
    before = small.files()
    flip(find(small, f"{CODES}/{MANIFEST_NAME}"))
    (report,) = repair_and_make_anew(small, MANIFEST_NAME)
    assert (report["stage"], report["counts"]["new"]) == ("encode", 0)
    assert small.files() == before


def test_of_codes_with_a_damaged_manifest_damaged_parts_are_found_by_their_own_checksums(
    small: Small,
) -> None:
    before = small.files()
    part = find(small, f"{CODES}/00001.parquet")
    rows = pq.read_metadata(part).num_rows
    flip(part, at=0.3, count=1)
    find(small, f"{CODES}/{MANIFEST_NAME}").write_bytes(b"")
    (report,) = repair_and_make_anew(small, MANIFEST_NAME)
    assert report["counts"]["new"] == rows
    assert small.files() == before


@pytest.mark.parametrize("file", ["train/000003.tar", "train/000003.idx.npy", "left_out.parquet"])
def test_a_damaged_shard_is_written_again_and_no_other(
    small: Small, any_damage: Callable[[Path], None], file: str
) -> None:
    before = small.files()
    any_damage(small.root / "shards/default" / file)
    (report,) = repair_and_make_anew(small, file)
    redone = {"train": 1, "left_out.parquet": 0}[file.split("/")[0]]
    assert report["counts"]["shards"] - report["details"]["shards_reused"] == redone
    assert small.files() == before


def test_wherever_a_shard_is_hit_its_samples_stay_in_it(small: Small) -> None:
    """Also if the header of a sample is hit: its other members name it, too."""
    small.call("shard", "--name", "grown", "--max-samples", "10", "--text-seq-len", "16")
    before = small.files("shards")
    for at in range(10):
        flip(small.root / "shards/grown/train/000002.tar", at=at / 10, count=600)
        (report,) = repair_and_make_anew(small, "000002.tar")
        assert report["details"]["shards_reused"] == 6, at
        assert small.files("shards") == before, at


def test_a_damaged_index_of_shards_is_rebuilt_identically(
    small: Small, damage: Callable[[Path], None]
) -> None:
    before = small.files()
    damage(small.root / "shards/default/index.json")
    assert repair_and_make_anew(small, "index.json") == []
    assert small.files() == before


def test_shards_whose_index_and_a_tar_are_damaged_are_written_again(small: Small) -> None:
    before = small.files()
    flip(small.root / "shards/default/index.json")
    flip(small.root / "shards/default/train/000001.tar")
    (report,) = repair_and_make_anew(small, "index.json")
    assert report["details"]["shards_reused"] == 0
    assert small.files() == before


def test_shards_whose_manifest_is_damaged_stay(small: Small) -> None:
    before = small.files()
    flip(small.root / "shards/default" / MANIFEST_NAME)
    (report,) = repair_and_make_anew(small, MANIFEST_NAME)
    assert report["details"]["shards_reused"] == 7
    assert small.files() == before


@pytest.mark.parametrize(
    "file",
    ["kept/00000.parquet", "rejected/00000.parquet", "captions.parquet", "README.md"],
)
def test_damaged_tables_are_written_again_and_nothing_is_inspected(
    small: Small, damage: Callable[[Path], None], file: str
) -> None:
    before = small.files()
    damage(small.root / "dedupe" / file)
    (report,) = repair_and_make_anew(small, file)
    assert (report["stage"], report["details"]["inspected"]) == ("dedupe", 0)
    assert small.files() == before


def test_damaged_inspections_are_computed_again(
    small: Small, any_damage: Callable[[Path], None]
) -> None:
    before = small.files()
    any_damage(small.root / "dedupe/inspections.parquet")
    (report,) = repair_and_make_anew(small, "inspections.parquet")
    assert report["details"]["inspected"] == 64
    assert small.files() == before


def test_tables_whose_manifest_is_damaged_are_written_again_and_nothing_is_inspected(
    small: Small,
) -> None:
    before = small.files()
    flip(small.root / "dedupe" / MANIFEST_NAME)
    (report,) = repair_and_make_anew(small, MANIFEST_NAME)
    assert report["details"]["inspected"] == 0
    assert small.files() == before


def test_the_mark_of_codes_whose_manifest_is_damaged_lists_the_undamaged_tables(
    small: Small,
) -> None:
    flip(find(small, f"{CODES}/00001.parquet"), at=0.3, count=1)
    find(small, f"{CODES}/{MANIFEST_NAME}").write_bytes(b"")
    small.repair()
    mark = json.loads(find(small, f"{CODES}/{UNFINISHED_NAME}").read_bytes())
    tables = sorted(path.name for path in small.root.glob(f"{CODES}/*.parquet"))
    assert "00000.parquet" in tables
    assert "00001.parquet" not in tables
    assert sorted(entry["path"] for entry in mark["files"]) == tables
    assert all(len(entry["sha256"]) == 64 for entry in mark["files"])


def test_a_damaged_mark_is_written_again(small: Small) -> None:
    before = small.files()
    flip(find(small, f"{CODES}/00001.parquet"))
    small.repair()
    mark = find(small, f"{CODES}/{UNFINISHED_NAME}")
    mark.write_bytes(mark.read_bytes()[:-20])
    (report,) = repair_and_make_anew(small, UNFINISHED_NAME)
    assert (report["stage"], report["counts"]["new"]) == ("encode", 12)
    assert small.files() == before


# --- Fetched -------------------------------------------------------------------------------------


def images(small: Small) -> dict[str, bytes]:
    """The bytes of every image of the raw store, by URL."""
    return stored(small.root)


def without_places(small: Small) -> list[dict[str, Any]]:
    """The rows of the kept images, without locations."""
    rows = pq.read_table(small.root / "dedupe/kept").to_pylist()
    return [{k: v for k, v in row.items() if k not in ("segment", "offset")} for row in rows]


def made_from_images(small: Small) -> dict[str, bytes]:
    """Files made from the images that do not contain their locations."""
    files = small.files("codes") | small.files("shards") | small.files("tokenizers")
    return {name: data for name, data in files.items() if MANIFEST_NAME not in name}


def repair_raw(small: Small) -> dict[str, int]:
    """Repair, run the printed commands and the outdated stages; returns the report of the scrape."""
    small.call("verify", "--images", "0", code=1)
    details = small.repair()
    assert [command.split()[:3] for command in details["next"]] == [
        ["pipeline", "scrape", "dalleblog"],
        ["pipeline", "dedupe", "--workspace"],
    ]
    scrape, dedupe = (small.type(command) for command in details["next"])
    assert scrape["outcome"] in ("done", "unchanged")
    assert dedupe["details"]["inspected"] == 0
    small.call("encode")
    small.call("shard")
    assert small.call("verify", "--images", "4")["counts"]["damaged"] == 0
    done: dict[str, int] = scrape["details"]
    return done


@pytest.mark.parametrize("lost", [1, 5])
def test_lost_images_are_fetched_again_and_no_others(small: Small, lost: int) -> None:
    before, kept, made = images(small), without_places(small), made_from_images(small)
    manifest = json.loads((small.root / "raw" / MANIFEST_NAME).read_bytes())
    segment = small.root / "raw/segments/00000.tar"
    for row in pq.read_table(small.root / "dedupe/kept").to_pylist()[:lost]:
        flip(segment, at=(row["offset"] + 40) / segment.stat().st_size, count=1)
    done = repair_raw(small)
    assert (done["stored"], done["requests"]) == (lost, lost)
    assert images(small) == before
    assert without_places(small) == kept
    assert made_from_images(small) == made
    again = json.loads((small.root / "raw" / MANIFEST_NAME).read_bytes())
    assert again["details"]["content"] == manifest["details"]["content"]
    assert again["counts"] == manifest["counts"]
    assert len(members(small.root)) == 2 * len(before)  # every name once, and tar reads to the end


def test_damage_between_images_costs_no_request(small: Small) -> None:
    before = images(small)
    segment = small.root / "raw/segments/00000.tar"
    flip(segment, at=0.0, count=64)  # the header of the first record
    done = repair_raw(small)
    assert (done["stored"], done["requests"]) == (0, 0)
    assert images(small) == before
    assert len(members(small.root)) == 2 * len(before)


def test_a_truncated_segment_loses_only_its_end(small: Small) -> None:
    before = images(small)
    segment = small.root / "raw/segments/00000.tar"
    segment.write_bytes(segment.read_bytes()[: segment.stat().st_size // 2])
    done = repair_raw(small)
    assert 0 < done["stored"] < len(before)
    assert images(small) == before


def test_a_store_without_segments_loses_no_record(small: Small) -> None:
    """An unmounted disk must not lose a crawl."""
    (small.root / "raw/segments").rename(small.root / "elsewhere")
    ledger = (small.root / "raw/ledger.sqlite").read_bytes()
    details = small.call("verify", "--repair", "--images", "0", code=1)["details"]
    assert "is a disk not mounted?" in details["not_repaired"][0]
    assert (small.root / "raw/ledger.sqlite").read_bytes() == ledger
    (small.root / "elsewhere").rename(small.root / "raw/segments")
    small.call("verify", "--images", "0")


def test_a_damaged_ledger_is_named_and_stays(small: Small) -> None:
    ledger = small.root / "raw/ledger.sqlite"
    ledger.write_bytes(ledger.read_bytes()[:4096] + b"\xff" * 4096 + ledger.read_bytes()[8192:])
    before = small.files("raw")
    place = ("--workspace", str(small.root), "--images", "0")
    printed = " ".join(run_command(["verify", *place]).output.split())
    assert "restore it from a backup" in printed
    assert "--repair" not in printed
    details = small.call("verify", "--repair", "--images", "0", code=1)["details"]
    assert "restore it from a backup" in details["not_repaired"][0]
    after = small.files("raw")
    assert after["raw/segments/00000.tar"] == before["raw/segments/00000.tar"]
    assert after["raw/ledger.sqlite"] == before["raw/ledger.sqlite"]


@pytest.mark.parametrize("file", ["page.html", "page.json"])
def test_a_damaged_page_is_requested_again(small: Small, file: str) -> None:
    before = small.files("raw")
    flip(small.root / "raw" / file, count=8)
    (report,) = repair_and_make_anew(small, file)
    assert report["details"]["requests"] == 0  # of images
    after = small.files("raw")
    assert after["raw/page.html"] == before["raw/page.html"]
    assert after["raw/manifest.json"] == before["raw/manifest.json"]


def test_a_damaged_manifest_of_the_crawl_is_written_again(small: Small) -> None:
    before = (small.root / "raw" / MANIFEST_NAME).read_bytes()
    (small.root / "raw" / MANIFEST_NAME).write_bytes(before[:-50])
    (report,) = repair_and_make_anew(small, MANIFEST_NAME)
    assert report["details"]["requests"] == 0
    assert (small.root / "raw" / MANIFEST_NAME).read_bytes() == before


# --- Trained or generated ------------------------------------------------------------------------


def set_aside(small: Small) -> list[str]:
    return sorted(p.relative_to(small.root).as_posix() for p in small.root.rglob("*.damaged*"))


def test_a_damaged_tokenizer_is_restored_from_the_shards(
    small: Small, damage: Callable[[Path], None]
) -> None:
    before = small.files()
    damage(small.root / "tokenizers/bpe/tokenizer.json")
    assert repair_and_make_anew(small, "tokenizer.json") == []
    assert small.files() == before
    assert set_aside(small) == []


def test_a_damaged_tokenizer_without_a_copy_is_set_aside_and_trained_again(
    small: Small,
) -> None:
    before = small.files()
    for path in small.root.glob("*/*/tokenizer.json"):
        flip(path)
    details = small.repair()
    for command in details["next"]:
        small.type(command)
    small.call("verify", "--images", "0")
    assert {k: v for k, v in small.files().items() if "runs" not in k} == {
        k: v for k, v in before.items() if "runs" not in k
    }
    assert set_aside(small) == [
        "runs/dalle/tokenizer.json.damaged",
        "tokenizers/bpe/tokenizer.json.damaged",
    ]


def test_a_tokenizer_whose_manifest_is_damaged_is_kept(small: Small) -> None:
    before = small.files()
    path = small.root / "tokenizers/bpe" / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:-30])
    assert repair_and_make_anew(small, MANIFEST_NAME) == []
    assert (
        small.files("tokenizers")["tokenizers/bpe/tokenizer.json"]
        == (before["tokenizers/bpe/tokenizer.json"])
    )
    assert small.call("shard")["outcome"] == "unchanged"  # it is the same tokenizer


def test_a_damaged_tokenizer_whose_manifest_is_damaged_too_is_trained_again(small: Small) -> None:
    before = small.files("tokenizers")
    for file in ("tokenizer.json", MANIFEST_NAME):
        path = small.root / "tokenizers/bpe" / file
        path.write_bytes(path.read_bytes()[:-30])
    (report,) = repair_and_make_anew(small, MANIFEST_NAME)
    assert (report["stage"], report["outcome"]) == ("train-tokenizer", "done")
    name = "tokenizers/bpe/tokenizer.json"
    assert small.files("tokenizers")[name] == before[name]
    assert f"{name}.damaged" in set_aside(small)


@pytest.mark.parametrize("file", ["codec.safetensors", "codec.json"])
def test_a_damaged_codec_is_set_aside_and_trained_again(
    small: Small, damage: Callable[[Path], None], file: str
) -> None:
    before = small.files()
    damage(small.root / "codecs/small" / file)
    (report,) = repair_and_make_anew(small, file)
    assert (report["stage"], report["outcome"]) == ("train-codec", "done")
    assert small.files() == before  # on the same machine
    assert set_aside(small) == ([f"codecs/small/{file}.damaged"] * (damage is not delete))


@pytest.mark.parametrize("file", ["log.jsonl", "reconstructions.png"])
def test_a_codec_is_not_trained_again_for_its_description(small: Small, file: str) -> None:
    before = small.files("codecs")
    flip(small.root / "codecs/small" / file)
    assert repair_and_make_anew(small, file) == []
    after = small.files("codecs")
    assert after["codecs/small/codec.safetensors"] == before["codecs/small/codec.safetensors"]
    assert set_aside(small) == [f"codecs/small/{file}.damaged"]
    assert small.call("encode")["counts"]["new"] == 0


def test_a_codec_whose_manifest_is_damaged_is_kept(small: Small) -> None:
    before = small.files()
    path = small.root / "codecs/small" / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:-30])
    assert repair_and_make_anew(small, MANIFEST_NAME) == []
    assert (
        small.files("codecs")["codecs/small/codec.safetensors"]
        == (before["codecs/small/codec.safetensors"])
    )
    assert small.call("encode")["counts"]["new"] == 0
    assert small.files("codes").keys() == {k for k in before if k.startswith("codes/")}


@pytest.mark.parametrize("file", ["model.safetensors", "checkpoint.json", "rng.safetensors"])
def test_a_run_resumes_from_the_checkpoint_before_a_damaged_last_one(
    small: Small, damage: Callable[[Path], None], file: str
) -> None:
    before = small.files("runs")
    damage(small.root / "runs/dalle/checkpoints/step-000003" / file)
    (report,) = repair_and_make_anew(small, "step-000003")
    assert (report["stage"], report["outcome"]) == ("train", "done")
    after = small.files("runs")
    assert after.pop("runs/dalle/manifest.json")
    for name, data in after.items():
        if "tensorboard" not in name:
            assert data == before[name], name
    assert "runs/dalle/checkpoints/step-000003.damaged" in set_aside(small)


def test_a_damaged_earlier_checkpoint_is_set_aside_and_nothing_is_trained(
    small: Small,
) -> None:
    before = small.files("runs")
    flip(small.root / "runs/dalle/checkpoints/step-000002/optimizer.safetensors")
    assert repair_and_make_anew(small, "step-000002") == []
    lost = {name for name in before if "step-000002" in name}
    after = small.files("runs")
    assert set(after) == set(before) - lost
    assert small.call("train")["outcome"] == "unchanged"


def test_the_plan_of_a_run_is_written_again_from_its_manifest(
    small: Small, damage: Callable[[Path], None]
) -> None:
    before = small.files("runs")
    damage(small.root / "runs/dalle/plan.json")
    assert repair_and_make_anew(small, "plan.json") == []
    assert small.files("runs") == before


@pytest.mark.parametrize("file", ["log.jsonl", "README.md"])
def test_a_run_stays_finished_without_its_log_or_card(small: Small, file: str) -> None:
    flip(small.root / "runs/dalle" / file)
    assert repair_and_make_anew(small, file) == []
    assert set_aside(small) == [f"runs/dalle/{file}.damaged"]
    assert small.call("train")["outcome"] == "unchanged"


def test_a_run_whose_manifest_is_damaged_is_finished_again_without_training(small: Small) -> None:
    before = small.files("runs")
    path = small.root / "runs/dalle" / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:-30])
    (report,) = repair_and_make_anew(small, MANIFEST_NAME)
    assert report["stage"] == "train"
    after = small.files("runs")
    for name in before:
        if "tensorboard" not in name:
            assert after[name] == before[name], name


def test_a_run_in_progress_is_no_damage_but_a_damaged_checkpoint_of_it_is(small: Small) -> None:
    reopen(small.root / "runs/dalle", "run")
    assert small.call("verify", "--images", "0")["counts"]["unfinished"] == 1
    flip(small.root / "runs/dalle/checkpoints/step-000003/model.safetensors")
    (report,) = repair_and_make_anew(small, "step-000003/model.safetensors")
    assert report["stage"] == "train"
    assert "runs/dalle/checkpoints/step-000003.damaged" in set_aside(small)


@pytest.mark.parametrize("file", ["0001-00.png", "contact.png", "records.jsonl"])
def test_a_damaged_image_is_set_aside_and_generated_again(
    small: Small, damage: Callable[[Path], None], file: str
) -> None:
    before = small.files("generated")
    damage(small.root / "generated/default" / file)
    (report,) = repair_and_make_anew(small, file)
    assert (report["stage"], report["outcome"]) == ("generate", "done")
    assert small.files("generated") == before
    assert set_aside(small) == (
        [f"generated/default/{file}.damaged"] if damage is not delete else []
    )


def test_images_whose_manifest_is_damaged_stay(small: Small) -> None:
    before = small.files("generated")
    path = small.root / "generated/default" / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:-30])
    assert repair_and_make_anew(small, MANIFEST_NAME) == []
    after = small.files("generated")
    assert after.keys() == before.keys()
    assert {k: v for k, v in after.items() if MANIFEST_NAME not in k} == {
        k: v for k, v in before.items() if MANIFEST_NAME not in k
    }


# --- Killed --------------------------------------------------------------------------------------


class KilledError(BaseException):
    """Simulates a kill: no code of ours catches it."""


CALLS = ("unlink", "rename", "replace")


def die_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Kill the process instead of its `number`-th change of a folder; nothing is cleaned up."""
    left = [number]

    def dying(name: str) -> Callable[..., Any]:
        real = getattr(Path, name)

        def call(self: Path, *arguments: Any, **options: Any) -> Any:
            if ".active" in self.as_posix() or left[0] <= 0:
                return None if left[0] <= 0 else real(self, *arguments, **options)
            left[0] -= 1
            if left[0] == 0:
                raise KilledError
            return real(self, *arguments, **options)

        return call

    for name in CALLS:
        monkeypatch.setattr(Path, name, dying(name))


DAMAGED = (
    "codes/*/00001.parquet",
    "codes/*/manifest.json",
    "dedupe/captions.parquet",
    "shards/default/train/000001.tar",
    "tokenizers/bpe/tokenizer.json",
    "codecs/small/codec.safetensors",
    "runs/dalle/log.jsonl",
    "generated/default/0001-00.png",
)


@pytest.mark.parametrize("pattern", DAMAGED)
def test_a_repair_killed_at_any_point_can_be_repeated(
    whole: Small, tmp_path: Path, pattern: str
) -> None:
    before = {k: v for k, v in whole.files().items() if "runs/" not in k and "ledger" not in k}
    for number in range(1, 60):
        small = whole.copy(tmp_path / str(number))
        flip(find(small, pattern))
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, number)
            try:
                small.repair()
                died = False
            except (KilledError, AssertionError):
                died = True
        if not died:
            break
        details = small.repair()
        for command in details["next"]:
            small.type(command)
        small.call("verify", "--images", "0")
        after = {k: v for k, v in small.files().items() if "runs/" not in k and "ledger" not in k}
        assert after == before, f"killed at {number}"
    assert number > 1
