"""The sizes of resized images, and what a ledger notes of the rule."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from scrapers.resizing.rule import Layout, ResizeMode, ResizeRule, Size, note_rule

RULE = ResizeRule(size=256)


@pytest.mark.parametrize(
    ("mode", "size", "scaled", "final"),
    [
        ("keep_ratio_largest", (800, 600), (256, 192), (256, 192)),
        ("keep_ratio_largest", (600, 800), (192, 256), (192, 256)),
        ("keep_ratio_largest", (1000, 3), (256, 1), (256, 1)),
        ("keep_ratio_largest", (100_000, 1), (256, 1), (256, 1)),  # never without pixels
        ("keep_ratio_largest", (257, 256), (256, 255), (256, 255)),
        ("keep_ratio_largest", (512, 255), (256, 128), (256, 128)),  # 127.5: to the even number
        ("keep_ratio_largest", (512, 253), (256, 126), (256, 126)),  # 126.5
        ("keep_ratio", (800, 600), (341, 256), (341, 256)),
        ("keep_ratio", (300, 900), (256, 768), (256, 768)),
        ("center_crop", (800, 600), (341, 256), (256, 256)),
        ("border", (800, 600), (256, 192), (256, 256)),
    ],
)
def test_larger_images_are_scaled_as_in_img2dataset(
    mode: ResizeMode, size: tuple[int, int], scaled: tuple[int, int], final: tuple[int, int]
) -> None:
    assert replace(RULE, mode=mode).layout(*size) == Layout(Size(*scaled), Size(*final))


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        ("keep_ratio_largest", (256, 256)),
        ("keep_ratio_largest", (10, 256)),
        ("keep_ratio", (256, 4000)),  # its shorter side counts
        ("center_crop", (256, 300)),
        ("border", (200, 100)),
    ],
)
def test_smaller_images_stay_as_they_are(mode: ResizeMode, size: tuple[int, int]) -> None:
    assert replace(RULE, mode=mode).layout(*size) is None


def test_smaller_images_are_enlarged_if_that_is_asked_for() -> None:
    rule = replace(RULE, enlarge=True)
    assert rule.layout(100, 50) == Layout(Size(256, 128), Size(256, 128))
    assert rule.layout(256, 100) is None
    assert replace(rule, mode="border").layout(256, 100) == Layout(Size(256, 100), Size(256, 256))
    assert replace(rule, mode="center_crop").layout(256, 256) is None
    assert replace(rule, mode="center_crop").layout(300, 256) == Layout(
        Size(300, 256), Size(256, 256)
    )


class Notes(dict[str, str]):
    """The notes of a ledger."""

    rows = 0

    def meta(self, name: str) -> str | None:
        return self.get(name)

    def set_meta(self, name: str, value: str | None) -> None:
        assert value is not None
        self[name] = value

    def last_time(self) -> int:
        return self.rows


def test_another_rule_than_that_of_the_images_before_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes = Notes()
    with caplog.at_level(logging.WARNING):
        for rule in (None, RULE, RULE):  # None leaves no note
            note_rule(notes, rule)
    assert not caplog.records
    for rule in (replace(RULE, size=128), replace(RULE, size=128), None):
        note_rule(notes, rule)
    first, second = (record.getMessage() for record in caplog.records)
    assert "keep_ratio_largest 256, as jpg of quality 95" in first
    assert "keep_ratio_largest 128" in first
    assert "as they came" in second


def test_a_new_ledger_takes_any_rule_and_an_old_one_is_as_it_came(
    caplog: pytest.LogCaptureFixture,
) -> None:
    note_rule(Notes(), RULE)
    assert not caplog.records
    old = Notes()
    old.rows = 1
    note_rule(old, None)
    assert not caplog.records
    note_rule(old, RULE)
    assert len(caplog.records) == 1
