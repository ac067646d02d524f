"""The measure: which real emoji is nearest to an image?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.core.kept_images import StoredImage
from pipeline.demo.emoji.nearest import KnownEmoji, compare, compare_generated, to_vector

GREYS = tuple(range(0, 240, 20))


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (40, 40), (value, value, value))


def known() -> KnownEmoji:
    """Twelve grey squares; the darker half is of one section."""
    return KnownEmoji(
        vectors_EP=np.stack([to_vector(np.asarray(grey(value))) for value in GREYS]),
        captions=tuple(f"grey {value}" for value in GREYS),
        sections=tuple("dark" if value < 120 else "light" for value in GREYS),
        places=tuple(StoredImage("", 0, 0, "") for _ in GREYS),
    )


def test_an_image_counts_as_right_if_no_other_emoji_is_nearer() -> None:
    emoji = known()
    near = np.stack([to_vector(np.asarray(grey(value))) for value in (9, 31, 200)])
    found = compare(emoji, near, ["grey 0", "grey 0", "grey 220"])
    assert found.first == 1 / 3
    assert found.among_ten == 1
    assert found.same_section == 1
    far = compare(emoji, near[-1:], ["grey 0"])
    assert (far.first, far.among_ten, far.same_section) == (0, 0, 0)


def test_the_share_by_chance_comes_from_the_sizes_of_the_sections() -> None:
    assert known().same_section_by_chance == 0.5


def test_generated_images_are_compared_with_what_their_prompts_name(tmp_path: Path) -> None:
    records = []
    for number, (value, prompt) in enumerate([(61, "grey 60"), (99, "grey 60")]):
        grey(value).save(tmp_path / f"{number}.png")
        records.append(json.dumps({"prompt": prompt, "file": f"{number}.png"}) + "\n")
    (tmp_path / "records.jsonl").write_text("".join(records))
    assert compare_generated(known(), tmp_path).first == 0.5
