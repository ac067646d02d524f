"""Columns guessed, named or preset; conditions; shards; what is kept beside an image."""

from __future__ import annotations

import json
import logging
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.errors import ConfigError, SourceError
from scrapers.fetch.page_urls import resolve_url
from scrapers.sources.urls.config import UrlsConfig
from scrapers.sources.urls.rows import _PLAIN_URL
from scrapers.sources.urls.where import parse_condition
from tests.scrapers.sources.urls.lists import (
    config_of,
    discover,
    extras,
    read,
    write,
    write_parquet,
)

A, B = "http://a.example/1.png", "http://b.example/2.png"


@pytest.mark.parametrize(
    "header",
    [
        "url,caption",
        "URL,TEXT",
        "Image_URL,Text",
        "downloadurl,top_caption",
        "re_caption,url",
        "id,url,caption",
    ],
)
def test_columns_are_guessed_in_any_case(tmp_path: Path, header: str) -> None:
    names = header.split(",")
    cells = [A if "url" in name.lower() else "7" if name == "id" else "a cat" for name in names]
    assert read(write(tmp_path / "l.csv", f"{header}\n{','.join(cells)}\n")) == [(A, ("a cat",))]


@pytest.mark.parametrize("row", [f"{A}\ta cat", f"a cat\t{A}"])
def test_without_a_header_the_url_is_found_by_its_look(tmp_path: Path, row: str) -> None:
    assert read(write(tmp_path / "l.tsv", f"{row}\n")) == [(A, ("a cat",))]


def test_named_columns_give_all_captions_of_an_image(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "l.parquet",
        {"link": [A, B], "One": ["x", None], "two": [["y", "", "x", None], ["z"]]},
    )
    found = read(path, url_column="LINK", caption_column=("one", "two"))
    assert found == [(A, ("x", "y")), (B, ("z",))]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = write(tmp_path / "l.csv", f"address,words\n{A},a cat\n")
    with pytest.raises(
        ConfigError, match=r"looks like a URL\. Give --url-column; .* address, words\."
    ):
        discover(path)
    message = (
        r"no column 'adress' for --url-column\. Did you mean 'address'\? Choices: address, words"
    )
    with pytest.raises(ConfigError, match=message):
        discover(path, url_column="adress")
    with pytest.raises(
        ConfigError, match=r"no column 'text' for --caption-column\. Choices: address, words"
    ):
        discover(path, url_column="address", caption_column=("text",))
    with pytest.raises(ConfigError, match=r"no column 'width' for --keep-columns"):
        discover(path, url_column="address", keep_columns=("width",))
    with pytest.raises(ConfigError, match=r"no column 'md5' for --verify-hash"):
        discover(path, url_column="address", verify_hash="md5=md5")
    with pytest.raises(ConfigError, match=r"no column 'image_url' for --preset wit"):
        discover(path, preset="wit")


def test_the_guess_and_three_rows_are_printed_before_anything_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f"{n},http://h.example/{n}.png,caption {n},{n * 100}\n" for n in range(5))
    path = write(tmp_path / "l.csv", f"id,url,caption,width\n{rows}")
    with caplog.at_level(logging.INFO):
        found = discover(path, keep_columns=("width",), dry_run=True)
    assert [record.getMessage() for record in caplog.records] == [
        "l.csv: URL from url; caption from caption; kept beside it: width; not used: id. Its first rows:",
        '  http://h.example/0.png  caption 0  {"width": "0"}',
        '  http://h.example/1.png  caption 1  {"width": "100"}',
        '  http://h.example/2.png  caption 2  {"width": "200"}',
    ]
    assert found.num_urls == 0


def test_kept_values_keep_their_types_and_missing_ones_are_left_out(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "url": [A, B],
        "text": ["x", "y"],
        "width": pa.array([256, None], pa.int32()),
        "score": pa.array([0.5, float("nan")], pa.float64()),
        "tags": [["é", "b"], []],
        "raw": [b"\x00\xff", None],
    }
    path = write_parquet(tmp_path / "l.parquet", columns)
    kept = extras(path, keep_columns=("WIDTH", "score", "tags", "raw"))
    assert kept == [
        {"width": 256, "score": 0.5, "tags": ["é", "b"], "raw": "00ff"},
        {"tags": []},
    ]
    assert extras(path) == [None, None]


# --- The published lists --------------------------------------------------------------------------


