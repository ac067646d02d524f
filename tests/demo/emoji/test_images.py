"""The folder of images and captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import ConfigError, DependencyError
from pipeline.core.progress import no_progress
from pipeline.demo.emoji.font import INSTALL, SIDE, EmojiFont, find_file
from pipeline.demo.emoji.images import render_emoji
from tests.demo.emoji.installed import FONT, needs_font

GRIN = "1F600 ; fully-qualified # x E1.0 grinning face\n"
FLAG = "1F1E9 1F1EA ; fully-qualified # x E0.6 flag: Germany\n"


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def render(folder: Path, text: str) -> bool:
    assert FONT is not None
    names = folder.parent / "names.txt"
    names.write_text(text)
    return render_emoji(FONT, names, folder, no_progress)


@needs_font
def test_every_emoji_is_an_image_with_its_name_beside_it(tmp_path: Path) -> None:
    assert render(tmp_path / "out", f"# group: A & B\n{GRIN}# group: Flags\n{FLAG}")
    files = contents(tmp_path / "out")
    assert files.pop("rendered.json")
    assert sorted(files) == [
        *("a_b/1f600.png", "a_b/1f600.txt"),
        *("flags/1f1e9-1f1ea.png", "flags/1f1e9-1f1ea.txt"),
    ]
    assert files["flags/1f1e9-1f1ea.txt"] == b"flag: Germany\n"
    face = np.asarray(Image.open(tmp_path / "out/a_b/1f600.png"))
    assert face.shape == (SIDE, SIDE, 4)
    assert face[0, 0, 3] == 0
    red, green, blue, alpha = face[30, SIDE // 2].tolist()  # the forehead
    assert (alpha, red > 200, green > 150, blue < 120) == (255, True, True, True)


@needs_font
def test_images_are_rendered_again_only_when_something_is_missing_or_changed(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out"
    render(folder, GRIN + FLAG)
    first = contents(folder)
    assert not render(folder, GRIN + FLAG)
    (folder / "emoji/1f600.txt").unlink()
    (folder / "emoji/1f1e9-1f1ea.png").write_bytes(b"")
    assert render(folder, GRIN + FLAG)
    assert contents(folder) == first


@needs_font
def test_only_images_of_an_earlier_list_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    render(folder, GRIN + FLAG)
    (folder / "emoji/mine.png").write_bytes(b"mine")
    assert render(folder, FLAG)
    assert sorted(contents(folder)) == [
        *("emoji/1f1e9-1f1ea.png", "emoji/1f1e9-1f1ea.txt", "emoji/mine.png"),
        "rendered.json",
    ]


@needs_font
def test_what_is_not_one_glyph_of_the_font_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = "1F1FD 1F1FD ; fully-qualified # x E0.6 flag: nowhere\n"
    letter = "0041 ; fully-qualified # x E0.6 the letter A\n"
    render(tmp_path / "out", GRIN + unknown + letter)
    assert len(contents(tmp_path / "out")) == 3
    assert "The font lacks 2 emoji: flag: nowhere, the letter A." in caplog.text
    with pytest.raises(ConfigError, match="has none of the emoji"):
        render(tmp_path / "other", letter)


def test_a_font_that_is_not_installed_is_named_with_how_to_install_it(tmp_path: Path) -> None:
    usual = (tmp_path / "a.ttf", tmp_path / "b.ttf")
    with pytest.raises(DependencyError, match=r"a\.ttf, .*b\.ttf") as found:
        find_file(None, usual, what="The emoji font", flag="--font")
    assert INSTALL in str(found.value)
    assert "--font" in str(found.value)
    assert find_file(tmp_path / "c", usual, what="", flag="") == tmp_path / "c"


def test_a_file_that_is_no_emoji_font_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.ttf"
    path.write_bytes(b"no font")
    with pytest.raises(ConfigError, match=r"text\.ttf is not a font with emoji bitmaps"):
        EmojiFont(path)
