"""The documents' sections that no record in results/ has made yet."""

import pytest
import update_readme

from tests.study.fake_conversions import conversion_study


def test_a_study_of_conversions_has_its_figures_text_and_tables(tmp_path):
    folder = conversion_study(tmp_path / "convert-full-made-up")
    text = update_readme.conversions_section(folder)
    for name in ("kept", "steps", "layers"):
        assert f"](../results/convert-full-made-up/figures/{name}.png)" in text
    assert "Of the teacher's result on test images the fit keeps" in text
    assert "| ResNet-20, made up | fit | 98.0 ± 0.01 |" in text
    assert "Made by `groupnorm study convert" in text
    assert "minutes of one core. Record: [convert-full-made-up](" in text


def test_a_timing_beside_other_work_says_so():
    record = {
        "images": 256, "side": 224, "seconds": 150.4, "cpu_seconds": 280.0, "peak_bytes": 2.5e9,
        "command": "python benchmarks/conversion_published.py resnet50", "load_average": 0.2,
        "environment": {"threads": 2, "cpu": "a processor", "torch": "2.14"},
    }  # fmt: skip
    quiet = update_readme.resnet50_sentence(record)
    assert "takes 150 seconds with 2 threads, 280 of CPU time, and 2.5 GB at the peak" in quiet
    assert "other work" not in quiet
    busy = update_readme.resnet50_sentence({**record, "load_average": 6.04})
    assert "the machine had other work (load 6.0)" in busy


@pytest.mark.parametrize(
    ("found", "target", "least", "said"),
    [
        (1.4, 1.5, False, "1.40 (1.5)"),
        (1.55, 1.5, False, "1.55 (1.5) within 5 %"),
        (1.6, 1.5, False, "1.60 (1.5) missed"),
        (2.3, 2.2, True, "2.30 (2.2)"),
        (2.15, 2.2, True, "2.15 (2.2) within 5 %"),
        (0.9, 1.0, True, "0.90 (1) missed"),
        (1.6, None, False, "1.60"),
    ],
)
def test_a_target_is_met_or_missed_by_the_number_beside_it(found, target, least, said):
    assert update_readme.cell(found, target, least) == said


def test_targets_are_counted():
    record = {
        "summary": {
            "copies": [{"kernel": 1.4, "target": 1.5}, {"kernel": 1.4, "target": None}],
            "speed": [
                {"geometric_mean": 1.0, "target": 2.2, "worst": 0.97, "target_worst": 1.0},
                {"geometric_mean": 1.0, "target": None, "worst": 2.0, "target_worst": None},
            ],
        },
        "calls": [
            {"what": "layer", "direction": "forward", "warm": {"groupnorm": 9.0, "eager": 8.0}},
            {"what": "group_norm", "direction": "forward", "warm": {}},
        ],
    }
    assert update_readme.missed(record).startswith(
        "of 4 targets 1 are met, 1 are missed by no more than 5 % and 2 by more"
    )


def test_what_keeping_blocks_saves_is_told_from_what_the_kernels_save():
    times = {("torch", "default"): 100, ("torch", "kept"): 80,
             ("native", "default"): 90, ("native", "kept"): 76}  # fmt: skip
    rows = [{"network": "ResNet-18", "way": way, "memory": memory, "layout": "contiguous",
             "milliseconds": value} for (way, memory), value in times.items()]  # fmt: skip
    other = {**rows[0], "network": "ResNet-8", "milliseconds": 1}
    kept, kernels = update_readme.training_gains([*rows, other], "ResNet-18")
    assert update_readme.percents(kept) == "16 to 20 %"
    assert update_readme.percents(kernels) == "5 to 10 %"