def tsv(*rows: tuple[str, ...]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def test_cc3m_has_the_caption_first_and_cc12m_the_url(tmp_path: Path) -> None:
    wanted = [(A, ("a cat",)), (B, ("NA",))]
    path = write(tmp_path / "Train_GCC-training.tsv", tsv(("a cat", A), ("NA", B)))
    assert read(path, preset="cc3m") == wanted
    labels = tsv(("a cat", A, "cat,animal", "/m/01,/m/02", "0.9,0.8"), ("NA", B, "", "", ""))
    assert read(write(tmp_path / "labels.tsv", labels), preset="cc3m") == wanted
    assert (
        read(write(tmp_path / "cc12m.tsv", tsv((A, "a cat"), (B, "NA"))), preset="cc12m") == wanted
    )


def test_a_preset_reads_a_list_whose_first_row_is_broken(tmp_path: Path) -> None:
    path = write(tmp_path / "cc12m.tsv", "broken\n" + tsv((A, "a cat")))
    assert read(path, preset="cc12m") == [(A, ("a cat",))]


def test_yfcc_texts_are_decoded_and_videos_left_out(tmp_path: Path) -> None:
    def row(number: int, url: str, marker: str) -> tuple[str, ...]:
        cells = [
            str(number),
            f"photo{number}",
            *"abcdefghijklm",
            "http://page.example/",
            url,
            "CC",
            "http://l/",
        ]
        cells[8:10] = ["caf%C3%A9+au+lait", "100%25 <b>x</b>"]
        return (*cells, "1", "2", "s", "so", "jpg", marker)

    lines = tsv(row(0, A, "0"), row(1, B, "1"))
    path = write(tmp_path / "yfcc100m_dataset", lines)
    assert read(path, preset="yfcc15m") == [(A, ("café au lait", "100% <b>x</b>"))]
    assert extras(path, preset="yfcc15m")[0]["photoid"] == "photo0"


def test_wit_has_three_captions_and_newlines_in_quoted_values(tmp_path: Path) -> None:
    names = [
        "language", "page_url", "image_url", "page_title", "section_title", "hierarchical_section_title",
        "caption_reference_description", "caption_attribution_description", "caption_alt_text_description",
        "mime_type", "original_height", "original_width", "is_main_image",
    ]  # fmt: skip
    values = {"language": "en", "original_width": "640", "mime_type": "image/jpeg"}

    def row(**more: str) -> tuple[str, ...]:
        return tuple((values | more).get(name, "") for name in names)

    rows = tsv(
        tuple(names),
        row(image_url=A, caption_reference_description='"two\nlines, ""q"""',
            caption_attribution_description="English: a cat", caption_alt_text_description="alt"),
        row(image_url=B, caption_attribution_description="only this"),
        row(image_url="http://c.example/3.svg", caption_alt_text_description="x", mime_type="image/svg+xml"),
    )  # fmt: skip
    path = write(tmp_path / "wit_v1.train.all-00000-of-00010.tsv", rows)
    assert read(path, preset="wit") == [
        (A, ('two\nlines, "q"', "English: a cat", "alt")),
        (B, ("only this",)),
    ]
    assert extras(path, preset="wit")[1] == values


def test_sbu_is_an_object_of_columns_and_redcaps_one_of_annotations(tmp_path: Path) -> None:
    sbu = {"image_urls": [A, B], "user_ids": ["u", "v"], "captions": ["a cat", "NA"]}
    path = write(tmp_path / "sbu-captions-all.json", json.dumps(sbu))
    assert read(path, preset="sbu") == read(path) == [(A, ("a cat",)), (B, ("NA",))]
    assert extras(path, preset="sbu") == [{"user_ids": "u"}, {"user_ids": "v"}]
    rows = [{"image_id": "1", "url": A, "caption": "a cat", "raw_caption": "A Cat", "subreddit": "cats",
             "score": 7, "created_utc": 1500000000, "author": None, "permalink": "/r/cats/1"}]  # fmt: skip
    redcaps = {"info": {"description": "x", "years": [2017]}, "annotations": rows}
    path = write(tmp_path / "cats_2017.json", json.dumps(redcaps))
    assert read(path, preset="redcaps") == [(A, ("a cat",))]
    assert extras(path, preset="redcaps")[0]["score"] == 7


@pytest.mark.parametrize(
    ("preset", "columns", "captions", "kept"),
    [
        ("laion", {"SAMPLE_ID": [1], "URL": [A], "TEXT": ["t"], "HEIGHT": [1.0], "WIDTH": [2.0]}, ("t",),
         {"SAMPLE_ID": 1, "HEIGHT": 1.0, "WIDTH": 2.0}),
        ("relaion", {"url": [A], "caption": ["t"], "punsafe": [0.25]}, ("t",), {"punsafe": 0.25}),
        ("coyo", {"id": [5], "url": [A], "text": ["t"], "width": [3], "num_faces": [0]}, ("t",),
         {"id": 5, "width": 3}),
        ("datacomp", {"uid": ["ab"], "url": [A], "text": ["t"], "sha256": ["ff"], "face_bboxes": [[[0.1]]]},
         ("t",), {"uid": "ab", "sha256": "ff"}),
        ("recap-datacomp", {"url": [A], "re_caption": ["long"], "org_caption": ["t"], "key": ["k"]},
         ("long", "t"), {"key": "k"}),
    ],
)  # fmt: skip
def test_parquet_lists_have_presets(
    tmp_path: Path, preset: Any, columns: dict[str, Any], captions: tuple[str, ...], kept: Any
) -> None:
    path = write_parquet(tmp_path / "part-0.parquet", columns)
    assert read(path, preset=preset) == [(A, captions)]
    assert extras(path, preset=preset) == [kept]
    assert extras(path, preset=preset, keep_columns=(next(iter(kept)),)) == [
        {next(iter(kept)): kept[next(iter(kept))]}
    ]


# --- Conditions -----------------------------------------------------------------------------------

_TABLE = {
    "width": pa.array([100, 256, 512, None], pa.int32()),
    "punsafe": pa.array([0.5, 0.05, None, 0.01], pa.float32()),
    "text": pa.array(["a cat", "it's", "", None]),
    "digits": pa.array(["7", " 300 ", "many", ""]),
    "is_main": pa.array([True, False, None, True]),
    "main_text": pa.array(["true", "False", "", None]),
    "odd name": pa.array(["x", "y", "x", "y"]),
    "lang": pa.array(["en", "de", "en", "fr"]).dictionary_encode(),
}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("width >= 256", [1, 2]),
        ("width >= 256 and punsafe < 0.1", [1]),
        ("width<256 or punsafe<0.1", [0, 1, 3]),
        ("not width >= 256", [0, 3]),
        ("not (width >= 256 or width < 200)", [3]),
        ("width = 100 and punsafe = 0.5", [0]),
        ("WIDTH = 256", [1]),
        ("width != 256", [0, 2]),
        ("width is null", [3]),
        ("width is not null and text is not null", [0, 1]),
        ("text is null", [2, 3]),
        ("text = 'it''s'", [1]),
        ("digits > 5", [0, 1]),
        ("digits > width", [1]),
        ("digits < 1e2", [0]),
        ("is_main", [0, 3]),
        ("not is_main", [1, 2]),
        ("main_text = true", [0]),
        ("main_text = FALSE", [1]),
        ("\"odd name\" = 'x'", [0, 2]),
        ("`odd name` == 'x'", [0, 2]),
        ("lang in ('en', 'fr')", [0, 2, 3]),
        ("lang not in ('en')", [1, 3]),
        ("width in (100, 512)", [0, 2]),
        ("-1 < width", [0, 1, 2]),
        ("lang <> 'en' AND NOT width IS NULL", [1]),
    ],
)
def test_conditions_choose_rows(text: str, rows: list[int]) -> None:
    condition = parse_condition(text, tuple(_TABLE))
    found = condition.mask(_TABLE).to_pylist()
    assert [n for n, holds in enumerate(found) if holds] == rows
    assert None not in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("width >", "it ends too early"),
        ("width >= 256 and", "it ends too early"),
        ("(width > 1", "a parenthesis is not closed"),
        ("width > 1)", r"'\)' is unexpected"),
        ("width ! 1", "'! 1' is unexpected"),
        ("5", "a value alone is no condition"),
        ("width is 5", "'is' needs null"),
        ("text = 'open", '"\'open" is unexpected'),
        ("width in 5", "'in' needs a list"),
        ("(" * 500 + "width > 1" + ")" * 500, "nested too deeply"),
        ("widht > 1", r"no column 'widht'\. Did you mean 'width'\?"),
        ('text = "it"', r"no column 'it'\. Text is written in single quotes"),
        ("__import__('os')", "no column '__import__'"),
    ],
)
def test_conditions_that_cant_be_read_are_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_condition(text, tuple(_TABLE))


