"""Lists in every format, compressed or not, whole, broken and odd → URLs and captions."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from pipeline.core.errors import ConfigError, SourceError
from scrapers.sources.urls.source import UrlsSource
from tests.helpers.object_store import bucket, s3_server  # noqa: F401  (fixtures)
from tests.scrapers.sources.urls.lists import (
    compress,
    config_of,
    discover,
    extras,
    read,
    rows_of,
    write,
    write_parquet,
)

A, B = "http://a.example/1.png", "https://b.example/2.jpg?x=%2B"
TWO = [(A, ("a cat",)), (B, ("NA",))]


def as_format(kind: str) -> bytes:
    rows = [{"url": A, "caption": "a cat"}, {"url": B, "caption": "NA"}]
    texts = {
        "csv": f"url,caption\n{A},a cat\n{B},NA\n",
        "tsv": f"url\tcaption\n{A}\ta cat\n{B}\tNA\n",
        "json": json.dumps(rows),
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    return texts[kind].encode()


@pytest.mark.parametrize("compression", ["", ".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl"])
def test_text_formats_are_read_compressed_or_not(
    tmp_path: Path, kind: str, compression: str
) -> None:
    path = write(tmp_path / f"l.{kind}{compression}", compress(as_format(kind), compression))
    assert read(path) == TWO


def test_the_content_says_how_a_file_is_compressed(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.tsv", compress(as_format("tsv"), ".gz"))) == TWO
    assert read(write(tmp_path / "b.tsv.gz", as_format("tsv"))) == TWO
    parts = compress(as_format("tsv"), ".gz") + compress(f"{A}\tmore\n".encode(), ".gz")
    assert read(write(tmp_path / "c.tsv.gz", parts)) == [*TWO, (A, ("more",))]


def test_parquet_is_read_whatever_the_types_of_its_texts(tmp_path: Path) -> None:
    for kind in (
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ):
        columns = {"URL": pa.array([A, B]).cast(pa.string()).cast(kind) if kind != pa.binary() else
                   pa.array([A.encode(), B.encode()]), "TEXT": pa.array(["a cat", "NA"])}  # fmt: skip
        assert read(write_parquet(tmp_path / "l.parquet", columns)) == TWO


def test_txt_has_a_url_per_line_and_no_captions(tmp_path: Path) -> None:
    path = write(tmp_path / "l.txt", f"{A}\n\nhttp://c.example/a,b.png\r\n{B}")
    assert read(path) == [(A, ("",)), ("http://c.example/a,b.png", ("",)), (B, ("",))]


def test_a_folder_a_glob_and_several_lists_are_read_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "coyo"
    for number in (2, 0, 1):
        url = f"http://h.example/{number}.png"
        write_parquet(folder / f"part-{number}.parquet", {"url": [url], "text": [str(number)]})
    write(folder / ".hidden.tsv", "x")
    write(folder / "README.md", "x")
    every = [(f"http://h.example/{n}.png", (str(n),)) for n in range(3)]
    assert read(folder) == read(f"{folder}/*.parquet") == every
    found = discover(folder, f"{folder}/part-[01].parquet", folder / "part-1.parquet")
    assert [s.name for s in found.sections] == ["coyo"]
    (folder / "below").mkdir()
    (folder / "below" / "loop").symlink_to(folder)
    write(folder / "below/other.tsv", f"{A}\tx\n")
    assert read(folder) == every
    assert read(f"{tmp_path}/**/*.tsv") == [(A, ("x",))]
    assert rows_of(found.plans) == every  # each file once
    single = discover(folder / "part-1.parquet")
    assert [(s.name, s.captions) for s in single.sections] == [("part-1", 1)]


def test_links_to_lists_and_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "blobs/0123", as_format("tsv"))
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/l.tsv").symlink_to(tmp_path / "blobs/0123")
    (tmp_path / "link").symlink_to(tmp_path / "snapshot")
    assert read(tmp_path / "snapshot/l.tsv") == read(tmp_path / "link") == TWO
    assert read(f"{tmp_path}/link/*.tsv") == TWO


def test_a_list_is_named_without_the_suffixes_of_its_format(tmp_path: Path) -> None:
    path = write(tmp_path / "my.list.v2.TSV.GZ", compress(as_format("tsv"), ".gz"))
    assert [s.name for s in discover(path).sections] == ["my.list.v2"]


def test_lists_are_read_from_an_object_store(bucket: str) -> None:  # noqa: F811
    store, root = fsspec.core.url_to_fs(bucket)
    store.pipe_file(f"{root}/lists/a.tsv.gz", compress(as_format("tsv"), ".gz"))
    store.pipe_file(f"{root}/lists/b.tsv", f"{A}\tmore\n".encode())
    assert read(f"{bucket}/lists/a.tsv.gz") == TWO
    assert read(f"{bucket}/lists") == read(f"{bucket}/lists/*.tsv*") == [*TWO, (A, ("more",))]
    with pytest.raises(ConfigError, match="There is no list at s3://"):
        read(f"{bucket}/nothing.tsv")


def test_a_list_in_a_store_has_another_digest_when_it_changes(bucket: str) -> None:  # noqa: F811
    store, root = fsspec.core.url_to_fs(bucket)
    digests = []
    for text in (f"{A}\tx\n", f"{A}\ty\n", f"{A}\tx\n{B}\ty\n"):
        store.pipe_file(f"{root}/a.tsv", text.encode())
        digests.append(UrlsSource(config_of(f"{bucket}/a.tsv")).input_digests()["lists/a/a.tsv"])
    assert len(set(digests)) == 3
    assert UrlsSource(config_of(f"{bucket}/a.tsv")).input_digests() == {
        "lists/a/a.tsv": digests[-1]
    }


def test_errors_of_a_store_name_the_list(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    store, root = fsspec.core.url_to_fs(bucket)
    store.pipe_file(f"{root}/a.tsv", as_format("tsv"))

    class StoreError(Exception):
        """An error that only this store has."""

    def fail(*_: object, **__: object) -> bytes:
        raise StoreError("throttled")

    with monkeypatch.context() as patched:
        patched.setattr("s3fs.core.S3File._fetch_range", fail)
        with pytest.raises(
            SourceError, match=r"The list a\.tsv can't be read: StoreError: throttled"
        ):
            read(f"{bucket}/a.tsv")
    monkeypatch.setattr("s3fs.core.S3FileSystem._info", fail)
    with pytest.raises(SourceError, match=r"The list s3://.*/a\.tsv can't be read: throttled"):
        read(f"{bucket}/a.tsv")


# --- Values ---------------------------------------------------------------------------------------


def test_text_stays_text(tmp_path: Path) -> None:
    odd = ["NA", "null", "2020", "1e5", "true", "", " a  b ", "NaN", "-"]
    for kind, separator in (("tsv", "\t"), ("csv", ",")):
        lines = [f"http://h.example/{n}.png{separator}{text}" for n, text in enumerate(odd)]
        path = write(tmp_path / f"l.{kind}", f"url{separator}caption\n" + "\n".join(lines))
        assert [captions for _, captions in read(path)] == [(t,) for t in odd if t]


def test_a_lone_quote_in_tsv_swallows_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "l.tsv", f'{A}\t"unclosed\n{B}\t5" nail\n{A}\t"closed"\n')
    assert read(path) == [(A, ('"unclosed',)), (B, ('5" nail',)), (A, ('"closed"',))]


def test_quoted_values_of_csv_may_contain_newlines_quotes_and_commas(tmp_path: Path) -> None:
    path = write(tmp_path / "l.csv", f'url,caption\n{A},"one\ntwo, ""three""\r\n"\n{B},plain\n')
    assert read(path) == [(A, ('one\ntwo, "three"\r\n',)), (B, ("plain",))]


def test_rows_that_an_open_quote_of_csv_swallows_are_counted(tmp_path: Path) -> None:
    rows = [f'{A},"open', f"{A},two", f'{A},"three"', f"{B},NA"]
    found = discover(write(tmp_path / "l.csv", "url,caption\n" + "\n".join(rows) + "\n"))
    assert rows_of(found.plans) == [TWO[1]]
    assert found.differences == ("2 rows are broken (after a quote that is not closed: 2).",)


def test_delimiters_other_than_commas_are_recognised_in_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "l.csv", f"id|final_caption|url\n1|a, b|{A}\n")
    assert read(path) == [(A, ("a, b",))]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_the_last_row_is_read_without_a_line_end_too(tmp_path: Path, end: str) -> None:
    assert read(write(tmp_path / "l.tsv", f"{A}\ta cat\r\n{B}\tNA{end}")) == TWO


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl"])
def test_a_bom_is_no_part_of_the_first_value(tmp_path: Path, kind: str, encoding: str) -> None:
    text = as_format(kind).decode().replace("a cat", "a café 🐈")
    path = write(tmp_path / f"l.{kind}", text.encode(encoding))
    assert read(path) == [(A, ("a café 🐈",)), (B, ("NA",))]


def test_a_bom_before_a_headerless_list_is_no_part_of_the_url(tmp_path: Path) -> None:
    assert read(write(tmp_path / "l.tsv", f"\ufeff{A}\ta cat\n")) == [(A, ("a cat",))]
    assert read(write(tmp_path / "l.txt", f"\ufeff{A}\n")) == [(A, ("",))]


def test_a_carriage_return_within_a_value_of_tsv_is_a_space(tmp_path: Path) -> None:
    assert read(write(tmp_path / "l.tsv", f"{A}\ta\rcat\n{B}\tNA\n")) == [(A, ("a cat",)), TWO[1]]


def test_rows_across_blocks_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few bytes: every kind of value is cut somewhere."""
    monkeypatch.setattr("scrapers.sources.urls.streams.HEAD_BYTES", 100)
    monkeypatch.setattr("scrapers.sources.urls.streams.BLOCK_BYTES", 8)
    monkeypatch.setattr("scrapers.sources.urls.delimited.BLOCK_BYTES", 80)
    monkeypatch.setattr("scrapers.sources.urls.json_lists.BLOCK_BYTES", 12)
    words = ["é" * 9, "𝄞\\n" * 3, "x" * 40, "1" * 12]
    rows = [
        {"url": f"http://h.example/{n}", "caption": w, "n": n * 1000} for n, w in enumerate(words)
    ]
    wanted = [(row["url"], (row["caption"],)) for row in rows]
    lines = "".join(f"{row['url']}\t{row['caption']}\r\n" for row in rows)
    assert read(write(tmp_path / "l.tsv", lines)) == wanted
    for ascii_only in (True, False):
        text = json.dumps(rows, ensure_ascii=ascii_only, indent=1)
        assert read(write(tmp_path / "l.json", text)) == wanted
        assert extras(tmp_path / "l.json", keep_columns=("n",)) == [
            {"n": n * 1000} for n in range(4)
        ]
    columns = {name: [row[name] for row in rows] for name in ("caption", "n", "url")}
    text = json.dumps({"version": 12345678, **columns, "more": {"a": [1]}}, ensure_ascii=False)
    assert read(write(tmp_path / "l.json", text)) == wanted
    text = json.dumps({"info": {"x": [1, 2]}, "annotations": rows, "end": 1})
    assert read(write(tmp_path / "l.json", text)) == wanted


