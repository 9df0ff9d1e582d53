"""RunConfig: one complete training run as a frozen value whose hash names it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticKnownError

from groupnorm.spec import NormSpec

REFERENCE_IMAGES = 256
"""Images of the optimizer step that `base_lr` belongs to: the paper's 8 workers times 32."""

Count = Annotated[int, Field(ge=1, le=10**9)]
ImageSize = Annotated[int, Field(ge=32, le=4096)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


def _read_norm(value: Any) -> NormSpec:
    if isinstance(value, NormSpec):
        return value
    if not isinstance(value, str):
        raise PydanticKnownError("string_type")
    return NormSpec.parse(value)


Norm = Annotated[NormSpec, PlainValidator(_read_norm), PlainSerializer(str, return_type=str)]
"""A normalization: read from its string once, a NormSpec from then on, written as its string."""


def _read_size_schedule(value: Any) -> tuple[tuple[int, float], ...]:
    try:
        pairs = value
        if isinstance(value, str):
            pairs = [pair.split(":") for pair in value.split(",")] if value else []
        schedule = tuple((int(str(size)), float(share)) for size, share in pairs)
    except (TypeError, ValueError):
        raise ValueError(
            "expected sizes in pixels, each with the share of the run that it lasts to, as "
            f"16:0.3,24:0.7; got {value!r}"
        ) from None
    sizes, shares = [0, *(size for size, _ in schedule)], [0, *(share for _, share in schedule), 1]
    if not all(a < b for rising in (sizes, shares) for a, b in itertools.pairwise(rising)):
        raise ValueError(
            "sizes must be above 0 and rise, shares lie between 0 and 1 and rise; "
            f"got {_size_schedule_text(schedule)}"
        )
    return schedule


def _size_schedule_text(schedule: tuple[tuple[int, float], ...]) -> str:
    return ",".join(f"{size}:{share}" for size, share in schedule)


SizeSchedule = Annotated[
    tuple[tuple[int, float], ...],
    PlainValidator(_read_size_schedule),
    PlainSerializer(_size_schedule_text, return_type=str),
]
"""Pixels by share of a run: read from text as 16:0.3,24:0.7, or from pairs; written as text."""

_ALWAYS_IN_THE_NAME = frozenset({
    "model", "width", "shortcut", "norm", "data", "train_images", "image_size", "workers",
    "batch_per_worker", "accumulate", "epochs", "steps", "schedule", "warmup_epochs", "base_lr",
    "momentum", "nesterov", "weight_decay", "precision", "compile", "memory_format", "seed",
})  # fmt: skip
"""The fields that count in every run's name. Of every other field a value that is not the default
counts, so that a new field renames no run; nothing is ever added here."""


class RunConfig(BaseModel):
    """Everything that decides the numbers of a run (Wu & He 2018, section 4.1).

    The optimizer step sees `workers * batch_per_worker` images; batch norm's statistics belong to
    the `batch_per_worker` images of one worker. The learning rate is 0.1 per 256 images of the
    step: with 8 workers the paper's `0.1 * N / 32`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str = "resnet20"
    """resnet8, resnet14, ... resnet110, resnet18, 34, 50, 101, vgg16."""
    width: Annotated[float, Field(gt=0, le=64, allow_inf_nan=False)] = 1.0
    """Factor on the channels of a ResNet for small images."""
    shortcut: Literal["A", "B"] = "A"
    """Of a ResNet for small images: A, padded with zeros, or B, a convolution."""
    norm: Norm = NormSpec.parse("gn")
    """Normalization, as bn or gn:groups=8+ws."""
    norms: dict[str, Norm] = {}
    """Other normalizations for parts of the network, as norms.stage3=gn:groups=16; the parts are
    stem, stage1, stage2 and so on."""
    zero_gamma: bool = True
    """Begin with gamma = 0 on the last norm of each residual block, or with 1 (false)."""
    data: str = "fashion-scenes"
    """Data set; 'groupnorm doctor' lists them."""
    train_images: Count | None = None
    """Train on so many images only; None for all. Of a data set in memory they are the first, of
    image files a sample with the same share of every class."""
    image_size: ImageSize | None = None
    """Pixels of the square crop, for data sets of image files; None for 224."""
    validation_images: Count | None = None
    """Hold out so many training images, with the same share of every class and the same ones for
    every seed and norm, and evaluate on them in place of the test images; None for no such thing.
    """
    max_unreadable: Share = 0.01
    """Greatest share of the training images, and of the test images, that cannot be decoded; more
    are an error. It decides no number of a run that finishes, so it is no part of its identity."""
    workers: Count = 8
    """Workers that share the images of a step."""
    batch_per_worker: Count = 32
    """Images of a worker; batch norm takes its statistics from them."""
    accumulate: Count = 1
    """Passes that a process makes its images of a step in: less memory, the same result to
    rounding. The images whose statistics belong together stay `batch_per_worker`."""
    epochs: Count | None = None
    """Length in passes over the data."""
    steps: Count | None = None
    """Length in optimizer steps, in place of epochs."""
    schedule: Literal["step", "cosine"] = "step"
    """Of the learning rate: step divides it by 10 at 30, 60 and 90 % of the run, cosine lets it
    fall to 0."""
    warmup_epochs: Amount = 0.0
    """Epochs in which the learning rate rises to its peak."""
    base_lr: Annotated[Amount, Field(gt=0)] = 0.1
    """Learning rate at 256 images a step."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD."""
    nesterov: bool = True
    """Nesterov's form of the momentum."""
    weight_decay: Amount = 1e-4
    """On every parameter, gamma and beta included."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """float32, or bfloat16 for mixed precision."""
    compile: bool = False
    """Train through torch.compile."""
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    """Of weights and images."""
    size_schedule: SizeSchedule = ()
    """Smaller training images in the first part of the run, as 16:0.3,24:0.7: of 16 pixels up to
    30 % of the steps, of 24 up to 70 %, then of their own size, as test images always are."""
    reported_epochs: Count = 5
    """The reported error is the median over so many last epochs; batch norm's statistics are
    recomputed after each of them, and after no other."""
    evaluate_every: Count = 1
    """Evaluate after every so many epochs, and after each reported one."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Of the first weights, the order of the images and the augmentation."""

    def __hash__(self) -> int:
        return hash(self.digest())

    @model_validator(mode="after")
    def _one_length(self) -> RunConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"give epochs or steps, exactly one; got epochs={self.epochs}, steps={self.steps}"
            )
        return self

    @model_validator(mode="after")
    def _whole_passes(self) -> RunConfig:
        batch_statistics = self.uses_batch_statistics
        parts = self.workers if batch_statistics else self.step_images
        if parts % self.accumulate:
            what = f"{self.workers} workers" if batch_statistics else f"{parts} images of a step"
            raise ValueError(f"accumulate={self.accumulate} does not divide the {what}")
        if self.accumulate > 1 and self.synchronized:
            raise ValueError(
                f"syncbn needs all images of a step at once, got accumulate={self.accumulate}"
            )
        return self

    @property
    def uses_batch_statistics(self) -> bool:
        """True when some norm's output depends on the other images of its batch in training."""
        return any(spec.uses_batch_statistics for spec in (self.norm, *self.norms.values()))

    @property
    def synchronized(self) -> bool:
        """True when some norm takes the batch's statistics over all workers."""
        return any(spec.synchronized for spec in (self.norm, *self.norms.values()))

    @property
    def norm_text(self) -> str:
        """The norm and those of places, as "gn:groups=8" or "gn:groups=8 stage3=gn:groups=16"."""
        return " ".join([str(self.norm), *(f"{k}={v}" for k, v in self._norms_that_differ())])

    def _norms_that_differ(self) -> list[tuple[str, NormSpec]]:
        """Places and their norms, without those that have the norm of all others anyway."""
        return sorted((k, v) for k, v in self.norms.items() if v != self.norm)

    @property
    def step_images(self) -> int:
        """Images an optimizer step sees."""
        return self.workers * self.batch_per_worker

    @property
    def learning_rate(self) -> float:
        """Peak learning rate: `base_lr` per 256 images of the step."""
        return self.base_lr * self.step_images / REFERENCE_IMAGES

    def check_processes(self, count: int) -> None:
        """Raise ValueError unless `count` processes can share every step.

        With batch statistics each process takes whole workers; otherwise any equal share will do.
        """
        if self.uses_batch_statistics:
            if self.workers % (count * self.accumulate):
                raise ValueError(
                    f"{self.workers} workers cannot be divided among {count} processes with "
                    f"accumulate={self.accumulate}: batch norm's statistics belong to a whole "
                    "worker. Start a number of processes that divides the workers"
                )
        elif self.step_images % (count * self.accumulate):
            raise ValueError(
                f"the {self.step_images} images of a step cannot be divided among {count} "
                f"processes with accumulate={self.accumulate}"
            )

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, as plain values.

        One that came later than the first runs is left out at its default. A norm without batch
        statistics computes the same for every split of the step's images over workers, so only
        their product counts. Norms of places are there only if they differ from `norm`.
        """
        fields = {
            name: value
            for name, value in self.model_dump(exclude={"max_unreadable", "norms"}).items()
            if name in _ALWAYS_IN_THE_NAME or value != _DEFAULTS[name]
        }
        if norms := self._norms_that_differ():
            fields["norms"] = {place: str(norm) for place, norm in norms}
        if not self.uses_batch_statistics:
            fields["workers"] = 1
            fields["batch_per_worker"] = self.step_images
        return fields

    def describe_difference(self, other: Mapping[str, Any]) -> str:
        """In words, how this run differs from one whose `identity()` was `other`; "" if nothing.

        It says so where batch norm would not mean the same.
        """
        later = {k: v for k, v in _DEFAULTS.items() if k not in _ALWAYS_IN_THE_NAME}
        fields, other = {**later, **self.identity()}, {**later, **other}
        differing = [
            f"{name} was {other.get(name)!r}, is {fields.get(name)!r}"
            for name in dict.fromkeys([*fields, *other])
            if fields.get(name) != other.get(name)
        ]
        text = ", ".join(differing)
        batch_statistics = self.uses_batch_statistics
        split = any(fields[key] != other.get(key) for key in ("workers", "batch_per_worker"))
        if batch_statistics and split and fields["norm"] == other.get("norm"):
            text += (
                f". Batch norm's meaning would change: {self.norm_text} takes its statistics, in "
                "each step, from the images of workers, whose number and size must stay; the "
                "number of processes may change"
            )
        return text

    def digest(self) -> str:
        """Ten hexadecimal digits of the hash of `identity()`: equal digests, equal results."""
        return digest_of(self.identity())

    def run_name(self) -> str:
        """The name of the run's folder: readable, and unique by the digest."""
        fields = self.identity()
        norm = "".join(c if c.isalnum() else "-" for c in self.norm_text)
        split = f"{fields['workers']}x{fields['batch_per_worker']}"
        return f"{norm}-{split}-s{self.seed}-{self.digest()}"