def test_rows_are_filtered_before_anything_else_and_counted(tmp_path: Path) -> None:
    rows = [(A, "x", "100"), (B, "y", "300"), ("no url", "z", "10")]
    path = write(tmp_path / "l.tsv", tsv(("url", "caption", "width"), *rows))
    found = discover(path, where="width >= 256")
    assert [plan.forms[0].caption for plan in found.plans] == ["y"]
    assert found.differences == (
        "2 rows are left out (by --where or the preset's own condition: 2).",
    )
    with pytest.raises(SourceError, match=r"nothing to fetch from l\.tsv: 3 rows are left out"):
        discover(path, where="width > 1000")


# --- Shards, limits, hashes -----------------------------------------------------------------------


def test_shards_cut_a_list_by_url_into_disjoint_parts(tmp_path: Path) -> None:
    rows = [(f"http://h{n % 7}.example/{n % 900}.png", str(n)) for n in range(1000)]
    path = write(tmp_path / "l.tsv", tsv(*rows))
    shards = [read(path, shard=f"{number}/3") for number in range(3)]
    assert sorted(row for shard in shards for row in shard) == sorted((u, (c,)) for u, c in rows)
    urls = [{url for url, _ in shard} for shard in shards]
    assert all(250 < len(some) < 350 for some in urls)
    assert len(set().union(*urls)) == sum(map(len, urls))
    # CRC-32 modulo N, for ever: other machines rely on it.
    assert all(zlib.crc32(url.encode()) % 3 == n for n, some in enumerate(urls) for url in some)