# --- Broken rows ----------------------------------------------------------------------------------


def test_broken_rows_are_counted_and_the_first_ten_are_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f"http://h.example/{n}.png\tcaption {n}" for n in range(1000)]
    for n in range(0, 200, 10):
        lines[n] = "only one column" if n % 20 else f"no url at all {n}\tcaption"
    path = write(tmp_path / "l.tsv", "url\tcaption\n" + "\n".join(lines) + "\n")
    with caplog.at_level(logging.WARNING):
        found = discover(path)
    assert found.num_urls == len(list(found.plans)) == 980
    sentence = "20 rows are broken (expected 2 columns, found 1: 10, not a URL: 10)."
    assert found.differences == (sentence,)
    logged = [record.getMessage() for record in caplog.records]
    assert logged[0] == sentence
    assert logged[11] == "  … and 10 more."
    assert all(text.startswith("  l.tsv") for text in logged[1:11])
    assert "  l.tsv, line 12: expected 2 columns, found 1: only one column" in logged


def test_a_row_that_is_not_utf8_is_broken_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "l.tsv", f"{A}\tcaf\xe9\n".encode("latin-1") + f"{B}\tNA\n".encode())
    assert read(path) == [TWO[1]]
    assert "l.tsv: not UTF-8: http://a.example/1.png caf\\xe9" in caplog.text


