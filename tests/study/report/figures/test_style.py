"""The looks of figures: stable colours, and the same bytes every time."""

import re

import matplotlib
import pytest

from groupnorm.study.report.figures.style import (
    BLUE,
    VERMILLION,
    FigureSpec,
    Panel,
    norm_styles,
    render_files,
    render_panel,
    sequence_colors,
)


def draw_line(ax):
    ax.plot([1, 2, 3], [3.0, 1.0, 2.0], label="a")
    ax.plot([1, 2, 3], [30.0, 10.0, 20.0], label="$b^{$ <c> -- d")
    ax.set_ylim(0, 15)


def spec(name="fig", count=2):
    return FigureSpec(name, "Title", "Caption", [Panel(draw_line, "alt")] * count)


def test_a_norm_keeps_its_style_whatever_the_order_and_whatever_is_beside_it():
    norms = ["gn+ws", "bn", "gn:groups=8", "ln"]
    assert norm_styles(norms) == norm_styles(norms[::-1])
    assert norm_styles(["bn", "gn"])["bn"] == norm_styles(norms)["bn"]
    assert norm_styles(["bn"])["bn"].color == BLUE
    assert norm_styles(norms)["gn:groups=8"].color == VERMILLION


def test_norms_never_share_a_whole_style():
    """Nor, in curves, which have no markers, colour and dashes."""
    norms = ["bn", "gn", "ln", "in", "brn", "frn", "none", "gn+ws", "bn+ws", "syncbn", "evonorm_s0"]
    norms += ["ln2d", "none+nf"]
    styles = norm_styles(norms)
    assert len({(style.color, style.dashes) for style in styles.values()}) == len(norms)
    assert len({style.color for style in styles.values()}) == 7


def test_sequence_colors_get_lighter():
    def brightness(color):
        return sum(int(color[i : i + 2], 16) for i in (1, 3, 5))

    colors = sequence_colors(5)
    assert len(set(colors)) == 5
    assert [brightness(c) for c in colors] == sorted(brightness(c) for c in colors)
    assert len(sequence_colors(1)) == 1
    assert sequence_colors(0) == []


def test_files_are_the_same_bytes_twice_whatever_the_users_settings():
    first = render_files(spec())
    with matplotlib.rc_context({"lines.linewidth": 9.0, "xtick.major.size": 20.0}):
        assert render_files(spec()) == first
        assert matplotlib.rcParams["lines.linewidth"] == 9.0
    assert sorted(first) == ["png", "svg"]


def test_png_and_svg_carry_no_version_and_no_date():
    files = render_files(spec())
    assert files["png"].startswith(b"\x89PNG")
    assert b"tEXt" not in files["png"]
    assert b"Matplotlib" not in files["svg"]
    assert b"<!--" not in files["svg"]
    assert b"metadata" not in files["svg"]


@pytest.mark.parametrize("index", [0, 1])
def test_a_panel_is_one_svg_element_without_outside_references(index):
    text = render_panel(spec(), index)
    assert text.startswith("<svg")
    assert text.endswith("</svg>\n")
    assert "<script" not in text
    assert set(re.findall(r'href="(.)', text)) == {"#"}
    assert not re.search(r'(src|href)="https?:', text)


def test_ids_are_unique_over_the_panels_of_a_page_and_every_reference_has_its_target():
    panels = [render_panel(spec(name), i) for name in ("one", "two") for i in range(2)]
    ids = [re.findall(r'\bid="([^"]+)"', panel) for panel in panels]
    flat = [name for found in ids for name in found]
    assert len(flat) == len(set(flat))
    for found, panel in zip(ids, panels, strict=True):
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', panel)
        assert used
        assert {a or b for a, b in used} <= set(found)


def test_more_legend_lines_make_a_taller_figure():
    def many(ax):
        for i in range(8):
            ax.plot([0, 1], [0, i], label=f"a rather long name of a norm {i}")

    def height(draw):
        text = render_panel(FigureSpec("f", "", "", [Panel(draw, "")]), 0)
        return float(re.search(r'height="([\d.]+)pt"', text).group(1))

    assert height(many) > height(draw_line) > 3.0 * 72
