"""The figures of a study of conversions."""

import pytest
from matplotlib.figure import Figure

from groupnorm.study.report.figures.conversions import conversion_figures
from groupnorm.study.results.rows import load_study
from tests.study.fake_conversions import NETWORKS, conversion_study
from tests.tolerances import CLEARLY

RESNET, MOBILENET = NETWORKS


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    networks = load_study(conversion_study(tmp_path_factory.mktemp("conversions"))).conversions
    return {figure.name: figure for figure in conversion_figures(networks)}


def drawn(panel):
    axes = Figure().add_subplot()
    panel.draw(axes)
    return axes


def lines(axes):
    """The points of every line, by its label."""
    found = {}
    for container in axes.containers:
        x, y = container.lines[0].get_data()
        found.setdefault(container.get_label(), []).append((list(x), list(y)))
    return found


def test_each_has_a_panel_for_every_network_that_was_studied_so(figures):
    titles = {name: [drawn(p).get_title() for p in f.panels] for name, f in figures.items()}
    assert titles == {
        "kept": [RESNET, MOBILENET], "steps": [RESNET, f"{RESNET}, near the teacher"],
        "layers": [RESNET, MOBILENET]
    }  # fmt: skip


def test_fixed_groups_are_joined_and_the_others_stand_alone(figures):
    axes = drawn(figures["kept"].panels[0])
    assert [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()] == [
        "1", "8", "one-channel", "up to 32", "fitted"
    ]  # fmt: skip
    fixed, others = lines(axes)["fit"]
    assert [round(x) for x in fixed[0]] == [0, 1, 2]
    assert fixed[1] == pytest.approx([98.0, 98.0, 90.0], abs=CLEARLY)
    assert [round(x) for x in others[0]] == [3, 4]
    alone = axes.containers[-1].lines[0]
    assert alone.get_linestyle() == "None"


def test_no_marker_hides_another_methods(figures):
    found = lines(drawn(figures["kept"].panels[0]))
    assert len({parts[0][0][0] for parts in found.values()}) == 5


def test_fine_tuning_begins_at_what_is_converted(figures):
    found = lines(drawn(figures["steps"].panels[0]))
    (frozen,), (scratch,) = found["frozen BN, labels"], found["GN from scratch, labels"]
    assert frozen[0] == [0, 1, 2]
    assert frozen[1][0] == pytest.approx(80.25)
    assert scratch[0] == [1, 2]
    assert len(found) == 7
    low, high = drawn(figures["steps"].panels[1]).get_ylim()
    assert low < 80.25 < high
    assert high - low == pytest.approx(10.0)


def test_layers_are_in_the_order_of_the_network(figures):
    axes = drawn(figures["layers"].panels[0])
    assert [line.get_label() for line in axes.lines] == ["least squares", "fit"]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.01, 0.02, 0.03])
    assert axes.get_yscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.01", "0.1"]
