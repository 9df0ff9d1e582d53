"""The small panels draw the published table's numbers, whichever table a study names."""

import pytest
from matplotlib.figure import Figure

from groupnorm.study.report.figures import build_figures
from groupnorm.study.report.figures.published import (
    batch_panel,
    described,
    group_panels,
    norm_panel,
)
from groupnorm.study.results import published
from groupnorm.study.results.published import has_batches, has_groups, has_norms
from groupnorm.study.results.rows import load_study, summarize_study
from tests.study.fake_store import ERROR, add_to_manifest, batch_study, groups_study


def draw(panel):
    ax = Figure().add_subplot()
    panel.draw(ax)
    return ax


def main_figure(out, **keys):
    study = load_study(add_to_manifest(out, **keys))
    return build_figures(study, summarize_study(study))[0]


def test_which_table_fits_which_report():
    def fitting(fits):
        return {name for name in published.ids() if fits(published.load(name))}

    batches = fitting(has_batches)
    assert {"imagenet-batch-size", "imagenet-batch-renorm", "pets-notebook-ws"} < batches
    assert "imagenet-norms" not in batches
    assert fitting(has_groups) == {
        "imagenet-groups", "cifar10-resnet56-groups", "cifar10-resnet20-groups",
    }  # fmt: skip
    assert "imagenet-vgg16" in fitting(lambda table: has_norms(table, 8))
    assert "imagenet-batch-renorm" in fitting(lambda table: has_norms(table, 4))
    assert "imagenet-batch-renorm" in fitting(lambda table: has_norms(table, 8))
    assert "imagenet-resnet101" not in fitting(lambda table: has_norms(table, 8))
    assert "cifar10-he2016" not in fitting(lambda table: has_norms(table, 64))


def test_every_column_of_norms_is_a_line_with_its_name():
    table = published.load("cifar10-resnet56-batch-size")
    ax = draw(batch_panel(table, ERROR))
    norms = list(table.data)[1:]
    assert [list(line.get_ydata()) for line in ax.get_lines()] == [table.data[n] for n in norms]
    assert [t.get_text() for t in ax.texts] == ["BN", "GN", "IN", "in:affine=false"]
    assert ax.get_title() == "CharlesJWC/GroupNorm-pytorch\nResNet-56 on CIFAR-10"
    below = {t.get_text() for t in ax.texts if t.xyann[1] < 0}
    assert below == {"GN"}  # it ends just under IN


def test_a_published_spread_is_a_band_and_a_lost_number_a_shorter_line():
    ax = draw(batch_panel(published.load("cifar10-resnet20-batch-size"), ERROR))
    assert len(ax.collections) == 2
    lines = draw(batch_panel(published.load("imagenet-switchable-8-gpus"), ERROR)).get_lines()
    assert [len(line.get_xdata()) for line in lines] == [5, 6]


def test_norms_best_at_the_top():
    ax = draw(norm_panel(published.load("imagenet-vgg16"), ERROR, 32, 3.0))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["none", "BN", "GN"]
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [29.2, 28.0, 27.6]
    ax = draw(norm_panel(published.load("imagenet-resnet101"), ERROR, 2, 3.0))
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [31.9, 23.0]


def test_groups_of_the_divisions_a_table_has():
    (panel,) = group_panels(published.load("cifar10-resnet56-groups"), ERROR, ["groups", "size"])
    ax = draw(panel)
    assert list(ax.get_lines()[0].get_ydata()) == [9.5, 9.9, 10.3, 11.2, 12.3]
    assert len(group_panels(published.load("imagenet-groups"), ERROR, ["groups", "size"])) == 2


def test_whose_numbers_they_are():
    assert described(published.load("imagenet-norms")).startswith("the paper's own numbers (Wu")
    assert described(published.load("cifar10-he2016")).startswith("published numbers (He et al.")


@pytest.mark.parametrize(
    ("first", "panels"),
    [("imagenet-resnet101", 2), ("imagenet-batch-size", 2), ("imagenet-norms", 1), (None, 1)],
)
def test_the_main_figure_has_the_first_table_when_it_fits(tmp_path, first, panels):
    out = batch_study(tmp_path, ("bn", "gn"), (32, 2), 1)
    names = [first, "imagenet-batch-size"] if first else []
    figure = main_figure(out, published=names)
    assert len(figure.panels) == panels
    assert ("The small panel holds" in figure.caption) == (panels == 2)
    if first == "imagenet-resnet101":
        line = draw(figure.panels[1]).get_lines()[0]
        assert list(line.get_ydata()) == [22.0, 31.9]


def test_a_groups_report_has_the_named_tables_divisions(tmp_path):
    out = groups_study(tmp_path, 1)
    assert len(main_figure(out, published=["cifar10-resnet56-groups"]).panels) == 3
    assert len(main_figure(out, published=["imagenet-norms"]).panels) == 2
