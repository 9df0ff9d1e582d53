"""The words of a search: what was chosen, how far that can be trusted, and what it took."""

from __future__ import annotations

import math

from groupnorm.study.report.text.verdicts import mean_text, points, verdict
from groupnorm.study.results.differences import row_difference
from groupnorm.study.results.format import decimal_text, seconds_text
from groupnorm.study.results.halving import WORTH_REFINING, Rung
from groupnorm.study.results.labels import interval_text
from groupnorm.study.results.outcomes import (
    as_settings,
    epochs_trained,
    full_runs,
    refinement_epochs,
    runner_up,
    search_of,
)
from groupnorm.study.results.rows import Row, Study, subject
from groupnorm.study.results.rules import images_note
from groupnorm.study.results.search import Search
from groupnorm.study.results.wording import (
    best_word,
    better_word,
    beyond_bounds,
    capital,
    is_share,
    lower_is_better,
    noun,
    plural,
    value_text,
    with_article,
)
from groupnorm.study.store import damage


def search_text(study: Study, rows: list[Row]) -> list[str]:
    """The paragraphs of a search; the first one is what it found."""
    return [
        _finding(study, rows),
        _undecided(study),
        _chance(study, rows),
        _how(study),
        _cost(study),
        _before_training(study),
        _refinement(study, rows),
    ]


def _finding(study: Study, rows: list[Row]) -> str:
    search = search_of(study)
    if search.everything_diverged:
        return "Every rule that was left has diverged; there is nothing to choose."
    if search.chosen is None:
        done = sum(rung.complete for rung in search.rungs)
        return (
            f"The search is not done: {done} of {len(search.settings['rungs'])} rungs are. "
            f"{_go_on(study)}"
        )
    row, metric = _row(rows, search.chosen), study.metric
    result = _result(study, row)
    end = search.settings["rungs"][-1]
    if not search.done:
        return (
            f"The search is not done; best so far is {study.called(search.chosen)}: "
            f"{result} after {end} of {search.full_epochs} epochs, "
            f"{row.finished} of {len(search.settings['seeds'])} seeds. {_go_on(study)}"
        )
    assert search.rule is not None
    count, refined = len(search.rungs[0].asked), search.refined
    best = _row(rows, search.rule)
    text = (
        f"Of {count} rules for the number of groups {study.called(search.rule)} was chosen: "
        f"{_result(study, best)} after {end} of {search.full_epochs} epochs{_seeds(best)}."
        f"{beyond_bounds(metric, [best.result.interval if best.result else None])}"
    )
    if refined is not None:
        row = _row(rows, refined)
        text += (
            f" Refined by stage, which took {_as_full_runs(search, refinement_epochs(study))} "
            f"more, it became {study.called(refined)}: {_result(study, row)}"
            f"{_seeds(row)}."
        )
    return f"{text} As settings of a run: {as_settings(search.chosen)}."


def _go_on(study: Study) -> str:
    if any(damage(record) for record in study.records.values()):
        return "The same command goes on with it once the files named under Problems are mended."
    return "The same command goes on with it."


def _result(study: Study, row: Row) -> str:
    return f"{mean_text(study.metric, row.result)} {noun(study.metric)}"


def _seeds(row: Row) -> str:
    """The interval and the seeds of a result, behind a comma."""
    interval = row.result.interval if row.result else None
    seeds = f", {row.finished} {'seed' if row.finished == 1 else 'seeds'}"
    return f", 95 % interval {interval_text(interval)}{seeds}" if interval else seeds


def _as_full_runs(search: Search, epochs: int) -> str:
    return f"{decimal_text(epochs / search.full_epochs, 2)} full runs"


def _undecided(study: Study) -> str:
    """Where no error decided: candidates level with each other, or no better than guessing."""
    search = search_of(study)
    parts = [_tie(study, rung) for rung in search.rungs if rung.tied]
    classes, images = study.manifest["data"]["classes"], search.settings["validation_images"]
    guess = 1 - 1 / classes
    least = 100 * (guess - 2 * math.sqrt(guess * (1 - guess) / images))
    errors = is_share(study.metric) and lower_is_better(study.metric)
    blind = [rung.epochs for rung in search.rungs if rung.kept and rung.lowest >= least]
    if errors and blind:
        epochs = f"epoch{'s' if len(blind) > 1 else ''} {_listed([str(end) for end in blind])}"
        parts.append(
            f"After {epochs} no rule was clearly better than guessing "
            f"one of {classes} classes, an error of {decimal_text(100 * guess)} %: nothing was "
            "learned yet that tells rules apart. A longer schedule has longer rungs."
        )
    return " ".join(parts)


def _tie(study: Study, rung: Rung) -> str:
    """What the tie rule decided after a rung, as a sentence or two."""
    metric = study.metric
    result = f"the same {noun(metric)}, {value_text(metric, rung.results[rung.tied[0]])}"
    on = [study.called(norm) for norm in rung.tied if norm in rung.kept]
    if len(rung.tied) == len(rung.asked):
        return (
            f"After epoch {rung.epochs} all {len(rung.asked)} rules had {result}. The tie rule "
            f"alone let {_listed(on)} go on: the choice says nothing about the rules."
        )
    return (
        f"After epoch {rung.epochs} {_listed([study.called(norm) for norm in rung.tied])} had "
        f"{result}, with places for {len(on)} of them. The tie rule, not a result, let "
        f"{_listed(on)} go on."
    )


