"""The pass of a study of detectors, or of clips, that predicts on a few test images or videos.

They are the first ones of the test set, and the run of an arm, or of a norm with its clips, is the
one of its first seed that has finished: no result has a part in the choice.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from groupnorm.counts import counted
from groupnorm.files import describe_os_error, first_line
from groupnorm.run import setup_of
from groupnorm.run.setup import SampledImages
from groupnorm.study.results.samples import LOWEST_SCORES, Samples, runs_of_arms, samples_of
from groupnorm.study.store import Cell, read_config, read_record, run_folder, write_samples
from groupnorm.study.trained import read_network

IMAGES = 8
_FAILURES = (RuntimeError, ValueError, MemoryError, OSError)


def predict_samples(
    out: Path,
    cells: Sequence[Cell],
    data_root: Path | None,
    on_message: Callable[[str], None] = lambda text: None,
) -> None:
    """Let one run of each arm predict on the same images, on the CPU; write the folder `samples`.

    So does one run of each norm, number of clips per worker and length of the clips.

    Runs that are there stay, those that are missing are added. A task that samples nothing leaves
    no folder. What prevents a prediction is reported and recorded; no run depends on it.

    Args:
        cells: of the study's table.

    Raises:
        StoreError: a file of the study is damaged.
    """
    shown = runs_of_arms(cells, lambda name: read_record(out, name).status == "finished")
    before = samples_of(out)
    missing = [name for name in shown if before is None or name not in before.runs]
    if not missing:
        return
    configs = (read_config(run_folder(out, name)) for name in missing)
    config = next((found for found in configs if found is not None), None)
    if config is None:
        on_message("no predictions are shown: no run has its config.json")
        return
    setup = setup_of(config)
    if setup.SAMPLED is None:
        return
    empty = Samples(lowest_score=LOWEST_SCORES[setup.SAMPLED], content=setup.SAMPLED)
    before = before or empty
    try:
        images = setup.samples(config, data_root, IMAGES)
    except _FAILURES as error:
        reason = f"the {before.things}s cannot be used: {_why(error)}"
        left_out = {**before.left_out, **dict.fromkeys(missing, reason)}
        _write(out, replace(before, left_out=left_out), (), on_message)
        return
    ours = replace(empty, images=images.images, categories=images.categories)
    if (before.images, before.categories, before.lowest_score) != (
        ours.images, ours.categories, ours.lowest_score,
    ):  # fmt: skip
        before, missing = empty, shown
    networks = counted(len(missing), ours.network)
    on_message(f"predicting with {networks} on {counted(len(images.images), ours.things)}")
    runs, left_out = dict(before.runs), dict[str, str]()
    for name in missing:
        try:
            runs[name] = _predict(run_folder(out, name), images, ours.lowest_score)
        except _FAILURES as error:
            left_out[name] = _why(error)
    found = replace(
        ours,
        runs={name: runs[name] for name in shown if name in runs},
        left_out=left_out,
        unreadable=images.unreadable,
    )
    _write(out, found, images.pixels, on_message)


def _predict(folder: Path, images: SampledImages, lowest_score: float) -> dict[str, Any]:
    run = read_network(folder)
    return images.predict(run.config, run.built_for, run.weights, lowest_score)


def _why(error: Exception) -> str:
    return describe_os_error(error) if isinstance(error, OSError) else first_line(error)


def _write(
    out: Path,
    found: Samples,
    pixels: Sequence[NDArray[np.uint8]],
    on_message: Callable[[str], None],
) -> None:
    for name, why in found.left_out.items():
        on_message(f"no predictions of {name} are shown: {why}")
    for file, why in found.unreadable.items():
        on_message(
            f"the next {found.things} takes the place of {file}, which cannot be decoded: {why}"
        )
    files = [image["file"] for image in found.images][: len(pixels)]
    images = {file: _png(image) for file, image in zip(files, pixels, strict=True)}
    reason = None if found.runs else "no run could predict"
    write_samples(out, replace(found, reason=reason).as_json(), images)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
