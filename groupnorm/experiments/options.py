"""Options: what a user may choose of an experiment, and how the command line's texts are read.

A field here is an option of the command line (`epochs=3` and `--epochs 3`), a line of its help, and
a key of the record. One that is also a field of a run's configuration goes into every run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    ValidationError,
)

from groupnorm.spec import NormSpec
from groupnorm.study.plan import PlanError
from groupnorm.study.tuning import Tune
from groupnorm.training.config import (
    Count,
    ImageSize,
    RunConfig,
    Share,
    TrainingConfig,
    describe_errors,
)


def read_norms(norms: str | Sequence[str | NormSpec]) -> tuple[NormSpec, ...]:
    """The normalizations of a text such as bn,gn:groups=8,eps=1e-6+ws, or of several specs.

    Raises:
        ValueError: one cannot be read or is given twice, or there is none.
    """
    texts = split_norms(norms) if isinstance(norms, str) else norms
    specs = tuple(s if isinstance(s, NormSpec) else NormSpec.parse(s) for s in texts)
    if not specs:
        raise ValueError("none is given")
    _check_distinct(list(map(str, specs)))
    return specs


def split_norms(text: str) -> tuple[str, ...]:
    """Split a list of specs at its commas, leaving the commas inside a spec alone.

    A piece such as `eps=1e-6` goes on with the spec before it; every other piece begins one.
    """
    specs: list[str] = []
    for piece in text.split(","):
        if specs and re.match(r"\s*\w+\s*=", piece):
            specs[-1] += "," + piece
        else:
            specs.append(piece.strip())
    return tuple(specs)


def read_sizes(sizes: str | Sequence[int]) -> tuple[int, ...]:
    """The batch sizes of a text such as 32,8,2, or of several numbers.

    Raises:
        ValueError: one is no whole number above 0 or is given twice, or there is none.
    """
    try:
        numbers = tuple(map(int, sizes.split(",") if isinstance(sizes, str) else sizes))
    except (TypeError, ValueError):
        raise ValueError(f"expected whole numbers, as 32,8,2; got {sizes!r}") from None
    if not numbers:
        raise ValueError("none is given")
    if min(numbers) < 1:
        raise ValueError(f"each must be at least 1, got {min(numbers)}")
    _check_distinct(list(map(str, numbers)))
    return numbers


MOST_SEEDS = 1000


def read_seeds(seeds: str | int | Sequence[int]) -> tuple[int, ...]:
    """The seeds of a text such as 0,1,2 or "7,", of several numbers, or 0 ... n - 1 of a count n.

    Raises:
        ValueError: one is no whole number, is negative, too large or given twice, or there are
            none, or more than 1,000.
    """
    count = seeds if isinstance(seeds, int) else None
    try:
        if isinstance(seeds, str):
            count = int(seeds) if "," not in seeds else None
            seeds = [] if count is not None else list(map(int, seeds.removesuffix(",").split(",")))
        numbers = tuple(map(int, () if isinstance(seeds, int) else seeds))
    except (TypeError, ValueError):
        raise ValueError(
            f"expected a count, as 3, or the seeds themselves, as 0,1,2 or 7,; got {seeds!r}"
        ) from None
    many = len(numbers) if count is None else count
    if not 1 <= many <= MOST_SEEDS:
        raise ValueError(f"a study has 1 to {MOST_SEEDS:,} of them, got {many}")
    if count is not None:
        return tuple(range(count))
    if min(numbers) < 0 or max(numbers) >= 2**64:
        wrong = next(seed for seed in numbers if not 0 <= seed < 2**64)
        raise ValueError(f"each must be at least 0 and below 2**64, got {wrong}")
    _check_distinct(list(map(str, numbers)))
    return numbers


def read_tune(tune: str | Tune) -> Tune:
    """A field and its values, of a text such as base_lr=0.05,0.1,0.2.

    Raises:
        ValueError: it is no such text, or a field that cannot be tuned.
    """
    if isinstance(tune, Tune):
        return tune
    field, equals, values = str(tune).partition("=")
    try:
        if not equals:
            raise ValueError
        numbers = tuple(map(float, values.split(",")))
    except ValueError:
        raise ValueError(
            f"expected a field and its values, as base_lr=0.05,0.1,0.2; got {tune!r}"
        ) from None
    return Tune(field.strip(), numbers)


def _check_distinct(texts: list[str]) -> None:
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} given twice")


def _as_texts(norms: Sequence[NormSpec]) -> list[str]:
    return list(map(str, norms))


Norms = Annotated[
    tuple[NormSpec, ...],
    PlainValidator(read_norms),
    PlainSerializer(_as_texts, return_type=list[str]),
]
Sizes = Annotated[
    tuple[int, ...], PlainValidator(read_sizes), PlainSerializer(list, return_type=list[int])
]
Seeds = Annotated[
    tuple[int, ...], PlainValidator(read_seeds), PlainSerializer(list, return_type=list[int])
]
TuneText = Annotated[Tune, PlainValidator(read_tune), PlainSerializer(str, return_type=str)]


class Options(BaseModel):
    """What a user may choose of an experiment; None keeps the experiment's own.

    Raises:
        PlanError: what makes no study, in words; pydantic's own error is its cause.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    scale: str | None = None
    """How much is run."""
    data: str | None = None
    """Data set; 'groupnorm doctor' lists them."""
    model: str | None = None
    """resnet8, resnet14, ... resnet110, preact_resnet8, 14, ... 110, mobilenet_narrow, resnet18,
    34, 50, 101, vgg16."""
    norms: Norms | None = None
    """Normalizations, as bn,gn:groups=8,gn:groups=8+ws,ln,in."""
    batch_sizes: Sizes | None = None
    """Images per worker, as 32,8,2."""
    protocol: Literal["fixed-step", "paper"] | None = None
    """fixed-step: every step sees the same images, only how many share batch norm's statistics
    varies; paper: 8 workers, the step and its learning rate follow the batch size."""
    train_images: Count | None = None
    """Train on so many images only: the first ones of a data set in memory, the first that have an
    object of one with boxes, a sample with the same share of every class of image files."""
    image_size: ImageSize | None = None
    """Pixels of the square crop from image files; 224."""
    max_unreadable: Share | None = None
    """Greatest share of the image files that cannot be decoded, as 0.05; more are an error; 0.01.
    """
    epochs: Count | None = None
    """Passes over the data."""
    evaluate_every: Count | None = None
    """Epochs from one evaluation to the next; the reported epochs are evaluated besides."""
    seeds: Seeds | None = None
    """Repetitions of every cell: how many, or the seeds themselves, as 0,1,2."""
    tune: TuneText | None = None
    """Give each cell the best of several values of a field, as base_lr=0.05,0.1,0.2, by its error
    on validation images."""
    validation_images: Count | None = None
    """With tune or search: how many training images are held out for it; one in ten."""
    search: bool | None = None
    """Find the number of groups in place of training each to its end: all of them for a few epochs,
    the best ones longer."""
    refine: bool | None = None
    """With search: try other numbers in single stages of the network, where it matters."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise PlanError(describe_errors(error, type(self))) from error

    def given(self) -> dict[str, Any]:
        """The options that are not None."""
        return {key: value for key, value in self if value is not None}

    def of_the_run(self, kind: type[TrainingConfig] = RunConfig) -> dict[str, Any]:
        """The given options that are fields of every run.

        `norms` is none: an experiment compares its norms, a run has them in places. Nor are
        `validation_images`, which there are only where something is chosen by them.

        Args:
            kind: of the run's configuration. What another task's alone has is left out: an
                experiment decides it (`catalog.Entry`).
        """
        fields = kind.model_fields.keys() - {"norms", "validation_images"}
        return {k: value for k, value in self.given().items() if k in fields}
