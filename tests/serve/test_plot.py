"""The line plots of the pages on trainings."""

from __future__ import annotations

from bs4 import BeautifulSoup

from pipeline.serve.pages.plot import line_plot


def labels(**series: list[tuple[float, float]]) -> list[str]:
    return [each.text for each in BeautifulSoup(line_plot(series, label=""), "lxml")("text")]


def test_large_numbers_on_both_axes_are_in_full_and_small_ones_are_short() -> None:
    shown = labels(speed=[(0, 0.0), (20_000, 25_000.0)])
    assert {"5,000", "10,000", "20,000", "25,000", "0"} <= set(shown)
    assert {"0.0001", "8e-05"} <= set(labels(lr=[(0, 8e-5), (10, 1e-4)]))


def test_a_logarithmic_axis_has_only_points_above_0_and_none_makes_no_plot() -> None:
    html = line_plot({"loss": [(1, 0.0), (2, 10.0), (3, 1000.0)]}, label="", log=True)
    (line,) = BeautifulSoup(html, "lxml")("polyline")
    assert len(str(line["points"]).split()) == 2
    assert "1,000" in labels(loss=[(2, 10.0), (3, 1000.0)])
    assert line_plot({"loss": [(1, 0.0)]}, label="", log=True) == ""
