"""The figure of errors against the values that a study tried."""

import json

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from groupnorm.study.report.figures.tuning import tuning_figure
from groupnorm.study.results.rows import load_study
from groupnorm.study.results.tuning import chosen_note, read_tuning
from tests.study.fake_fine_tuning import fine_tuning_study, tuned
from tests.study.fake_store import (
    add_to_manifest,
    groups_study,
    spoil,
    tuned_on_test,
    tuned_study,
)


def figure_of(out):
    tuning = read_tuning(out, load_study(out))
    figure = tuning_figure(tuning)
    drawn = []
    for panel in figure.panels:
        ax = Figure().add_subplot()
        panel.draw(ax)
        drawn.append(ax)
    return figure, drawn, tuning


def named(ax):
    return {line.get_label(): line for line in ax.get_lines() if line.get_label()[0] != "_"}


def test_a_line_for_each_norm_and_a_ring_around_the_chosen_value(tmp_path):
    figure, (ax,), tuning = figure_of(tuned_study(tmp_path))
    assert (figure.name, figure.title) == ("error-by-base_lr", "Error by learning rate")
    assert ax.get_title() == "32 images per worker"
    assert ax.get_ylabel() == "error on validation images (%)"
    assert ax.get_xlabel() == "learning rate (base_lr)"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0.1", "0.3", "1.0"]
    lines = named(ax)
    assert list(lines["gn"].get_xdata()) == [0, 1, 2]
    assert list(lines["gn"].get_ydata()) == [
        r.mean for r in tuning.rows if r.labels["norm"] == "gn"
    ]
    rings = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.get_lines()
             if line.get_markerfacecolor() == "none"]  # fmt: skip
    assert rings == [(0, tuning.chosen[0].mean), (1, tuning.chosen[1].mean)]
    assert "test images" not in figure.caption


def test_a_value_that_diverged_has_a_cross(tmp_path):
    out = tuned_study(tmp_path)
    for rate in (0.1, 0.3, 1.0):
        spoil(out / f"runs/gn-tried-lr{rate}-s0", "diverged")
    _, (ax,), _ = figure_of(out)
    assert [text.get_text() for text in ax.texts].count("diverged") == 3
    assert list(named(ax)["gn"].get_xdata()) == []


def test_a_record_tuned_on_test_images_says_so(tmp_path):
    figure, (ax,), _ = figure_of(tuned_on_test(tmp_path))
    assert ax.get_ylabel() == "error on test images (%)"
    assert figure.caption.startswith("Error on test images against the learning rate (base_lr)")


def test_divisions_have_a_panel_each_and_a_line_for_each_value(tmp_path):
    out = groups_study(tmp_path, seeds=1)
    manifest = json.loads((out / "study.json").read_text())
    cells = [
        {**cell, "labels": {**cell["labels"], "weight_decay": decay}}
        for cell in manifest["cells"]
        for decay in (0, 1e-4)
    ]
    tuning = {"validation_images": 140, "cells": cells}
    add_to_manifest(out, cells=cells[::2], shows="groups", tuned_over="weight_decay", tuning=tuning)
    figure, drawn, _ = figure_of(out)
    assert drawn[0].get_ylim() == drawn[1].get_ylim()
    assert [ax.get_title() for ax in drawn] == ["by number of groups", "by channels per group"]
    assert list(named(drawn[0])) == ["16", "8", "4", "2", "1"]
    assert figure.title == "Error by weight decay"
    assert "the best division depends on the weight decay" in figure.caption


def test_arms_of_fine_tuning_have_a_panel_for_each_number_of_images(tmp_path):
    out = tuned(fine_tuning_study(tmp_path))
    tuning = read_tuning(out, load_study(out))
    figure = tuning_figure(tuning)
    assert [panel.alt.rpartition(", ")[2] for panel in figure.panels] == [
        "1 image per worker", "2 images per worker", "4 images per worker",
    ]  # fmt: skip
    drawn, axes = plt.subplots()
    figure.panels[0].draw(axes)
    labels = [line.get_label() for line in axes.lines if not line.get_label().startswith("_")]
    assert labels == ["converted", "reset GN", "frozen BN", "BN trained"]
    plt.close(drawn)
    assert "converted, 1, 2, 4 images per worker (trained once): 3.2; " in chosen_note(tuning)
