"""Which images of a prompt are kept, and by which names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.storage import sha256_file
from pipeline.generate.place import Recipe
from pipeline.generate.prompts import Order, Prompt
from pipeline.generate.sketches import Drawn
from pipeline.generate.writing import ImageWriter

SCORES = [0.25, 0.75, 0.5, 0.75]  # the two best are alike: the first drawn comes first
BEST_FIRST = [1, 3, 2, 0]
RECIPE = Recipe(config={}, inputs={})


def images(scores: list[float] | list[None]) -> list[Drawn]:
    pixels = [np.full((8, 8, 3), 10 * index, dtype=np.uint8) for index in range(len(scores))]
    prompt = Prompt(text="a cube")
    return [
        Drawn(
            order=Order(number=0, index=index, prompt=prompt, seed=index),
            pixels_HWC=pixels[index],
            score=score,
        )
        for index, score in enumerate(scores)
    ]


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_exactly_the_best_are_kept_best_first(keep: int, tmp_path: Path) -> None:
    book = ImageWriter(RECIPE.at(tmp_path / "x"), "mine", numbers=[0], keep=keep)
    book.write_prompts(iter(images(SCORES)), drawn=4, keep=keep, facts={})
    assert [(r["rank"], r["index"]) for r in book.records] == [*enumerate(BEST_FIRST[:keep])]
    assert [r["clip_score"] for r in book.records] == [SCORES[i] for i in BEST_FIRST[:keep]]
    names = [f"0000-{rank:02d}.png" for rank in range(keep)]
    assert [r["file"] for r in book.records] == names
    assert sorted(path.name for path in (tmp_path / "x").glob("*.png")) == names
    for record in book.records:
        assert sha256_file(tmp_path / "x" / record["file"]) == record["sha256"]


def test_without_scores_the_order_of_drawing_is_kept(tmp_path: Path) -> None:
    book = ImageWriter(RECIPE.at(tmp_path / "x"), "mine", numbers=[0], keep=3)
    book.write_prompts(iter(images([None] * 4)), drawn=4, keep=3, facts={})
    assert [(r["rank"], r["index"]) for r in book.records] == [(0, 0), (1, 1), (2, 2)]


def test_a_prompt_is_written_when_its_last_image_has_come_and_not_before(tmp_path: Path) -> None:
    book = ImageWriter(RECIPE.at(tmp_path / "x"), "mine", numbers=[0], keep=1)
    book.write_prompts(iter(images(SCORES)[:3]), drawn=4, keep=1, facts={})
    assert book.records == []
    assert not list((tmp_path / "x").glob("*.png"))
