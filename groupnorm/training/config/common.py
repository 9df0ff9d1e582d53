"""What the configuration of a run has for any task: a frozen value whose hash names the run."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from groupnorm.spec import NormSpec
from groupnorm.training.config.fields import Amount, Count, Drops, Norm, RunName, Share


class TrainingConfig(BaseModel):
    """What decides the numbers of a run, whatever its task; a class for each task adds the rest.

    The optimizer step sees `workers * batch_per_worker` images; batch norm's statistics belong to
    the `batch_per_worker` images of one worker. The learning rate is that of `reference_images`
    images of the step, and follows their number. `trained_on` and `evaluated_on` say what the
    examples of the task are.

    A task's class gives defaults to `task` and `data`, and says in `always_in_the_name` which
    fields count in every run's name: those it has when its first run is kept, and never others. Of
    every other field a value that is not the default counts, so that a new field renames no run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    always_in_the_name: ClassVar[frozenset[str]]
    no_part_of_the_identity: ClassVar[frozenset[str]] = frozenset({"max_unreadable"})
    reference_images: ClassVar[int] = 256
    trained_on: ClassVar[str] = "images"
    evaluated_on: ClassVar[str] = "images"

    task: str
    """What is learned."""
    model: str
    """Architecture."""
    norm: Norm = NormSpec.parse("gn")
    """Normalization, as bn or gn:groups=8+ws."""
    norms: dict[str, Norm] = {}
    """Other normalizations for parts of the network, as norms.stage3=gn:groups=16; the parts are
    stem, stage1, stage2 and so on."""
    init: RunName | None = None
    """Name of the run whose last weights training starts from; None for random ones. The command
    train also takes that run's folder."""
    data: str
    """Data set; 'groupnorm doctor' lists them."""
    train_images: Count | None = None
    """Train on so many images only; None for all. Of a data set in memory they are the first, of
    image files a sample with the same share of every class."""
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
    """Of the learning rate: step divides it by 10 at each of drops, cosine lets it fall to 0."""
    drops: Drops = (0.3, 0.6, 0.9)
    """Shares of the run after which the schedule step divides the learning rate by 10."""
    warmup_epochs: Amount = 0.0
    """Epochs in which the learning rate rises to its peak."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Length of that rise in optimizer steps, in place of epochs."""
    warmup_from: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the peak that the rise begins at, in the first step."""
    base_lr: Annotated[Amount, Field(gt=0)] = 0.1
    """Learning rate at the reference number of images a step."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD."""
    nesterov: bool = True
    """Nesterov's form of the momentum."""
    weight_decay: Amount = 1e-4
    """On every parameter, gamma and beta included if decay_norms is true."""
    decay_norms: bool = True
    """Weight decay on gamma and beta too, or on neither (false), as is usual in fine-tuning."""
    clip_norm: Annotated[Amount, Field(gt=0)] | None = None
    """Greatest Euclidean norm of a step's gradient, which a longer one is scaled down to; None for
    no limit."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """float32, or bfloat16 for mixed precision."""
    compile: bool = False
    """Train through torch.compile."""
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    """Of weights and images."""
    reported_epochs: Count = 5
    """The reported number is the median over so many last epochs; batch norm's statistics are
    recomputed after each of them, and after no other."""
    evaluate_every: Count = 1
    """Evaluate after every so many epochs, and after each reported one."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Of the first weights, the order of the images and the augmentation."""

    def __hash__(self) -> int:
        return hash(self.digest())

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"give epochs or steps, exactly one; got epochs={self.epochs}, steps={self.steps}"
            )
        if self.warmup_epochs and self.warmup_steps is not None:
            raise ValueError(
                f"give warmup_epochs or warmup_steps, not both; got {self.warmup_epochs} and "
                f"{self.warmup_steps}"
            )
        return self

    @model_validator(mode="after")
    def _whole_passes(self) -> TrainingConfig:
        parts = self.workers if self.whole_workers else self.step_images
        if parts % self.accumulate:
            what = f"{parts} workers" if self.whole_workers else f"{parts} images of a step"
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
    def whole_workers(self) -> bool:
        """True when it matters which images of a step are one worker's, so that processes and
        passes take whole workers: with batch statistics, or where a task's losses are a worker's.
        """
        return self.uses_batch_statistics

    @property
    def converted_part(self) -> str | None:
        """The part of the network whose norms are converted once it has the weights that training
        starts from; None when none is. Its layers follow from these weights and the data, and are
        kept with the run as the report of the conversion."""
        return None

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
        """Peak learning rate: `base_lr` per `reference_images` of the step."""
        return self.base_lr * self.step_images / self.reference_images

    def full_size_steps(self, steps: int, total_steps: int, own_size: int) -> float:
        """As many steps with examples of their own size cost as much as the first `steps` steps.

        Args:
            total_steps: of the whole run.
            own_size: pixels of the data's images, where the configuration names no size.
        """
        return float(steps)

    def check_processes(self, count: int) -> None:
        """Raise ValueError unless `count` processes can share every step.

        Each process takes whole workers where `whole_workers`; otherwise any equal share will do.
        """
        if self.whole_workers:
            if self.workers % (count * self.accumulate):
                why = "batch norm's statistics" if self.uses_batch_statistics else "a mean loss"
                belong = "belong" if self.uses_batch_statistics else "belongs"
                raise ValueError(
                    f"{self.workers} workers cannot be divided among {count} processes with "
                    f"accumulate={self.accumulate}: {why} {belong} to a whole "
                    "worker. Start a number of processes that divides the workers"
                )
        elif self.step_images % (count * self.accumulate):
            raise ValueError(
                f"the {self.step_images} images of a step cannot be divided among {count} "
                f"processes with accumulate={self.accumulate}"
            )

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, as plain values.

        One that came later than the first runs is left out at its default. Where the images of a
        step make the same result however they are split over workers (`whole_workers` is false),
        only their number counts. Norms of places are there only if they differ from `norm`.
        """
        defaults = _defaults(type(self))
        fields = {
            name: value
            for name, value in self.model_dump(
                exclude={*self.no_part_of_the_identity, "norms"}
            ).items()
            if name in self.always_in_the_name or value != defaults[name]
        }
        if norms := self._norms_that_differ():
            fields["norms"] = {place: str(norm) for place, norm in norms}
        if not self.whole_workers:
            fields["workers"] = 1
            fields["batch_per_worker"] = self.step_images
        return fields

    def describe_difference(self, other: Mapping[str, Any]) -> str:
        """In words, how this run differs from one whose `identity()` was `other`; "" if nothing.

        It says so where batch norm would not mean the same.
        """
        defaults = _defaults(type(self))
        later = {k: v for k, v in defaults.items() if k not in self.always_in_the_name}
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


@functools.cache
def _defaults(kind: type[TrainingConfig]) -> dict[str, Any]:
    """The value of every field that a run does not give, in plain form."""
    defaults: Any = kind  # its constructor asks for the fields that have no default
    return dict(defaults.model_construct().model_dump())


def digest_of(identity: Mapping[str, Any]) -> str:
    """`TrainingConfig.digest` of what `TrainingConfig.identity` gave."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
