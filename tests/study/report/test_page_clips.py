"""The whole report of a study of clips, from its record alone."""

import pytest

from groupnorm.study.report.page import main_title, report_numbers, write_report
from groupnorm.study.store import StoreError
from tests.study.fake_clips import add_clip_samples, clip_study
from tests.study.fake_store import add_costs


def labels(norm, batch, frames, stride):
    return {"norm": norm, "batch_per_worker": batch, "frames": frames, "stride": stride}


LONG = {"better": labels("gn:size=8", 4, 16, 1), "worse": labels("gn:size=8", 4, 8, 2)}
OF_BN = {"better": labels("bn", 4, 16, 1), "worse": labels("bn", 4, 8, 2)}
FINDINGS = [
    {"statement": "GN gains from longer clips", "source": "Table 8", **LONG},
    {"statement": "GN gains more than BN", "source": "Table 8", **LONG, "than": OF_BN},
    {"statement": "BN gains nothing", "source": "Table 8", **OF_BN, "within": 0.75},
]


def test_numbers_for_programs_and_the_title(tmp_path):
    out = clip_study(tmp_path, seeds=2, findings=FINDINGS)
    numbers = report_numbers(out)
    assert numbers["ceilings"] == {"2": 90.0}
    assert numbers["findings"][0]["appears"] == "yes"
    assert numbers["findings"][2]["appears"] == "no, they differ by more"
    assert {(row["frames"], row["stride"]) for row in numbers["rows"]} == {(8, 2), (16, 1)}
    assert main_title(out).startswith(
        "Top-1 accuracy, top-5 accuracy, top-1 accuracy of one clip, top-5 accuracy of one clip: "
        "i3d_narrow on garments-motion, last epoch of 3, "
    )


@pytest.mark.slow
def test_the_report_has_every_section_and_the_same_bytes_again(tmp_path):
    out = add_clip_samples(clip_study(tmp_path, seeds=2, findings=FINDINGS, epochs=5))
    add_costs(out)
    written = write_report(out, column="single")
    names = [path.relative_to(out).as_posix() for path in written]
    for figure in ("accuracy-by-clip", "accuracy-by-batch", "curves-by-clip", "cost-by-clip"):
        assert {f"figures/{figure}.{kind}" for kind in ("svg", "pdf", "png")} <= {*names}
    assert "figures/predictions.png" in names
    page = (out / "report.html").read_text()
    for section in ("accuracy-by-clip", "table", "differences", "findings", "beside", "predictions",
                    "cost", "spent", "problems"):  # fmt: skip
        assert f'<section id="{section}">' in page
    assert "no more than 90.0 % of the videos can be told right on average" in page
    assert "Of a statement about two gains it is the first gain minus the other." in page
    assert "Of an equality it is the row that is named last minus the other one" in page
    assert "top-1 accuracy of one clip, top-5 accuracy of one clip, training accuracy" in page
    assert "95 % interval over parts" not in page
    assert "Wu &amp; He 2018, Table 8" in page
    before = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in write_report(out, column="single")} == before
    (out / "samples/0.png").unlink()
    with pytest.raises(StoreError, match=r"0\.png cannot be shown"):
        write_report(out)
