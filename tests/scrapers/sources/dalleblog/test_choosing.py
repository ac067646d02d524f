"""What a captions file chooses: its lines, their sections, and what is said of lines that fit nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError
from scrapers.source import Discovery
from tests.scrapers.sources.dalleblog.test_source import discover


def choose(tmp_path: Path, *lines: str, **options: Any) -> Discovery:
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(lines))
    return discover(captions=file, **options)


def chosen(tmp_path: Path, *lines: str, **options: object) -> list[tuple[str, str]]:
    """Section and caption of each plan."""
    found = choose(tmp_path, *lines, **options)
    return [(plan.section, plan.forms[0].caption) for plan in found.plans]


CAPTION = "an armchair in the shape of an avocado. an armchair imitating an avocado."


def test_a_caption_is_taken_from_its_section_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    other = CAPTION.replace("an avocado", "a peach")
    assert chosen(tmp_path, other, "", f"  {CAPTION.upper()} ", other) == [
        ("product_design", other),
        ("product_design", CAPTION),
    ]


def test_a_section_before_a_tab_is_the_only_one_that_is_looked_at(tmp_path: Path) -> None:
    assert chosen(tmp_path, f"product_design\t{CAPTION}") == [("product_design", CAPTION)]
    # Its keys are computed, so it need not be one of its captions.
    assert chosen(tmp_path, f"emojis\t{CAPTION}") == [("emojis", CAPTION)]
    with pytest.raises(ConfigError, match="line 1: 'nothing"):
        choose(tmp_path, f"nothing\t{CAPTION}")


@pytest.mark.parametrize(
    ("letter", "number", "taken"),
    [
        ("a", 4999, True),
        ("a", 5000, True),
        ("a", 5001, False),
        ("é", 2500, True),
        ("é", 2501, False),
    ],
)
def test_a_caption_may_have_5000_bytes(
    letter: str, number: int, taken: bool, tmp_path: Path
) -> None:
    line = f"product_design\t{letter * number}"
    if taken:
        assert chosen(tmp_path, line) == [("product_design", letter * number)]
        return
    with pytest.raises(ConfigError, match="too long for a URL"):
        choose(tmp_path, line)


@pytest.mark.parametrize(
    ("number", "said"), [(1, None), (5, None), (6, "; and 1 more"), (9, "; and 4 more")]
)
def test_the_first_five_lines_that_fit_nothing_are_shown(
    number: int, said: str | None, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        choose(tmp_path, *(f"nothing like this {n}" for n in range(number)))
    text = str(error.value)
    assert text.startswith(f"{number} captions of")
    assert text.count("nothing like this") == min(number, 5)
    assert (said is None and " more" not in text) or (said is not None and said in text)


@pytest.mark.parametrize("line", ["a {} cube", "a } cube", "product_design\ta {x}"])
def test_a_caption_with_a_brace_has_no_address(line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are in no chosen section"):
        choose(tmp_path, line)
