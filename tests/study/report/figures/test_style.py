"""The looks of figures: stable colours, and names on an axis."""

from matplotlib.figure import Figure

from groupnorm.study.report.figures.style import (
    BLUE,
    VERMILLION,
    name_axis,
    norm_styles,
    sequence_colors,
)


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


def test_a_long_name_takes_several_lines():
    axes = Figure().add_subplot()
    name_axis(axes, ["bn", "group norm with eight groups (ours)"])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["bn", "group norm with eight\ngroups (ours)"]
