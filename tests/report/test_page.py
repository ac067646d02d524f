"""The report's page: text is escaped, images are embedded, plots contain every series."""

from __future__ import annotations

from bs4 import BeautifulSoup

from pipeline.report.page import Section, Tile, figures, html_table, image_tag, page, tiles, wall
from pipeline.report.plots import BOTTOM, HEIGHT, TOP, line_plot


def test_third_party_text_never_becomes_markup() -> None:
    evil = "<script>alert('x')</script>"
    body = (
        tiles([Tile(value=evil, label=evil)]) + html_table((evil,), [(evil,)]) + wall([(evil, [])])
    )
    body += figures([(evil, [image_tag(b"x", kind="png", alt=evil + '"')])])
    html = page(evil, evil, [Section(title=evil, note=evil, body=body)])
    soup = BeautifulSoup(html, "lxml")
    assert soup.find_all("script") == []
    assert soup.h1 is not None
    assert soup.h1.text == evil


def test_the_page_loads_nothing_from_elsewhere() -> None:
    html = page("t", "l", [Section(title="s", note="n", body=image_tag(b"x", kind="png", alt="a"))])
    soup = BeautifulSoup(html, "lxml")
    assert [tag for tag in soup.find_all(src=True) if not str(tag["src"]).startswith("data:")] == []
    assert [tag for tag in soup.find_all(href=True) if not str(tag["href"]).startswith("#")] == []


def test_a_plot_has_a_line_and_a_name_for_each_series_with_points() -> None:
    svg = line_plot(
        {"loss": [(0, 3.0), (10, 1.0)], "val": [(10, 2.0)], "none": []},
        x_label="step",
        y_label="loss",
    )
    soup = BeautifulSoup(svg, "lxml")
    assert len(soup.find_all("polyline")) == 2
    assert "none" not in soup.text
    assert "val" in soup.text
    assert line_plot({"none": []}, x_label="", y_label="") == ""


def test_a_plot_goes_down_where_values_fall() -> None:
    svg = line_plot({"loss": [(0, 3.0), (10, 1.0)]}, x_label="step", y_label="loss")
    points = str(BeautifulSoup(svg, "lxml").find("polyline")["points"]).split()  # type: ignore[index]
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points)
    assert x1 > x0
    assert y1 > y0


def line_of(*ys: float) -> list[float]:
    """The heights at which a plot of these values is drawn."""
    svg = line_plot({"loss": list(enumerate(ys))}, x_label="step", y_label="loss")
    points = str(BeautifulSoup(svg, "lxml").find("polyline")["points"]).split()  # type: ignore[index]
    return [float(point.split(",")[1]) for point in points]


def test_a_plot_begins_at_zero_or_below() -> None:
    bottom, top = HEIGHT - BOTTOM, TOP
    assert line_of(4.0, 2.0, 0.0) == [top, (bottom + top) / 2, bottom]
    assert line_of(4.0, 2.0) == [top, (bottom + top) / 2]
    assert line_of(-1.0, 1.0) == [bottom, top]
    assert line_of(0.0, 0.0) == [bottom, bottom]
