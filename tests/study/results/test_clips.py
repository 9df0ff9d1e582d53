"""Which rows of a study of clips stand together, what stands against what, and the ceilings."""

import json

import pytest

from groupnorm.study.join import join_studies
from groupnorm.study.report.unrounded import study_numbers
from groupnorm.study.results.clips import (
    Clip,
    alike,
    ceiling_note,
    ceilings,
    clips_of,
    families,
    lines_of,
    longer_clips,
)
from groupnorm.study.results.compare import compare_published
from groupnorm.study.results.differences import (
    difference_header,
    difference_lines,
    differences_of,
    how_compared,
)
from groupnorm.study.results.labels import label_columns, label_of, row_name
from groupnorm.study.store import StoreError, read_manifest
from tests.study.fake_clips import clip_study
from tests.study.fake_store import add_to_manifest, loaded, spoil

SHORT, LONG = Clip(8, 2), Clip(16, 1)
PLAIN, WITH_WS = ("gn:size=8", "bn"), ("gn:size=8+ws", "bn+ws")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return loaded(clip_study(tmp_path_factory.mktemp("clips")))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return loaded(clip_study(tmp_path_factory.mktemp("four"), (*PLAIN, *WITH_WS), seeds=2))


def test_norms_with_weight_standardization_are_compared_among_themselves(four):
    _, rows = four
    found = families(rows)
    assert [{row.labels["norm"] for row in family} for family in found] == [
        set(PLAIN), set(WITH_WS),
    ]  # fmt: skip
    groups = [[(r.labels["norm"], r.labels["frames"], r.labels["batch_per_worker"]) for r in group]
              for group in alike(found[0])]  # fmt: skip
    assert groups == [
        [("gn:size=8", frames, batch), ("bn", frames, batch)]
        for frames in (8, 16) for batch in (8, 4, 2)
    ]  # fmt: skip


def test_a_further_label_makes_a_family_of_its_own(tmp_path):
    out = clip_study(tmp_path, seeds=1)
    manifest = read_manifest(out)
    for cell in manifest["cells"]:
        cell["labels"]["training"] = "900 steps"
    add_to_manifest(out, cells=manifest["cells"])
    study, rows = loaded(out)
    assert len(families(rows)) == 1
    assert label_columns(study) == ["norm", "frames", "clips per worker"], "all have the same"
    for cell in manifest["cells"]:
        if cell["labels"]["norm"] == "bn":
            cell["labels"]["training"] = "1,800 steps"
    add_to_manifest(out, cells=manifest["cells"])
    study, rows = loaded(out)
    assert len(families(rows)) == 2
    assert label_columns(study) == ["norm", "frames", "clips per worker", "training"]
    assert row_name(study, rows[-1]) == (
        "bn, 16 frames at stride 1, 2 clips per worker, 1,800 steps"
    )
    line = next(one for one in difference_lines(study, differences_of(study, rows))
                if one[0] == "gn:size=8")  # fmt: skip
    assert line[:5] == ["gn:size=8", "8 frames at stride 2", "16 at stride 1",
                        "8, 4, 2 (trained once)", "900 steps"]  # fmt: skip


def test_a_line_is_a_norm_at_one_number_of_clips_or_one_that_was_trained_once(clips):
    _, rows = clips
    assert clips_of(rows) == [SHORT, LONG]
    lines = lines_of(rows)
    assert [(line.norm, line.batch) for line in lines] == [
        ("gn:size=8", None), ("bn", 8), ("bn", 4), ("bn", 2),
    ]  # fmt: skip
    for line in lines:
        assert list(line.rows) == [SHORT, LONG]
        batches = {row.labels["batch_per_worker"] for row in line.rows.values()}
        assert batches == {line.batch or 8}


def test_longer_clips_stand_behind_the_shortest_of_the_same_norm_and_batch(clips):
    _, rows = clips
    pairs = longer_clips(rows)
    assert len(pairs) == 6
    for short, long in pairs:
        assert short.labels == {**long.labels, "frames": 8, "stride": 2}


def test_each_norm_stands_against_batch_norm_and_against_its_own_shorter_clips(four):
    study, rows = four
    found = differences_of(study, rows)
    running = [
        (one.name, one.against, [(r.labels["frames"], r.labels["batch_per_worker"])
                                 for r in one.rows])
        for one in found if not one.recomputed
    ]  # fmt: skip
    of_norms = [
        (f"gn:size=8{ws}", f"bn{ws}", [(frames, batch)])
        for ws in ("", "+ws") for frames in (8, 16) for batch in (8, 4, 2)
    ]  # fmt: skip
    of_clips = []
    for ws in ("", "+ws"):
        of_clips.append((f"gn:size=8{ws}", str(SHORT), [(16, 8), (16, 4), (16, 2)]))
        of_clips += [(f"bn{ws}", str(SHORT), [(16, batch)]) for batch in (8, 4, 2)]
    assert running == of_norms + of_clips


