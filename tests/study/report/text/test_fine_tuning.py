"""The words of a study of fine-tuning."""

import dataclasses
import json
import re

import pytest

from groupnorm.study.report.text import describe
from groupnorm.study.report.text.fine_tuning import (
    conversions_note,
    fine_tuning_headline,
    fine_tuning_text,
)
from tests.study.fake_fine_tuning import REPORT, fine_tuning_study
from tests.study.fake_store import loaded


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return loaded(fine_tuning_study(tmp_path_factory.mktemp("fine-tuning")))


def test_the_first_sentence_is_the_finding_at_the_fewest_images(study):
    assert re.fullmatch(
        r"Converted at 1 image per worker has a higher mean IoU than reset GN by 4\.0 points "
        r"\(95 % interval [\d.]+ to [\d.]+, 3 seeds\) and BN trained by 8\.0 points "
        r"\(.* 3 seeds\); it cannot be told apart from frozen BN "
        r"\(95 % interval -[\d.]+ to [\d.]+, 3 seeds\)\. "
        r"Against BN trained with recomputed statistics: converted is 7\.0 points better than BN "
        r"trained \(recomputed statistics\) in mean IoU "
        r"\(95 % interval [\d.]+ to [\d.]+, 3 seeds\)\.",
        fine_tuning_headline(*study),
    )


def test_then_the_first_steps_and_what_depends_on_the_images(study):
    text = fine_tuning_text(*study)
    begins = "Converted at 1 image per worker after 100 steps has a higher mean IoU than reset GN"
    assert text.startswith(f"{begins} by ")
    for size in (2, 4):
        sentence = text.partition(f"Converted at {size} images per worker ")[2].partition(". ")[0]
        assert "BN trained" in sentence
        assert "reset GN" not in sentence


def test_what_the_conversions_did_and_left(study, tmp_path):
    text = conversions_note(study[0])
    assert text.startswith(
        "Converted: 3 conversions replaced 8 norms of the encoder, with an error of its maps of "
        "0.02 of their variance; none was left as it was. Errors are on images that no values were "
        "fitted to; numbers of groups, and whether to refit, were chosen on them. The reports"
    )
    left = [{"name": "encoder.0.1", "source": "BatchNorm", "reason": "it has no statistics"}]
    other, _ = loaded(fine_tuning_study(tmp_path, skipped=left))
    assert "Left as they were: encoder.0.1: it has no statistics." in conversions_note(other)


def test_each_arm_has_its_conversions_and_their_notes_are_told(tmp_path):
    out = fine_tuning_study(tmp_path)
    for path in out.glob("runs/arm1-*/env.json"):
        env = json.loads(path.read_text())
        env["init"]["conversion"] = {**REPORT, "output_error": 0.5, "notes": ["It is made up."]}
        path.write_text(json.dumps(env))
    text = conversions_note(loaded(out)[0])
    assert "Converted: 3 conversions replaced 8 norms of the encoder, with an error of its" in text
    assert "Reset GN: 3 conversions replaced 8 norms" in text
    assert text.count("The conversion says: It is made up.") == 1


def test_one_seed_tells_nothing(tmp_path):
    text, *_ = describe(*loaded(fine_tuning_study(tmp_path, seeds=1)))
    assert text.startswith("Nothing can be told from one seed: converted has a mean IoU of ")
    assert re.search(r"and BN trained of [\d.]+ % at 1 image per worker", text)


def test_without_batch_norm_one_seed_is_compared_with_the_best_which_was_picked(tmp_path):
    study, rows = loaded(fine_tuning_study(tmp_path, seeds=1))
    text = fine_tuning_headline(study, [row for row in rows if not row.precise_results])
    assert " and frozen BN of " in text
    assert "frozen BN was picked for the highest of 2 mean IoUs, which chance favours." in text


def test_arms_that_are_not_compared_are_listed(tmp_path):
    """One has failed, of another one seed of three has finished."""
    out = fine_tuning_study(tmp_path)
    for pattern in ("arm2-s*", "arm1-s[12]"):
        for path in out.glob(f"runs/{pattern}/DONE"):
            path.unlink()
    study, rows = loaded(out)
    text = fine_tuning_headline(study, rows)
    assert text.endswith(" Not compared: reset GN (1 seed), frozen BN (partial).")
    told = "Without a result: frozen BN at 1, 2, 4 images per worker (partial)."
    assert told in fine_tuning_text(study, rows)


def test_the_lower_of_two_errors_is_the_better_one(tmp_path):
    study, rows = loaded(fine_tuning_study(tmp_path))
    lower = {**study.manifest["metric"], "better": "lower"}
    study = dataclasses.replace(study, manifest={**study.manifest, "metric": lower})
    assert "per worker has a higher mean IoU than reset GN by" in fine_tuning_headline(study, rows)
    assert "has a lower mean" not in fine_tuning_headline(study, rows)


def test_what_else_differs_is_said(study):
    text = fine_tuning_text(*study)
    for told in (
        "its gamma and beta are too",
        "biases in its convolutions, which decay",
        "moments",
    ):
        assert told in text


def test_without_the_first_arm_there_is_nothing_to_compare(tmp_path):
    out = fine_tuning_study(tmp_path)
    for path in out.glob("runs/arm0-*/DONE"):
        path.unlink()
    study, rows = loaded(out)
    assert fine_tuning_headline(study, rows) == (
        "Converted at 1 image per worker has no result (partial), so that no arm can be compared "
        "with it."
    )
    told = "Without a result: converted at 1, 2, 4 images per worker (partial)."
    assert told in fine_tuning_text(study, rows)
