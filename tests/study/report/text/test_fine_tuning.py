"""The words of a study of fine-tuning."""

import re

import pytest

from groupnorm.study.report.text import describe
from groupnorm.study.report.text.fine_tuning import (
    conversions_note,
    fine_tuning_headline,
    fine_tuning_text,
)
from tests.study.fake_fine_tuning import fine_tuning_study
from tests.study.fake_store import loaded


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return loaded(fine_tuning_study(tmp_path_factory.mktemp("fine-tuning")))


def test_the_first_sentence_is_the_finding_at_the_fewest_images(study):
    assert re.fullmatch(
        r"Converted at 1 image per worker has a higher mean IoU than reset GN by 4\.0 points "
        r"\(95 % interval [\d.]+ to [\d.]+, 3 seeds\) and BN trained by 8\.0 points "
        r"\(.* 3 seeds\); it cannot be told apart from frozen BN "
        r"\(95 % interval -[\d.]+ to [\d.]+, 3 seeds\)\.",
        fine_tuning_headline(*study),
    )


def test_then_the_first_steps_and_what_depends_on_the_images(study):
    text = fine_tuning_text(*study)
    assert text.startswith("Converted after 100 steps has a higher mean IoU than reset GN by ")
    for size in (2, 4):
        sentence = text.partition(f"Converted at {size} images per worker ")[2].partition(". ")[0]
        assert "BN trained" in sentence
        assert "reset GN" not in sentence


def test_what_the_conversions_did_and_left(study, tmp_path):
    text = conversions_note(study[0])
    assert (
        "replaced 8 norms of the encoder (3 conversions; error of the encoder's maps 0.02" in text
    )
    assert "None was left as it was." in text
    left = [{"name": "encoder.0.1", "source": "BatchNorm", "reason": "it has no statistics"}]
    other, _ = loaded(fine_tuning_study(tmp_path, skipped=left))
    assert "Left as they were: encoder.0.1: it has no statistics." in conversions_note(other)


def test_one_seed_tells_nothing(tmp_path):
    text, *_ = describe(*loaded(fine_tuning_study(tmp_path, seeds=1)))
    assert text.startswith("Nothing can be told from one seed: converted has a mean IoU of ")


def test_without_the_first_arm_there_is_nothing_to_compare(tmp_path):
    out = fine_tuning_study(tmp_path)
    for path in out.glob("runs/arm0-*/DONE"):
        path.unlink()
    study, rows = loaded(out)
    assert "there is nothing to compare it with" in fine_tuning_headline(study, rows)
    assert "Without a result: converted (partial)." in fine_tuning_text(study, rows)
