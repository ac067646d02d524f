"""A config's options are known by their names, whether they are in a section or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from pipeline.core.config import (
    StageConfig,
    build_config,
    declared_options,
    option,
    option_values,
    resolved,
    section,
)


@dataclass(frozen=True, kw_only=True)
class Paint:
    kind: Literal["oil", "ink"] = option("oil", "The paint.", name="paint")
    layers: int = option(1, "How often it is applied.", low=1)


@dataclass(frozen=True, kw_only=True)
class Speed:
    brushes: int = option(2, "Brushes at a time.", low=1, runtime=True)


@dataclass(frozen=True, kw_only=True)
class PaintConfig(StageConfig):
    title: str | None = option(None, "What is painted.")
    paint: Paint = section(Paint, "Paint")
    speed: Speed = section(Speed, "Speed")


def test_options_of_sections_are_listed_by_their_names_in_order() -> None:
    options = declared_options(PaintConfig)
    assert list(options) == ["workspace", "title", "paint", "layers", "brushes"]
    assert [option.panel for option in options.values()] == [None, None, "Paint", "Paint", "Speed"]
    assert options["paint"].place == ("paint", "kind")
    assert options["layers"].hint is int
    assert options["layers"].metadata["low"] == 1


def test_a_config_is_built_from_the_values_of_its_options_and_gives_them_back() -> None:
    config = build_config(PaintConfig, {"title": "a cube", "paint": "ink", "brushes": 3})
    assert config == PaintConfig(title="a cube", paint=Paint(kind="ink"), speed=Speed(brushes=3))
    assert option_values(config) == {
        "workspace": Path("data"),
        "title": "a cube",
        "paint": "ink",
        "layers": 1,
        "brushes": 3,
    }
    assert build_config(PaintConfig, option_values(config)) == config
    assert build_config(PaintConfig, {}) == PaintConfig()


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="PaintConfig has no options kind, speed"):
        build_config(PaintConfig, {"speed": 1, "kind": "ink", "layers": 2})


def test_a_manifest_holds_no_sections_and_no_runtime_options() -> None:
    config = PaintConfig(paint=Paint(layers=2))
    assert resolved(config) == {"title": None, "paint": "oil", "layers": 2}
