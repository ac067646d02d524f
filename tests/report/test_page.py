"""The report's page: text is escaped, images are embedded, plots contain every series."""

from __future__ import annotations

import json

import pytest
from bs4 import BeautifulSoup

from pipeline.report.page import (
    Part,
    Section,
    Tile,
    fields_of,
    figures,
    filters,
    fit,
    html_table,
    image_tag,
    page,
    shown,
    tiles,
)
from pipeline.report.plots import (
    BOTTOM,
    HEIGHT,
    POINTS,
    STYLES,
    TOP,
    histogram,
    line_plot,
    log_ticks,
    round_ticks,
    short_number,
    thin_out,
)

EVIL = "<script>alert('x')</script>"


def part(title: str = "p", body: str = "", note: str = "n") -> Part:
    return Part(title=title, sections=(Section(title=title, note=note, body=body),))


def foreign_scripts(soup: BeautifulSoup) -> list[str]:
    """What a browser would run besides the page's own script."""
    scripts = [tag for tag in soup.find_all("script") if tag.get("type") != "application/json"]
    return [tag.text for tag in scripts[:-1]] + [tag.text for tag in scripts if "alert" in tag.text]


def test_columns_of_numbers_are_right_aligned() -> None:
    rows = [("a", 12_345, "1,234.5", 7), ("b", 1, "0.25", "not known")]
    soup = BeautifulSoup(html_table(("name", "images", "MB", "ms"), rows), "lxml")
    cells = [
        [each.get("class") == ["number"] for each in row.find_all(["th", "td"])]
        for row in soup("tr")
    ]
    assert cells == [[False, True, True, False]] * 3
    assert [cell.text for cell in soup("td")][:4] == ["a", "12,345", "1,234.5", "7"]


def test_third_party_text_never_becomes_markup() -> None:
    body = tiles([Tile(value=EVIL, label=EVIL)]) + html_table((EVIL,), [(EVIL,)], about=EVIL)
    body += figures([(EVIL, [image_tag(b"x", kind="png", alt=EVIL + '"')])])
    body += filters("of", search=EVIL, choices={"section": [EVIL, EVIL]})
    body += f"<p{fields_of({'section': EVIL})}>" + histogram(EVIL, [(EVIL, 1)], unit=EVIL)
    body += line_plot({EVIL: [(0, 1), (1, 2)]}, x_label=EVIL, y_label=EVIL)
    html = page(EVIL, EVIL, [part(EVIL, body, EVIL)], samples=[{"title": EVIL}])
    soup = BeautifulSoup(html, "lxml")
    assert foreign_scripts(soup) == []
    assert soup.h1 is not None
    assert soup.h1.text == EVIL
    data = soup.find(id="samples")
    assert data is not None
    assert json.loads(data.text) == [{"title": EVIL}]


def test_the_page_loads_nothing_from_elsewhere() -> None:
    html = page("t", "l", [part(body=image_tag(b"x", kind="png", alt="a"))])
    soup = BeautifulSoup(html, "lxml")
    assert [tag for tag in soup.find_all(src=True) if not str(tag["src"]).startswith("data:")] == []
    assert [tag for tag in soup.find_all(href=True) if not str(tag["href"]).startswith("#")] == []
    (policy,) = soup.select('meta[http-equiv="Content-Security-Policy"]')
    assert str(policy["content"]).startswith("default-src 'none'; img-src data:;")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a\x00b\x1b[31m", "a\\x00b\\x1b[31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("lone \ud800", "lone \\ud800"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("שלום", "שלום"),
    ],
)
def test_control_and_direction_characters_are_made_visible(text: str, safe: str) -> None:
    assert shown(text) == safe


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((200, 100), (96, 48)), ((100, 200), (48, 96)), ((50, 50), (96, 96)), ((5000, 1), (96, 1))],
)
def test_an_image_keeps_its_shape(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fit(size, 96) == fitted


def test_a_plot_has_a_line_and_a_name_for_each_series_with_points() -> None:
    svg = line_plot(
        {"loss": [(0, 3.0), (10, 1.0)], "val": [(10, 2.0)], "empty": []},
        x_label="step",
        y_label="loss",
    )
    soup = BeautifulSoup(svg, "lxml")
    assert len(soup.find_all("polyline")) == 2
    assert "empty" not in soup.text
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


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 6.1, [0, 2, 4, 6]),
        (10, 1000, [200, 400, 600, 800, 1000]),
        (0, 0.0379, [0, 0.01, 0.02, 0.03]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (3, 3, [3]),
    ],
)
def test_axes_have_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high) == ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.7, 6.1, [1, 2, 5]), (0.001, 600, [0.001, 0.01, 0.1, 1, 10, 100])],
)
def test_log_axes_have_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == ticks


@pytest.mark.parametrize(
    ("value", "words"), [(2000, "2,000"), (0.05, "0.05"), (3e6, "3M"), (2.5e9, "2.5G"), (0, "0")]
)
def test_numbers_on_axes_are_short(value: float, words: str) -> None:
    assert short_number(value) == words


def test_a_log_axis_is_offered_only_for_positive_values() -> None:
    for low, offered in ((1.0, True), (0.0, False), (-1.0, False)):
        svg = line_plot({"loss": [(0, low), (1, 5.0)]}, x_label="", y_label="")
        assert ('name="log"' in svg) is offered


def test_every_series_has_a_line_and_a_mark_of_its_own() -> None:
    series = {f"s{n}": [(0.0, float(n)), (1.0, n + 1.0)] for n in range(STYLES)}
    soup = BeautifulSoup(line_plot(series, x_label="", y_label=""), "lxml")
    assert len({str(line["class"]) for line in soup.find_all("polyline")}) == STYLES
    shapes = {str(mark.find()) for mark in soup.select("svg.plot g.mark")}
    assert len(shapes) == STYLES


def test_long_series_are_thinned_out_with_both_ends() -> None:
    points = [(float(n), float(n)) for n in range(10 * POINTS)]
    thin = thin_out(points)
    assert (len(thin), thin[0], thin[-1]) == (POINTS, points[0], points[-1])
    assert thin_out(points[:POINTS]) == points[:POINTS]


def test_a_histogram_has_a_bar_for_each_bin_with_its_number() -> None:
    soup = BeautifulSoup(histogram("Sizes", [("64", 3000), ("128", 0), ("256", 12)]), "lxml")
    titles = [title.text for title in soup.find_all("title")]
    assert titles == ["64: 3,000", "128: 0", "256: 12"]
    heights = [float(str(bar["height"])) for bar in soup.find_all("rect")]
    assert heights[0] > heights[2] > heights[1] == 0


def test_a_field_with_one_value_is_no_filter() -> None:
    soup = BeautifulSoup(
        filters("of", choices={"section": ["a"], "split": ["train", "val"]}), "lxml"
    )
    assert [select["name"] for select in soup.find_all("select")] == ["split"]
    assert filters("of", choices={"section": ["a"]}) == ""
