"""The report as a whole: one self-contained page, the same bytes twice, nothing unescaped."""

import html
import re
from html.parser import HTMLParser

import pytest

from groupnorm.study.report.figures import build_figures
from groupnorm.study.report.figures.style import FigureSpec, Panel
from groupnorm.study.report.page import (
    _is_wide,
    build_report,
    main_table,
    main_title,
    report_numbers,
    write_report,
)
from groupnorm.study.report.tables import main_table_of, tables_csv
from groupnorm.study.report.written import LIST
from groupnorm.study.results.rows import load_study, summarize_study
from groupnorm.study.store import StoreError
from tests.study.fake_search import search
from tests.study.fake_store import (
    add_to_manifest,
    batch_study,
    groups_study,
    spoil,
    tuned_on_test,
    tuned_study,
)

pytestmark = pytest.mark.xdist_group("report")  # whose study with trouble is made once
HOSTILE = "<script>alert('x')</script> & \"quotes\" $a^{b$"
VOID = {"meta", "br", "hr", "img", "link"}


class Balanced(HTMLParser):
    """Checks that every tag is closed, and collects ids and tags."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def files(out):
    written = [path for path in out.rglob("*") if path.is_file() and "runs" not in path.parts]
    names = {path.relative_to(out).as_posix() for path in written} - {"study.json", LIST}
    return {name: (out / name).read_bytes() for name in sorted(names)}


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    """A study with everything that can go wrong, and its report."""
    out = batch_study(tmp_path_factory.mktemp("troubled"), seeds=2)
    spoil(out / "runs/bn-n2-s0", "diverged", HOSTILE)
    spoil(out / "runs/bn-n2-s1", "failed", "killed")
    spoil(out / "runs/bn-n8-s0", "partial")
    spoil(out / "runs/gn-groups8+ws-n32-s1", "missing")
    return out, build_report(out)


def test_the_report_is_one_valid_page(troubled):
    out, path = troubled
    assert path == out / "report.html"
    page = Balanced()
    page.feed(path.read_text())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.isdisjoint({"script", "img", "link", "iframe"})


def test_the_page_needs_nothing_from_outside(troubled):
    text = troubled[1].read_text()
    assert not re.search(r'(?:src|href)="\w+:', text)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 1_500_000


def test_what_the_store_says_is_escaped(troubled):
    text = troubled[1].read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;quotes&#34; $a^{b$" in text


def test_sections_come_in_order(troubled):
    order = re.findall(r'<section id="([^"]+)"', troubled[1].read_text())
    assert order == [
        "error-by-batch", "table", "differences", "beside", "running-and-recomputed",
        "curves-by-norm", "curves-by-batch", "runs", "problems", "measured",
    ]  # fmt: skip


def test_trouble_is_visible(troubled):
    text = troubled[1].read_text()
    for word in ("diverged", "failed", "partial"):
        assert re.search(rf'class="bad">[^<]*{word}', text), word
    assert "1 of 2 seeds failed: killed; 1 of 2 seeds diverged" in text
    assert "(1 of 2 missing)" in text


def test_the_page_shows_command_data_and_machine(troubled):
    text = troubled[1].read_text()
    for word in ("groupnorm study batch-size --out DIR", "a formula", "0.0-fake", "fixed-step"):
        assert word in text


def test_every_figure_is_there_in_three_formats_and_the_page_links_to_every_file(troubled):
    out, path = troubled
    names = ("curves-by-batch", "curves-by-norm", "error-by-batch", "running-and-recomputed")
    figures = [f"figures/{name}.{kind}" for name in names for kind in ("pdf", "png", "svg")]
    others = ["references.bib", "report.html", "tables.csv", "tables.md", "tables.tex"]
    assert list(files(out)) == ["differences.csv", *figures, *others]
    links = set(re.findall(r'<a href="([^"]+)"', path.read_text()))
    assert links == set(files(out)) - {"report.html"}


def test_the_sources_of_published_numbers_are_there_as_bibtex(troubled):
    out, path = troubled
    text = (out / "references.bib").read_text()
    assert re.findall(r"@\w+\{(\S+),", text) == ["wu2018group"]
    assert f"<pre>{text}</pre>" in path.read_text()


def test_figures_fill_their_cards(troubled):
    """Two panels share a row in proportion; beside one that stands alone is the caption."""
    text = troubled[1].read_text()
    rows = text.split('<div class="row">')[1:]
    grows = [
        re.findall(r'style="flex-grow: ([\d.]+)"', row.partition("</section>")[0]) for row in rows
    ]
    assert grows[0] == ["5.01", "3.39"]
    for row, panels in zip(rows, grows, strict=True):
        inside = row.partition("</figure>")[0].count("<figcaption>")
        assert inside == 1 or len(panels) == 2
    assert text.count("<figcaption>") == text.count("<figure>")


def test_the_hint_to_scroll_is_hidden_unless_a_table_is_wider_than_its_box(troubled):
    text = troubled[1].read_text()
    for table in ("table", "beside", "runs", "problems"):
        section = text[text.index(f'<section id="{table}">') :].partition("</section>")[0]
        assert '<p class="hint">Wider than the page: scroll sideways.</p>' in section
    settings = text[text.index('<section id="measured">') :]
    assert 'class="hint"' not in settings
    assert ".hint { display: none;" in text
    assert "animation-timeline: scroll(nearest inline)" in text


@pytest.mark.parametrize(
    ("header", "body", "wide"),
    [
        (["norm", "32"], [["a long name of a norm, which is broken on a phone", "27.6"]], False),
        (["norm", *"842"], [["bn", *["27.6 \u00b1 0.3"] * 3]], True),
        (["norm", "32"], [], False),
    ],
)
def test_a_wide_table_says_that_it_scrolls(header, body, wide):
    assert _is_wide(header, body) == wide


@pytest.mark.slow
def test_own_names_of_norms_are_in_figures_and_tables_and_explained(tmp_path):
    out = batch_study(tmp_path, norms=("bn", "gn:groups=8"), batches=(32, 2), seeds=1)
    plain = [path.relative_to(out) for path in write_report(out)]
    assert "groupnorm report FOLDER" not in (out / "report.html").read_text()
    before = files(out)
    labels = ["gn:groups=8=GN (ours)", "bn=B & N"]
    written = write_report(out, column="double", labels=labels)
    assert [path.relative_to(out) for path in written] == plain
    page = (out / "report.html").read_text()
    assert (
        'Names chosen for this report: "GN (ours)" is gn:groups=8; "B & N" is bn.'
        in html.unescape(page)
    )
    wanted = (
        "--column double --label &#39;gn:groups=8=GN (ours)&#39; --label &#39;bn=B &amp; N&#39;"
    )
    assert f"groupnorm report FOLDER {wanted}</code>" in page
    for figure in ("error-by-batch", "curves-by-norm", "curves-by-batch", "running-and-recomputed"):
        drawn = re.findall(r">([^<>]+)</text>", (out / f"figures/{figure}.svg").read_text())
        assert any(word.startswith("GN (ours)") for word in drawn), figure
        assert not any(word.startswith(("gn:", "bn")) for word in drawn), figure
    assert "| GN (ours) (trained once) |" in (out / "tables.md").read_text()
    assert r"B \& N (recomputed statistics) &" in (out / "tables.tex").read_text()
    assert r"\begin{table*}" in (out / "tables.tex").read_text()
    assert files(out)["tables.csv"] == before["tables.csv"]
    assert main_table(out, labels=labels)[1][0][0] == "B & N"
    write_report(out)
    assert files(out) == before


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("gn=GN", r"a norm of this study \(bn, gn:groups=8\), got 'gn=GN'"),
        ("bn", "takes SPEC=NAME"),
        ("bn=\u6211", "'\u6211': the font of the figures has no \u6211"),
    ],
)
def test_a_label_that_cannot_be_is_refused_before_anything_is_written(tmp_path, label, message):
    out = batch_study(tmp_path, norms=("bn", "gn:groups=8"), batches=(32,), seeds=1)
    before = files(out)
    with pytest.raises(ValueError, match=message):
        write_report(out, labels=[label])
    assert files(out) == before == {}


@pytest.mark.slow
def test_a_second_report_has_the_same_bytes_and_other_records_other_bytes(tmp_path):
    out = batch_study(tmp_path, norms=("bn", "gn"), batches=(32, 2), seeds=2)
    build_report(out)
    first = files(out)
    for name in first:
        (out / name).unlink()
    build_report(out)
    assert files(out) == first
    spoil(out / "runs/bn-n2-s0", "failed", "killed")
    build_report(out)
    assert {name for name, data in files(out).items() if data != first[name]} == (
        set(first) - {"references.bib"}
    )


def test_the_same_records_elsewhere_give_the_same_bytes(tmp_path, monkeypatch):
    def main_figure(study, rows):
        return build_figures(study, rows)[:1]

    monkeypatch.setattr("groupnorm.study.report.page.build_figures", main_figure)
    pages = []
    for place in ("a", "b/c"):
        out = batch_study(tmp_path / place, norms=("gn",), batches=(32,), seeds=1, study="norms")
        pages.append(build_report(out).read_bytes())
    assert pages[0] == pages[1]


def test_the_main_table_is_the_one_on_the_page(troubled):
    out, path = troubled
    header, body = main_table(out)
    study = load_study(out)
    assert (header, body) == main_table_of(study, summarize_study(study))
    text = path.read_text()
    for line in body:
        cells = "".join(f"[^/]*>{re.escape(cell)}</t[dh]>" for cell in line)
        assert re.search(f"<tr><th[^/]*>{cells[len('[^/]*>') :]}</tr>", text), line


def test_a_finished_study_says_there_are_no_problems(tmp_path):
    out = batch_study(tmp_path, norms=("gn",), batches=(32,), seeds=1, study="norms")
    assert "None: all 1 runs finished" in build_report(out).read_text()


def test_the_groups_study_reports_what_was_skipped(tmp_path):
    text = build_report(groups_study(tmp_path, seeds=1)).read_text()
    assert "16 channels cannot be divided into 64 groups" in text
    assert '<section id="error-by-groups">' in text


def test_a_study_without_any_run_has_a_report(tmp_path):
    out = batch_study(tmp_path, norms=("bn",), batches=(32, 2), seeds=1)
    for folder in sorted((out / "runs").iterdir()):
        spoil(folder, "missing")
    assert "no run has finished" in build_report(out).read_text()


@pytest.mark.parametrize("make", [tuned_study, batch_study])
def test_before_any_run_no_report_says_how_errors_are_made(tmp_path, make):
    out = make(tmp_path)
    for run in (out / "runs").iterdir():
        spoil(run, "missing")
    if make is tuned_study:
        add_to_manifest(out, cells=[])
    numbers = report_numbers(out)
    assert [numbers[key] for key in ("epochs_rule", "reported_epochs", "evaluated_on")] == [
        None
    ] * 3
    assert [row["evaluated_on"] for row in numbers["rows"]] == [None] * len(numbers["rows"])
    build_report(out)
    written = {path.name: path.read_text() for path in out.glob("*.*") if path.suffix != ".json"}
    for name, text in written.items():
        for words in ("last 5", "last epoch", " ()", ", ,", "0 seeds", "None"):
            assert words not in text.rpartition("</style>")[2], (name, words)
    for name in ("tables.tex", "tables.md"):
        assert ("Top-1 error" in written[name]) == (make is batch_study)


@pytest.mark.parametrize("read", [build_report, main_table])
def test_a_folder_without_a_study_is_refused(tmp_path, read):
    with pytest.raises(StoreError, match="holds no study"):
        read(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_study_stands_beside_every_table_its_manifest_names(tmp_path):
    out = batch_study(tmp_path, norms=("bn", "gn"), batches=(32, 2), seeds=1)
    names = ["cifar10-resnet20-batch-size", "cifar10-resnet56-groups", "imagenet-resnet101"]
    add_to_manifest(out, published=names)
    text = build_report(out).read_text()
    section = text[text.index('<section id="beside">') :]
    section = section[: section.index("</section>")]
    for word in ("BeFranke/GroupNorm, commit 954f6e7", "19.7 ± 0.59", "14.05 ± 0.29 (gn:groups=8)"):
        assert word in section
    assert section.count("only the direction of differences compares") == 3
    assert section.count("It has no number for a configuration of this study.") == 1
    assert "Published curve: BeFranke" in text
    assert "The paper" not in text.replace("The paper&#39;s", "")
    add_to_manifest(out, published=[])
    assert '<section id="beside">' not in build_report(out).read_text()


@pytest.mark.slow
def test_a_study_tuned_on_test_images_shows_the_best_value_and_every_value_tried(tmp_path):
    out = tuned_on_test(tmp_path)
    text = build_report(out).read_text()
    assert 'section id="tuning"' in text
    assert "same 3 values for every norm" in text
    assert "Values of base_lr chosen: bn, 32 images per worker: 0.1; gn, 32 images" in text
    header, body = main_table(out)
    study = load_study(out)
    by_value = {(r.labels["norm"], r.labels["base_lr"]): r for r in summarize_study(study)}
    assert header == ["images per worker", "32"]
    assert body[0] == ["bn", f"{by_value['bn', 0.1].mean:.1f} ± {by_value['bn', 0.1].spread:.1f}"]
    assert body[-1][1].startswith(f"{by_value['gn', 0.3].mean:.1f}")
    lines = (out / "tables.csv").read_text().splitlines()
    assert lines[0].startswith("chosen,norm,batch_per_worker,base_lr,seed")
    assert len(lines) == 1 + len(study.cells)
    assert sum(line.startswith("yes,bn,32,0.1,") for line in lines) == 2
    assert sum(line.startswith("yes,") for line in lines) == 4
    assert not tables_csv(study, list(by_value.values())).startswith("chosen")


def test_a_tuned_study_shows_the_runs_of_its_tables_and_every_value_tried(tmp_path):
    out = tuned_study(tmp_path)
    spoil(out / "runs/gn-tried-lr1.0-s0", "diverged", "the loss is not finite")
    text = build_report(out).read_text()
    study = load_study(out)
    rows = summarize_study(study)
    assert main_table(out)[1][0] == ["bn", f"{rows[0].mean:.1f} ± {rows[0].spread:.1f}"]
    assert main_title(out).endswith(
        "2 seeds, at the best base_lr of those tried on validation images"
    )
    assert text.index("140 validation images") < text.index('<section id="table">')
    assert text.index("test images, which had no part") > text.index('<section id="tuning">')
    assert 'id="error-by-base_lr"' in text
    lines = (out / "tables.csv").read_text().splitlines()
    assert lines[0].startswith("norm,batch_per_worker,base_lr,seed,run")
    assert len(lines) == 1 + len(study.cells)
    tried = (out / "tuning.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in tried] == [
        "chosen", "yes", "no", "no", "no", "yes", "no"
    ]  # fmt: skip
    assert ">gn, 32 images per worker, base_lr 1.0</th>" in text


def test_a_tuned_study_shows_what_it_tried_before_anything_was_chosen(tmp_path):
    out = tuned_study(tmp_path)
    add_to_manifest(out, cells=[])
    spoil(out / "runs/bn-tried-lr0.3-s0", "missing")
    spoil(out / "runs/gn-tried-lr0.3-s0", "failed", "killed")
    text = build_report(out).read_text()
    assert "For 2 configurations none is chosen yet." in text
    assert "Values of base_lr chosen: none yet." in text
    assert "<td>failed: killed</td>" in text
    assert main_table(out) == (["images per worker"], [])


@pytest.mark.slow
def test_every_value_tried_on_test_images_is_among_the_runs_and_problems(tmp_path):
    out = tuned_on_test(tmp_path)
    spoil(out / "runs/gn-lr1.0-s0", "diverged", "the loss is not finite")
    text = build_report(out).read_text()
    assert ">gn, base_lr 1.0</th>" in text
    assert "1 of 6 configurations (12 runs in all) lack seeds (diverged)" in text


@pytest.mark.slow
def test_a_study_that_says_what_it_shows_is_shown_so(tmp_path):
    out = batch_study(tmp_path / "a", ("bn", "gn"), (32, 2), 1, study="anything")
    assert "error-by-batch" in build_report(out).read_text()
    out = groups_study(tmp_path / "b", seeds=1)
    add_to_manifest(
        out, study="cifar-groups", shows="groups", published=["cifar10-resnet56-groups"]
    )
    text = build_report(out).read_text()
    assert 'id="error-by-groups"' in text
    assert "In CharlesJWC/GroupNorm-pytorch 16 groups is best with 9.5" in text
    assert "Wu &amp; He" not in text


def test_the_differences_stand_in_the_page_and_the_files_for_a_paper(tmp_path, monkeypatch):
    monkeypatch.setattr("groupnorm.study.report.page.build_figures", lambda study, rows: [])
    out = batch_study(tmp_path, norms=("gn",), batches=(32, 2), seeds=2)
    assert 'id="differences"' not in build_report(out).read_text()
    out = batch_study(tmp_path / "two", norms=("bn", "gn"), batches=(32,), seeds=2)
    page = build_report(out).read_text()
    assert 'id="differences"' in page
    assert "Differences of top-1 error in percentage points: resnet8 on digits, median of" in page
    for name in ("tables.md", "tables.tex"):
        text = (out / name).read_text()
        assert "interval" in text, name
        assert "cannot be told apart" in text, name
    assert (out / "differences.csv").read_text().startswith("norm,recomputed,against,")


def test_the_page_and_the_tables_of_a_search_have_no_differences(tmp_path, monkeypatch):
    search(tmp_path)
    monkeypatch.setattr("groupnorm.study.report.page.build_figures", lambda study, rows: [])
    text = build_report(tmp_path).read_text()
    assert '<section id="table"' in text
    assert '<section id="differences"' not in text
    for name in ("tables.md", "tables.tex"):
        assert "Differences" not in (tmp_path / name).read_text()


def test_a_figure_that_the_study_has_no_longer_is_removed(tmp_path, monkeypatch):
    out = batch_study(tmp_path, norms=("bn",), batches=(32,), seeds=1)

    def figures(name):
        def build(study, rows):
            return [FigureSpec(name, "Title", "Caption", [Panel(lambda axes: None, "alt")])]

        monkeypatch.setattr("groupnorm.study.report.page.build_figures", build)
        build_report(out)
        return sorted(path.name for path in (out / "figures").glob("[a-z]*"))

    assert figures("first") == ["first.pdf", "first.png", "first.svg"]
    (out / "figures/mine.png").write_bytes(b"")
    assert figures("second") == ["mine.png", "second.pdf", "second.png", "second.svg"]
