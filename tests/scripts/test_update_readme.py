"""The documents' sections that no record in results/ has made yet."""

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
