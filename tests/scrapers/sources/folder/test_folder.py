"""The source `folder`: pairs as DALLE-pytorch makes them, and other places of captions."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.core.errors import ConfigError, SourceError
from tests.helpers.kept_workspace import make_png
from tests.scrapers.local.folders import Row, differences, rows, scrape_source, write_files

Files = dict[str, bytes | str | int]


def scraped(tmp_path: Path, files: Files, **options: object) -> tuple[dict[str, Row], str]:
    """The rows of a folder with these files, and what was left out."""
    root = write_files(tmp_path / "photos", files)
    report = scrape_source("folder", root, workspace=tmp_path / "w", **options)
    return rows(tmp_path / "w"), differences(report)


def captions(found: dict[str, Row]) -> dict[str, tuple[str, ...]]:
    return {name: row.captions for name, row in found.items()}


# --- Pairs --------------------------------------------------------------------------------------


def test_all_lines_of_a_text_are_captions_of_the_image_beside_it(tmp_path: Path) -> None:
    files: Files = {"a.png": 1, "a.txt": "a disc\r\n\n  another  \nthird\x0cpart"}
    found, _ = scraped(tmp_path, files)
    # The first stays first, the others are sorted.
    assert captions(found) == {"a.png": ("a disc", "another", "third\x0cpart")}


def test_bytes_stay_where_they_are(tmp_path: Path) -> None:
    found, _ = scraped(tmp_path, {"a.png": 1, "a.txt": "a disc"})
    row = found["a.png"]
    path = tmp_path / "photos" / "a.png"
    assert (row.segment, row.offset, row.bytes) == (str(path), 0, path.stat().st_size)
    assert row.url == path.as_uri()
    assert not list((tmp_path / "w" / "raw").glob("segments/*.tar"))


@pytest.mark.parametrize("suffix", ["JPG", "Png", "webp", "avif", "gif", "BMP", "jpeg", "tiff"])
def test_images_of_every_kind_and_case_are_found(tmp_path: Path, suffix: str) -> None:
    data = io.BytesIO()
    kind = {"JPG": "JPEG", "jpeg": "JPEG"}.get(suffix, suffix.upper())
    Image.new("RGB", (40, 30), "red").save(data, kind)
    found, _ = scraped(tmp_path, {f"a.{suffix}": data.getvalue(), "a.TXT": "red"})
    assert found[f"a.{suffix}"].state == "done"


def test_only_the_last_suffix_is_cut_from_a_stem(tmp_path: Path) -> None:
    files: Files = {"f.x.png": 1, "f.x.txt": "both", "g.png": 2, "g.y.txt": "other"}
    found, left_out = scraped(tmp_path, files)
    assert captions(found) == {"f.x.png": ("both",)}
    assert "Images without a caption (1): g.png." in left_out
    assert "Caption files without an image (1): g.y.txt." in left_out


def test_pairs_are_found_across_folders(tmp_path: Path) -> None:
    files: Files = {
        "images/00/1.png": 1,
        "texts/00/1.txt": "one",
        "images/01/2.jpg": 2,
        "2.txt": "two",
    }
    found, left_out = scraped(tmp_path, files)
    assert captions(found) == {"1.png": ("one",), "2.jpg": ("two",)}
    assert left_out == ""


def test_equal_names_in_different_folders_keep_their_own_captions(tmp_path: Path) -> None:
    found, _ = scraped(
        tmp_path,
        {
            "cats/1.png": 1,
            "cats/1.txt": "a cat",
            "dogs/1.png": 2,
            "dogs/1.txt": "a dog",
            "images/ants/1.jpg": 3,
            "texts/ants/1.txt": "an ant",
            "images/bees/1.jpeg": 4,
            "texts/bees/1.txt": "a bee",
        },
    )
    by_url = {row.url.split("photos/")[1]: row.caption for row in rows(tmp_path / "w").values()}
    assert len(found) == 3  # by the last part of the URL: two are called 1.png
    assert by_url["images/ants/1.jpg"] == "an ant"
    assert by_url["images/bees/1.jpeg"] == "a bee"


def test_of_several_images_for_one_text_the_one_that_dalle_pytorch_takes_counts(
    tmp_path: Path,
) -> None:
    files: Files = {"a.png": 1, "a.jpg": 2, "a.jpeg": 3, "a.webp": 4, "a.txt": "which"}
    found, left_out = scraped(tmp_path, files)
    assert list(found) == ["a.jpeg"]
    assert "Files left out for another one of the same name, which is in brackets (3)" in left_out
    assert "a.png (a.jpeg)" in left_out


def test_a_lower_case_suffix_wins_over_an_upper_case_one(tmp_path: Path) -> None:
    files: Files = {"a.PNG": 1, "a.png": 2, "a.TXT": "upper", "a.txt": "lower"}
    found, left_out = scraped(tmp_path, files)
    assert captions(found) == {"a.png": ("lower",)}
    assert "(2): a.PNG (a.png), a.TXT (a.txt)." in left_out


def test_groups_are_the_first_folders_or_the_name_of_the_root(tmp_path: Path) -> None:
    files: Files = {"a.png": 1, "a.txt": "a", "x/b.png": 2, "x/b.txt": "b"}
    files |= {"x/y/c.png": 3, "x/y/c.txt": "c"}
    found, _ = scraped(tmp_path, files)
    sections = {name: row.section for name, row in found.items()}
    assert sections == {"a.png": "photos", "b.png": "x", "c.png": "x"}


# --- What can't be used ---------------------------------------------------------------------------


def test_a_text_that_is_not_utf_8_is_refused_and_named_with_its_line(tmp_path: Path) -> None:
    files: Files = {"a.png": 1, "a.txt": b"ok\ncaf\xe9", "b.png": 2, "b.txt": "\ufeffgood"}
    found, left_out = scraped(tmp_path, files)
    assert captions(found) == {"b.png": ("good",)}
    assert "Caption files that can't be used (1): a.txt (line 2 holds the byte 0xe9" in left_out


def test_an_empty_text_is_named(tmp_path: Path) -> None:
    found, left_out = scraped(tmp_path, {"a.png": 1, "a.txt": " \n", "b.png": 2, "b.txt": "b"})
    assert list(found) == ["b.png"]
    assert "a.txt (it is empty)" in left_out


def test_files_that_are_no_images_are_rows_with_a_reason(tmp_path: Path) -> None:
    files: Files = {"a.png": "<html>", "a.txt": "a", "b.png": make_png(1)[:-30], "b.txt": "b"}
    files |= {"c.png": b"", "c.txt": "c", "d.png": 4, "d.txt": "d"}
    found, _ = scraped(tmp_path, files)
    assert {name: (row.state, row.reason) for name, row in found.items()} == {
        "a.png": ("not_an_image", "html"),
        "b.png": ("truncated", "ends_early"),
        "c.png": ("not_an_image", "empty"),
        "d.png": ("done", None),
    }


def test_loops_of_links_end_and_linked_folders_are_read_once(tmp_path: Path) -> None:
    root = write_files(tmp_path / "photos", {"in/a.png": 1, "in/a.txt": "a"})
    outside = write_files(tmp_path / "more", {"b.png": 2, "b.txt": "b"})
    (root / "loop").symlink_to(root)
    (root / "in" / "up").symlink_to("..")
    (root / "more").symlink_to(outside)
    (root / "again").symlink_to(outside)
    (outside / "back").symlink_to(root)
    (root / "none.png").symlink_to("nowhere")
    report = scrape_source("folder", root, workspace=tmp_path / "w")
    assert sorted(rows(tmp_path / "w")) == ["a.png", "b.png"]
    assert "Links to folders that are listed already (4): again/back, in/up, loop, more." in (
        differences(report)
    )
    assert "links to nothing (1): none.png" in differences(report)


def test_pipes_are_named_and_not_opened(tmp_path: Path) -> None:
    root = write_files(tmp_path / "photos", {"a.png": 1, "a.txt": "a", "b.txt": "b"})
    os.mkfifo(root / "b.png")
    report = scrape_source("folder", root, workspace=tmp_path / "w")
    assert sorted(rows(tmp_path / "w")) == ["a.png"]
    assert "Entries that are not regular files, or links to nothing (1): b.png" in differences(
        report
    )


def test_names_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    root = write_files(tmp_path / "photos", {"a.png": 1, "a.txt": "a"})
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.png")).write_bytes(make_png(2))
    report = scrape_source("folder", root, workspace=tmp_path / "w")
    assert r"Files whose name is not UTF-8 (1): 'caf\udce9.png'." in differences(report)


def test_the_workspace_in_the_folder_is_not_read(tmp_path: Path) -> None:
    root = write_files(tmp_path / "photos", {"a.png": 1, "a.txt": "a"})
    write_files(root / "w" / "generated", {"b.png": 2, "b.txt": "b"})
    scrape_source("folder", root, workspace=root / "w")
    assert sorted(rows(root / "w")) == ["a.png"]


def test_a_folder_without_a_pair_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"has no image with a caption\. Images without a caption \(1\): a"
    ):
        scraped(tmp_path, {"a.png": 1})


@pytest.mark.parametrize("inputs", [(), ("a", "b")])
def test_exactly_one_folder_is_read(tmp_path: Path, inputs: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=f"reads one folder, found {len(inputs)}"):
        scrape_source("folder", *inputs, workspace=tmp_path)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is not a folder"):
        scrape_source("folder", tmp_path / "file", workspace=tmp_path / "w")


# --- Other places of captions ---------------------------------------------------------------------


def test_captions_from_a_field_of_json_keep_the_other_fields(tmp_path: Path) -> None:
    files: Files = {"a.png": 1, "a.json": '{"text": ["one", "two"], "id": 7}'}
    files |= {
        "b.png": 2,
        "b.json": '{"id": 8}',
        "c.png": 3,
        "c.json": "[1]",
        "d.png": 4,
        "d.json": "{",
    }
    found, left_out = scraped(tmp_path, files, captions_from="json:text")
    assert captions(found) == {"a.png": ("one", "two")}
    assert found["a.png"].extra == {"id": 7}
    assert "b.json (it has no field 'text' but id)" in left_out
    assert "c.json (it is not a JSON object)" in left_out
    assert "d.json (it is not JSON" in left_out


@pytest.mark.parametrize(
    ("name", "table"),
    [
        (
            "captions.csv",
            'file_name,caption\na.png,"one, two"\nx/b.png,three\na.png,four\nno.png,none\n',
        ),
        (
            "captions.tsv",
            "path\tText\na.png\tone, two\n./x/b.png\tthree\na.png\tfour\nno.png\tnone\n",
        ),
        ("c.txt", "\ufeffcaption|key\none, two|a\nthree|b\nfour|a\nnone|no\n"),
    ],
)
def test_captions_from_a_table(tmp_path: Path, name: str, table: str) -> None:
    (tmp_path / name).write_text(table)
    files: Files = {"a.png": 1, "x/b.png": 2, "c.png": 3}
    found, left_out = scraped(tmp_path, files, captions_from=f"csv:{tmp_path / name}")
    assert captions(found) == {"a.png": ("one, two", "four"), "b.png": ("three",)}
    assert "Images without a caption (1): c.png." in left_out
    assert f"Rows of {name} without an image (1): no" in left_out


def test_a_table_without_the_columns_shows_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id,words\n1,a\n")
    with pytest.raises(ConfigError, match=r"one for the caption .*; found id, words"):
        scraped(tmp_path, {"a.png": 1}, captions_from=f"csv:{tmp_path / 'c.csv'}")


def test_captions_from_the_name(tmp_path: Path) -> None:
    found, _ = scraped(tmp_path, {"x/a_red__disc.png": 1}, captions_from="filename")
    assert captions(found) == {"a_red__disc.png": ("a red disc",)}


def test_captions_from_the_folder_keep_every_image(tmp_path: Path) -> None:
    files: Files = {"an armchair/0.png": 1, "an armchair/1.png": 2, "an armchair/1.jpg": 3}
    found, left_out = scraped(tmp_path, files, captions_from="folder")
    assert set(captions(found).values()) == {("an armchair",)}
    assert len(found) == 3
    assert left_out == ""


def test_captions_from_the_title_of_a_png(tmp_path: Path) -> None:
    files: Files = {"b.png": 2}
    for name, title in (("a", "Grün"), ("c", "  ")):
        text, data = PngInfo(), io.BytesIO()
        text.add_itxt("Title", title)
        Image.new("RGB", (30, 20), "green").save(data, "PNG", pnginfo=text)
        files[f"{name}.png"] = data.getvalue()
    found, left_out = scraped(tmp_path, files, captions_from="png-title")
    assert captions(found) == {"a.png": ("Grün",)}
    assert (
        "Images without a caption (2): b.png (it has no title), c.png (it has no title)."
        in left_out
    )


_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:{name}><rdf:Alt>'
    '<rdf:li xml:lang="de">Katze</rdf:li><rdf:li xml:lang="x-default">a cat</rdf:li>'
    "</rdf:Alt></dc:{name}></rdf:Description></rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize("name", ["title", "description"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_captions_from_xmp(tmp_path: Path, name: str, kind: str) -> None:
    data, packet = io.BytesIO(), _XMP.format(name=name)
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", packet)
    options: dict[str, object] = {"pnginfo": text} if kind == "PNG" else {"xmp": packet.encode()}
    Image.new("RGB", (30, 20), "green").save(data, kind, **options)
    files: Files = {f"a.{kind.lower()}": data.getvalue(), "b.png": 2}
    found, left_out = scraped(tmp_path, files, captions_from="xmp")
    assert next(iter(found.values())).captions == ("a cat", "Katze")
    assert "b.png (its XMP has no title)" in left_out


@pytest.mark.parametrize("value", ["text", "json:", "csv", "txt:x", "xmp:title"])
def test_unknown_places_of_captions_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(
        ConfigError, match=r"--captions-from .* is not known: expected txt, json:FIELD"
    ):
        scraped(tmp_path, {"a.png": 1}, captions_from=value)