def test_broken_lines_of_jsonl_are_broken_alone(tmp_path: Path) -> None:
    deep = "[" * 100_000
    text = as_format("jsonl").decode().replace("\n", f'\n{{"url":\n[1]\n{deep}\n', 1)
    found = discover(write(tmp_path / "l.jsonl", text))
    assert rows_of(found.plans) == TWO
    assert found.differences == ("3 rows are broken (not JSON: 2, not a JSON object: 1).",)


def test_parts_of_jsonl_lines_make_no_row_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        json.dumps({"url": f"http://a.example/{n}.png", "caption": f"c {n}"}) for n in range(600)
    ]
    lines[10:10] = ['{"url": "http://a.example/x.png"', '"caption": "x"}', "{}, {}"]
    lines[299:299] = ["", "1"]
    lines[500:500] = ['{"url": "http://a.example/y.png", "caption": ["x"', '"y"]}']
    found = discover(write(tmp_path / "l.jsonl", "\n".join(lines)))
    assert [url for url, _ in rows_of(found.plans)] == [
        f"http://a.example/{n}.png" for n in range(600)
    ]
    assert found.differences == ("6 rows are broken (not JSON: 5, not a JSON object: 1).",)
    assert "l.jsonl, line 11: not JSON" in caplog.text
    assert 'l.jsonl, line 502: not JSON: "y"]}' in caplog.text


