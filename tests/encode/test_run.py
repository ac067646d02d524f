"""The stage encode: codes by pixel hash, resuming after a kill, only new images, failures as rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.core.contracts import CODES
from pipeline.core.errors import ConfigError, ContractError, DamageError, ModelError
from pipeline.core.image_decode import Raster, decode_image
from pipeline.core.kept_images import read_image
from pipeline.core.ownership import reopen
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import arrow_schema, read_manifest
from pipeline.core.workspace import Workspace
from pipeline.encode.config import EncodeConfig
from pipeline.encode.run import run
from pipeline.models.codecs.load import CODEC_WEIGHTS, load_codec, save_codec
from pipeline.models.codecs.pixels import read_square, to_images
from pipeline.models.codecs.vq import VQCodec, VQConfig

MakeWorkspace = Callable[..., Workspace]


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    """The folder of a codec with random weights."""
    return make_codec(tmp_path / "random")


def make_codec(folder: Path, seed: int = 0) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = VQCodec(VQConfig(image_size=32, num_tokens=16, code_dim=4, channels=4))
        latents_BDRS = made.encode_latents(torch.rand(16, 3, 32, 32)).detach()
        made.codebook_KD.copy_(latents_BDRS.permute(0, 2, 3, 1).reshape(-1, 4)[:16])
    save_codec(made, folder)
    return folder


def make_config(workspace: Workspace, codec: Path, **options: Any) -> EncodeConfig:
    settings = {"part_rows": 6, "batch_size": "4", "workers": 2, **options}
    return EncodeConfig(workspace=workspace.root, codec=str(codec), **settings)


def codes_folder(workspace: Workspace) -> Path:
    (folder,) = (workspace.root / "codes").iterdir()
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read_codes(folder: Path) -> dict[str, list[int]]:
    rows = [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    codes = {row["pixel_sha256"]: row["codes"] for row in rows}
    assert len(codes) == len(rows)
    return codes


def kill_at(images: int) -> Callable[..., None]:
    def progress(
        done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        if done >= images:
            raise KilledError

    return progress


def test_every_image_gets_the_codes_of_its_own_pixels(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    workspace = make_workspace()
    report = run(make_config(workspace, codec))
    assert report.outcome == "done"
    assert report.counts == {"images": 20, "encoded": 20, "failed": 0, "spare": 0, "new": 20}
    found = read_codes(codes_folder(workspace))
    reference = load_codec(codec)
    kept = pq.read_table(workspace.dedupe / "kept" / "00000.parquet").to_pylist()
    segment = (workspace.segments / "00000.tar").read_bytes()
    for row in kept:
        data = segment[row["offset"] : row["offset"] + row["bytes"]]
        codes_BN = reference.encode(to_images(read_square(data, 32)[None]))
        assert found[row["pixel_sha256"]] == codes_BN[0].tolist()
    assert len({tuple(codes) for codes in found.values()}) > 1


def test_the_tables_keep_the_contract(make_workspace: MakeWorkspace, codec: Path) -> None:
    workspace = make_workspace()
    run(make_config(workspace, codec))
    folder = codes_folder(workspace)
    manifest = read_manifest(folder, "codes")
    assert folder.name == f"random-{manifest.details['fingerprint'][:12]}"
    assert manifest.details["codec"]["fingerprint"] == load_codec(codec).fingerprint
    assert [(entry.path, entry.rows) for entry in manifest.files] == [
        ("00000.parquet", 6),
        ("00001.parquet", 6),
        ("00002.parquet", 6),
        ("00003.parquet", 2),
    ]
    law = CONTRACTS["codes"].count_law
    assert law is not None
    assert manifest.counts[law.total] == sum(manifest.counts[part] for part in law.parts)
    for entry in manifest.files:
        table = pq.read_table(folder / entry.path)
        assert table.schema.equals(arrow_schema(CODES))
        hashes = table["pixel_sha256"].to_pylist()
        assert hashes == sorted(hashes)


def test_a_second_run_finds_it_unchanged(make_workspace: MakeWorkspace, codec: Path) -> None:
    workspace = make_workspace()
    run(make_config(workspace, codec))
    before = files_of(codes_folder(workspace))
    assert run(make_config(workspace, codec)).outcome == "unchanged"
    assert files_of(codes_folder(workspace)) == before


@pytest.mark.parametrize("images", [0, 5, 12, 20])
def test_killed_and_continued_it_ends_in_the_same_bytes(
    make_workspace: MakeWorkspace, codec: Path, images: int
) -> None:
    whole = make_workspace(name="whole", broken=(3, 11))
    killed = make_workspace(name="killed", broken=(3, 11))
    run(make_config(whole, codec))
    with pytest.raises(KilledError):
        run(make_config(killed, codec), kill_at(images))
    run(make_config(killed, codec))
    assert files_of(codes_folder(killed)) == files_of(codes_folder(whole))


def test_what_was_done_before_a_kill_is_not_done_again(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    workspace = make_workspace()
    with pytest.raises(KilledError):
        run(make_config(workspace, codec), kill_at(14))
    assert run(make_config(workspace, codec)).counts["new"] == 8


def test_new_images_make_new_parts_and_change_no_old_ones(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    workspace = make_workspace(13)
    run(make_config(workspace, codec))
    folder = codes_folder(workspace)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    make_workspace(20)
    report = run(make_config(workspace, codec))
    assert (report.outcome, report.counts["new"]) == ("done", 7)
    assert len(read_codes(folder)) == 20
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_images_no_longer_kept_keep_their_codes(make_workspace: MakeWorkspace, codec: Path) -> None:
    workspace = make_workspace(20)
    run(make_config(workspace, codec))
    make_workspace(13)
    counts = run(make_config(workspace, codec)).counts
    assert (counts["images"], counts["encoded"], counts["spare"], counts["new"]) == (13, 13, 7, 0)


def test_an_image_that_fails_is_a_row_and_is_tried_again(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    workspace = make_workspace(20, broken=(3, 11))
    report = run(make_config(workspace, codec))
    assert report.outcome == "incomplete"
    counts = {"images": 20, "encoded": 18, "failed": 2, "spare": 0, "new": 18}
    assert report.counts == counts
    folder = codes_folder(workspace)
    failed = [json.loads(line) for line in (folder / "failed.jsonl").read_text().splitlines()]
    assert {row["key"] for row in failed} == {"key_00003", "key_00011"}
    assert all(row["detail"] == "no image format that Pillow knows" for row in failed)

    before = files_of(folder)
    assert run(make_config(workspace, codec)).outcome == "incomplete"
    assert files_of(folder) == before

    make_workspace(20)
    report = run(make_config(workspace, codec))
    assert (report.outcome, report.counts["new"]) == ("done", 2)
    assert not (folder / "failed.jsonl").exists()
    assert len(read_codes(folder)) == 20


def swap_bytes(workspace: Workspace, one: int, other: int) -> None:
    """Let two images of equal length change places in the segment, as a wrong repair of a disk would."""
    rows = pq.read_table(workspace.dedupe / "kept" / "00000.parquet").to_pylist()
    segment = workspace.segments / "00000.tar"
    data = bytearray(segment.read_bytes())
    places = [slice(r["offset"], r["offset"] + r["bytes"]) for r in (rows[one], rows[other])]
    data[places[0]], data[places[1]] = data[places[1]], data[places[0]]
    segment.write_bytes(data)


def test_swapped_images_fail_and_are_never_encoded_under_each_others_hash(
    make_workspace: MakeWorkspace, codec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = make_workspace(20)
    rows = pq.read_table(workspace.dedupe / "kept" / "00000.parquet").to_pylist()
    lengths: dict[int, int] = {}
    pair = next(
        (lengths[row["bytes"]], n)
        for n, row in enumerate(rows)
        if lengths.setdefault(row["bytes"], n) != n
    )
    swap_bytes(workspace, *pair)
    report = run(make_config(workspace, codec))
    assert report.outcome == "incomplete"
    counts = {"images": 20, "encoded": 18, "failed": 2, "spare": 0, "new": 18}
    assert report.counts == counts
    folder = codes_folder(workspace)
    failed = [json.loads(line) for line in (folder / "failed.jsonl").read_text().splitlines()]
    assert {row["key"] for row in failed} == {rows[n]["key"] for n in pair}
    assert all("verify --repair" in row["detail"] for row in failed)
    assert not read_codes(folder).keys() & {rows[n]["pixel_sha256"] for n in pair}
    assert "2 images have no codes" in caplog.text
    swap_bytes(workspace, *pair)
    assert run(make_config(workspace, codec)).counts["new"] == 2


def test_an_image_that_decodes_to_other_pixels_than_were_inspected_fails(
    make_workspace: MakeWorkspace, codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(6)

    def decode_otherwise(data: bytes) -> Raster:
        raster = decode_image(data)
        return raster._replace(pixels_HWC=255 - raster.pixels_HWC)

    monkeypatch.setattr("pipeline.encode.batches.decode_image", decode_otherwise)
    report = run(make_config(workspace, codec))
    assert (report.counts["failed"], report.counts["encoded"]) == (6, 0)
    lines = (codes_folder(workspace) / "failed.jsonl").read_text().splitlines()
    assert all("Run `pipeline dedupe` again" in json.loads(line)["detail"] for line in lines)


def test_another_way_of_decoding_leaves_codes_of_the_same_pixels_as_they_are(
    make_workspace: MakeWorkspace, codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(6)
    run(make_config(workspace, codec))
    before = codes_folder(workspace).name
    monkeypatch.setattr("pipeline.encode.run.RASTER", "another; 3")
    assert run(make_config(workspace, codec)).counts["new"] == 0
    assert codes_folder(workspace).name == before


def test_a_segment_that_is_gone_ends_the_stage(make_workspace: MakeWorkspace, codec: Path) -> None:
    workspace = make_workspace()
    (workspace.segments / "00000.tar").unlink()
    with pytest.raises(ContractError, match=r"00000\.tar can't be read"):
        run(make_config(workspace, codec))


def test_a_changed_table_of_kept_images_is_refused(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    workspace = make_workspace()
    table = workspace.dedupe / "kept" / "00000.parquet"
    table.write_bytes(table.read_bytes().replace(b"00000.tar", b"00001.tar"))
    with pytest.raises(DamageError, match=r"kept/00000\.parquet does not match the sha256"):
        run(make_config(workspace, codec))


def test_a_lost_part_gets_its_rows_and_its_number_again(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    workspace = make_workspace(20, broken=(3, 11))
    run(make_config(workspace, codec))
    folder = codes_folder(workspace)
    before = files_of(folder)
    reopen(folder, "codes")
    (folder / "00001.parquet").unlink()
    assert (
        run(make_config(workspace, codec)).counts["new"]
        == pq.read_metadata(folder / "00001.parquet").num_rows
    )
    assert files_of(folder) == before


def test_a_part_that_changed_is_not_taken_into_the_next_manifest(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    workspace = make_workspace(13)
    run(make_config(workspace, codec))
    part = codes_folder(workspace) / "00001.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes(data)
    make_workspace(20)
    before = files_of(codes_folder(workspace))
    with pytest.raises(DamageError, match=r"00001\.parquet does not match the sha256"):
        run(make_config(workspace, codec))
    assert files_of(codes_folder(workspace)) == before


def test_files_of_the_user_in_the_folder_stay(make_workspace: MakeWorkspace, codec: Path) -> None:
    workspace = make_workspace(13)
    run(make_config(workspace, codec))
    note = codes_folder(workspace) / "2024-notes.txt"
    note.write_text("mine")
    make_workspace(20)
    run(make_config(workspace, codec))
    run(make_config(workspace, codec))
    assert note.read_text() == "mine"


def test_another_size_for_a_codec_that_has_one_is_refused(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    with pytest.raises(ConfigError, match="--image-size 64"):
        run(make_config(make_workspace(), codec, image_size=64))


def test_two_codecs_are_kept_apart(
    make_workspace: MakeWorkspace, codec: Path, tmp_path: Path
) -> None:
    workspace = make_workspace()
    run(make_config(workspace, codec))
    run(make_config(workspace, make_codec(tmp_path / "other" / "random", seed=1)))
    assert len(list((workspace.root / "codes").iterdir())) == 2


def test_a_codec_that_is_nowhere_is_named(make_workspace: MakeWorkspace) -> None:
    with pytest.raises(ConfigError, match="No codec 'missing'"):
        run(make_config(make_workspace(), Path("missing")))


def test_an_unfinished_codec_of_the_workspace_is_refused(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    make_codec(workspace.codec("small"))
    with pytest.raises(ContractError, match="has not finished"):
        run(make_config(workspace, Path("small")))


def test_broken_weights_are_refused(make_workspace: MakeWorkspace, codec: Path) -> None:
    (codec / CODEC_WEIGHTS).write_bytes(b"x")
    with pytest.raises(ModelError, match="can't be read as weights"):
        run(make_config(make_workspace(), codec))


def test_a_broken_part_is_named(make_workspace: MakeWorkspace, codec: Path) -> None:
    workspace = make_workspace()
    run(make_config(workspace, codec))
    (codes_folder(workspace) / "00001.parquet").write_bytes(b"x")
    make_workspace(21)
    with pytest.raises(
        ContractError, match=r"00001\.parquet has 1 bytes, expected .* verify --repair"
    ):
        run(make_config(workspace, codec))


def test_without_images_there_are_no_codes(make_workspace: MakeWorkspace, codec: Path) -> None:
    report = run(make_config(make_workspace(0), codec))
    assert (report.outcome, report.counts["images"]) == ("done", 0)


# --- A part that is interrupted ----------------------------------------------------------------------


def interrupt_at(images: int, ending: type[BaseException]) -> Callable[..., None]:
    def progress(
        done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        if done >= images:
            raise ending

    return progress


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are decoded from now on, by their offsets."""
    decoded: list[str] = []

    def read(segments: Path, place: Any) -> Any:
        decoded.append(f"{place.offset}")
        return read_image(segments, place)

    monkeypatch.setattr("pipeline.encode.batches.read_image", read)
    return decoded