@pytest.mark.parametrize("shard", ["3/3", "1", "a/b", "-1/2", "0/0", "1/2/3"])
def test_shards_that_make_no_sense_are_refused(shard: str) -> None:
    with pytest.raises(ConfigError, match="--shard is"):
        UrlsConfig(shard=shard)


def test_a_limit_counts_the_rows_that_are_used(tmp_path: Path) -> None:
    path = write(tmp_path / "l.tsv", tsv((A, "1"), ("no url", "2"), (B, "3"), (A, "4")))
    assert read(path, limit=2) == [(A, ("1",)), (B, ("3",))]
    assert not discover(path, limit=2).names_all


def test_hashes_to_verify_come_with_the_rows(tmp_path: Path) -> None:
    good = "AB" * 32
    rows = (("url", "caption", "sha256"), (A, "x", good), (B, "y", "abc"))
    found = discover(write(tmp_path / "l.tsv", tsv(*rows)), verify_hash="sha256=SHA256")
    assert [plan.expected_hash for plan in found.plans] == [f"sha256:{good.lower()}"]
    assert found.differences == ("1 row is broken (no sha256: 1).",)
    with pytest.raises(ConfigError, match=r"expected sha256=COLUMN or md5=COLUMN"):
        config_of(verify_hash="crc32=x")


_URL_CHARS = "abAB0-._~%2eE/\\?#@:&=+!$'()*,;[]{}|`^<>\" \té"


@given(
    st.from_regex(r"\Ahttps?://[a-z0-9.:-]{1,12}", fullmatch=True), st.text(_URL_CHARS, max_size=20)
)
@example("http://a.b", "/x/../y")
@example("http://a.b", "/%2e/y")
def test_urls_that_are_not_looked_at_one_by_one_resolve_to_themselves(
    start: str, rest: str
) -> None:
    url = start + rest
    is_plain = pa.compute.match_substring_regex(pa.array([url]), _PLAIN_URL)[0].as_py()
    if is_plain and "/." not in url and "%2e" not in url.lower():
        assert resolve_url(url, "") == url


def test_one_host_with_most_rows_is_warned_of_with_the_hours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(f"https://upload.example/{n}.png", "x") for n in range(900)]
    rows += [(f"https://h{n}.example/1.png", "x") for n in range(100)]
    path = write(tmp_path / "l.tsv", tsv(*rows))
    discover(path, rate=0.1)
    assert "900 of 1,000 rows are on one host, https://upload.example: " in caplog.text
    assert "about 2.5 hours" in caplog.text
    caplog.clear()
    discover(path)  # 32 at once take seconds
    discover(write(tmp_path / "m.tsv", tsv(*rows[850:])), rate=0.001)  # a third of the rows
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
