"""What the store's files hold: each is checked against its schema when it is read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ReportKind = Literal[
    "batch-size",
    "norms",
    "groups",
    "search",
    "arms",
    "clips",
    "fine-tuning",
    "conversions",
]
"""What a report shows: the metric by images per worker, by norm, by group division, how the number
of groups was found, a table of arms by metrics, the metric by norm, clips per worker and length of
the clips, the metric of arms by images per worker and step, or what conversions of the runs'
networks keep of it."""

LABELS: dict[ReportKind, tuple[str, ...]] = {
    "batch-size": ("norm", "batch_per_worker"),
    "norms": ("norm", "batch_per_worker"),
    "groups": ("norm", "batch_per_worker", "division", "value"),
    "search": ("norm", "batch_per_worker", "step"),
    "arms": ("arm",),
    "clips": ("norm", "batch_per_worker", "frames", "stride"),
    "fine-tuning": ("arm", "batch_per_worker"),
    "conversions": ("network",),
}
"""The labels that every cell has, by what the report shows; others may come beside them."""

_Count = Annotated[int, Field(ge=0)]


class _Open(BaseModel):
    """A JSON object that may have further keys."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Closed(BaseModel):
    """A JSON object without further keys."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _Labels(_Open):
    __pydantic_extra__: dict[str, str | int | float] = Field(init=False)
    arm: str = ""
    network: str = ""
    norm: str = ""
    batch_per_worker: Annotated[int, Field(ge=1)] = 1
    frames: Annotated[int, Field(ge=1)] = 1
    stride: Annotated[int, Field(ge=1)] = 1
    division: Literal["groups", "size"] = "groups"
    value: Annotated[int, Field(ge=1)] = 1


_Percent = Annotated[float, Field(ge=0, le=100)]


class _Data(_Open):
    name: str
    train: _Count = 0
    test: _Count = 0
    classes: _Count = 0
    ceilings: dict[Annotated[str, Field(pattern=r"^[1-9][0-9]*$")], _Percent] = {}


class _Options(_Open):
    model: str | None = None


class _Cell(_Closed):
    labels: _Labels
    seed: _Count
    run: Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")]


class _Skipped(_Closed):
    labels: _Labels
    reason: str


class _Joined(_Closed):
    folder: str
    command: str


class _Tuning(_Closed):
    validation_images: Annotated[int, Field(ge=1)]
    cells: list[_Cell]


class Metric(_Closed):
    """A metric in `study.json` and in `env.json`; `groupnorm.training.metric` says what it is."""

    name: Annotated[str, Field(min_length=1)]
    unit: str
    better: Literal["lower", "higher"]
    title: Annotated[str, Field(pattern=r"\S")]


class _Pair(_Closed):
    better: _Labels
    worse: _Labels


class _Finding(_Pair):
    statement: Annotated[str, Field(pattern=r"\S")]
    source: str
    than: _Pair | None = None
    within: Annotated[float, Field(gt=0)] | None = None


class _Search(_Closed):
    full_epochs: Annotated[int, Field(ge=1)]
    rungs: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    reported_epochs: Annotated[int, Field(ge=1)]
    seeds: Annotated[list[_Count], Field(min_length=1)]
    refine: bool
    parts: list[str]
    validation_images: Annotated[int, Field(ge=1)]
    same: dict[str, str]


class _Trial(_Closed):
    method: str
    to: str
    min_channels: Annotated[int, Field(ge=1)]
    images: _Count
    steps: _Count
    target: str
    rate: Annotated[float, Field(ge=0)]


class _Trials(_Closed):
    trials: list[_Trial]
    aims: dict[str, _Percent]


class Manifest(_Closed):
    """`study.json`."""

    format: int
    study: str
    title: str
    command: str
    protocol: str
    scale: str | None
    data: _Data
    options: _Options
    cells: list[_Cell]
    skipped: list[_Skipped]
    versions: dict[str, Any]
    shows: ReportKind | None = None
    published: list[str] | None = None
    tuned_over: str | None = None
    joined: list[_Joined] | None = None
    tuning: _Tuning | None = None
    search: _Search | None = None
    metric: Metric | None = None
    also: list[Metric] | None = None
    findings: list[_Finding] | None = None
    conversions: dict[str, _Trials] | None = None


_Amount = Annotated[float, Field(ge=0)]


class _Cost(_Open):
    saved_bytes_per_image: _Amount | None = None
    training_flops_per_image: _Amount | None = None


_Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


_Side = Annotated[int, Field(ge=1, le=4096)]
"""Pixels, at most as many as a configuration may ask for (`training.config.ImageSize`)."""


class BuiltFor(_Closed):
    """What a detector takes of its data set: `groupnorm.run.detector.BuiltFor`."""

    categories: Annotated[list[str], Field(min_length=1)]
    canvas: _Side
    short_side: _Side
    long_side: _Side
    image_mean: _Channels
    image_std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


class _Continued(_Open):
    built_for: BuiltFor | None = None


class Environment(_Open):
    """`env.json`."""

    metrics: Annotated[list[Metric], Field(min_length=1)] | None = None
    parameters: _Count | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    processes: Annotated[int, Field(ge=1)] = 1
    cost: _Cost | None = None
    continued_with: _Continued | None = None
    built_for: BuiltFor | None = None


_Curve = Annotated[list[_Percent | None], Field(min_length=101, max_length=101)]


class Epoch(_Open):
    """A line of `metrics.jsonl`."""

    epoch: Annotated[int, Field(ge=1)]
    step: _Count | None = None
    lr: float | None = None
    train_loss: float | None = None
    train_losses: dict[str, float] = {}
    train_error: _Percent | None = None
    val_loss: float | None = None
    val_error: _Percent | None = None
    precise_val_error: _Percent | None = None
    response_percentiles: dict[str, float] | None = None
    ap_folds: dict[str, list[_Percent | None]] = {}
    precision_at_recall: dict[str, _Curve] = {}
    class_iou: dict[str, _Percent | None] = {}
    precise_class_iou: dict[str, _Percent | None] | None = None
    image_counts: dict[str, _Count] = {}
    timing: dict[str, float] = {}


_Milliseconds = Annotated[float, Field(ge=0, le=1e9)]


class _Timed(_Open):
    runs: Annotated[list[str], Field(min_length=1)]
    forward_ms_per_image: _Milliseconds
    backward_ms_per_image: _Milliseconds
    spread: Annotated[float, Field(ge=0, le=1e9)]
    norm_share: Annotated[float, Field(ge=0, le=1)]


class Costs(_Closed):
    """`cost.json`."""

    format: int
    rounds: _Count
    configurations: list[_Timed]
    environment: Environment
    reason: str | None
    left_out: str | None = None


class _Untrained(_Closed):
    norm: str
    gain: Annotated[float, Field(gt=0)]
    noise: Annotated[float, Field(ge=0)] | None


class Initial(_Closed):
    """`initial.json`."""

    format: int
    images: Annotated[int, Field(ge=1)]
    seconds: Annotated[float, Field(ge=0)]
    runs: dict[str, _Untrained]


class _Mask(_Closed):
    size: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
    counts: str


class _TrueObject(_Closed):
    category: str
    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    mask: _Mask | None
    crowd: bool


class _FoundObject(_Closed):
    category: str
    score: Annotated[float, Field(ge=0, le=1)]
    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    mask: _Mask | None


class _SampleImage(_Closed):
    file: Annotated[str, Field(pattern=r"^[^./\\][^/\\]*\.png$")]
    image_id: int
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    truth: list[_TrueObject]


class _Predicted(_Closed):
    objects: list[list[_FoundObject]]
    not_finite: _Count


class Samples(_Closed):
    """`samples/samples.json`."""

    format: int
    lowest_score: Annotated[float, Field(ge=0, le=1)]
    categories: list[str]
    images: list[_SampleImage]
    runs: dict[str, _Predicted]
    left_out: dict[str, str]
    unreadable: dict[str, str] = {}
    reason: str | None


class _SampleClip(_Closed):
    file: Annotated[str, Field(pattern=r"^[^./\\][^/\\]*\.png$")]
    video: _Count
    height: _Side
    width: _Side
    frames: Annotated[int, Field(ge=1, le=64)]
    truth: str


class _FoundClass(_Closed):
    category: str
    score: Annotated[float, Field(ge=0, le=1)]


class _Classified(_Closed):
    objects: list[Annotated[list[_FoundClass], Field(max_length=1)]]
    not_finite: _Count


class ClipSamples(_Closed):
    """`samples/samples.json` of clips."""

    format: int
    content: Literal["clips"]
    lowest_score: Annotated[float, Field(ge=0, le=1)]
    categories: list[str]
    images: list[_SampleClip]
    runs: dict[str, _Classified]
    left_out: dict[str, str]
    unreadable: dict[str, str] = {}
    reason: str | None


class _TrialLayer(_Closed):
    name: str
    channels: Annotated[int, Field(ge=1)]
    groups: _Count
    error: Annotated[float, Field(ge=0)] | None
    offset_share: Annotated[float, Field(ge=0)] | None


class _TrialSkipped(_Closed):
    name: str
    source: str
    reason: str


class _TrialResult(_Closed):
    value: float
    held_out: float | None
    agreement: _Percent
    layers: list[_TrialLayer]
    skipped: list[_TrialSkipped]
    seconds: _Amount


class TrialRecord(_Closed):
    """A trial of a conversion, below the folder of a run."""

    format: int
    trial: _Trial
    result: _TrialResult | None
    reason: str | None


class OwnNetwork(_Closed):
    """`network.json`: a network that the study did not train, and the images for it."""

    network: str
    options: dict[str, str]
    checkpoint: str | None
    images: str
    size: Annotated[int, Field(ge=1)]
    mean: _Channels
    std: _Channels
    calibration: Annotated[int, Field(ge=1)]
    held_out: Annotated[int, Field(ge=1)]
    labels: bool
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    notes: list[str]


class Done(_Closed):
    """`DONE`."""

    status: Literal["finished", "diverged"]
    reason: str | None


class Failed(_Closed):
    """`FAILED`."""

    reason: str | None
