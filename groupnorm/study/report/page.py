"""The report: a page, tables, figures and references, made from the store alone.

The same records and options give the same bytes: nothing here reads a clock, a random number or the
machine. What the reader chooses (own names of norms, the width of figures) is of the command that
builds the report and is kept nowhere else; the page says which options it was built with.
"""

from __future__ import annotations

import shlex
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from groupnorm.files import describe_os_error, write_atomic
from groupnorm.study.report import tables
from groupnorm.study.report.conversion_tables import (
    TITLES,
    conversion_tables,
    trial_numbers,
    trials_csv,
)
from groupnorm.study.report.cost_tables import cost_table, time_table
from groupnorm.study.report.figures import build_figures
from groupnorm.study.report.figures.clip_strips import clip_sheet
from groupnorm.study.report.figures.predictions import prediction_sheet
from groupnorm.study.report.figures.render import (
    Column,
    missing_letters,
    page_rows,
    render_files,
    render_panel,
)
from groupnorm.study.report.figures.sheet import Sheet
from groupnorm.study.report.figures.style import FigureSpec
from groupnorm.study.report.figures.tuning import tuning_figure
from groupnorm.study.report.markup import MarkedTable, latex, markdown
from groupnorm.study.report.step_tables import TITLES as STEP_TITLES
from groupnorm.study.report.step_tables import step_tables
from groupnorm.study.report.text import describe, protocol_words
from groupnorm.study.report.unrounded import (
    differences_csv,
    search_numbers,
    study_numbers,
    tuning_numbers,
)
from groupnorm.study.report.written import LIST, figure_list, stale_figures
from groupnorm.study.results.clips import ceiling_note
from groupnorm.study.results.compare import compare_published, compared_tables
from groupnorm.study.results.costs import how_timed
from groupnorm.study.results.differences import (
    difference_header,
    difference_lines,
    differences_of,
    has_parts,
    how_compared,
)
from groupnorm.study.results.findings import appearances, findings_header, findings_lines
from groupnorm.study.results.labels import read_names
from groupnorm.study.results.references import references
from groupnorm.study.results.rows import Row, Study, load_study, summarize_study
from groupnorm.study.results.rules import each_result, title_images
from groupnorm.study.results.samples import Samples, samples_of
from groupnorm.study.results.tuning import (
    Tuning,
    chosen_note,
    how_tuned,
    read_tuning,
    tuning_table,
)
from groupnorm.study.results.wording import capital, gap_unit, in_unit, noun, slug
from groupnorm.study.store import StoreError, read_cells

# Statuses as they appear in cells; such cells are marked in the page.
_BAD = ("failed", "diverged", "missing", "partial", "unfinished")
_PHONE_LETTERS = 36  # of a table that a screen of 390 pixels shows whole


def build_report(out: Path) -> Path:
    """Write the report into the study's folder, as `write_report` does; the path of its page."""
    return write_report(out)[0]


def write_report(
    out: Path, *, column: Column | None = None, labels: Sequence[str] = ()
) -> list[Path]:
    """Write report.html, the tables, the references and the figures into the study's folder.

    Figures that an earlier report wrote there and this one does not have are removed.

    Args:
        column: draw the files of figures as wide as one column of a paper or as both; None: each
            panel at its own size.
        labels: own names of norms, as "gn:groups=8=GN (ours)".

    Returns:
        What was written; first report.html, one file that opens offline.

    Raises:
        StoreError: `out` holds no study, a file of it is damaged, or a folder is in the place of a
            file to write.
        ValueError: `labels` name a norm that the study does not have, or use letters that the
            figures cannot show.
    """
    study = _named(load_study(out), labels)
    rows, tuning = _rows(out, study)
    figures = build_figures(study, rows) if rows else []
    figures += [] if tuning is None else [tuning_figure(tuning)]
    samples = samples_of(out) if study.axis != "norm" or study.of_clips else None
    sheet = (clip_sheet if study.of_clips else prediction_sheet)(out, study, rows, samples, column)
    marked = _paper_tables(study, rows)
    bibliography = references(compared_tables(study.manifest))
    options = _options(column, labels)
    files: dict[str, bytes | str] = {
        "report.html": _page(study, rows, tuning, figures, bibliography, options, sheet, samples),
        **_csv_files(study, rows, tuning),
        "differences.csv": differences_csv(study, rows),
        "tables.md": markdown(marked),
        "tables.tex": latex(marked, both_columns=column == "double"),
        "references.bib": bibliography,
    }
    for figure in figures:
        for extension, data in render_files(figure, column).items():
            files[f"figures/{figure.name}.{extension}"] = data
    if sheet is not None:
        files[f"figures/{sheet.name}.png"] = sheet.png
    for path in stale_figures(out, files):
        path.unlink()
    _write(out / LIST, figure_list(files))
    for name, content in files.items():
        _write(out / name, content)
    return [out / name for name in files]


