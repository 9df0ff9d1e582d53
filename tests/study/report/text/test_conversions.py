"""The words of a study of conversions."""

import re

import pytest

from groupnorm.study.report.text.conversions import conversions_text
from groupnorm.study.results.rows import load_study
from tests.study.fake_conversions import NETWORKS, conversion_study, spoil_trial

RESNET, _ = NETWORKS


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return load_study(conversion_study(tmp_path_factory.mktemp("conversions"))).conversions


def test_the_first_sentence_is_the_finding(networks):
    headline, others, tuned, done = conversions_text(networks)
    assert re.match(
        r"Of the teacher's result on test images the fit keeps, without labels and without a "
        r"training step, 99\.0 % \(95 % interval [\d.]+ to [\d.]+, 2 seeds\) with fitted groups, "
        r"98\.0 % \(.*\) at 8 groups and 98\.0 % .* with up to 32 groups of at least 4 channels, "
        r"on the mean over 2 networks\. That is at least what is aimed at, of every network\.",
        headline,
    )
    assert "reset 12.3 %, copy 36.2 %, data-free 88.0 %, least squares 90.0 %" in others
    assert "After 100 steps of distillation" in tuned
    assert f"less that of the teacher is, in points: {RESNET} -0.2; MobileNet" in tuned
    assert "calibrated with 16 of these" in done


def test_what_is_below_its_aim_is_named(tmp_path):
    networks = load_study(conversion_study(tmp_path, networks={RESNET: 99.0})).conversions
    assert "Less than aimed at is kept" not in conversions_text(networks)[0]
    one = networks[0]
    one.aims["gn"] = 100.0
    text = conversions_text([one])[0]
    assert f"Less than aimed at is kept: 99.0 % of {RESNET} with fitted groups (100 %" in text


def test_one_seed_has_no_interval_and_what_is_missing_is_said(tmp_path):
    out = conversion_study(tmp_path, seeds=1)
    spoil_trial(out)
    next((out / "runs" / "network1-s0" / "trials").glob("reset-gn-groups-8-*")).unlink()
    headline, *_, incomplete = conversions_text(load_study(out).conversions)
    assert "99.0 % (1 seed, no interval) with fitted groups" in headline
    assert "1 failed and 1 were not done" in incomplete
