"""How a study's results are made of its runs, in words: over which epochs, on which images."""

from __future__ import annotations

from groupnorm.study.results.rows import Study, are_test, images_of
from groupnorm.study.results.wording import capital, plural


def epochs_rule(study: Study, length: bool = True) -> str:
    """How a result is made of a run's epochs, e.g. "last epoch" or "median of the last 5 epochs".

    Args:
        length: say how many epochs the runs have where the rule leaves some of them out, as in
            "median of the last 5 of 10 epochs".

    Returns:
        The rule; empty where no run was begun that asks for one.
    """
    if not study.begun:
        return ""
    last, lengths = study.reported_epochs, _lengths(study)
    if study.search is not None:
        return (
            "last epoch of a rung" if last == 1 else f"median of the last {last} epochs of a rung"
        )
    of = f" of {' or '.join(map(str, lengths))}" if lengths and length else ""
    if lengths and lengths[-1] == 1:
        return "after 1 epoch"
    if last == 1:
        return f"last epoch{of}"
    if lengths and lengths[-1] <= last:
        return f"median of {lengths[-1]} epochs"
    return f"median of the last {last}{of} epochs"


def each_result(study: Study) -> str:
    """What a result is, e.g. "that of the last epoch"; "not there yet" where no run was begun."""
    rule = epochs_rule(study, length=False)
    if not rule:
        return "not there yet"
    begun = {"last": "that of the", "after": "that"}.get(rule.partition(" ")[0], "the")
    return f"{begun} {rule}"


def rules_note(study: Study) -> str:
    """What became of runs that ask for different rules; empty when all ask for one."""
    if len(study.rules) < 2:
        return ""
    asked = " or ".join(str(epochs) for epochs in study.rules)
    return (
        f"The runs ask for the median of their last {asked} epochs. All {plural(study.metric)} "
        f"here are {each_result(study)}, which every run has."
    )


def title_images(study: Study) -> str:
    """Where results are not of the test images: " on 1,000 validation images"; else ""."""
    images = images_of(study.records.values())
    return "" if are_test(images) else f" on {images}"


def evaluation_word(study: Study) -> str:
    """What an evaluation is called: "test", as in "test error", or "validation"."""
    images = images_of(study.records.values())
    if images is None or are_test(images):
        return "test"
    return "test or validation" if "test " in images else "validation"


def images_note(study: Study) -> str:
    """What it means that the results are not, or not all, of the test images; empty if they are."""
    images = images_of(study.records.values())
    if images is None or are_test(images):
        return ""
    results, what = capital(plural(study.metric)), images.rpartition(" ")[2]
    if " and " in images:
        return (
            f"{results} are those of {images}, by run: only runs that were evaluated on the same "
            f"{what} are compared."
        )
    return (
        f"{results} are those of {images}, held out of the training {what}; the runs have not seen "
        f"the test {what}."
    )


def _lengths(study: Study) -> list[int]:
    records = study.records.values()
    return sorted({record.config.get("epochs") or len(record.metrics) for record in records} - {0})