@pytest.mark.parametrize("ending", [KeyboardInterrupt, KilledError])
@pytest.mark.parametrize("images", [4, 8, 9, 16])
def test_an_interrupted_part_resumes_where_it_was(
    make_workspace: MakeWorkspace,
    codec: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    ending: type[BaseException],
) -> None:
    """After a kill, behind what was last kept: here after every batch."""
    monkeypatch.setattr("pipeline.encode.run.KEEP_EVERY_S", 0.0 if ending is KilledError else 1e9)
    whole = make_workspace(name="whole", broken=(3,))
    workspace = make_workspace(name="stopped", broken=(3,))
    run(make_config(whole, codec, part_rows=16))
    with pytest.raises(ending):
        run(make_config(workspace, codec, part_rows=16), interrupt_at(images, ending))
    decoded = count_decoded(monkeypatch)
    report = run(make_config(workspace, codec, part_rows=16))
    assert len(decoded) == 20 - min(16, -(-images // 4) * 4)  # the batches of 4 that were not done
    assert report.counts["encoded"] == 19
    assert files_of(codes_folder(workspace)) == files_of(codes_folder(whole))


def test_what_is_kept_of_another_part_is_left_out(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    whole = make_workspace(name="whole")
    workspace = make_workspace(name="stopped")
    run(make_config(whole, codec, part_rows=9))
    with pytest.raises(KeyboardInterrupt):
        run(make_config(workspace, codec, part_rows=12), interrupt_at(12, KeyboardInterrupt))
    assert (codes_folder(workspace) / "draft.npz").exists()
    run(make_config(workspace, codec, part_rows=9))
    assert files_of(codes_folder(workspace)) == files_of(codes_folder(whole))


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_draft_costs_time_only(
    make_workspace: MakeWorkspace, codec: Path, damage: bytes | None
) -> None:
    whole = make_workspace(name="whole")
    workspace = make_workspace(name="stopped")
    run(make_config(whole, codec, part_rows=16))
    with pytest.raises(KeyboardInterrupt):
        run(make_config(workspace, codec, part_rows=16), interrupt_at(12, KeyboardInterrupt))
    draft = codes_folder(workspace) / "draft.npz"
    data = draft.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    draft.write_bytes(flipped if damage is None else damage)
    run(make_config(workspace, codec, part_rows=16))
    assert files_of(codes_folder(workspace)) == files_of(codes_folder(whole))
