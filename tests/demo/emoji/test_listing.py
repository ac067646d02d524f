"""Unicode's list of emoji."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError
from pipeline.demo.emoji.listing import Emoji, read_emoji_list

LIST = """\
# emoji-test.txt
# group: Smileys & Emotion
# subgroup: face-smiling
1F600                                      ; fully-qualified     # 😀 E1.0 grinning face
263A FE0F                                  ; fully-qualified     # ☺️ E0.6 smiling face
263A                                       ; unqualified         # ☺ E0.6 smiling face
# group: People & Body
1F44B 1F3FB                                ; fully-qualified     # 👋🏻 E1.0 waving hand: light skin tone
1F469 200D 1F680                           ; fully-qualified     # 👩‍🚀 E4.0 woman astronaut
# group: Component
1F3FB                                      ; component           # 🏻 E1.0 light skin tone
#EOF
"""


def test_a_list_has_an_emoji_once_and_without_skin_tones(tmp_path: Path) -> None:
    path = tmp_path / "emoji-test.txt"
    path.write_text(LIST, encoding="utf-8")
    assert read_emoji_list(path) == [
        Emoji("\U0001f600", "grinning face", "smileys_emotion"),
        Emoji("\u263a\ufe0f", "smiling face", "smileys_emotion"),
        Emoji("\U0001f469\u200d\U0001f680", "woman astronaut", "people_body"),
    ]
    assert read_emoji_list(path)[-1].file_stem == "1f469-200d-1f680"


@pytest.mark.parametrize("text", ["", "one\ntwo\n", "FFFFFF ; fully-qualified # x E1.0 none\n"])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"notes\.txt lists no emoji: expected lines like"):
        read_emoji_list(path)
