"""The words of a study of clips: the finding first, what longer clips give, and the ceilings."""

import json

import pytest

from groupnorm.study.report.tables import main_table_of, problems
from groupnorm.study.report.text import describe, protocol_words
from tests.study.fake_clips import clip_study
from tests.study.fake_store import configured, loaded, spoil


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return loaded(clip_study(tmp_path_factory.mktemp("clips")))


def test_the_first_sentence_is_the_finding_with_its_uncertainty(clips):
    first = describe(*clips)[0]
    assert first.startswith(
        "GN is 3.8 points better than BN in accuracy at 2 clips of 16 frames per worker "
        "(95 % interval "
    )
    assert ", 3 seeds). " in first


def test_a_change_of_nothing_is_called_so(tmp_path):
    out = clip_study(tmp_path, seeds=1)
    for path in out.glob("runs/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "val_accuracy": 50.0}) + "\n" for row in rows))
    told = " ".join(describe(*loaded(out)))
    assert "the accuracy of GN stays the same (1 seed)" in told
    assert "of BN at 8 clips per worker is the same (1 seed)" in told
    assert " 0.0 points" not in told


def test_what_was_trained_is_told_of_clips_and_videos(clips):
    study, rows = clips
    told = describe(study, rows)[1]
    assert "(12,000 training videos, 2,000 test videos, 10 classes)" in told
    assert (
        "2 normalizations at 3 batch sizes per worker in clips of 8 frames at stride 2 and of"
        in (told)
    )
    assert "the number of clips that share batch statistics" in protocol_words(study)
    assert not any("image" in paragraph for paragraph in describe(study, rows))


def test_what_longer_clips_give_and_whether_norms_differ_in_it(clips):
    (told,) = (p for p in describe(*clips) if p.startswith("From clips of 8 frames at stride 2"))
    assert "the accuracy of GN rises by 10." in told
    assert all(f"that of BN at {batch} clips per worker rises by" in told for batch in (8, 4, 2))
    assert "Against that of GN the change of BN at 8 clips per worker is " in told
    assert "no difference that can be told from chance" in told


def test_group_norm_against_batch_norm_at_every_number_of_clips_and_what_that_loses(clips):
    long, short = (p for p in describe(*clips) if p.startswith("In clips of ") and "BN" in p)
    assert long.startswith("In clips of 16 frames at stride 1, GN is ")
    assert short.startswith("In clips of 8 frames at stride 2, GN is ")
    for batch in (8, 4, 2):
        assert f"than BN in accuracy at {batch} clips per worker (95 % interval " in long
    assert "From 8 to 2 clips per worker the accuracy of BN falls by 2." in long


def test_the_ceiling_is_stated_with_what_it_takes_of_the_gain(clips):
    assert describe(*clips)[-1] == (
        "In clips of 8 frames at stride 2 some classes of garments-motion are alike, so that no "
        "more than 90.0 % of the videos can be told right on average. Clips of 16 frames at "
        "stride 1 have no such ceiling, so that up to 10.0 points of what they gain come from the "
        "ceiling and tell nothing of norms."
    )


def test_validation_videos_are_called_so(clips):
    study, rows = clips
    told = " ".join(describe(configured(study, validation_images=100), rows))
    assert "100 validation videos, held out of the training videos" in told


@pytest.mark.parametrize(
    ("norms", "frames", "begins"),
    [
        (("bn",), {8: 2, 16: 1}, "BN in clips of 16 frames at stride 1 is 10."),
        (("bn",), {16: 1}, "BN has an accuracy of 9"),
        (("bn", "bn+ws"), {16: 1}, "BN has an accuracy of 9"),
        (("gn:size=8+ws", "bn+ws"), {16: 1}, "GN+WS is 3."),
    ],
)
def test_other_norms_have_a_finding_too(tmp_path, norms, frames, begins):
    study, rows = loaded(clip_study(tmp_path, norms, seeds=2, clips=frames))
    assert describe(study, rows)[0].startswith(begins)


def test_one_seed_tells_nothing(tmp_path):
    told = describe(*loaded(clip_study(tmp_path, seeds=1)))
    assert told[0].startswith("Nothing can be told from one seed: GN has an accuracy of ")
    assert " at 2 clips of 16 frames per worker, and how much" in told[0]


def test_runs_that_are_missing_are_said_and_break_no_sentence(tmp_path):
    out = clip_study(tmp_path, seeds=1)
    for run in ("bn-16f-n2-s0", "gn-size8-8f-n8-s0"):
        spoil(out / "runs" / run, "missing")
    study, rows = loaded(out)
    told = describe(study, rows)
    assert told[0] == (
        "GN and BN cannot be compared at 2 clips of 16 frames per worker: no result of BN "
        "(missing)."
    )
    assert "the accuracy of GN cannot be given, because the two share no seed," in " ".join(told)
    assert told[-1].startswith("Not everything finished: 2 of 8 configurations")
    assert [line[0] for line in problems(study, rows)] == [
        "gn:size=8, 8 frames at stride 2, 8, 4, 2 clips per worker (trained once)",
        "bn, 16 frames at stride 1, 2 clips per worker",
    ]


def test_the_main_table_has_a_line_for_each_configuration_and_all_accuracies(clips):
    study, rows = clips
    header, body = main_table_of(study, rows)
    assert header == [
        "norm", "frames", "clips per worker", "top-1 accuracy (%)", "top-5 accuracy (%)",
        "top-1 accuracy of one clip (%)", "top-5 accuracy of one clip (%)",
    ]  # fmt: skip
    assert [line[:3] for line in body[:4]] == [
        ["gn:size=8", "8 at stride 2", "8, 4, 2 (trained once)"],
        ["gn:size=8", "16 at stride 1", "8, 4, 2 (trained once)"],
        ["bn", "8 at stride 2", "8"],
        ["bn (recomputed statistics)", "8 at stride 2", "8"],
    ]
    assert len(body) == 2 + 2 * 6
    assert all(" ± " in cell for line in body for cell in line[3:])