def main_table(out: Path, *, labels: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the report's main table, for the terminal.

    One row per norm and one column per batch size, the largest first; batch norm with recomputed
    statistics has a row of its own. The groups study has one row per way of dividing, a study of
    arms one per arm and a column for each metric.

    Args:
        labels: own names of norms, as in `write_report`.

    Raises:
        StoreError: `out` holds no study, or a file of it is damaged.
    """
    study = _named(load_study(out), labels)
    return tables.main_table_of(study, _rows(out, study)[0])


def main_metric(out: Path) -> str:
    """What the cells of the main table are, in a word or two, e.g. "error".

    Raises:
        StoreError: `out` holds no study, or a file of it is damaged.
    """
    study = load_study(out)
    return "percent kept" if study.of_conversions else noun(study.metric)


def report_numbers(out: Path) -> dict[str, Any]:
    """What the report shows, unrounded, for programs.

    Raises:
        StoreError: `out` holds no study, or a file of it is damaged.
    """
    study = load_study(out)
    rows, tuning = _rows(out, study)
    tried = None if tuning is None else tuning_numbers(tuning)
    searched = None if study.search is None else search_numbers(study)
    numbers = {**study_numbers(study, rows), "tuning": tried, "search": searched}
    if study.of_conversions:
        numbers["trials"] = trial_numbers(study.conversions)
    return numbers


def main_title(out: Path) -> str:
    """What the main table shows, in one line: unit, model, data, rule and seeds.

    Raises:
        StoreError: `out` holds no study, or a file of it is damaged.
    """
    study = load_study(out)
    return tables.main_title_of(study, _rows(out, study)[0])


def _named(study: Study, labels: Sequence[str]) -> Study:
    """The study with own names for its norms."""
    skipped = [skip["labels"] for skip in study.manifest.get("skipped", [])]
    tried = (study.manifest.get("tuning") or {"cells": []})["cells"]
    every = [cell.labels for cell in (*study.cells, *read_cells({"cells": tried}))] + skipped
    norms = [label[study.axis] for label in every]
    if study.search is not None:  # rules that were not trained have no cell
        norms += [*study.search.discarded, *study.search.settings["same"]]
    names = read_names(labels, list(dict.fromkeys(norms)), study.axis)
    for name in names.values():
        if missing := missing_letters(name):
            raise ValueError(f"--label {name!r}: the font of the figures has no {missing}")
    return replace(study, names=names)


def _options(column: Column | None, labels: Sequence[str]) -> str:
    """The options of `groupnorm report` that build this report again; empty without any."""
    chosen = ["--column", column] if column else []
    return shlex.join([*chosen, *(word for label in labels for word in ("--label", label))])


def _paper_tables(study: Study, rows: list[Row]) -> list[MarkedTable]:
    """The tables for a paper: the main one and the differences, where they have any lines."""
    if study.of_conversions:
        return conversion_tables(study.conversions)
    caption = tables.main_title_of(study, rows)
    header, body = tables.main_table_of(study, rows)
    found = [MarkedTable(slug(study.metric), caption, header, body)] if body else []
    found += _by_step(study, rows)
    if lines := difference_lines(study, differences_of(study, rows)):
        caption = tables.differences_title_of(study)
        found.append(MarkedTable("differences", caption, difference_header(study), lines))
    return found


def _write(path: Path, data: bytes | str) -> None:
    try:
        write_atomic(path, data)
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise StoreError(f"{describe_os_error(error)}; remove or rename it") from error
    except OSError as error:
        raise StoreError(
            f"{describe_os_error(error)}; a report is written beside its records: see to it that "
            "it can be, or copy the study to another folder"
        ) from error


def _rows(out: Path, study: Study) -> tuple[list[Row], Tuning | None]:
    """The rows to show, and what was tried where the study is tuned."""
    tuning = read_tuning(out, study)
    if tuning is not None and tuning.validation_images is None:
        return tuning.chosen, tuning
    return summarize_study(study), tuning


def _csv_files(study: Study, rows: list[Row], tuning: Tuning | None) -> dict[str, bytes | str]:
    if tuning is None:
        trials = {"trials.csv": trials_csv(study.conversions)} if study.of_conversions else {}
        return {"tables.csv": tables.tables_csv(study, rows), **trials}
    tried = tables.tables_csv(tuning.study, tuning.rows, chosen=tuning.chosen)
    if tuning.validation_images is None:
        return {"tables.csv": tried}
    return {"tables.csv": tables.tables_csv(study, rows), "tuning.csv": tried}


def _page(
    study: Study,
    rows: list[Row],
    tuning: Tuning | None,
    figures: list[FigureSpec],
    bibliography: str,
    options: str,
    sheet: Sheet | None,
    samples: Samples | None,
) -> str:
    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["bad"] = _is_bad
    environment.tests["wide"] = _is_wide
    manifest, metric = study.manifest, study.metric
    header, body = tables.main_table_of(study, rows)
    # the runs of a search are of different lengths, so that no result goes beside a cost
    uncompared = study.search is not None or study.of_conversions
    cost_header, cost_body = cost_table(study, [] if uncompared else rows)
    records = {**study.records, **(tuning.study.records if tuning else {})}.values()
    environments = [_shown_environment(study, record.env) for record in records]
    every = tuning.rows if tuning and tuning.validation_images is None else rows
    problems = tables.problems(study, every)
    if tuning and tuning.validation_images is not None:
        problems += tables.problems(tuning.study, tuning.rows)
    problems += [] if samples is None else tables.not_predicted(study, rows, samples)
    compared = differences_of(study, rows)
    return environment.from_string(template).render(
        title=manifest.get("title", manifest["study"]),
        paragraphs=[*describe(study, rows, tuning), *_names_in_words(study)],
        metric=noun(metric),
        main_metric=metric.title,
        unit_words=in_unit(metric, ", "),
        table_title=_table_title(study),
        further_tables=[
            *((TITLES[t.name], t) for t in conversion_tables(study.conversions)[1:]),
            *((STEP_TITLES[t.name], t) for t in _by_step(study, rows)),
        ],
        all_numbers="trials.csv" if study.of_conversions else "tables.csv",
        gap_unit=gap_unit(metric),
        main_title=tables.main_title_of(study, rows),
        header=header,
        body=body,
        differences_title=tables.differences_title_of(study),
        difference_header=difference_header(study),
        differences=difference_lines(study, compared),
        how_compared=how_compared(study, compared),
        further_differences=[
            (metric.title, difference_lines(study, differences_of(study, rows, metric)))
            for metric in study.further
        ],
        findings_header=findings_header(study),
        has_parts=has_parts(study),
        row_word="arm" if study.axis != "norm" else "row",
        of_gains=any(named.get("than") for named in manifest.get("findings") or ()),
        of_equality=any(named.get("within") for named in manifest.get("findings") or ()),
        findings=findings_lines(study, appearances(study, rows)),
        cost_header=cost_header,
        cost_body=cost_body,
        how_timed=how_timed(study.cost_pass),
        spent=time_table(study, rows),
        note=chosen_note(tuning) if tuning else ceiling_note(study, rows) if study.of_clips else "",
        tuning=tuning_table(tuning) if tuning else None,
        how_tuned=how_tuned(tuning) if tuning else [],
        comparisons=compare_published(study, rows),
        figures=[_drawn(figure) for figure in figures],
        sheet=sheet,
        photo="" if sheet is None else b64encode(sheet.png).decode(),
        run_header=tables.run_header(study),
        run_groups=tables.run_groups(study, every) if study.trained else [],
        problems=problems,
        runs=len(records),
        each_result=f"{each_result(study)}{title_images(study)}",
        protocol=manifest.get("protocol", ""),
        protocol_words=protocol_words(study),
        command=manifest.get("command", ""),
        joined=[[j["folder"], j["command"]] for j in manifest.get("joined") or ()],
        options=options,
        references=bibliography,
        data=tables.settings([manifest.get("data", {})]),
        study_options=tables.settings(
            [{"scale": manifest.get("scale"), **manifest.get("options", {})}]
        ),
        configuration=tables.settings(record.config for record in records),
        environment=tables.settings([manifest.get("versions", {}), *environments]),
        initial_configuration=tables.settings(one.config for one in study.initial.values()),
        initial_environment=tables.settings(
            _shown_environment(study, one.env) for one in study.initial.values()
        ),
    )


def _by_step(study: Study, rows: list[Row]) -> list[MarkedTable]:
    return step_tables(study, rows) if study.of_fine_tuning else []


def _table_title(study: Study) -> str:
    if study.of_conversions:
        return TITLES["kept"]
    return f"{capital(noun(study.metric))}{in_unit(study.metric)}"


def _shown_environment(study: Study, env: dict[str, Any]) -> dict[str, Any]:
    """What the page lists of `env.json`: its costs have a table, many metrics are their titles."""
    shown = {key: value for key, value in env.items() if key != "cost"}
    if "init" in env:  # the report of a conversion is long; a paragraph has what it comes to
        shown["init"] = {k: value for k, value in env["init"].items() if k != "conversion"}
    if (study.axis != "norm" or study.of_clips) and "metrics" in env:
        shown["metrics"] = ", ".join(metric["title"] for metric in env["metrics"])
    return shown


def _names_in_words(study: Study) -> list[str]:
    """What own names stand for, as a paragraph; none without any."""
    pairs = [f'"{name}" is {norm}' for norm, name in study.names.items()]
    return [f"Names chosen for this report: {'; '.join(pairs)}."] if pairs else []


def _drawn(figure: FigureSpec) -> dict[str, Any]:
    rows = [
        [
            {
                "alt": figure.panels[index].alt,
                "width": round(width, 2),
                "svg": Markup(render_panel(figure, index, width)),
            }
            for index, width in row
        ]
        for row in page_rows(figure)
    ]
    return {"name": figure.name, "title": figure.title, "caption": figure.caption, "rows": rows}


def _is_wide(header: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Whether a table is wider than the screen of a phone, by the letters of its columns.

    The first column is broken there.
    """
    first, *others = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    return min(first, 16) + sum(others) + 3 * len(others) > _PHONE_LETTERS


def _is_bad(text: str) -> bool:
    return any(word in text for word in _BAD)