def test_a_gain_is_the_mean_of_the_differences_of_its_seeds(clips):
    study, rows = clips
    gain = next(one for one in differences_of(study, rows)
                if (one.name, one.clip) == ("bn", str(SHORT)) and one.recomputed)  # fmt: skip
    (long,) = gain.rows
    short = next(row for row, other in longer_clips(rows) if other is long)
    wanted = [long.precise_results[s] - short.precise_results[s] for s in (0, 1, 2)]
    assert gain.difference.mean == pytest.approx(sum(wanted) / 3)
    assert gain.difference.interval is not None
    assert gain.verdict == "higher accuracy"


def test_the_table_of_differences_says_what_stands_against_what(clips):
    study, rows = clips
    found = differences_of(study, rows)
    assert difference_header(study)[:4] == ["norm", "against", "frames", "clips per worker"]
    lines = difference_lines(study, found)
    assert lines[0][:4] == ["gn:size=8", "bn", "8 at stride 2", "8"]
    assert ["gn:size=8", "8 frames at stride 2", "16 at stride 1", "8, 4, 2 (trained once)"] in [
        line[:4] for line in lines
    ]
    words = how_compared(study, found)
    assert "longer clips stand against the shortest ones of the same norm" in words
    assert "Without batch norm" not in words
    numbers = study_numbers(study, rows)
    assert numbers["ceilings"] == {"2": 90.0}
    assert numbers["evaluated_on"] == "test videos"
    gains = [one for one in numbers["differences"] if one["against"] == str(SHORT)]
    assert {(one["norm"], one["frames"], one["stride"]) for one in gains} == {
        ("gn:size=8", 16, 1), ("bn", 16, 1),
    }  # fmt: skip


def test_a_row_without_a_result_has_no_gain(tmp_path):
    out = clip_study(tmp_path, seeds=1)
    spoil(out / "runs/bn-16f-n2-s0", "diverged", "loss is not finite")
    study, rows = loaded(out)
    (bad,) = (one for one in differences_of(study, rows) if one.clip and one.difference is None)
    assert bad.verdict == "no result: bn diverged"
    assert label_of(bad.rows) == "bn, 16 frames at stride 1, 2 clips per worker"


def test_the_ceilings_come_from_the_record(clips, tmp_path):
    study, rows = clips
    assert ceilings(study, rows) == {SHORT: 90.0}
    assert ceiling_note(study, rows) == (
        "In clips of 8 frames at stride 2 some classes of garments-motion are alike, so that no "
        "more than 90.0 % of the videos can be told right on average."
    )
    out = clip_study(tmp_path, seeds=1)
    data = read_manifest(out)["data"]
    add_to_manifest(out, data={**data, "ceilings": {}})
    assert ceiling_note(*loaded(out)) == ""
    add_to_manifest(out, data={**data, "ceilings": {"2": 101.0}})
    with pytest.raises(StoreError, match=r"has data\.ceilings\.2=101\.0"):
        loaded(out)


def test_the_papers_table_stands_beside_the_clips_of_the_same_order(clips):
    study, rows = clips
    (one,) = compare_published(study, rows)
    assert one.header == [
        "norm", "frames", "clips per worker", "top-1 accuracy, here", "top-1 accuracy, published",
        "top-5 accuracy, here", "top-5 accuracy, published",
    ]  # fmt: skip
    assert [(*line[:3], line[4], line[6]) for line in one.lines[:6]] == [
        ("bn", "8 here, 32 published", "8", "73.3", "90.7"),
        ("bn", "8 here, 32 published", "4", "72.1", "90.0"),
        ("bn", "16 here, 64 published", "4", "73.3", "90.8"),
        ("gn:size=8", "8 here, 32 published", "8", "73.0", "90.6"),
        ("gn:size=8", "8 here, 32 published", "4", "72.8", "90.6"),
        ("gn:size=8", "16 here, 64 published", "4", "74.5", "91.7"),
    ]
    assert [line[:3] for line in one.lines[6:]] == [
        ["bn", "8", "2"], ["bn", "16", "8"], ["bn", "16", "2"],
    ]  # fmt: skip
    bn_4 = next(r for r in rows if r.labels == {
        "norm": "bn", "batch_per_worker": 4, "frames": 16, "stride": 1})  # fmt: skip
    assert one.lines[2][3].startswith(f"{bn_4.mean:.1f} ±")
    assert "only the direction of differences compares" in one.words


def test_clips_of_the_published_lengths_stand_in_their_own_lines(tmp_path):
    out = clip_study(tmp_path, ("bn",), seeds=1, clips={32: 2}, batches=(8,))
    study, rows = loaded(out)
    (one,) = compare_published(study, rows)
    assert [line[:3] for line in one.lines[:2]] == [["bn", "32", "8"], ["bn", "32", "4"]]
    assert one.lines[0][3] == f"{rows[0].mean:.1f}"
    assert {line[3] for line in one.lines[1:]} == {"\u2013"}


def test_joined_studies_of_clips_stay_studies_of_clips(tmp_path):
    first = clip_study(tmp_path / "a", ("gn:size=8",), seeds=1)
    second = clip_study(tmp_path / "b", ("bn",), seeds=1)
    join_studies([first, second], tmp_path / "both", "groupnorm report a b --out both")
    manifest = json.loads((tmp_path / "both" / "study.json").read_text())
    assert manifest["shows"] == "clips"
    assert manifest["data"]["ceilings"] == {"2": 90.0}
    assert len(manifest["cells"]) == 12
