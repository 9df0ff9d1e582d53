"""The store of a study: one folder, readable without any of this package.

::

    <out>/study.json                      what was asked: cells (labels, seed, name of the run)
    <out>/cost.json                       times of training steps, taken in turns after the trials
    <out>/initial.json                    of a search: what was measured before any training
    <out>/samples/samples.json            of detectors and clips: what is predicted, see below
    <out>/samples/<image_id>.png          the images, or the frames of a video side by side
    <out>/runs/<name>/config.json         the complete configuration
    <out>/runs/<name>/env.json            versions, sources, machine, threads, parameters, cost
    <out>/runs/<name>/metrics.jsonl       one line an epoch
    <out>/runs/<name>/unreadable.json     image files that could not be decoded, if there are any
    <out>/runs/<name>/checkpoint.pt       last finished epoch, for torch.load; then its digest
    <out>/runs/<name>/DONE                {"status": "finished" | "diverged", "reason": ...}
    <out>/runs/<name>/FAILED              {"reason": ...}: crashed or killed; tried again next time

`study.json` is that of the newest command, whole: its cells are those of the report. Only its
versions stay those that the study began with, for every run has its own in `env.json`. Runs that
the newest command does not ask for stay in their folders and enter nothing.

`samples.json` has of each image its file, its size and the `truth`, and of one run of each arm the
`objects` that it found, a list for each image, by falling score. An object has a `category`, a
`score`, a `box` (x0 y0 x1 y1) and a `mask` (COCO's compressed RLE, or null), in pixels of the
image's file; what is true has `crowd` in place of a score. `left_out` names runs and `unreadable`
test images that are not there, and why. Of clips there are `kind`, and of each video its class in
place of objects: `groupnorm.study.results.samples` says which.

Every file is written beside its place and renamed, so a reader never sees half of one. Each has one
reader in `records`, that of the checkpoint is in `groupnorm.training.checkpoint`. It checks what it
reads: a file that is damaged, or holds what this version does not know, is an error that names it.
"""

from groupnorm.study.store.json_files import (
    FORMAT,
    StoreError,
    to_json,
)
from groupnorm.study.store.places import (
    check_run_place,
    check_study_place,
    locked_folder,
)
from groupnorm.study.store.records import (
    COST_FILE,
    INITIAL_FILE,
    SAMPLES_FILE,
    UNREADABLE,
    Cell,
    Record,
    damage,
    is_number,
    read_cells,
    read_config,
    read_costs,
    read_initial,
    read_manifest,
    read_metrics,
    read_record,
    read_run,
    read_samples,
    read_starts,
    run_folder,
    run_is_done,
    write_metrics,
    write_samples,
    write_unreadable,
)

__all__ = [
    "COST_FILE",
    "FORMAT",
    "INITIAL_FILE",
    "SAMPLES_FILE",
    "UNREADABLE",
    "Cell",
    "Record",
    "StoreError",
    "check_run_place",
    "check_study_place",
    "damage",
    "is_number",
    "locked_folder",
    "read_cells",
    "read_config",
    "read_costs",
    "read_initial",
    "read_manifest",
    "read_metrics",
    "read_record",
    "read_run",
    "read_samples",
    "read_starts",
    "run_folder",
    "run_is_done",
    "to_json",
    "write_metrics",
    "write_samples",
    "write_unreadable",
]
