"""A crawl with a defect of each kind: the rejected table names exactly those, and why."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.dedupe.masks import shared_rows
from tests.helpers.dedupe import RawStore, dedupe, encode, kept, photo, photo_png, rejected


def nearly(seed: int) -> bytes:
    """An image that looks like `photo(seed)` with other pixels."""
    return encode(np.clip(photo(seed).astype(int) + 1, 0, 255).astype(np.uint8))


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def half_a_jpeg() -> bytes:
    """With an end marker, so that decoders make up the rest."""
    whole = encode(photo(103, 200, 200), "JPEG")
    return whole[: len(whole) // 2] + b"\xff\xd9"


def plant(raw: RawStore) -> dict[str, tuple[str, str | None]]:
    """Good images and a defect of each kind; returns the reason and the representative of each."""
    for number in range(20):
        raw.add(
            f"good{number:02}", photo_png(number), f"a cat in {number // 4} hats", rank=number % 4
        )
    broken = photo_png(100)
    iend = bomb() + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    defects: dict[str, tuple[bytes | None, dict[str, object], str, str | None]] = {
        "missing": (None, {}, "not_fetched", None),
        "pending": (None, {"state": "pending"}, "not_fetched", None),
        "opted-out": (None, {"state": "opted_out", "reason": "robots"}, "not_fetched", None),
        "truncated": (broken[:900], {}, "not_decodable", None),
        "empty": (b"", {}, "not_decodable", None),
        "html": (b"<html>not found</html>", {}, "not_decodable", None),
        "svg": (b"<svg></svg>", {}, "not_decodable", None),
        "crc": (broken[:-5] + b"\0" + broken[-4:], {}, "not_decodable", None),
        "bomb": (iend, {}, "too_large", None),
        "half": (half_a_jpeg(), {}, "looks_cut", None),
        "slot": (photo_png(101), {"caption": "a {} cat"}, "bad_caption", None),
        "speechless": (photo_png(102), {"caption": " "}, "bad_caption", None),
        "same-file": (photo_png(3), {"rank": 9}, "duplicate_bytes", "good03"),
        "same-pixels": (
            encode(photo(4), compress_level=0), {"rank": 9}, "duplicate_pixels", "good04",
        ),
        "look-alike": (nearly(5), {"rank": 9}, "near_duplicate", "good05"),
    }  # fmt: skip
    for key, (data, columns, _, _) in defects.items():
        raw.add(key, data, str(columns.pop("caption", "a dog")), **columns)
    return {key: (reason, other) for key, (_, _, reason, other) in defects.items()}


def test_the_rejected_are_exactly_the_planted_defects(raw: RawStore) -> None:
    planted = plant(raw)
    workspace = raw.write()
    report = dedupe(workspace, near_duplicates="drop", workers=2)
    found = {key: (r["reason"], r["stands_for"]) for key, r in rejected(workspace).items()}
    assert found == planted
    assert len(kept(workspace)) == 20
    assert report.counts["rows"] == 35


def test_flagged_look_alikes_stay_and_name_their_cluster(raw: RawStore) -> None:
    plant(raw)
    workspace = raw.write()
    report = dedupe(workspace, near_duplicates="flag")
    rows = kept(workspace)
    assert rows["look-alike"]["cluster"] == rows["good05"]["cluster"] == "good05"
    assert rows["good06"]["cluster"] == "good06"
    assert report.details["near_duplicates"]["clusters_across_captions"] == 1
    assert report.details["near_duplicates"]["largest"] == [
        {"cluster": "good05", "images": 2, "captions": 2}
    ]


def test_look_alikes_of_one_caption_are_reported_apart(raw: RawStore) -> None:
    raw.add("a", photo_png(5), "a cat")
    raw.add("b", nearly(5), "a cat", rank=1)
    near = dedupe(raw.write()).details["near_duplicates"]
    assert (near["clusters_within_captions"], near["images_within_captions"]) == (1, 2)
    assert (near["clusters_across_captions"], near["images_across_captions"]) == (0, 0)


def test_off_finds_no_near_duplicates(raw: RawStore) -> None:
    plant(raw)
    workspace = raw.write()
    dedupe(workspace, near_duplicates="off")
    assert kept(workspace)["look-alike"]["cluster"] == "look-alike"


def test_look_alikes_share_a_split(raw: RawStore) -> None:
    for number in range(60):
        raw.add(f"a{number:02}", photo_png(number), f"cat {number}")
        raw.add(f"b{number:02}", nearly(number), f"dog {number}", rank=1)
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.5)
    rows = kept(workspace)
    assert {row["split"] for row in rows.values()} == {"train", "val"}
    for number in range(60):
        assert rows[f"a{number:02}"]["split"] == rows[f"b{number:02}"]["split"]


def test_the_survivor_is_the_best_rank_then_the_largest_then_the_smallest_key(
    raw: RawStore,
) -> None:
    large = encode(photo(1, 128, 128))
    small = encode(np.asarray(Image.open(io.BytesIO(large)).reduce(2)))
    raw.add("a", small, rank=1)
    raw.add("b", large, rank=1)
    raw.add("c", large, rank=1)
    raw.add("d", large, rank=None)
    workspace = raw.write()
    dedupe(workspace, near_duplicates="drop")
    assert set(kept(workspace)) == {"b"}
    assert {row["stands_for"] for row in rejected(workspace).values()} == {"b"}
    assert rejected(workspace)["a"]["reason"] == "near_duplicate"
    raw.add("e", small, rank=0)
    dedupe(raw.write(), near_duplicates="drop")
    assert set(kept(workspace)) == {"e"}


def test_the_representative_of_a_row_is_kept_even_if_its_own_twin_is_dropped(raw: RawStore) -> None:
    raw.add("best", photo_png(1), rank=0)
    raw.add("near", nearly(1), rank=1)
    raw.add("twin", nearly(1), rank=2)
    workspace = raw.write()
    dedupe(workspace, near_duplicates="drop")
    rows = rejected(workspace)
    assert (rows["twin"]["reason"], rows["twin"]["stands_for"]) == ("duplicate_bytes", "best")
    assert (rows["near"]["reason"], rows["near"]["stands_for"]) == ("near_duplicate", "best")


def primed(seed: int, given: int) -> bytes:
    """An image whose upper `given` of 64 rows are always the same."""
    pixels = photo(seed).copy()
    pixels[:given] = photo(0)[:given]
    return encode(pixels)


def test_the_rows_that_the_prompt_gave_are_measured(raw: RawStore) -> None:
    for number in range(1, 6):
        raw.add(f"m{number}", primed(number, 24), "the exact same cat", rank=number, masked=1)
        raw.add(f"n{number}", photo_png(number), "a cat", rank=number)
    raw.add("alone", primed(9, 40), "the exact same teapot", masked=1)
    workspace = raw.write()
    dedupe(workspace)
    rows = kept(workspace)
    assert {rows[f"m{number}"]["masked_rows"] for number in range(1, 6)} == {24}
    assert {rows[f"n{number}"]["masked_rows"] for number in range(1, 6)} == {0}
    assert rows["alone"]["masked_rows"] == 32


def test_masked_images_can_be_dropped(raw: RawStore) -> None:
    raw.add("m", primed(1, 24), masked=1)
    raw.add("n", photo_png(2))
    workspace = raw.write()
    dedupe(workspace, masked="drop")
    assert set(kept(workspace)) == {"n"}
    assert rejected(workspace)["m"]["reason"] == "masked"


def test_one_odd_image_does_not_hide_what_the_others_share() -> None:
    tops = [bytes([row] * 8) for row in range(12)]
    images = {b"".join(tops) + bytes([100 + n] * 8 * 20) for n in range(5)} | {bytes(256)}
    assert shared_rows(images) == 12


def odd_files() -> dict[str, tuple[bytes, str, tuple[int, int]]]:
    """Files that are unusual but intact: their bytes, format and size (width, height)."""
    picture = Image.fromarray(photo(200, 32, 48))
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    frames = {"save_all": True, "append_images": [Image.fromarray(photo(201, 32, 48))]}
    sixteen = Image.fromarray(photo(202, 32, 48)[..., 0].astype(np.uint16) * 257)
    return {
        "animated-gif": (encode(picture, "GIF", **frames), "gif", (48, 32)),
        "animated-webp": (encode(picture, "WEBP", **frames, quality=5), "webp", (48, 32)),
        "cmyk": (encode(Image.fromarray(photo(203, 32, 48)).convert("CMYK"), "JPEG"), "jpeg", (48, 32)),
        "sixteen-bits": (encode(sixteen), "png", (48, 32)),
        "palette": (
            encode(Image.fromarray(photo(204, 32, 48)).quantize(16), transparency=0), "png", (48, 32),
        ),
        "turned": (encode(Image.fromarray(photo(205, 32, 48)), "JPEG", exif=turned), "jpeg", (32, 48)),
        "one-pixel": (encode(Image.new("RGB", (1, 1), (1, 2, 3))), "png", (1, 1)),
    }  # fmt: skip


def test_unusual_files_are_kept_as_what_they_show(raw: RawStore) -> None:
    files = odd_files()
    for key, (data, _, _) in files.items():
        raw.add(key, data, f"a picture of {key}")
    workspace = raw.write()
    dedupe(workspace)
    rows = kept(workspace)
    assert {key: (r["format"], (r["width"], r["height"])) for key, r in rows.items()} == {
        key: (file_format, size) for key, (_, file_format, size) in files.items()
    }
    assert {key for key, row in rows.items() if row["has_alpha"]} == {"palette"}
    assert {key for key, row in rows.items() if row["is_blank"]} == {"one-pixel"}
    assert rows["cmyk"]["mode"] == "CMYK"


def test_a_cut_image_can_be_kept_and_is_flagged(raw: RawStore) -> None:
    raw.add("half", half_a_jpeg())
    raw.add("grey", encode(np.full((64, 64, 3), 128, dtype=np.uint8), "JPEG"))
    workspace = raw.write()
    dedupe(workspace, cut="keep")
    assert {key: row["looks_cut"] for key, row in kept(workspace).items()} == {
        "half": True,
        "grey": False,
    }
    dedupe(workspace)
    assert set(kept(workspace)) == {"grey"}


def test_white_logos_on_transparency_are_no_duplicates(raw: RawStore) -> None:
    for number in range(4):
        logo = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
        logo.paste((255, 255, 255, 255), (4 + 8 * number, 4, 20 + 8 * number, 60 - 9 * number))
        raw.add(f"logo{number}", encode(logo), f"logo {number}")
    workspace = raw.write()
    dedupe(workspace)
    rows = kept(workspace)
    assert len(rows) == 4
    assert all(row["has_alpha"] for row in rows.values())


def test_an_image_without_its_decoder_is_tried_again_when_it_is_there(
    raw: RawStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    raw.add("heic", encode(photo(1), "HEIF"))
    raw.add("png", photo_png(2))
    workspace = raw.write()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)
        report = dedupe(workspace, workers=0)
        assert (report.counts["kept"], report.counts["missing_decoder"]) == (1, 1)
        assert report.details["missing_decoders"] == ["HEIF"]
        assert "pip install 'dalle-pipeline[heif]'" in rejected(workspace)["heic"]["detail"]
    again = dedupe(workspace, workers=0)
    assert (again.outcome, again.counts["kept"]) == ("done", 2)
    assert dedupe(workspace, workers=0).outcome == "unchanged"
