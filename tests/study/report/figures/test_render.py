"""How figures are written: the same bytes every time, text as text, nothing that overlaps."""

import io
import os
import re
import subprocess
import sys

import matplotlib
import pytest
from matplotlib.image import imread

from groupnorm.study.report.figures.render import (
    PNG_DPI,
    figure_style,
    lay_out,
    missing_letters,
    page_rows,
    render_files,
    render_panel,
)
from groupnorm.study.report.figures.style import FigureSpec, Panel, name_axis
from tests.tolerances import HUNDREDTH


def draw_line(ax):
    ax.plot([1, 2, 3], [3.0, 1.0, 2.0], label="a")
    ax.plot([1, 2, 3], [30.0, 10.0, 20.0], label="$b^{$ <c> -- d")
    ax.set_ylim(0, 15)
    ax.set_xlabel("epoch")


def spec(name="fig", count=2):
    return FigureSpec(name, "Title", "Caption", [Panel(draw_line, "alt")] * count)


@pytest.fixture(scope="module")
def files():
    return render_files(spec())


def test_files_are_the_same_bytes_twice_whatever_the_users_settings(files):
    with matplotlib.rc_context({"lines.linewidth": 9.0, "xtick.major.size": 20.0}):
        assert render_files(spec()) == files
        assert matplotlib.rcParams["lines.linewidth"] == 9.0
    assert sorted(files) == ["pdf", "png", "svg"]


def test_no_file_carries_a_version_or_a_date(files):
    assert files["png"].startswith(b"\x89PNG")
    assert b"tEXt" not in files["png"]
    assert b"Matplotlib" not in files["svg"]
    assert b"<!--" not in files["svg"]
    assert b"metadata" not in files["svg"]
    for word in (b"Date", b"Producer", b"Creator"):
        assert word not in files["pdf"]


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


SIZES = """
import hashlib
from tests.study.report.figures.test_render import spec
from groupnorm.study.report.figures.render import render_files
print({kind: hashlib.sha256(data).hexdigest() for kind, data in render_files(spec()).items()})
"""


@pytest.mark.slow
def test_another_process_writes_the_same_bytes():
    def digests(seed):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SIZES], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert digests("1") == digests("2")


def test_text_stays_text_in_svg_and_pdf(files):
    assert b">$b^{$ &lt;c&gt; -- d</text>" in files["svg"]
    assert b"'DejaVu Sans', Verdana, sans-serif" in files["svg"]
    assert b"/CIDFontType2" in files["pdf"]
    assert b"/ToUnicode" in files["pdf"]
    assert b"/Type3" not in files["pdf"]


def inches(files):
    """Width and height of a figure, which every format must have alike."""
    svg = re.search(rb'width="([\d.]+)pt" height="([\d.]+)pt"', files["svg"])
    pdf = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", files["pdf"])
    height, width = imread(io.BytesIO(files["png"])).shape[:2]
    sizes = [[float(size) / 72 for size in found.groups()] for found in (svg, pdf)]
    assert sizes[0] == pytest.approx(sizes[1], abs=HUNDREDTH)
    assert sizes[0] == pytest.approx([width / 300, height / 300], abs=HUNDREDTH)
    return sizes[0]


def letters(files):
    """The sizes of the text in an SVG, in points."""
    return {float(size) for size in re.findall(rb"font-size: ([\d.]+)px", files["svg"])}


def test_a_figure_is_as_wide_as_its_column_with_letters_of_8_to_9_points(files):
    single, double = (render_files(spec(), column) for column in ("single", "double"))
    assert inches(single)[0] == pytest.approx(3.3, abs=HUNDREDTH)
    assert inches(double)[0] == pytest.approx(6.9, abs=HUNDREDTH)
    assert letters(single) | letters(double) == {8.0, 8.5}
    assert inches(single)[1] > 1.6 * inches(double)[1]  # its panels stand below each other
    assert inches(files)[0] == pytest.approx(8.0)
    assert max(letters(files)) == 10.0


def drawn(panel, width):
    with figure_style("f"):
        return lay_out([[panel]], [1], [3.0], width)


LONG = "Group normalization with eight groups, weights standardized, and a name that is too long"


@pytest.mark.parametrize("count", [2, 9])
def test_the_legend_stays_inside_the_figure(count):
    def draw(ax):
        for i in range(count):
            ax.plot([0, 1], [0, i], label=f"{LONG} {i}")

    figure = drawn(Panel(draw, ""), 3.3)
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= -1
    assert box.x1 <= figure.bbox.width + 1
    assert box.y0 >= -1
    assert box.y1 < figure.axes[0].get_window_extent().y0
    assert "\n" in legend.get_texts()[0].get_text()


def test_a_title_longer_than_its_axes_goes_on_in_a_second_line():
    def draw(ax):
        ax.set_title("switchablenorms/Switchable-Normalization\nResNet-50 on ImageNet")

    figure = drawn(Panel(draw, ""), 2.2)
    assert figure.axes[0].get_title(loc="left").count("\n") > 1
    figure = drawn(Panel(draw, ""), 6.0)
    assert figure.axes[0].get_title(loc="left").count("\n") == 1


@pytest.mark.parametrize("width", [2.2, 2.9, 3.6])
def test_a_title_is_not_divided_at_hyphens(width):
    words = ["This", "study:", "i3d_narrow", "on", "garments-motion"]
    figure = drawn(Panel(lambda ax: ax.set_title(" ".join(words)), ""), width)
    title = figure.axes[0].get_title(loc="left")
    assert "\n" in title
    assert title.split() == words


@pytest.mark.parametrize("name", ["gn", "frozenbn, fine-tuned", "bn at 2, from scratch"])
def test_names_at_the_side_do_not_touch_the_edge_of_the_file(name):
    """Text is wider in the file than on the screen that the layout is made for."""

    def draw(ax):
        name_axis(ax, [name, "gn, fine-tuned, pretrained to the error of bn"])

    figure = drawn(Panel(draw, ""), 5.0)
    figure.set_dpi(PNG_DPI)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()
    for label in axes.get_yticklabels():
        assert label.get_window_extent(renderer).x0 > 0.02 * PNG_DPI


def test_names_along_the_bottom_that_would_run_together_are_turned():
    def draw(ax):
        ax.set_xticks(range(3), ["batch norm (running)", "synchronized batch norm", "bn"])

    def angles(width):
        return {
            label.get_rotation()
            for label in drawn(Panel(draw, ""), width).axes[0].get_xticklabels()
        }

    assert angles(2.5) == {25.0}
    assert angles(9.0) == {0.0}


def test_a_page_has_two_panels_in_a_row_and_a_last_one_alone():
    def widths(*panels):
        panels = [Panel(draw_line, "", width) for width in panels]
        return page_rows(FigureSpec("f", "", "", panels))

    assert widths(4.0) == [[(0, 4.6)]]
    assert widths(4.0, 4.0, 4.0) == [[(0, 4.2), (1, 4.2)], [(2, 4.6)]]
    ((_, first), (_, second)) = widths(4.0, 2.0)[0]
    assert (first, second) == pytest.approx((5.6, 2.8))


def test_letters_that_the_font_lacks_are_named():
    assert missing_letters("GN (ours), \u03b3 = 0, \u00e9") == ""
    assert missing_letters("\u6211\u4eec \u6211") == "\u6211\u4eec"
