"""The report: report.html, tables.csv and figures/, made from the store alone.

The same records give the same bytes: nothing here reads a clock, a random number or the machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from groupnorm.files import describe_os_error, write_atomic
from groupnorm.study.report import tables
from groupnorm.study.report.figures import build_figures
from groupnorm.study.report.figures.style import FigureSpec, render_files, render_panel
from groupnorm.study.report.figures.tuning import tuning_figure
from groupnorm.study.report.text import PROTOCOLS, describe
from groupnorm.study.results.compare import COMPARISON_HEADER, compare_published
from groupnorm.study.results.costs import how_timed
from groupnorm.study.results.rows import Row, Study, epochs_rule, load_study, summarize_study
from groupnorm.study.results.tuning import (
    Tuning,
    chosen_note,
    how_tuned,
    read_tuning,
    tuning_table,
)
from groupnorm.study.store import StoreError

# Statuses as they appear in cells; such cells are marked in the page.
_BAD = ("failed", "diverged", "missing", "partial", "unfinished")


def build_report(out: Path) -> Path:
    """Write report.html, tables.csv and figures/*.svg and *.png into the study's folder.

    Returns:
        The path of report.html, one file that opens offline.

    Raises:
        StoreError: `out` holds no study, a file of it is damaged, or a folder is in the place of a
            file to write.
    """
    study = load_study(out)
    rows, tuning = _rows(out, study)
    figures = build_figures(study, rows) if rows else []
    figures += [] if tuning is None else [tuning_figure(tuning)]
    for figure in figures:
        for extension, data in render_files(figure).items():
            _write(out / "figures" / f"{figure.name}.{extension}", data)
    for name, text in _csv_files(study, rows, tuning).items():
        _write(out / name, text)
    path = out / "report.html"
    _write(path, _page(study, rows, tuning, figures))
    return path


def main_table(out: Path, *, repeat: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the report's main table, for the terminal.

    One row per norm and one column per batch size, the largest first; batch norm with recomputed
    statistics has a row of its own. The groups study has one row per way of dividing.

    Args:
        repeat: a norm that was trained once has its number in every column, for programs.

    Raises:
        StoreError: `out` holds no study, or a file of it is damaged.
    """
    study = load_study(out)
    return tables.main_table_of(study, _rows(out, study)[0], repeat=repeat)


def main_title(out: Path) -> str:
    """What the main table shows, in one line: unit, model, data, rule and seeds.

    Raises:
        StoreError: `out` holds no study, or a file of it is damaged.
    """
    study = load_study(out)
    return tables.main_title_of(study, _rows(out, study)[0])


def _write(path: Path, data: bytes | str) -> None:
    try:
        write_atomic(path, data)
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise StoreError(f"{describe_os_error(error)}; remove or rename it") from error


def _rows(out: Path, study: Study) -> tuple[list[Row], Tuning | None]:
    """The rows to show, and what was tried where the study is tuned."""
    tuning = read_tuning(out, study)
    chosen_of_them = tuning is not None and tuning.held_out is None
    return (tuning.chosen if chosen_of_them else summarize_study(study)), tuning


def _csv_files(study: Study, rows: list[Row], tuning: Tuning | None) -> dict[str, str]:
    if tuning is None:
        return {"tables.csv": tables.tables_csv(study, rows)}
    tried = tables.tables_csv(tuning.study, tuning.rows, chosen=tuning.chosen)
    if tuning.held_out is None:
        return {"tables.csv": tried}
    return {"tables.csv": tables.tables_csv(study, rows), "tuning.csv": tried}


def _page(study: Study, rows: list[Row], tuning: Tuning | None, figures: list[FigureSpec]) -> str:
    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["bad"] = _is_bad
    manifest = study.manifest
    header, body = tables.main_table_of(study, rows)
    cost_header, cost_body = tables.cost_table(rows)
    records = {**study.records, **(tuning.study.records if tuning else {})}.values()
    environments = [{k: v for k, v in r.env.items() if k != "cost"} for r in records]
    every = tuning.rows if tuning and tuning.held_out is None else rows
    problems = tables.problems(study, every)
    if tuning and tuning.held_out is not None:
        problems += tables.problems(tuning.study, tuning.rows)
    return environment.from_string(template).render(
        title=manifest.get("title", manifest["study"]),
        paragraphs=describe(study, rows, tuning),
        header=header,
        body=body,
        cost_header=cost_header,
        cost_body=cost_body,
        how_timed=how_timed(study.cost_pass),
        note=chosen_note(tuning) if tuning else "",
        tuning=tuning_table(tuning) if tuning else None,
        how_tuned=how_tuned(tuning) if tuning else [],
        comparisons=compare_published(study, rows),
        comparison_header=COMPARISON_HEADER,
        figures=[_drawn(figure) for figure in figures],
        run_header=tables.RUN_HEADER,
        run_groups=tables.run_groups(study, every),
        problems=problems,
        runs=len(records),
        epochs_rule=epochs_rule(study, length=False),
        protocol=manifest.get("protocol", ""),
        protocol_words=PROTOCOLS.get(manifest.get("protocol", ""), ""),
        command=manifest.get("command", ""),
        data=tables.settings([manifest.get("data", {})]),
        options=tables.settings([{"scale": manifest.get("scale"), **manifest.get("options", {})}]),
        configuration=tables.settings(record.config for record in records),
        environment=tables.settings([manifest.get("versions", {}), *environments]),
    )


def _drawn(figure: FigureSpec) -> dict[str, Any]:
    panels = [
        {"alt": panel.alt, "svg": Markup(render_panel(figure, index))}
        for index, panel in enumerate(figure.panels)
    ]
    return {"name": figure.name, "title": figure.title, "caption": figure.caption, "panels": panels}


def _is_bad(text: str) -> bool:
    return any(word in text for word in _BAD)