_DEFAULTS = RunConfig(epochs=1).model_dump()


def digest_of(identity: Mapping[str, Any]) -> str:
    """`RunConfig.digest` of what `RunConfig.identity` gave."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "norms by place, as norms.stage3=gn:groups=16",
}
_BOUNDS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
}


def describe_errors(
    error: ValidationError, model: Callable[..., Any], typed: Mapping[str, str] | None = None
) -> str:
    """What of a model's fields does not fit, one line for each, in the words of NormSpec's errors.

    Args:
        model: the pydantic class whose fields were given.
        typed: what the user typed for a field, where it is not the field's own name.
    """
    return "\n".join(_describe(problem, model, typed or {}) for problem in error.errors())


def _describe(problem: Any, model: Any, typed: Mapping[str, str]) -> str:
    kind, name = problem["type"], ".".join(map(str, problem["loc"]))
    name = typed.get(name, name)
    if kind == "extra_forbidden":
        return f"unknown key {name!r}; known keys: {', '.join(model.model_fields)}"
    if kind == "value_error":  # of this package, in words already
        message: str = problem["msg"].removeprefix("Value error, ")
        return f"{name}: {message}" if name else message
    wanted = _BOUNDS.get(kind) or _WANTED.get(kind.split("_")[0], problem["msg"])
    limits = {
        key: f"{limit:,}".removesuffix(".0") if isinstance(limit, (int, float)) else limit
        for key, limit in problem.get("ctx", {}).items()
    }
    return f"{name} must be {wanted.format(**limits)}, got {problem['input']!r}"
