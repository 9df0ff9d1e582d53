"""The figure of a conversion's layers."""

from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from groupnorm.conversion import ConversionReport
from groupnorm.conversion.report import ConvertedLayer
from groupnorm.study.report.figures.layers import layers_figure
from groupnorm.study.report.figures.render import render_files

LAYER = ConvertedLayer(
    name="bn1", aliases=[], source="BatchNorm2d", target="GroupNorm", channels=32, groups=8,
    source_eps=1e-5, eps=1e-5, affine="fitted", statistics="in scale and shift", trainable=True,
    error=0.02, note="", offset_share=0.5,
)  # fmt: skip


def report(*layers):
    return ConversionReport("gn", list(layers), [], [], [], None)


def drawn(panel):
    axes = Figure().add_subplot()
    panel.draw(axes)
    return axes


def test_layers_stand_from_top_to_bottom_with_errors_groups_and_offsets():
    second = replace(LAYER, name="", groups=0, error=0.0, offset_share=None)
    errors, offsets = map(drawn, layers_figure(report(LAYER, second)).panels)
    assert [name.get_text() for name in errors.get_yticklabels()] == ["bn1", "(the network)"]
    assert errors.get_ylim()[0] > errors.get_ylim()[1]
    assert errors.get_xlim() == (0.01, 0.1)
    assert [text.get_text() for text in errors.get_xticklabels()] == ["0.01", "0.1"]
    assert errors.lines[0].get_xdata().tolist() == [0.02, 0.01]  # 0 stands at the edge
    assert [text.get_text() for text in errors.texts] == ["8", "-"]
    assert [bar.get_width() for bar in offsets.patches] == [0.5, 0.0]


def test_what_was_not_measured_is_not_drawn():
    unseen = replace(LAYER, error=None)
    figure = layers_figure(report(unseen, replace(LAYER, offset_share=None)))
    (panel,) = figure.panels
    assert len(drawn(panel).texts) == 1
    assert "offset" not in figure.caption


@pytest.mark.parametrize("layers", [0, 200])
def test_no_layer_and_many_layers_make_a_figure(layers):
    many = [replace(LAYER, name=f"layer{i}.bn") for i in range(layers)]
    figure = layers_figure(report(*many))
    assert 1 < figure.panels[0].height < 15
    drawn(figure.panels[0])


@pytest.mark.slow
def test_the_files_are_the_same_each_time():
    figure = layers_figure(report(LAYER))
    assert render_files(figure) == render_files(figure)