def test_lines_that_make_up_for_each_other_are_broken(tmp_path: Path) -> None:
    """Two values in one line and one value over two lines: as many as there are lines."""
    lines = ['{"url": "http://a.example/1.png"}, 0, {"url": "http://a.example/2.png"}']
    lines += ['{"url": "http://a.example/3.png", "caption": ["x"', '"y"]}']
    lines += ['{"url": "http://a.example/4.png", "caption": "z"}'] * 100
    found = discover(write(tmp_path / "l.jsonl", "\n".join(lines)))
    assert {url for url, _ in rows_of(found.plans)} == {"http://a.example/4.png"}
    assert found.differences == ("3 rows are broken (not JSON: 3).",)


@pytest.mark.parametrize(
    "url",
    ["", "   ", "ftp://a.example/x", "a.example/1.png", "http://", "http://a b.example/", "//a.example/",
     "http://a..example/", "http://a.example:0/", "http://a.example:99999/", "javascript:1"],
)  # fmt: skip
def test_what_is_no_web_url_is_a_broken_row(tmp_path: Path, url: str) -> None:
    found = discover(write(tmp_path / "l.tsv", f"url\tcaption\n{url}\tx\n{A}\ty\n"))
    assert rows_of(found.plans) == [(A, ("y",))]
    assert found.differences == ("1 row is broken (not a URL: 1).",)


def test_urls_are_resolved_as_a_browser_would(tmp_path: Path) -> None:
    written = [
        " HTTP://A.Example:80/1.png ",
        "http://a.example/x/../1.png",
        "http://a.example/1.png#top",
    ]
    path = write(tmp_path / "l.tsv", "url\tcaption\n" + "".join(f"{u}\tc\n" for u in written))
    assert [url for url, _ in read(path)] == [A] * 3


def test_more_broken_rows_than_allowed_end_the_run_before_anything_is_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "l.tsv", f"{A}\ta cat\nbroken\n{B}\tNA\nbroken, too\n")
    assert read(path, max_bad_rows=2) == TWO
    message = (
        r"more than 1 broken rows \(--max-bad-rows\), the first: l\.tsv, line 2: expected 2 columns"
    )
    with pytest.raises(SourceError, match=message):
        discover(path, max_bad_rows=1)