def _chance(study: Study, rows: list[Row]) -> str:
    """How far the choice can be told from the next best."""
    search = search_of(study)
    if search.rule is None:
        return ""
    parts = []
    if search.refined is not None:
        found = row_difference(_row(rows, search.refined), _row(rows, search.rule))
        refined, rule = study.called(search.refined), study.called(search.rule)
        parts.append(f"Against the best rule: {verdict(study.metric, refined, rule, found)}.")
    if (second := runner_up(search)) is not None:
        name, epochs, behind = second
        lead = f"{points(study.metric, behind)} behind" if behind else "level with it"
        parts.append(
            f"The runner-up, {study.called(name)}, was {lead} when it was dropped after epoch "
            f"{epochs}, with one seed each: there is no interval for such a difference."
        )
    parts.append(
        f"What was picked for the {best_word(study.metric)} of several {plural(study.metric)} owes "
        "some of that to chance. " + images_note(study)
    )
    return " ".join(parts)


def _how(study: Study) -> str:
    search, metric = search_of(study), study.metric
    settings = search.settings
    first, middle, end = settings["rungs"]
    seeds = len(settings["seeds"])
    others = f", with {seeds} seeds" if seeds > 1 else ""
    return (
        f"The search {'trained' if search.done else 'trains'} {subject(study)} by successive "
        f"halving: every rule up to epoch {first}, the best three on to epoch {middle}, the best "
        f"one on to epoch {end}{others}. The learning rates are those of {search.full_epochs} "
        "epochs, cut there, and no epoch was trained twice. "
        f"{capital(with_article(noun(metric)))} is that of the validation images, "
        f"{_over(settings['reported_epochs'])}. Of equal {plural(metric)} the rule nearer to 32 "
        f"groups counts as {better_word(metric)}, then the one with fewer channels per group."
    )


def _over(last: int) -> str:
    return (
        "after a rung's last epoch" if last == 1 else f"the median of a rung's last {last} epochs"
    )


def _cost(study: Study) -> str:
    search = search_of(study)
    rules = len(search.rungs[0].asked)
    so_far = "trained" if search.done else "has trained"
    text = (
        f"The search {so_far} {epochs_trained(study):,} epochs in all, as many as "
        f"{decimal_text(full_runs(study), 2)} full runs of {search.full_epochs} epochs; every rule "
        f"to its end would have been {rules}."
    )
    if extra := refinement_epochs(study):
        text += f" Of these the refinement by stage took {_as_full_runs(search, extra)}."
    if search.initial is not None:
        text += (
            " Before that it looked at the untrained networks for "
            f"{seconds_text(search.initial['seconds'], 1)}."
        )
    return text


def _before_training(study: Study) -> str:
    """What was not trained, and why."""
    search = search_of(study)
    parts = []
    if search.initial is not None:
        runs = search.initial["runs"].values()
        gains = [run["gain"] for run in runs]
        noises = [math.inf if run["noise"] is None else run["noise"] for run in runs]
        parts.append(
            "In the untrained networks the gradient grows by a factor of "
            f"{decimal_text(min(gains), 2)} to {decimal_text(max(gains), 2)} a layer on its way "
            "back, and in the layer where it varies most the standard deviation of a group varies "
            f"between images by a factor of {_factor(min(noises))} to {_factor(max(noises))}."
        )
        gone = [
            f"{study.called(norm)} was discarded ({why})" for norm, why in search.discarded.items()
        ]
        parts.append(f"{'; '.join(gone) or 'Nothing lies far off, so nothing was discarded'}.")
    same = [
        f"{study.called(norm)} gives the same layers as {study.called(other)}"
        for norm, other in search.settings["same"].items()
    ]
    if same:
        parts.append(f"{'; '.join(same)}.")
    return " ".join(parts)


def _factor(noise: float) -> str:
    return decimal_text(math.exp(noise), 2) if math.isfinite(noise) else "infinity"


def _refinement(study: Study, rows: list[Row]) -> str:
    search = search_of(study)
    if search.rule is None or not search.settings["refine"]:
        return ""
    first = search.rungs[0]
    text = (
        f"After epoch {first.epochs} the rules lay {points(study.metric, first.spread)} apart, "
        f"{'more' if search.refines else 'not more'} than {WORTH_REFINING:g}"
    )
    if not search.refines:
        return f"{text}: no stage was given a number of its own."
    done = [step for step in search.steps if step.best is not None]
    kept = [step.part for step in done if step.best != step.before]
    stages = len(search.settings["parts"])
    so_far = "" if search.is_refined else f" so far, in {len(done)} of {stages} stages"
    return (
        f"{text}, so that stage by stage twice and half as many groups "
        f"{'were' if search.is_refined else 'are'} tried up to epoch "
        f"{search.settings['rungs'][-1]}: {sum(len(step.asked) for step in done)} runs{so_far}, "
        f"{', '.join(kept) if kept else 'no stage'} changed."
    )


def _listed(names: list[str]) -> str:
    """Names as "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _row(rows: list[Row], norm: str) -> Row:
    return next(row for row in rows if row.labels["norm"] == norm)
