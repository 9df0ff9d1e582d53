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