def test_rows_without_a_caption_are_left_out_and_counted(tmp_path: Path) -> None:
    found = discover(write(tmp_path / "l.tsv", f"url\tcaption\n{A}\t\n{B}\tNA\n{A}\t \u00a0\n"))
    assert rows_of(found.plans) == [TWO[1]]
    assert found.differences == ("2 rows are left out (without a caption: 2).",)


@pytest.mark.parametrize("name", ["l.tsv", "l.csv", "l.json", "l.jsonl", "l.txt", "l.tsv.gz"])
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_list_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    data = compress(content.encode(), ".gz") if name.endswith(".gz") else content.encode()
    with pytest.raises(SourceError, match=rf"nothing to fetch from {re.escape(name)}"):
        discover(write(tmp_path / name, data))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.tsv", "url\tcaption\n"),
        ("l.csv", "url,caption"),
        ("l.json", "[]"),
        ("l.json", '{"url": []}'),
    ],
)
def test_a_list_without_rows_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(SourceError, match=rf"nothing to fetch from {re.escape(name)}"):
        discover(write(tmp_path / name, content))


def test_an_empty_file_beside_others_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "lists/a.tsv", "")
    write(tmp_path / "lists/b.tsv", f"{A}\ta cat\n")
    assert read(tmp_path / "lists") == [(A, ("a cat",))]
    assert "The list a.tsv is empty." in caplog.text


@pytest.mark.parametrize("kind", ["tsv.gz", "tsv.bz2", "tsv.zst", "parquet", "json"])
def test_a_list_that_ends_early_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    columns = {"url": [f"http://h.example/{n}.png" for n in range(5000)], "caption": ["x"] * 5000}
    path = tmp_path / f"l.{kind}"
    if kind == "parquet":
        write_parquet(path, columns)
    elif kind == "json":
        write(path, json.dumps(columns))
    else:
        text = "".join(f"{url}\tx\n" for url in columns["url"])
        write(path, compress(text.encode(), path.suffix))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SourceError, match=rf"The list l\.{re.escape(kind)} can't be read"):
        discover(path)


def test_other_files_than_lists_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="The source urls needs lists"):
        discover()
    with pytest.raises(ConfigError, match=r"There is no list at .*nothing"):
        discover(tmp_path / "nothing.tsv")
    with pytest.raises(ConfigError, match="holds no list"):
        discover(tmp_path)
    with pytest.raises(ConfigError, match=r"The format of l\.xlsx can't be read from its name"):
        discover(write(tmp_path / "l.xlsx", "x"))
    with pytest.raises(SourceError, match=r"The list l\.parquet can't be read"):
        discover(write(tmp_path / "l.parquet", "url\n"))
    with pytest.raises(SourceError, match=r"The list l\.json can't be read as JSON"):
        discover(write(tmp_path / "l.json", "url\n"))
    write(tmp_path / "mixed/a.tsv", "x")
    write(tmp_path / "mixed/b.csv", "x")
    with pytest.raises(ConfigError, match=r"several formats \(csv, tsv\)\. Give a glob"):
        discover(tmp_path / "mixed")


def test_the_format_can_be_given(tmp_path: Path) -> None:
    assert read(write(tmp_path / "list", as_format("tsv")), list_format="tsv") == TWO


def test_columns_of_json_with_different_lengths_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "l.json", json.dumps({"url": [A, B], "caption": ["one"]}))
    with pytest.raises(SourceError, match="different lengths"):
        discover(path)


def test_values_of_mixed_types_are_text(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"url": A, "caption": 2020, "x": 1},
        {"url": B, "caption": "a", "x": "b"},
    ]
    path = write(tmp_path / "l.jsonl", "\n".join(map(json.dumps, rows)))
    assert read(path) == [(A, ("2020",)), (B, ("a",))]
    assert extras(path, keep_columns=("x",)) == [{"x": "1"}, {"x": "b"}]
